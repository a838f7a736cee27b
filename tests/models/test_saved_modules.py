"""Embeddings and output layer that sft trains: as PEFT would, read by plain PEFT, shared by all roles."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_recipe
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from align.data.load import load
from align.data.template import Template
from align.data.tokenize import encode_demonstrations
from align.errors import AlignError, UserError
from align.models.adapters import read_adapter
from align.models.base import find_base
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.merge import merged_policy
from align.models.roles import Roles
from align.models.saved_modules import let_train, saved_paths
from align.models.suitable import check_base
from align.recipe.load import load_recipe
from align.recipe.sections import Base as BaseSpec
from align.recipe.sections import Lora, Recipe
from align.records import Demonstration
from align.seeds import step_rows
from align.stages import sft

BOTH = ["embed_tokens", "lm_head"]
IDS = torch.arange(20, 32).view(2, 6)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def apart_base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama, whose output layer has a matrix of its own."""
    folder = tmp_path_factory.mktemp("apart") / "base"
    shutil.copytree(tiny_base, folder)
    config = LlamaForCausalLM.from_pretrained(tiny_base).config
    config.tie_word_embeddings = False
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def base_of(tied: bool, tiny_base: Path, apart_base: Path) -> Path:
    return tiny_base if tied else apart_base


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def by_plain_trl(recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    """What TRL's trainer makes of the same rows, with PEFT's own modules_to_save."""
    assert recipe.data.demonstrations is not None
    tokenizer = AutoTokenizer.from_pretrained(recipe.base.name)
    template = Template(tokenizer, recipe.data.template)
    records = load(Demonstration, recipe.data.demonstrations, "demonstrations").train
    pairs = [(one.prompt, one.responses[0]) for one in encode_demonstrations(template, records, 999, "here")]
    rows = [
        {"input_ids": p + r, "completion_mask": [0] * len(p) + [1] * len(r)}
        for p, r in (pairs[i] for step in range(6) for i in step_rows(0, "sft", step, 4, len(pairs)))
    ]
    model = AutoModelForCausalLM.from_pretrained(recipe.base.name)
    config = lora_config(recipe.lora, model)
    config.modules_to_save, config.ensure_weight_tying = list(BOTH), model.config.tie_word_embeddings
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=str(folder / "trl"),
            max_steps=6,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            lr_scheduler_type="linear",
            warmup_steps=1,
            completion_only_loss=True,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=config,
    )
    trainer.train()
    trainer.model.save_pretrained(str(folder / "theirs"))
    return load_file(folder / "theirs" / "adapter_model.safetensors")


@pytest.mark.parametrize("tied", [True, False])
def test_they_are_trained_as_peft_trains_them_and_read_by_plain_peft(
    tied: bool, tiny_base: Path, apart_base: Path, tmp_path: Path
) -> None:
    base = base_of(tied, tiny_base, apart_base)
    recipe = load_recipe(make_recipe(tmp_path, base, lora={"modules_to_save": BOTH}))
    sft.run(recipe)
    final = recipe.run.path / "sft" / "final"
    ours, theirs = load_file(final / "adapter_model.safetensors"), by_plain_trl(recipe, tmp_path)
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    rows = {name: ours[f"base_model.model.{name}.weight"] for name in ("model.embed_tokens", "lm_head")}
    old = AutoModelForCausalLM.from_pretrained(base).state_dict()
    assert all(not torch.equal(row, old[f"{name}.weight"]) for name, row in rows.items())
    assert torch.equal(*rows.values()) == tied

    roles = Roles(find_base(recipe.base).load_model(CPU))
    roles.add("policy", final, trains=False)
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(final)).eval()
    assert torch.allclose(logits(roles.base), logits(plain), atol=1e-5)
    merged = merged_policy(find_base(recipe.base), final)
    assert torch.allclose(logits(merged), logits(plain), atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert torch.allclose(logits(again), logits(plain), atol=1e-4)
    assert again.config.tie_word_embeddings == tied


def test_a_step_in_bfloat16_keeps_what_half_precision_would_lose(tiny_base: Path) -> None:
    """Rows train in float32, and passes give the base's own numbers, to half precision."""
    base = find_base(BaseSpec(name=str(tiny_base), dtype="bfloat16"))
    roles = Roles(base.load_model(CPU))
    roles.add("policy", lora_config(Lora(targets=["q_proj"]), roles.base), trains=True)
    before = logits(roles.base).float()
    assert roles.peft is not None
    let_train(roles.peft, "policy", saved_paths(BOTH, roles.base))
    table = roles.base.get_input_embeddings().weight
    assert table is roles.base.get_output_embeddings().weight and table.dtype == torch.float32
    assert (logits(roles.base) - before).norm() < 0.02 * before.norm()
    roles.base(input_ids=IDS, labels=IDS).loss.backward()
    assert table.grad is not None and table.grad.dtype == torch.float32
    assert float(table.grad[IDS.flatten()].abs().sum()) > 0


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["embed_token"], "embed_token is neither .* model.embed_tokens and lm_head: write embed_tokens"),
        (["lm_head", "q_proj"], "q_proj is neither the embeddings nor the output layer"),
        (["norm"], "norm is neither"),
    ],
)
def test_other_modules_are_refused_with_the_bases_own_names(
    names: list[str], told: str, tiny_base: Path
) -> None:
    with pytest.raises(UserError, match=f"lora.modules_to_save: {told}"):
        check_base(find_base(BaseSpec(name=str(tiny_base))), Lora(modules_to_save=names))


def test_each_base_has_names_of_its_own_and_one_that_is_tied_has_both(
    tiny_base: Path, apart_base: Path
) -> None:
    tied = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert saved_paths(["lm_head"], tied) == ["model.embed_tokens", "lm_head"]
    apart = AutoModelForCausalLM.from_pretrained(apart_base)
    assert saved_paths(["lm_head"], apart) == ["lm_head"]
    assert saved_paths(["lm_head", "model.embed_tokens"], apart) == ["model.embed_tokens", "lm_head"]
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=8, n_layer=1, n_head=2))
    assert saved_paths(["wte"], gpt2) == ["transformer.wte", "lm_head"]
    with pytest.raises(UserError, match="which are transformer.wte and lm_head: write wte, lm_head"):
        saved_paths(["embeddings"], gpt2)


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short sft with trained rows leaves."""
    lora = {"modules_to_save": BOTH}
    recipe = load_recipe(make_recipe(tmp_path_factory.mktemp("rows"), tiny_base, lora=lora, sft={"steps": 1}))
    sft.run(recipe)
    return recipe.run.path / "sft" / "final"


def changed(adapter: Path, folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """A copy of the adapter with other tensors."""
    shutil.copytree(adapter, folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_roles_share_them_and_the_lower_layers(adapter: Path, tiny_base: Path) -> None:
    roles = Roles(find_base(BaseSpec(name=str(tiny_base))).load_model(CPU))
    for role in ("policy", "reference"):
        roles.add(role, adapter, trains=role == "policy")
    assert Forward(roles).split == 2
    assert all(".lora_" in name for name in roles.parameters_of("policy"))
    assert not roles.base.get_input_embeddings().weight.requires_grad


def test_a_role_that_was_trained_with_other_rows_is_refused(
    adapter: Path, tiny_base: Path, finished_run: Path, tmp_path: Path
) -> None:
    roles = Roles(find_base(BaseSpec(name=str(tiny_base))).load_model(CPU))
    roles.add("policy", adapter, trains=True)

    def move(tensors: dict[str, Tensor]) -> None:
        for name in tensors:
            if ".lora_" not in name:
                tensors[name] += 0.01

    for other in (changed(adapter, tmp_path / "other", move), finished_run / "sft" / "final"):
        with pytest.raises(UserError, match="trained with other embeddings or another output layer"):
            roles.add("reward", other, trains=False)
    plain = Roles(find_base(BaseSpec(name=str(tiny_base))).load_model(CPU))
    plain.add("policy", finished_run / "sft" / "final", trains=True)
    with pytest.raises(UserError, match="trained with other embeddings or another output layer"):
        plain.add("reward", adapter, trains=False)


def test_a_strangers_adapter_replaces_nothing_else_of_the_base(
    adapter: Path, tiny_base: Path, tmp_path: Path
) -> None:
    def add_norm(tensors: dict[str, Tensor]) -> None:
        tensors["base_model.model.model.norm.weight"] = torch.ones(32)

    other = changed(adapter, tmp_path / "norm", add_norm)
    with pytest.raises(AlignError, match="holds base_model.model.model.norm.weight, which is no adapter"):
        read_adapter(other)
    path = other / "adapter_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "modules_to_save": [*said["modules_to_save"], "model.norm"]}))
    with pytest.raises(AlignError, match="model.norm is neither the embeddings nor the output layer"):
        Roles(find_base(BaseSpec(name=str(tiny_base))).load_model(CPU)).add("policy", other, trains=False)

    def part(tensors: dict[str, Tensor]) -> None:
        tensors["base_model.model.lm_head.weight"] += 0.1

    loose = changed(adapter, tmp_path / "loose", part)
    with pytest.raises(AlignError, match="whose output layer is its table of embeddings"):
        Roles(find_base(BaseSpec(name=str(tiny_base))).load_model(CPU)).add("policy", loose, trains=False)
