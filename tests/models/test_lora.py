"""Adapters on every kind of base: where they lie, and that PEFT alone reads and merges them alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_bases import make_base, tiny_model
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from align.errors import AlignError, UserError
from align.models.adapters import read_adapter, save_adapter, save_head
from align.models.base import BaseCheckpoint, find_base
from align.models.forward import Forward
from align.models.lora import lora_config, without_adapter
from align.models.merge import merged_policy
from align.models.roles import Roles, tensors_of
from align.models.suitable import check_base
from align.models.text_part import auto_class
from align.recipe.sections import Base as BaseSpec
from align.recipe.sections import Lora

IDS = torch.tensor([[5, 6, 7, 30, 31, 32, 50], [90, 80, 70, 60, 50, 40, 30]]) + 10
ALL = Lora(rank=4, alpha=8)
EXPERTS = ["qwen3_moe", "mixtral", "deepseek_v3"]
COMPOSITE = ["gemma3", "mistral3", "qwen2_5_vl", "mllama"]


def a_base(tiny_base: Path, folder: Path, kind: str) -> BaseCheckpoint:
    return find_base(BaseSpec(name=str(make_base(kind, tiny_base, folder / "base"))))


def loaded(base: BaseCheckpoint) -> PreTrainedModel:
    return base.load_model(torch.device("cpu"))


def trained(base: BaseCheckpoint, lora: Lora, *names: str) -> Roles:
    """Roles whose adapters matter."""
    roles = Roles(loaded(base))
    for seed, name in enumerate(names):
        roles.add(name, lora_config(lora, roles.base), trains=True)
        drawn = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in roles.parameters_of(name).values():
                parameter.normal_(std=0.2, generator=drawn)
    return roles


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def adapted(roles: Roles) -> list[str]:
    return sorted(roles.parameters_of("policy"))


@pytest.mark.parametrize(
    "kind",
    [*EXPERTS, "gpt_oss", "phimoe", *COMPOSITE, "mamba", "falcon", "falcon_h1", "zamba2", "rwkv", "opt350"],
)
def test_what_is_saved_gives_the_same_in_plain_peft_and_merged(
    tiny_base: Path, tmp_path: Path, kind: str
) -> None:
    base = a_base(tiny_base, tmp_path, kind)
    check_base(base, ALL)
    roles = trained(base, ALL, "policy", "value")
    roles.activate("policy")
    ours = logits(roles.base)
    assert not torch.allclose(ours, logits(loaded(base)))
    assert roles.peft is not None
    save_adapter(roles.peft, "policy", tmp_path / "adapter")
    plain = auto_class(base.config).from_pretrained(base.folder, dtype=torch.float32).eval()
    theirs = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    assert torch.allclose(logits(theirs), ours, rtol=1e-5, atol=1e-6)
    again = Roles(loaded(base))
    again.add("policy", tmp_path / "adapter", trains=True)
    kept = tensors_of(again, "policy")
    assert kept.keys() == tensors_of(roles, "policy").keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in tensors_of(roles, "policy").items())
    merged = merged_policy(base, tmp_path / "adapter")
    assert torch.allclose(logits(merged), ours, atol=1e-4)
    oracle = theirs.merge_and_unload().state_dict()
    assert all(torch.equal(tensor, oracle[name]) for name, tensor in merged.state_dict().items())


def test_experts_merge_as_the_equation_says(tiny_base: Path, tmp_path: Path) -> None:
    base = a_base(tiny_base, tmp_path, "qwen3_moe")
    roles = trained(base, ALL, "policy")
    assert roles.peft is not None
    save_adapter(roles.peft, "policy", tmp_path / "adapter")
    before, after = loaded(base).state_dict(), merged_policy(base, tmp_path / "adapter").state_dict()
    own = "model.layers.1.mlp.experts.{}lora_{}.weight"
    saved = tensors_of(roles, "policy")
    # gate and up are one parameter of rank 8 and alpha 16; down has rank 4 and alpha 8: twice the product.
    for name, place, rank in (("gate_up_proj", "base_layer.", 8), ("down_proj", "", 4)):
        a, b = (saved[own.format(place, side)].double() for side in "AB")
        key = f"model.layers.1.mlp.experts.{name}"
        for expert in range(4):
            delta = b[:, expert::4] @ a[expert * rank : (expert + 1) * rank] * 2
            expected = before[key][expert].double() + delta
            assert torch.allclose(after[key][expert].double(), expected, atol=1e-5), (name, expert)


@pytest.mark.parametrize("kind", COMPOSITE)
def test_the_tower_for_images_has_no_adapter(tiny_base: Path, tmp_path: Path, kind: str) -> None:
    for targets in ("all-linear", ["q_proj", "down_proj"]):
        base = a_base(tiny_base, tmp_path, kind)
        names = adapted(trained(base, ALL.model_copy(update={"targets": targets}), "policy"))
        assert all("model.language_model.layers." in name for name in names)
        assert {name.split(".layers.")[1][0] for name in names} == set("0123")


@pytest.mark.parametrize("kind", [None, "qwen3_moe", "deepseek_v3", "gemma3", "falcon_h1"])
def test_only_upper_layers_are_adapted_whatever_the_targets(
    tiny_base: Path, tmp_path: Path, kind: str | None
) -> None:
    base = a_base(tiny_base, tmp_path, kind) if kind else find_base(BaseSpec(name=str(tiny_base)))
    roles = trained(base, Lora(rank=4, alpha=8, layers=2), "policy")
    assert roles.lowest_adapted_layer == 2
    assert {name.split(".layers.")[1][0] for name in adapted(roles)} == set("23")
    if kind in EXPERTS:
        assert any(".experts." in name for name in adapted(roles))
    assert roles.peft is not None
    save_adapter(roles.peft, "policy", tmp_path / "adapter")
    again = Roles(loaded(base))
    again.add("policy", tmp_path / "adapter", trains=False)
    roles.activate("policy")
    assert torch.equal(logits(again.base), logits(roles.base))


def test_lora_is_scaled_by_the_root_of_the_rank_where_that_is_asked(tiny_base: Path, tmp_path: Path) -> None:
    base = find_base(BaseSpec(name=str(tiny_base)))
    roles = trained(base, Lora(rank=4, alpha=8, use_rslora=True), "policy")
    layer = roles.base.get_submodule("model.layers.3.mlp.down_proj")
    assert layer.scaling == {"policy": 8 / 4**0.5}
    assert roles.peft is not None and Forward(roles).fused  # its own pass agrees with the model's
    save_adapter(roles.peft, "policy", tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(loaded(base), str(tmp_path / "adapter")).eval()
    assert torch.equal(logits(theirs), logits(roles.base))
    assert torch.allclose(logits(merged_policy(base, tmp_path / "adapter")), logits(roles.base), atol=1e-4)


@pytest.mark.parametrize("kind", ["rwkv"])
def test_a_role_may_be_called_like_a_module(tiny_base: Path, tmp_path: Path, kind: str) -> None:
    roles = trained(a_base(tiny_base, tmp_path, kind), ALL, "policy", "value")
    policy, value = roles.parameters_of("policy"), roles.parameters_of("value")
    assert any(".attention.value." in name for name in policy)
    assert policy.keys() == value.keys()
    assert not {id(p) for p in policy.values()} & {id(p) for p in value.values()}


def test_a_head_is_as_wide_as_what_it_reads(tiny_base: Path, tmp_path: Path) -> None:
    roles = trained(a_base(tiny_base, tmp_path, "opt350"), ALL, "reward")
    roles.add_head("reward", torch.Generator().manual_seed(0))
    assert roles.heads["reward"].weight.shape == (16,)
    save_head(roles.heads["reward"], tmp_path)
    roles.add_head("reward", tmp_path)


@pytest.mark.parametrize(
    ("kind", "lora", "told"),
    [
        (
            "qwen3_moe",
            {"dropout": 0.1},
            r"lora\.dropout: the base's experts \(down_proj, gate\.weight, gate_up",
        ),
        ("qwen3_moe", {"targets": ["gate_proj"]}, "lora.targets: .*gate_proj without also targeting up_proj"),
        (
            "qwen3_moe",
            {"targets": ["zzz"]},
            "no linear layer named zzz; it has k_proj, o_proj, q_proj, v_proj",
        ),
        ("mamba", {"targets": ["out_proj"]}, "an adapter on out_proj would have no effect in MambaFor"),
        ("jamba", {"targets": ["dt_proj"]}, "an adapter on dt_proj would have no effect in JambaFor"),
        ("zamba2", {"targets": ["q_proj"]}, r"q_proj means .*q_proj, whose matrix is another layer's too"),
        ("zamba2", {"targets": ".*k_proj"}, r"matches .*k_proj, whose matrix is another layer's too"),
        (
            "qwen3_moe",
            {"targets": ["experts"]},
            "named experts; .* its experts are named gate_proj, up_proj, down",
        ),
        ("mixtral", {"targets": ["down_proj"]}, "its experts are named w1, w2, w3$"),
        ("qwen3", {"rank": 33}, "lora.rank is 33, and the base's layers are 32 wide"),
        (
            "qwen3",
            {"targets": r".*\.0\..*q_proj", "layers": 1},
            "q_proj names no layer among the upper 1, or none",
        ),
        ("gemma3", {"targets": ["fc1"]}, "no linear layer named fc1; it has down_proj"),
        ("gemma3", {"layers": 5}, "lora.layers is 5, and the base has 4 layers"),
        (
            "gemma3",
            {"targets": ".*fc1"},
            r"the pattern \.\*fc1 matches no linear layer's whole path.* q_proj",
        ),
        ("mamba", {"targets": ".*_proj"}, "matches .*dt_proj, and an adapter there would have no effect"),
        (
            "qwen3_moe",
            {"targets": ".*proj"},
            r"matches experts \(down_proj, gate_up_proj\), which are stacked",
        ),
        ("qwen3_moe", {"modules_to_save": ["router"]}, "router is neither .*: write embed_tokens, lm_head"),
        ("falcon", {"targets": ["zzz"]}, "no linear layer named zzz; it has dense, dense_4h_to_h"),
    ],
)
def test_what_a_base_cannot_have_is_refused(
    tiny_base: Path, tmp_path: Path, kind: str, lora: dict[str, object], told: str
) -> None:
    base = a_base(tiny_base, tmp_path, kind)
    with pytest.raises(UserError, match=told):
        check_base(base, Lora.model_validate(lora))


def test_experts_may_be_named_as_their_files_name_them(tiny_base: Path, tmp_path: Path) -> None:
    base = a_base(tiny_base, tmp_path, "qwen3_moe")
    targets = ["q_proj", "gate_proj", "up_proj"]
    names = adapted(trained(base, Lora(rank=4, alpha=8, targets=targets), "policy"))
    assert {name.split(".layers.0.")[-1].split(".lora_")[0] for name in names if ".layers.0." in name} == {
        "mlp.experts",
        "self_attn.q_proj",
    }


def test_a_target_may_be_the_end_of_a_path(tiny_base: Path) -> None:
    base = find_base(BaseSpec(name=str(tiny_base)))
    names = adapted(trained(base, Lora(rank=4, alpha=8, targets=["self_attn.q_proj"]), "policy"))
    assert len(names) == 8 and all(".self_attn.q_proj." in name for name in names)


def test_a_target_may_be_a_pattern_of_whole_paths(tiny_base: Path, tmp_path: Path) -> None:
    base = find_base(BaseSpec(name=str(tiny_base)))
    for lora, expected in (
        ({"targets": r".*\.[01]\..*\.(q|v)_proj"}, {f"{i}.self_attn.{x}_proj" for i in (0, 1) for x in "qv"}),
        ({"targets": r"model\..*mlp\..*", "layers": 1}, {f"3.mlp.{x}_proj" for x in ("up", "gate", "down")}),
        ({"targets": "(?!.*mlp).*q_proj"}, {f"{i}.self_attn.q_proj" for i in range(4)}),
    ):
        roles = trained(base, Lora(rank=4, alpha=8, **lora), "policy")
        found = {name.split(".layers.")[1].split(".lora_")[0] for name in adapted(roles)}
        assert found == expected
        folder = tmp_path / str(len(found))
        assert roles.peft is not None
        save_adapter(roles.peft, "policy", folder)
        theirs = PeftModel.from_pretrained(loaded(base), str(folder)).eval()
        assert torch.equal(logits(theirs), logits(roles.base))
    towers = a_base(tiny_base, tmp_path, "gemma3")
    names = adapted(trained(towers, Lora(rank=4, alpha=8, targets=r".*q_proj"), "policy"))
    assert names and all("model.language_model.layers." in name for name in names)
    experts = a_base(tiny_base, tmp_path / "moe", "qwen3_moe")
    names = adapted(trained(experts, Lora(rank=4, alpha=8, targets=r".*self_attn\..*"), "policy"))
    assert len(names) == 4 * 4 * 2


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
def test_state_space_bases_have_adapters_without_a_word_of_targets(
    tiny_base: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "mamba2":
        tokenizer = AutoTokenizer.from_pretrained(tiny_base)
        tiny_model("mamba2", len(tokenizer)).save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        base = find_base(BaseSpec(name=str(tmp_path / "base")))
    else:
        base = a_base(tiny_base, tmp_path, kind)
    check_base(base, Lora())
    roles = trained(base, Lora(), "policy")
    before = logits(loaded(base))
    assert any(".in_proj." in name for name in adapted(roles))
    assert not torch.allclose(logits(roles.base), before)


OTHERS = {
    "use_qalora": True,
    "layer_replication": [[0, 2]],
    "bias": "all",
    "lora_bias": True,
    "megatron_config": {"tensor_model_parallel_size": 2},
    "trainable_token_indices": [5],
    "alora_invocation_tokens": [5, 6],
    "init_lora_weights": "pissa",
    "exclude_modules": ["q_proj"],
    "layers_pattern": "h",
    "a_field_of_next_year": True,
}


@pytest.mark.parametrize("key", OTHERS)
def test_what_else_peft_may_be_asked_for_is_refused_by_name(
    tiny_base: Path, tmp_path: Path, key: str
) -> None:
    roles = trained(find_base(BaseSpec(name=str(tiny_base))), ALL, "policy")
    assert roles.peft is not None
    save_adapter(roles.peft, "policy", tmp_path)
    path = tmp_path / "adapter_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "a_field_that_is_off": None}))
    read_adapter(tmp_path)
    path.write_text(json.dumps({**said, key: OTHERS[key]}))
    with pytest.raises(AlignError, match=f"not that of an adapter that a stage wrote: {key}"):
        read_adapter(tmp_path)


def test_what_all_linear_leaves_out_is_known(tiny_base: Path, tmp_path: Path) -> None:
    for kind, left in (
        ("mamba", {"mixer.out_proj": 4, "mixer.dt_proj": 4}),
        ("jamba", {"mamba.dt_proj": 2}),
        ("zamba2", {"shared_transformer.self_attn.q_proj": 2, "mamba_decoder.mamba.out_proj": 2}),
        ("gpt_oss", {"mlp.experts": 4}),
        ("qwen3_moe", {}),
        ("deepseek_v3", {"mlp.gate_proj": 1, "mlp.up_proj": 1, "mlp.down_proj": 1}),
    ):
        roles = trained(a_base(tiny_base, tmp_path / kind, kind), ALL, "policy")
        assert roles.peft is not None
        found = without_adapter(roles.peft)
        assert found.items() >= left.items() and bool(found) == bool(left), (kind, found)


def test_a_configuration_is_the_same_in_every_process_and_no_strangers_pattern_is_matched(
    tiny_base: Path, tmp_path: Path
) -> None:
    roles = trained(a_base(tiny_base, tmp_path, "qwen3_moe"), ALL, "policy")
    assert roles.peft is not None
    save_adapter(roles.peft, "policy", tmp_path)
    path = tmp_path / "adapter_config.json"
    said = json.loads(path.read_text())
    assert said["target_parameters"] == sorted(said["target_parameters"]) and said["rank_pattern"]
    config, _ = read_adapter(tmp_path)
    assert config.rank_pattern == said["rank_pattern"] and config.alpha_pattern == said["alpha_pattern"]
    for name in ("rank_pattern", "alpha_pattern"):
        path.write_text(json.dumps({**said, name: {"(a+)+$": 8}}))
        with pytest.raises(AlignError, match=f"{name}.*String should match pattern"):
            read_adapter(tmp_path)
