"""What steers PPO, by hand: rewards, the coefficient, bad numbers, and which checkpoint is good."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from align.errors import AlignError
from align.ppo import safety
from align.ppo.advantages import kl_rewards
from align.ppo.roles import TrainingState
from align.ppo.rollout import Rollout
from align.recipe.ppo import PPO
from align.run.folder import BAD_STEPS
from align.run.metrics import JsonLines
from align.sampling.params import Sampled

MASK = torch.tensor([[True, True, True], [True, False, False]])


def rollout() -> Rollout:
    """KL of the two responses: 3 and 1 nats; the first one ended by itself."""
    zero = torch.zeros(2, 3)
    return Rollout(
        sampled=[Sampled([5, 6], [7, 8], [-1.0, -1.0])] * 2,
        prefixes=[],
        response_mask=MASK,
        old_logprobs=torch.tensor([[-1.0, -2.0, -3.0], [-1.0, 0.0, 0.0]]),
        ref_logprobs=torch.tensor([[-2.0, -2.0, -5.0], [-2.0, 0.0, 0.0]]),
        entropies=zero,
        old_values=zero,
        scores=torch.tensor([4.0, -6.0]),
        parts={},
        eos=torch.tensor([True, False]),
        engine_logprobs=zero,
    )


def context(processes: int = 1, **fields: Any) -> Any:
    return SimpleNamespace(
        cfg=PPO(**fields),
        state=TrainingState(0.5),
        score_std=2.0,
        accel=SimpleNamespace(num_processes=processes, process_index=processes - 1),
        setup=SimpleNamespace(base=SimpleNamespace(tokenizer=SimpleNamespace(decode=str))),
    )


def stage(folder: Path, *steps: int) -> Any:
    for step in steps:
        (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    said: list[str] = []
    return SimpleNamespace(
        folder=folder,
        checkpoints=folder / "checkpoints",
        bad_steps=JsonLines(folder / BAD_STEPS),
        main=True,
        said=said,
        say=said.append,
    )


def test_rewards_by_hand() -> None:
    """4 / 2 for the one that ended, -6 / 2 - 1 for the other, minus half of each token's log ratio."""
    given = context(missing_eos_penalty=1.0)
    paid = torch.tensor([[-0.5, 0.0, 2.0 - 1.0], [-4.0 - 0.5, 0.0, 0.0]])
    assert torch.equal(kl_rewards(given.cfg, rollout(), 0.5, 2.0), paid)
    given = context(missing_eos_penalty=1.0, kl_in="loss")
    assert kl_rewards(given.cfg, rollout(), 0.5, 2.0).tolist() == [[0, 0, 2], [-4, 0, 0]]


def test_the_coefficient_by_hand(tmp_path: Path) -> None:
    """The mean KL is 2 nats: a tenth over the target, and two responses of a horizon of ten."""
    given = context(kl_target=2 / 1.1, kl_horizon=10)
    assert safety.update_kl_coef(given, stage(tmp_path), rollout(), 0) == 0.5
    assert given.state.kl_coef == pytest.approx(0.5 * (1 + 0.1 * 2 / 10))
    broken = rollout()
    broken.ref_logprobs[0, 1] = math.nan
    before = given.state.kl_coef
    assert safety.update_kl_coef(given, stage(tmp_path), broken, 1) == before == given.state.kl_coef


FIELDS = ["score", "log probability", "reference log probability", "value", "reward"]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_number_is_enough_and_is_named(tmp_path: Path, name: str, bad: float) -> None:
    given, here, one = context(), stage(tmp_path), rollout()
    rewards = torch.zeros(2, 3)
    for padded in (one.old_logprobs, one.ref_logprobs, one.old_values, rewards):
        padded[1, 2] = math.nan
    assert not safety.is_bad(given, here, one, rewards, 0)
    numbers = (one.scores[:, None], one.old_logprobs, one.ref_logprobs, one.old_values, rewards)
    dict(zip(FIELDS, numbers, strict=True))[name][0, 0] = bad
    assert safety.is_bad(given, here, one, rewards, 4)
    (line,) = map(json.loads, (tmp_path / "bad-steps.jsonl").open())
    assert line["what"] == [f"the {name} of 1 responses is not finite"] and line["iteration"] == 5
    assert line["rows"] == [{"row": 0, "prompt": "[5, 6]", "response": "[7, 8]"}]
    assert given.state.bad_in_a_row == 1


@pytest.mark.parametrize(
    ("name", "good"), [("score", 2), ("reward", 2), ("value", 1), ("log probability", 1)]
)
def test_the_third_in_a_row_names_the_last_good_checkpoint(tmp_path: Path, name: str, good: int) -> None:
    """Iterations 3 to 5 are bad: where the policy's own numbers are, the update of iteration 2 broke it."""
    given, here, one = context(), stage(tmp_path, 1, 2), rollout()
    rewards = torch.zeros(2, 3)
    numbers = (one.scores[:, None], one.old_logprobs, one.ref_logprobs, one.old_values, rewards)
    dict(zip(FIELDS, numbers, strict=True))[name][0, 0] = math.nan
    for iteration in (2, 3):
        safety.is_bad(given, here, one, rewards, iteration)
    with pytest.raises(AlignError, match=rf"last good checkpoint is \S*step-00000{good}\."):
        safety.is_bad(given, here, one, rewards, 4)


def test_a_row_is_told_by_its_place_in_the_whole_rollout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two processes: its rows 0 and 1 are 1 and 3."""
    monkeypatch.setattr(safety.distributed, "gather_lists", lambda mine, accel: mine)
    given, here = context(processes=2), stage(tmp_path)
    safety.not_applied(given, here, rollout(), [1, 0], 0, ["a loss is nan"])
    (line,) = map(json.loads, (tmp_path / "bad-steps.jsonl").open())
    assert [row["row"] for row in line["rows"]] == [1, 3]


@pytest.mark.parametrize("name", ["eval/score", "eval/kl"])
def test_a_policy_broken_at_the_end_names_what_came_before(tmp_path: Path, name: str) -> None:
    """Iteration 5 of 5 was bad already, so iteration 4 broke the policy."""
    given, here = context(iterations=5), stage(tmp_path, 3, 4)
    given.state = replace(given.state, bad_in_a_row=1)
    safety.check_outcome(given, here, {"eval/score": 1.0, "eval/kl": 1.0, "eval/score_se": math.nan})
    safety.check_outcome(given, here, {})
    with pytest.raises(AlignError, match=rf"{name} is nan.*last good checkpoint is \S*step-000003\."):
        safety.check_outcome(given, here, {"eval/score": 1.0, "eval/kl": 1.0, name: math.nan})
