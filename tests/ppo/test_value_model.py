"""ppo.value_model: shared. The value model is a head on the policy's adapter, and both share each pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from align.models.batch import collate
from align.ppo import train as ppo
from align.ppo.roles import Context, prepare
from align.recipe.load import load_recipe
from align.run.folder import open_stage
from align.stages.frame import set_up

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
SHARED = ["ppo.value_init=policy", "ppo.value_model=shared"]


@pytest.fixture(scope="module")
def recipe_path(finished_run: Path) -> Path:
    return finished_run.parents[1] / "recipe.yaml"


def prepared(path: Path, folder: Path, *overrides: str) -> tuple[Any, Context]:
    run = path.parent / "runs" / "tiny"
    recipe = load_recipe(path, [f"run.folder={folder}", *SHARED, *overrides])
    return recipe, prepare(recipe, set_up(recipe), run / "sft" / "final", run / "rm" / "final")


def draw_head(context: Context) -> None:
    """A head that is not 0, so that its error reaches the adapter."""
    generator = torch.Generator().manual_seed(3)
    weight = context.forward.roles.parameters_of("value")["head.weight"]
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator))


def copies(context: Context, role: str) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in context.forward.roles.parameters_of(role).items()}


def test_values_are_read_off_the_policys_hidden_states(recipe_path: Path, tmp_path: Path) -> None:
    _, context = prepared(recipe_path, tmp_path)
    draw_head(context)
    roles, forward = context.forward.roles, context.forward
    with torch.no_grad():
        for parameter in roles.parameters_of("policy").values():
            parameter.add_(0.05)
    prefix = forward.prefix(collate([([5, 6, 7], [8, 9, 10]), ([5, 6], [7])], 0))
    logprobs, _, mask, values = forward.logprobs_and_values("policy", "value", prefix, 1.0)
    torch.testing.assert_close(logprobs, forward.logprobs("policy", prefix, 1.0)[0])
    torch.testing.assert_close(values, forward.values("value", prefix))
    roles.activate("policy")
    own = roles.base.base_model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10]])).last_hidden_state[0]
    head = roles.parameters_of("value")
    by_hand = own @ head["head.weight"].flatten() + head["head.bias"]
    torch.testing.assert_close(values[0], by_hand[2:5], rtol=1e-4, atol=1e-4)
    assert mask.sum() == 4 and values[0].abs().min() > 0


def test_the_adapter_gets_both_losses_gradients(recipe_path: Path, tmp_path: Path) -> None:
    """One pass gives the sum of both gradients, in which value_coef weighs the value's alone."""
    found: dict[float, dict[str, Tensor]] = {}
    for coef in (1e-20, 0.5, 1.0):
        fields = [f"ppo.value_coef={coef}", "ppo.ppo_epochs=1", "ppo.minibatch_size=8", "ppo.warmup=0"]
        recipe, context = prepared(recipe_path, tmp_path / str(coef), *fields, "ppo.max_grad_norm=1e9")
        draw_head(context)
        named = context.forward.roles.parameters_of("policy")

        def keep(*_: Any, coef: float = coef, named: Any = named) -> None:
            found[coef] = {
                name: torch.zeros_like(p) + (0 if p.grad is None else p.grad) for name, p in named.items()
            }

        context.optimizers["policy"].register_step_pre_hook(keep)
        with open_stage(recipe, "ppo", context.accel, lineage={}, data={}, restart=False) as stage:
            rollout = ppo.iterate(context, stage, PROMPTS, 0)
    assert rollout.estimate.returns is not None
    value = by_autograd(*prepared(recipe_path, tmp_path / "again"), rollout)
    policy, half, whole = found.values()
    for name, gradient in value.items():
        torch.testing.assert_close(half[name], policy[name] + gradient / 2, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(whole[name], policy[name] + gradient, rtol=1e-3, atol=1e-6)
    assert max(float(g.abs().max()) for g in value.values()) > 1e-4
    assert max(float(g.abs().max()) for g in policy.values()) > 1e-4


def by_autograd(_: Any, context: Context, found: ppo.Iteration) -> dict[str, Tensor]:
    """The gradient of half the mean squared error of the values, by transformers' own passes.

    Nothing is clipped in the first update: the values are the old ones.
    """
    draw_head(context)
    roles, returns = context.forward.roles, found.estimate.returns
    assert returns is not None
    roles.activate("policy")
    named, head = roles.parameters_of("policy"), roles.parameters_of("value")
    loss = torch.zeros(())
    for one, wanted in zip(found.rollout.sampled, returns, strict=True):
        start, n = len(one.prompt), len(one.response)
        hidden = roles.base.base_model(input_ids=torch.tensor([one.prompt + one.response])).last_hidden_state
        values = hidden[0, start - 1 : -1] @ head["head.weight"].flatten() + head["head.bias"]
        loss = loss + 0.5 * (values - wanted[:n]).square().sum()
    slopes = torch.autograd.grad(loss / int(found.rollout.response_mask.sum()), list(named.values()))
    return dict(zip(named, slopes, strict=True))


def test_value_warmup_trains_the_head_alone_and_leaves_no_gradient_behind(
    recipe_path: Path, tmp_path: Path
) -> None:
    recipe, context = prepared(recipe_path, tmp_path, "ppo.value_warmup=1", "ppo.warmup=0")
    draw_head(context)
    policy, value = copies(context, "policy"), copies(context, "value")
    with open_stage(recipe, "ppo", context.accel, lineage={}, data={}, restart=False) as stage:
        ppo.iterate(context, stage, PROMPTS, 0)
        named = context.forward.roles.parameters_of("policy")
        assert all(torch.equal(p, policy[name]) and p.grad is None for name, p in named.items())
        assert not torch.equal(
            context.forward.roles.parameters_of("value")["head.weight"], value["head.weight"]
        )
        ppo.iterate(context, stage, PROMPTS, 1)
        assert any(not torch.equal(p, policy[name]) for name, p in named.items())


def test_a_run_saves_the_head_alone_and_goes_on_to_the_bit(recipe_path: Path, tmp_path: Path) -> None:
    run = recipe_path.parent / "runs" / "tiny"
    fields = [*SHARED, f"ppo.sft={run}", f"ppo.rm={run}"]
    whole = load_recipe(recipe_path, [*fields, f"run.folder={tmp_path / 'a'}"])
    ppo.run(whole)
    final = whole.run.path / "ppo" / "final"
    assert [p.name for p in (final / "value").iterdir()] == ["head.safetensors"]
    halves = load_recipe(recipe_path, [*fields, f"run.folder={tmp_path / 'b'}"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "outcome", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ppo.run(halves)
    ppo.run(halves)
    for name in ("adapter_model.safetensors", "value/head.safetensors"):
        ours, theirs = (load_file(recipe.run.path / "ppo" / "final" / name) for recipe in (whole, halves))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt
