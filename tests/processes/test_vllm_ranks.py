"""Several processes and vLLM servers: one adapter for all of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import make_recipe
from ranks import Ranks
from vllm_server import Fake, serving


@pytest.fixture(scope="module")
def parents(group: Ranks, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has had sft and rm."""
    recipe = make_recipe(tmp_path_factory.mktemp("parents"), tiny_base)
    for stage in ("sft", "rm"):
        ended = group.run(stage, recipe, processes=1)
        assert ended.codes == [0], ended.output
    return recipe.parent


def _ppo(parents: Path, folder: Path, *urls: str, **fields: object) -> list[str | Path]:
    """The command of two iterations, into another folder."""
    values = {"sft": str(parents / "runs/tiny"), "rm": str(parents / "runs/tiny"), "iterations": 2}
    values |= {"evaluate_every": 1, "engine": "vllm", "engine_url": list(urls), **fields}
    sets = [f"--set=ppo.{key}={json.dumps(value)}" for key, value in values.items()]
    return ["ppo", parents / "recipe.yaml", f"--set=run.folder={folder}", *sets]


def test_one_adapter_is_handed_over_for_all_processes(
    group: Ranks, parents: Path, tiny_base: Path, tmp_path: Path
) -> None:
    """Two processes with two servers, which sleep in between, sample what one does with one server."""
    fakes = [Fake(tiny_base) for _ in range(3)]
    for fake in fakes:
        fake.can_sleep = True
    with serving(fakes[0]) as alone, serving(fakes[1]) as first, serving(fakes[2]) as second:
        one = group.run(*_ppo(parents, tmp_path / "one", alone), processes=1)
        two = group.run(*_ppo(parents, tmp_path / "two", first, second, engine_sleep=True), processes=2)
    assert (one.codes, two.codes) == ([0], [0, 0]), [*one.output, *two.output]
    rows = [
        [json.loads(line)["response"] for line in (tmp_path / name / "tiny/ppo/samples.jsonl").open()]
        for name in ("one", "two")
    ]
    assert rows[0] == rows[1] and len(rows[0]) > 0
    assert len(fakes[0].loaded) == len(fakes[1].loaded) == 5  # the policy 4 times, and the reference
    assert fakes[1].loaded == fakes[2].loaded
    assert {one["seed"] for one in fakes[0].asked} == {
        one["seed"] for fake in fakes[1:] for one in fake.asked
    }
    assert abs(len(fakes[1].asked) - len(fakes[2].asked)) < len(fakes[0].asked) / 4
    assert fakes[1].told == fakes[2].told and fakes[1].told.count("sleep") >= 5
    assert not fakes[1].adapters and not (tmp_path / "two/tiny/ppo/engine").exists()


def test_what_one_process_is_refused_all_say_once(
    group: Ranks, parents: Path, tiny_base: Path, tmp_path: Path
) -> None:
    fake = Fake(tiny_base)
    fake.max_lora_rank = 1
    with serving(fake) as url:
        ended = group.run(*_ppo(parents, tmp_path, url), processes=2)
    assert ended.codes == [2, 2], ended.output
    assert "start it with --max-lora-rank 8" in ended.output[0]
    assert ended.seconds < 60 and "Traceback" not in "".join(ended.output)
