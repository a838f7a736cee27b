"""Several processes are killed, hang or are told to stop, all or one, and what they leave is gone on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from conftest import TIMED, make_recipe
from ranks import FSDP2, ZERO2, ZERO3, Ranks, needs_deepspeed
from safetensors.torch import load_file

STAGES = ("sft", "rm", "ppo")
KINDS: dict[str, dict[str, str]] = {"copies": {}, "shards": FSDP2, "zero2": ZERO2, "zero3": ZERO3}

# Where in each stage: the function, the call of it that matters, and whether before or after it.
AT = {
    "sft": ("align.stages.trainer:set_seed", 8, "after"),  # before a microbatch's forward pass
    "rm": ("align.stages.ranking_gradients:scores_above", 8, "after"),  # between two microbatches
    "ppo": ("align.ppo.update:policy_loss", 9, "after"),  # before an update's backward
}


@pytest.fixture(scope="module")
def whole(group: Ranks, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Callable[[str], Path]:
    """Gives a folder with the uninterrupted run of the three stages by two processes, of either kind."""

    @cache
    def run(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        recipe = make_recipe(
            folder,
            tiny_base,
            lora={"dropout": 0.1},
            sft={"microbatch_size": 1},
            rm={"microbatch_tokens": 48},
            ppo={"kl_target": 0.5, "kl_horizon": 40, "ptx_coef": 0.1, "samples_every": 2},
        )
        ended = group.run("run", recipe, **KINDS[kind])
        assert ended.codes == [0, 0], ended.output
        return folder

    return run


def _before(stage: str, whole: Path, target: Path) -> Path:
    """The recipe and the earlier stages, elsewhere; `stage` has not run there."""
    shutil.copytree(whole, target)
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(target / "runs" / "tiny" / later)
    recipe = target / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(whole), str(target)))
    return recipe


def _final(folder: Path, stage: str) -> dict[str, bytes]:
    final = folder / "runs" / "tiny" / stage / "final"
    return {p.relative_to(final).as_posix(): p.read_bytes() for p in sorted(final.rglob("*")) if p.is_file()}


def _logged(folder: Path, stage: str) -> list[dict[str, object]]:
    """Metrics, but for times, and samples."""
    files = sorted((folder / "runs" / "tiny" / stage).glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in rows]


def _distance(ours: Path, theirs: Path, stage: str) -> float:
    """Between the adapters, relative."""
    a, b = (
        load_file(f / "runs" / "tiny" / stage / "final" / "adapter_model.safetensors") for f in (ours, theirs)
    )
    assert a.keys() == b.keys()
    change = sum(float((a[k] - b[k]).square().sum()) for k in a)
    return float((change / sum(float(a[k].square().sum()) for k in a)) ** 0.5)


@pytest.mark.parametrize(
    "kind",
    [
        "copies",
        pytest.param("shards", marks=pytest.mark.slow),
        pytest.param("zero2", marks=needs_deepspeed),
        pytest.param("zero3", marks=[pytest.mark.slow, needs_deepspeed]),
    ],
)
@pytest.mark.parametrize("stage", STAGES)
def test_all_killed_and_started_again_gives_the_same_bits(
    group: Ranks, whole: Callable[[str], Path], tmp_path: Path, stage: str, kind: str
) -> None:
    said = KINDS[kind]
    recipe = _before(stage, whole(kind), tmp_path / "again")
    ended = group.run(stage, recipe, at=AT[stage], do={0: "SIGKILL", 1: "SIGKILL"}, **said)
    assert -9 in ended.codes, ended.output
    ended = group.run(stage, recipe, **said)
    assert ended.codes == [0, 0], ended.output
    assert "goes on from step" in ended.output[0]
    assert _final(tmp_path / "again", stage) == _final(whole(kind), stage)
    assert _logged(tmp_path / "again", stage) == _logged(whole(kind), stage)


@pytest.mark.parametrize(
    ("stage", "begun", "resumed"),
    [("sft", 2, 1), ("rm", 1, 2), ("ppo", 2, 1)],
)
def test_another_number_of_processes_goes_on(
    group: Ranks, whole: Callable[[str], Path], tmp_path: Path, stage: str, begun: int, resumed: int
) -> None:
    """Two of them with shards of the base, one with all of it."""
    recipe = _before(stage, whole("copies"), tmp_path / "again")
    change = ["--set", "lora.dropout=0"] if stage == "sft" else []  # each process has masks of its own
    theirs = whole("copies")
    if stage == "sft":
        theirs = tmp_path / "one"
        alone = _before(stage, whole("copies"), theirs)
        assert group.run(stage, alone, *change, processes=1).codes == [0]
    said: dict[int, dict[str, str]] = {1: {}, 2: FSDP2}
    kills = dict.fromkeys(range(begun), "SIGKILL")
    ended = group.run(stage, recipe, *change, processes=begun, at=AT[stage], do=kills, **said[begun])
    assert -9 in ended.codes, ended.output
    ended = group.run(stage, recipe, *change, processes=resumed, **said[resumed])
    assert ended.codes == [0] * resumed, ended.output
    told = [line for line in ended.output[0].splitlines() if "goes on with" in line]
    assert told == [
        f"{stage} was saved with {begun} processes and goes on with {resumed}: the same rows and draws, "
        "sums to rounding"
    ]
    assert _distance(tmp_path / "again", theirs, stage) <= 1e-4


@pytest.mark.parametrize("kind", ["copies", pytest.param("shards", marks=pytest.mark.slow)])
def test_one_killed_ends_the_other_with_a_message(
    group: Ranks, whole: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    said = KINDS[kind]
    recipe = _before("ppo", whole(kind), tmp_path / "again")
    ended = group.run("ppo", recipe, at=AT["ppo"], do={1: "SIGKILL"}, limit=120, **said)
    assert ended.codes == [1, -9], ended.output
    assert "another process of this run has ended" in ended.output[0]
    assert "the same command goes on from the last checkpoint" in ended.output[0]
    assert "Traceback" not in ended.output[0]
    ended = group.run("ppo", recipe, **said)
    assert ended.codes == [0, 0], ended.output
    assert _final(tmp_path / "again", "ppo") == _final(whole(kind), "ppo")


# Where one is killed: the function, the call of it, the process, and the newest checkpoint then.
KILLED = {
    "ppo samples": ("ppo", "align.sampling.sampler:_decode", 3, 1, 1),
    "ppo writes a checkpoint": ("ppo", "align.run.checkpoint:save_file", 5, 0, 1),
    "rm loads its base": ("rm", "align.models.base:BaseCheckpoint.load_model", 1, 1, None),
}


@pytest.mark.parametrize("case", KILLED)
def test_whoever_is_killed_wherever_the_other_names_the_last_checkpoint(
    group: Ranks, whole: Callable[[str], Path], tmp_path: Path, case: str
) -> None:
    stage, where, call, rank, step = KILLED[case]
    recipe = _before(stage, whole("copies"), tmp_path / "again")
    ended = group.run(stage, recipe, at=(where, call, "before"), do={rank: "SIGKILL"}, after=60)
    assert ended.codes[rank] == -9 and ended.codes[1 - rank] == 1, ended.output
    said = ended.output[1 - rank]
    assert said.count("another process of this run has ended") == 1
    folder = tmp_path / "again" / "runs" / "tiny" / stage / "checkpoints"
    last = f"the last checkpoint is {folder}/step-{step:06}" if step else "there is no checkpoint yet"
    assert said.count(last + "\n") == 1, said
    ended = group.run(stage, recipe)
    assert ended.codes == [0, 0], ended.output
    assert not step or f"goes on from step {step} " in ended.output[0]
    assert _final(tmp_path / "again", stage) == _final(whole("copies"), stage)


def test_one_that_hangs_is_waited_for_as_long_as_the_recipe_says(
    group: Ranks, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    recipe = _before("rm", whole("copies"), tmp_path / "again")
    limited = ["--set", "run.timeout=3"]
    ended = group.run("rm", recipe, *limited, at=AT["rm"], do={1: "SIGSTOP"}, limit=120, after=1)
    assert ended.codes == [1, -9], ended.output  # the test's own launcher kills what is left
    assert "did not answer within run.timeout" in ended.output[0]
    assert ended.seconds < 90
    ended = group.run("rm", recipe, *limited)
    assert ended.codes == [0, 0], ended.output
