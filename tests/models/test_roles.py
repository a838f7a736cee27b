"""Four roles on one base: who trains, who stays, and what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_bases import tiny_model
from transformers import AutoModelForCausalLM

from align.errors import AlignError
from align.models.adapters import read_adapter, save_adapter, save_head
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles, tensors_of
from align.models.scoring import score_pairs
from align.recipe.sections import Lora


def _model(base: Path):
    return AutoModelForCausalLM.from_pretrained(base).requires_grad_(False).eval()


def _roles(base: Path) -> Roles:
    roles = Roles(_model(base))
    config = Lora(rank=4, alpha=8, targets=["q_proj", "down_proj"])
    for role, trains in (("policy", True), ("reference", False), ("reward", False), ("value", True)):
        roles.add(role, lora_config(config, roles.base), trains=trains)
    roles.add_head("reward", torch.Generator().manual_seed(0))
    roles.add_head("value", torch.Generator().manual_seed(0))
    return roles


def test_activating_a_role_freezes_no_other(tiny_base: Path) -> None:
    roles = _roles(tiny_base)
    for active in ("reference", "reward", "policy", "value"):
        roles.activate(active)
        for role, trains in (("policy", True), ("reference", False), ("reward", False), ("value", True)):
            assert {p.requires_grad for p in roles.parameters_of(role).values()} == {trains}, (active, role)
    own = {
        id(p)
        for role in ("policy", "reference", "reward", "value")
        for p in roles.parameters_of(role).values()
    }
    assert not any(p.requires_grad for p in roles.parameters() if id(p) not in own)


def test_the_base_is_in_memory_once(tiny_base: Path) -> None:
    alone = sum(p.numel() for p in _model(tiny_base).parameters())
    roles = _roles(tiny_base)
    adapters = sum(
        p.numel()
        for role in ("policy", "reference", "reward", "value")
        for p in roles.parameters_of(role).values()
    )
    assert sum(p.numel() for p in roles.parameters()) == alone + adapters


def test_each_role_answers_with_its_own_adapter(tiny_base: Path) -> None:
    roles = _roles(tiny_base)
    ids = torch.tensor([[5, 6, 7]])
    plain = _model(tiny_base)(input_ids=ids).logits
    with torch.no_grad():
        for name, p in roles.parameters_of("policy").items():
            if "lora_B" in name:
                p.fill_(0.1)
    roles.activate("policy")
    changed = roles.base(input_ids=ids).logits
    roles.activate("reference")
    assert torch.equal(roles.base(input_ids=ids).logits, plain)
    assert not torch.allclose(changed, plain)


def test_a_saved_adapter_is_loaded_by_plain_peft(tiny_base: Path, tmp_path: Path) -> None:
    roles = _roles(tiny_base)
    with torch.no_grad():
        for p in roles.parameters_of("policy").values():
            p.normal_(std=0.2)
    roles.activate("policy")
    ids = torch.tensor([[5, 6, 7]])
    ours = roles.base(input_ids=ids).logits
    assert roles.peft is not None
    save_adapter(roles.peft, "policy", tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(_model(tiny_base), str(tmp_path / "adapter"))
    assert torch.equal(loaded(input_ids=ids).logits, ours)
    again = Roles(_model(tiny_base))
    again.add("policy", tmp_path / "adapter", trains=True)
    for name, tensor in tensors_of(again, "policy").items():
        assert torch.equal(tensor, tensors_of(roles, "policy")[name])


def test_a_value_head_starts_as_the_rewards_weight_with_a_bias_that_trains(
    tiny_base: Path, tmp_path: Path
) -> None:
    roles = _roles(tiny_base)
    save_head(roles.heads["reward"], tmp_path)
    assert set(load_file(tmp_path / "head.safetensors")) == {"weight"}
    roles.add_head("value", tmp_path, bias=True)
    named = roles.parameters_of("value")
    assert torch.equal(named["head.weight"], roles.heads["reward"].weight)
    assert named["head.bias"].item() == 0.0 and named["head.bias"].requires_grad
    with torch.no_grad():
        named["head.bias"].fill_(0.25)
    save_head(roles.heads["value"], tmp_path / "value")
    roles.add_head("value", tmp_path / "value", bias=True)
    assert roles.parameters_of("value")["head.bias"].item() == 0.25
    with pytest.raises(AlignError, match=r"head\.safetensors does not fit"):
        roles.add_head("reward", tmp_path / "value")


def test_a_role_called_as_a_module_of_the_base_keeps_its_parameters_apart_and_all(tmp_path: Path) -> None:
    """RWKV's layers have a `value`: PEFT leaves out what is named like another adapter when it saves one."""
    roles = Roles(tiny_model("rwkv", 64))
    lora = Lora(rank=2, alpha=4, targets=["key", "value", "receptance"])
    for role in ("policy", "value"):
        roles.add(role, lora_config(lora, roles.base), trains=True)
        torch.manual_seed(len(role))
        with torch.no_grad():
            for parameter in roles.parameters_of(role).values():
                parameter.normal_()
    policy, value = roles.parameters_of("policy"), roles.parameters_of("value")
    assert policy.keys() == value.keys()
    assert len(policy) == 4 * 6 * 2  # six matrices a layer
    assert not {id(p) for p in policy.values()} & {id(p) for p in value.values()}
    assert roles.peft is not None
    for role in ("policy", "value"):
        save_adapter(roles.peft, roles.adapter_of(role), tmp_path / role)
        assert len(read_adapter(tmp_path / role)[1]) == len(policy)
    again = Roles(tiny_model("rwkv", 64))
    for role in ("value", "policy"):
        again.add(role, tmp_path / role, trains=False)
        for name, tensor in tensors_of(again, role).items():
            assert torch.equal(tensor, tensors_of(roles, role)[name])


def test_a_head_is_as_wide_as_what_the_output_layer_reads() -> None:
    """OPT-350m's layers are twice as wide as its last hidden state."""
    roles = Roles(tiny_model("opt350", 64))
    roles.add("reward", lora_config(Lora(rank=2, targets=["q_proj"]), roles.base), trains=True)
    roles.add_head("reward", torch.Generator().manual_seed(0))
    assert roles.base.config.hidden_size == 32
    assert roles.heads["reward"].weight.shape == (16,)
    pairs = [([5, 6, 7], [8, 9]), ([10], [11])]
    assert score_pairs(Forward(roles), "reward", pairs, 100).isfinite().all()
