"""Planned memory beside memory that was really given out, and beside counts that were made in other ways."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    DeepseekV3Config,
    GPT2Config,
    GraniteMoeConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from align.models.batch import collate
from align.models.experts import balances, balancing_weight
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles
from align.models.text_part import name_decoder
from align.plan import passes
from align.plan.base import FOUR_BITS, PlannedBase
from align.plan.count import LiveBytes
from align.plan.gpus import find_gpu
from align.plan.guard import bound
from align.plan.lengths import limits
from align.plan.machine import of_gpu
from align.plan.memory import Question, StageMemory, stage_memory
from align.plan.passes import Depth, Model, Rows
from align.recipe.sections import Base, Lora, Recipe

TOLERANCE = 0.01  # the allocator gives out what the plan counts, but for a block here and there


def llama(**more: Any) -> PreTrainedConfig:
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 150,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 700,
        "eos_token_id": 0,
    }
    return LlamaConfig(**sizes | more)


CONFIGS = {
    "llama": llama(),
    "odd, tied, many words": llama(
        hidden_size=60,
        intermediate_size=97,
        num_attention_heads=5,
        num_key_value_heads=1,
        vocab_size=9001,
        tie_word_embeddings=True,
    ),
    "qwen3": Qwen3Config(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=500,
        eos_token_id=0,
    ),
    "qwen3-moe": Qwen3MoeConfig(
        hidden_size=64,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        vocab_size=500,
        eos_token_id=0,
    ),
    # its values are narrower than its keys; its first layer has no experts
    "deepseek-v3": DeepseekV3Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=8,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        vocab_size=500,
        eos_token_id=0,
        pad_token_id=None,
        bos_token_id=None,
    ),
    "gpt2": GPT2Config(n_embd=64, n_layer=5, n_head=4, vocab_size=500, n_positions=512, eos_token_id=0),
}


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate({"base": "b", "run": {"name": "r"}, "data": {"rankings": "a"}, **sections})


def given_out(run: Any) -> int:
    """The most bytes that the CPU's allocator gave out while this ran, as torch's profiler saw them."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profiler:
        run()
    events: Any = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    now = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def real_roles(config: PreTrainedConfig, lora: Lora) -> Roles:
    """A policy with random weights, its gradients there already."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    roles = Roles(name_decoder(model))
    roles.add("policy", lora_config(lora, model), trains=True)
    for parameter in roles.parameters_of("policy").values():
        parameter.grad = torch.zeros_like(parameter)
    return roles


@pytest.mark.parametrize(("layers", "checkpointing"), [(None, False), (2, False), (None, True)])
@pytest.mark.parametrize("name", CONFIGS)
def test_an_update_needs_what_the_allocator_gives_out(
    name: str, layers: int | None, checkpointing: bool
) -> None:
    """The same pass with numbers, and with two depths of models without.

    A row is shorter than the others, as some are in all data: so there is padding, and a mask.
    """
    config, lora, rows = CONFIGS[name], Lora(rank=4, layers=layers), Rows(6, 40, 61)
    roles = real_roles(config, lora)
    forward = Forward(roles, gradient_checkpointing=checkpointing)
    with torch.no_grad():
        prefix = forward.prefix(collate([([0] * 40, [0] * 61)] * 5 + [([0] * 39, [0] * 61)]))

    def update() -> None:
        logprobs, _, _ = forward.logprobs("policy", passes.stacked(prefix), 1.0)
        logprobs.exp().sum().backward()

    update()  # what is made once is there
    measured = given_out(update)
    base = PlannedBase(Base(name="b"), config)
    found = [
        passes.update_pass(
            (model := Model(base, lora, torch.float32, Depth(*depth))).forward(
                model.roles("policy"), checkpointing, logits=True
            ),
            rows,
            "policy",
            entropy=False,
            shared=False,
            gpu=False,
        )
        for depth in base.depths(layers)
    ]
    planned = float(found[0])
    if len(found) == 2:
        (_, few), (_, more) = base.depths(layers)
        planned = found[1] + (found[1] - found[0]) * ((layers or base.layers) - more) / (more - few)
    assert planned == pytest.approx(measured, rel=TOLERANCE)


def sft_planned(config: PreTrainedConfig, checkpointing: bool, packing: bool = False) -> int:
    model = Model(PlannedBase(Base(name="b"), config), Lora(rank=4), torch.float32, Depth(5, 5))
    return passes.sft_pass(passes.sft_model(model), 6, 101, packing, checkpointing, gpu=False)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3-moe"])
def test_a_pass_of_sft_needs_what_the_allocator_gives_out(name: str, checkpointing: bool) -> None:
    """As TRL's trainer calls it on a base with numbers; with experts, their balance is in the loss."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(CONFIGS[name]).requires_grad_(False)
    adapted: Any = get_peft_model(base, lora_config(Lora(rank=4), base)).train()
    add_fused_lm_head(base, outputs=("log_probs", "entropy", "is_top1"))
    if checkpointing:
        adapted.gradient_checkpointing_enable()
        adapted.enable_input_require_grads()
    for parameter in adapted.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    ids, mask = torch.zeros(6, 101, dtype=torch.int64), torch.ones(6, 101, dtype=torch.int64)
    mask[1:, -1] = 0
    more = {"output_router_logits": True} if name == "qwen3-moe" else {}

    def step() -> None:
        found = adapted(input_ids=ids, attention_mask=mask, labels=ids, fused_lm_head=True, **more)
        (-found.log_probs.sum() + (found.aux_loss if more else 0)).backward()

    step()
    assert sft_planned(CONFIGS[name], checkpointing) == pytest.approx(given_out(step), rel=TOLERANCE)


def test_the_balance_of_experts_is_counted_where_sft_has_it_in_its_loss() -> None:
    """A softmax of the routers' logits of each layer waits for the backward pass."""
    config = CONFIGS["qwen3-moe"]
    without = copy.deepcopy(config)
    without.router_aux_loss_coef = 0.0
    tokens, experts = 6 * 101, 8
    for packing in (False, True):
        more = sft_planned(config, True, packing) - sft_planned(without, True, packing)
        assert more >= 5 * tokens * experts * 4
    for kind, weight in ((GraniteMoeConfig, 0.0), (LlamaConfig, None), (Qwen3MoeConfig, None)):
        assert balancing_weight(kind()) == weight
        assert balances(kind()) is (kind is Qwen3MoeConfig)


def test_live_bytes_are_those_of_storages() -> None:
    """A view is no storage of its own; what nobody holds is gone; what was held before does not count."""
    weight = torch.zeros(1000)
    with LiveBytes([weight]) as live:
        x = weight[:10] + 1
        assert live.now == 40
        y = x.view(2, 5)
        assert live.now == 40
        del x
        assert live.now == 40
        z = weight * 2
        assert live.now == 4040
        del y, z
    assert (live.now, live.peak) == (0, 4040)


@pytest.mark.parametrize(
    ("name", "packed", "kib"),
    # docs/performance.md: what torch's saved_tensors_hooks saw on whole fake models, KiB a token
    [("8b", False, 4320), ("8b", True, 6200), ("70b", False, 21393), ("70b", True, 30960)],
)
def test_known_counts_of_large_bases(name: str, packed: bool, kib: int) -> None:
    config = {"8b": LLAMA_8B, "70b": LLAMA_70B}[name]
    asked = question(
        config, rm={"microbatch_tokens": 2048, "max_length": 512}, ppo={"microbatch_tokens": 2048}
    )
    found = stage_memory(asked, "rm" if packed else "ppo", checkpointing=False)
    part = next(p for p in found.passes if p.who == "rankings" or "value" in p.what)
    tokens = 256 + 7 * 256 if packed else 2 * 768
    # On top is what a layer needs at a time; less of the last one, where few positions are read.
    assert kib * 1024 * tokens * 0.98 < part.size < kib * 1024 * tokens * 1.12


def big(kind: type[Any], *sizes: int, **more: Any) -> PreTrainedConfig:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    given = dict(zip((*names, "num_key_value_heads", "vocab_size"), sizes, strict=True))
    config: PreTrainedConfig = kind(**given, max_position_embeddings=131072, dtype="bfloat16", **more)
    return config


LLAMA_8B = big(LlamaConfig, 4096, 14336, 32, 32, 8, 128256)
LLAMA_70B = big(LlamaConfig, 8192, 28672, 80, 64, 8, 128256)
QWEN3_8B = big(Qwen3Config, 4096, 12288, 36, 32, 8, 151936, head_dim=128)
QWEN3_32B = big(Qwen3Config, 5120, 25600, 64, 64, 8, 151936, head_dim=128)


def question(config: PreTrainedConfig, gpu: str = "h100-80", processes: int = 1, **sections: Any) -> Question:
    asked = recipe(**sections)
    return Question(asked, PlannedBase(asked.base, config), limits(asked), of_gpu(find_gpu(gpu), processes))


@pytest.mark.parametrize(
    ("config", "billions"),
    # the sizes that the models' cards give
    [(LLAMA_8B, 8.03), (LLAMA_70B, 70.55), (QWEN3_8B, 8.19), (QWEN3_32B, 32.76)],
    ids=["llama-8b", "llama-70b", "qwen3-8b", "qwen3-32b"],
)
def test_weights_are_those_of_the_cards(config: PreTrainedConfig, billions: float) -> None:
    weights = PlannedBase(Base(name="b"), config).weights(torch.bfloat16)
    assert weights.total / 2 == pytest.approx(billions * 1e9, rel=2e-3)
    assert weights.largest * config.num_hidden_layers == weights.layers


def test_four_bits_hold_the_matrices_and_leave_the_rest() -> None:
    spec = Base(name="b", quantize="4bit")
    weights = PlannedBase(spec, LLAMA_8B).weights(torch.bfloat16)
    matrices = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    assert weights.layers == pytest.approx(matrices * FOUR_BITS + 32 * 2 * 4096 * 2, rel=1e-6)
    assert weights.rest == 2 * (2 * 128256 * 4096 + 4096)


def test_shards_and_shared_states() -> None:
    """A base's layers in eight parts, embeddings whole; the optimizer's moments an eighth."""
    asked = question(LLAMA_8B)
    sharded = of_gpu(find_gpu("h100-80"), 8, "fsdp2")
    alone = stage_memory(asked, "rm", checkpointing=True)
    found = stage_memory(Question(asked.recipe, asked.base, asked.lengths, sharded), "rm", True)

    def size(memory: StageMemory, word: str) -> int:
        return sum(p.size for p in memory.held if word in p.what)

    weights = asked.base.weights(torch.bfloat16)
    assert size(found, "a part of 8") == weights.layers // 8
    assert size(found, "embeddings") == weights.rest
    assert size(found, "put together") == 2 * weights.largest
    assert size(found, "optimizer") == size(alone, "optimizer") // 8
    assert size(alone, "weights") == weights.total


def test_adapters_gradients_and_moments_of_all_roles() -> None:
    """Rank 16 on all matrices of Llama 3.1 8B: 41,943,040 weights (PEFT's own count), in float32."""
    held = {(p.who, p.what): p.size for p in stage_memory(question(LLAMA_8B), "ppo", True).held}
    adapter = 41_943_040 * 4
    for role in ("policy", "value", "reference", "reward"):
        assert held[role, "adapter"] == adapter
    assert held["policy", "gradients"] == adapter
    assert held["policy", "optimizer"] == 2 * adapter
    assert held["value", "gradients"] == adapter + 4 * 4096
    assert ("reward", "gradients") not in held and ("reference", "optimizer") not in held


shapes = st.fixed_dictionaries(
    {
        "hidden_size": st.sampled_from([24, 60, 96]),
        "intermediate_size": st.integers(8, 300),
        "num_hidden_layers": st.integers(1, 7),
        "num_attention_heads": st.sampled_from([2, 3, 6]),
        "num_key_value_heads": st.just(1),
        "vocab_size": st.integers(10, 5000),
    }
)


@settings(max_examples=8, deadline=None)
@given(
    shapes,
    st.sampled_from(["sft", "rm", "ppo"]),
    st.integers(1, 9),
    st.sampled_from([16, 200]),
    st.sampled_from([None, "eager"]),
)
def test_the_bound_is_above_every_plan(
    shape: dict[str, int], stage: Any, rows: int, length: int, attention: str | None
) -> None:
    asked = question(
        LlamaConfig(**shape),
        base={"name": "b", "attention": attention},
        sft={"batch_size": rows, "max_length": length},
        rm={"max_length": length, "microbatch_tokens": rows * length},
        ppo={"max_prompt_tokens": length, "max_response_tokens": length, "microbatch_tokens": rows * length},
    )
    found = stage_memory(asked, stage, checkpointing=False)
    assert found.static + found.largest.size <= bound(asked, stage)
