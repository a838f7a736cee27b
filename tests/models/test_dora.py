"""DoRA against its equation and PEFT's own model: what is saved, merged, passed through and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_bases import make_base
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from align.errors import AlignError, UserError
from align.models.adapters import read_adapter, save_adapter
from align.models.base import BaseCheckpoint, find_base
from align.models.batch import collate
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.merge import merged_policy
from align.models.roles import Roles, tensors_of
from align.models.suitable import check_base
from align.models.text_part import auto_class
from align.recipe.sections import Base as BaseSpec
from align.recipe.sections import Lora
from align.run.checkpoint import read_tensors

DORA = Lora(rank=4, alpha=12, use_dora=True)
IDS = torch.arange(20, 32).view(2, 6)


def a_base(kind: str, tiny_base: Path, folder: Path) -> BaseCheckpoint:
    if kind == "gpt2":  # its layers are Conv1D, whose matrices lie the other way round
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(tiny_base)
        sizes = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "initializer_range": 0.1}
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    elif kind != "llama":
        make_base(kind, tiny_base, folder)
    return find_base(BaseSpec(name=str(tiny_base if kind == "llama" else folder)))


def trained(base: BaseCheckpoint, lora: Lora, *names: str) -> Roles:
    """Roles whose adapters matter, each another one; lengths too are not those of the base's rows."""
    roles = Roles(base.load_model(torch.device("cpu")))
    for seed, name in enumerate(names):
        roles.add(name, lora_config(lora, roles.base), trains=True)
        drawn = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, parameter in roles.parameters_of(name).items():
                if key.endswith("magnitude_vector"):
                    parameter.mul_(0.5 + torch.rand(parameter.shape, generator=drawn))
                else:
                    parameter.normal_(std=0.2, generator=drawn)
    return roles


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def saved(roles: Roles, role: str, folder: Path) -> Path:
    assert roles.peft is not None
    save_adapter(roles.peft, roles.adapter_of(role), folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mamba", "falcon_h1", "rwkv", "gemma3", "opt350"])
def test_what_is_saved_gives_the_same_in_plain_peft_and_merged(
    kind: str, tiny_base: Path, tmp_path: Path
) -> None:
    base = a_base(kind, tiny_base, tmp_path / "base")
    check_base(base, DORA)
    roles = trained(base, DORA, "policy", "value")
    roles.activate("policy")
    ours = logits(roles.base)
    folder = saved(roles, "policy", tmp_path / "adapter")
    plain = auto_class(base.config).from_pretrained(base.folder, dtype=torch.float32).eval()
    theirs = PeftModel.from_pretrained(plain, str(folder)).eval()
    assert torch.allclose(logits(theirs), ours, rtol=1e-5, atol=1e-6)
    again = Roles(base.load_model(torch.device("cpu")))
    again.add("policy", folder, trains=False)
    before, after = tensors_of(roles, "policy"), tensors_of(again, "policy")
    assert any(name.endswith(".lora_magnitude_vector") for name in before)
    names = {f"base_model.model.{name}" for name in before}
    assert (
        names == read_tensors(folder / "adapter_model.safetensors").keys() and before.keys() == after.keys()
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    merged = merged_policy(base, folder)
    assert torch.allclose(logits(merged), ours, atol=1e-4)
    oracle = theirs.merge_and_unload().state_dict()
    assert all(torch.equal(tensor, oracle[name]) for name, tensor in merged.state_dict().items())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_merged_row_has_the_trained_length_and_the_updated_direction(
    kind: str, tiny_base: Path, tmp_path: Path
) -> None:
    """W' = m (W + (alpha / rank) B A) / |W + (alpha / rank) B A|, the norm along each output's row."""
    base = a_base(kind, tiny_base, tmp_path / "base")
    roles = trained(base, DORA, "policy")
    parts = read_tensors(saved(roles, "policy", tmp_path / "adapter") / "adapter_model.safetensors")
    before = base.load_model(torch.device("cpu")).state_dict()
    after = merged_policy(base, tmp_path / "adapter").state_dict()
    places = {name.split(".lora_")[0] for name in parts}
    assert len(places) == (28 if kind == "llama" else 16)
    for place in places:
        a, b, m = (
            parts[f"{place}.lora_{part}"].double() for part in ("A.weight", "B.weight", "magnitude_vector")
        )
        key = f"{place.removeprefix('base_model.model.')}.weight"
        matrix, merged = before[key].double(), after[key].double()
        if kind == "gpt2":
            matrix, merged = matrix.T, merged.T
        moved = matrix + 12 / 4 * b @ a
        expected = m[:, None] * moved / moved.square().sum(1, keepdim=True).sqrt()
        assert torch.allclose(merged, expected, atol=1e-6), place


def test_it_starts_as_the_base(tiny_base: Path) -> None:
    base = a_base("llama", tiny_base, tiny_base)
    roles = Roles(base.load_model(torch.device("cpu")))
    plain = logits(roles.base)
    roles.add("policy", lora_config(DORA, roles.base), trains=True)
    assert torch.allclose(logits(roles.base), plain, atol=1e-5)


def test_passes_with_shared_lower_layers_give_the_models_own_numbers_and_gradients(tiny_base: Path) -> None:
    base = a_base("llama", tiny_base, tiny_base)
    roles = trained(base, DORA.model_copy(update={"layers": 2}), "policy", "value")
    forward = Forward(roles)
    assert forward.split == 2 and not forward.fused  # the fused pass knows plain LoRA alone
    prefix = forward.prefix(collate([([20, 21, 22], [23, 24, 25])]))
    found, _, _ = forward.logprobs("policy", prefix, 1.0)
    roles.activate("policy")
    own = roles.base(input_ids=torch.tensor([[20, 21, 22, 23, 24, 25]])).logits.log_softmax(-1)
    expected = own[0, 2:5].gather(1, torch.tensor([[23], [24], [25]]))[:, 0]
    assert torch.allclose(found[0], expected, atol=1e-5)
    gradients = []
    for sums in (found.sum(), expected.sum()):
        gradients.append(torch.autograd.grad(sums, list(roles.parameters_of("policy").values())))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*gradients, strict=True))
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients[0])


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_experts_are_refused_and_what_lies_beside_them_is_not(
    kind: str, tiny_base: Path, tmp_path: Path
) -> None:
    base = a_base(kind, tiny_base, tmp_path / "base")
    with pytest.raises(UserError, match=r"lora.use_dora: the base's experts \(.*down_proj.*\) are stacked"):
        check_base(base, DORA)
    check_base(base, DORA.model_copy(update={"targets": ["q_proj", "o_proj"]}))


def test_an_adapter_without_its_lengths_is_not_loaded(tiny_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base = a_base("llama", tiny_base, tiny_base)
    folder = saved(trained(base, DORA, "policy"), "policy", tmp_path)
    path = folder / "adapter_model.safetensors"
    parts = read_tensors(path)
    some = next(name for name in parts if name.endswith("magnitude_vector"))
    save_file({name: tensor for name, tensor in parts.items() if name != some}, path)
    with pytest.raises(AlignError, match="does not fit this base: .*lora_magnitude_vector"):
        Roles(base.load_model(torch.device("cpu"))).add("policy", folder, trains=False)
    save_file({**parts, some: parts[some][None].clone()}, path)
    with pytest.raises(AlignError, match="magnitude_vector, which is no adapter"):
        read_adapter(folder)
