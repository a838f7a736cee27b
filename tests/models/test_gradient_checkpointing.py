"""Layers that run again in the backward pass: the same gradients, with less memory between the passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_packed import RANKINGS, model
from torch import Tensor
from transformers import PreTrainedModel

from align.errors import UserError
from align.models.batch import PrefixStates, collate
from align.models.forward import Forward
from align.models.gradient_checkpointing import layers_of
from align.models.lora import lora_config
from align.models.packed import pack, separate_rows
from align.models.roles import Roles
from align.recipe.sections import Lora

PAIRS = [([5, 6, 7], [8, 9, 10, 1]), ([11, 12], [13, 1]), ([20], [21, 22, 23, 24, 25, 1])]
TARGETS = {"gpt2": "all-linear", "gpt_neox": ["query_key_value"], "bloom": ["query_key_value"]}
KINDS = ["llama", "qwen2", "qwen3", "mistral", "gpt2", "neox", "bloom", "mamba"]
Loss = Callable[[Forward], Tensor]


def roles_on(made: PreTrainedModel, layers: int | None = None) -> Roles:
    """Policy, value and reward, whose adapters and heads are drawn."""
    kind = made.config.model_type
    targets = TARGETS.get(kind, ["in_proj"] if kind == "mamba" else ["q_proj", "v_proj", "down_proj"])
    config = lora_config(Lora(rank=4, alpha=8, targets=targets, layers=layers), made)
    roles = Roles(made)
    torch.manual_seed(1)
    for role in ("policy", "value", "reward"):
        roles.add(role, config, trains=True)
        with torch.no_grad():
            for name, parameter in roles.parameters_of(role).items():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
        if role != "policy":
            roles.add_head(role, torch.Generator().manual_seed(2))
    return roles


def policy(forward: Forward) -> Tensor:
    logprobs, entropies, _ = forward.logprobs("policy", prefix_of(forward), 0.7, entropy_gradient=True)
    return (logprobs * torch.linspace(-1, 2, logprobs.shape[1])).sum() - 0.1 * entropies.sum()


def value(forward: Forward) -> Tensor:
    return forward.values("value", prefix_of(forward)).square().sum()


def packed(forward: Forward) -> Tensor:
    return forward.roles.heads["reward"](forward.ends("reward", pack(RANKINGS))).square().sum()


def separate(forward: Forward) -> Tensor:
    return forward.roles.heads["reward"](forward.ends("reward", separate_rows(RANKINGS))).square().sum()


def prefix_of(forward: Forward) -> PrefixStates:
    return forward.prefix(collate(PAIRS, pad_id=1))


def gradients(forward: Forward, loss: Loss) -> dict[str, Tensor]:
    forward.roles.zero_grad()
    loss(forward).backward()
    return {name: p.grad.clone() for name, p in forward.roles.named_parameters() if p.grad is not None}


def both(roles: Roles, fused: bool | None = None) -> tuple[Forward, Forward]:
    """Passes that keep what backward needs, and passes that make it again."""
    found = Forward(roles), Forward(roles, gradient_checkpointing=True)
    for forward in found:
        forward.fused = forward.fused if fused is None else fused
    return found


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("layers", [None, 2])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("loss", [policy, value, separate, packed])
def test_gradients_are_the_same_to_the_last_bit(loss: Loss, fused: bool, layers: int | None) -> None:
    kept, again = both(roles_on(model("llama"), layers), fused)
    assert again.split == (0 if layers is None else 2)
    expected = gradients(kept, loss)
    assert any(float(gradient.abs().max()) > 0 for gradient in expected.values())
    assert same(gradients(again, loss), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_other_models_have_the_same_gradients(kind: str) -> None:
    kept, again = both(roles_on(model(kind)))
    for loss in (policy, value, separate):
        assert same(gradients(again, loss), gradients(kept, loss))


@pytest.mark.parametrize("fused", [True, False])
def test_a_role_s_adapter_is_active_again_in_its_backward_pass(fused: bool) -> None:
    """Two losses before either's backward pass: the second role is active when the first one's runs again."""
    roles = roles_on(model("llama"))
    kept, again = both(roles, fused)
    expected = {**gradients(kept, value), **gradients(kept, policy)}

    def together(forward: Forward) -> Tensor:
        return policy(forward) + value(forward)

    found = gradients(again, together)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-7)
    assert all(p.requires_grad for role in ("policy", "value") for p in roles.parameters_of(role).values())


@pytest.mark.parametrize("fused", [True, False])
def test_between_the_passes_a_layer_keeps_its_input(fused: bool) -> None:
    forwards = both(roles_on(model("llama")), fused)
    kept, again = (saved(forward) for forward in forwards)
    inputs = 4 * 3 * 7 * 32 * 4  # layers x rows x tokens x width x bytes
    assert inputs <= again <= 2 * inputs  # and what the norm and the log probabilities keep
    assert again < kept / 3


def saved(forward: Forward) -> int:
    """Bytes of the activations that wait for a policy's backward pass, each storage once."""
    prefix, seen = prefix_of(forward), {}
    weights = {p.untyped_storage().data_ptr() for p in forward.roles.parameters()}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = forward.logprobs("policy", prefix, 1.0)[0].sum()
    assert loss.requires_grad
    return sum(seen.values())


def test_layers_forward_is_their_own_again_afterwards() -> None:
    roles = roles_on(model("llama"))
    _, again = both(roles, fused=False)
    before = [layer.forward for layer in again.checkpointed_layers]
    policy(again)
    assert [layer.forward for layer in again.checkpointed_layers] == before
    assert not any("forward" in vars(layer) for layer in again.checkpointed_layers)


def test_another_library_s_hook_on_a_layer_is_left_in_place() -> None:
    roles = roles_on(model("llama"))
    _, again = both(roles, fused=False)
    layer: Any = again.checkpointed_layers[1]
    own, calls = layer.forward, []

    def hooked(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return own(*args, **kwargs)

    layer.forward = hooked
    policy(again).backward()
    assert layer.forward is hooked
    assert len(calls) == 2  # forward, and again in the backward pass


def test_nothing_runs_twice_where_no_gradient_is_asked_for() -> None:
    kept, again = both(roles_on(model("llama")), fused=False)
    with torch.no_grad():
        assert torch.equal(policy(kept), policy(again))


def test_layers_are_found_by_their_number() -> None:
    for kind in KINDS:
        made = model(kind)
        assert len(layers_of(made.base_model)) == 4, kind


def test_a_base_without_layers_that_can_be_found_is_refused() -> None:
    roles = roles_on(model("llama"))
    roles.decoder.config.num_hidden_layers = 3
    with pytest.raises(UserError, match="gradient_checkpointing: LlamaForCausalLM has no list of layers"):
        Forward(roles, gradient_checkpointing=True)
