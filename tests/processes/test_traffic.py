"""What two processes send each other, counted, beside what align/plan/traffic.py says of any number."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import make_recipe
from ranks import FSDP2, Ranks

from align.plan.traffic import Traffic, of_ppo, of_step

# The tiny base: width 32, keys and values of 16, MLP of 64, four layers; rank 4 on q, v and down, two layers.
ADAPTER = 2 * 4 * ((32 + 32) + (32 + 16) + (64 + 32))
HEAD = 32
LAYER = 4 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32)  # bytes in float32
ONE_PASS = 10**6  # tokens: a microbatch holds all rows


@pytest.fixture
def counted(group: Ranks, tmp_path: Path, tiny_base: Path) -> Any:
    """Bytes by collective of one more step, so that what the start and the end send is left out."""

    def of(stage: str, length: str, sharded: bool) -> Counter[str]:
        recipe = make_recipe(
            tmp_path,
            tiny_base,
            data={
                "template": "plain",
                **{
                    kind: {"train": f"{kind}.jsonl", "held_out": 0.0}
                    for kind in ("demonstrations", "rankings", "prompts")
                },
            },
        )
        found = []
        for steps in (2, 4):
            overrides = [f"{stage}.{length}={steps}", f"run.name=steps-{steps}"]
            overrides.append(f"{stage}.checkpoint_every=100")  # each gathers the optimizers' states
            overrides += [f"{stage}.microbatch_tokens={ONE_PASS}"] if stage != "sft" else []
            environment = FSDP2 if sharded else {}
            for each in ("sft", "rm", "ppo"):
                ended = group.run("call", "rank_traffic:count", recipe, each, *overrides, **environment)
                assert ended.codes == [0, 0], ended.output
                if each == stage:
                    break
            found.append(Counter(json.loads(ended.output[0].splitlines()[-1])["bytes"]))
        return Counter({name: (size - found[0][name]) // 2 for name, size in found[1].items()})

    return of


@pytest.mark.parametrize("sharded", [False, True], ids=["copies", "shards"])
@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_a_step_sends_what_is_reckoned(counted: Any, stage: str, sharded: bool) -> None:
    layers = {"lower": 2 * LAYER, "upper": 2 * LAYER} if sharded else {}
    reckoned: Traffic = {
        "sft": lambda: of_step(ADAPTER, **layers),
        "rm": lambda: of_step(ADAPTER + HEAD, **layers),
        "ppo": lambda: of_ppo(2 * ADAPTER + HEAD, updates=4, **layers),
    }[stage]()
    found = counted(stage, "iterations" if stage == "ppo" else "steps", sharded)
    small = 4096  # metrics, lengths, scores
    assert reckoned.gradients <= found["allreduce"] <= reckoned.gradients + small
    assert reckoned.optimizer <= found["broadcast"] <= reckoned.optimizer + small
    assert found["allgather_base"] == reckoned.layers


def test_a_ring_sends_its_share() -> None:
    assert Traffic(gradients=80, optimizer=0, layers=0).sent(8) == 140  # 7/8 of it, twice
    assert Traffic(gradients=0, optimizer=8, layers=80).sent(8) == 77
