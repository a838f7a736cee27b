"""Two processes give what one gives, with copies of the base or with shards of it, to rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TIMED, align, make_recipe, write_jsonl
from ranks import DEEPSPEED, FSDP2, ZERO2, ZERO3, Ranks, needs_deepspeed
from safetensors.torch import load_file
from stack import needs_paged
from vllm_server import Fake, serving

STAGES = ("sft", "rm", "ppo")
KINDS = {  # how the stages run: processes, and what accelerate's launcher says of its configuration
    "one": (1, {}),
    "copies": (2, {}),
    "shards": (2, FSDP2),
    "zero2": (2, ZERO2),
    "zero3": (2, ZERO3),
}
TWO = [
    "copies",
    "shards",
    pytest.param("zero2", marks=needs_deepspeed),
    pytest.param("zero3", marks=needs_deepspeed),
]


@pytest.fixture(scope="module")
def runs(
    group: Ranks, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path
) -> dict[str, tuple[Path, str]]:
    """Run folders of the three stages, 20 steps each, and what was said.

    A microbatch of rm and ppo is a row, or little more, so processes have different numbers of them, and some
    rankings go through in parts; only process 0 has something held out. Sharded layers run again in the
    backward pass.
    """
    found = {}
    for kind, (processes, said) in KINDS.items():
        if kind.startswith("zero") and not DEEPSPEED.is_dir():
            continue
        folder = tmp_path_factory.mktemp(kind)
        again = {"gradient_checkpointing": kind in ("shards", "zero3")}
        recipe = make_recipe(
            folder,
            tiny_base,
            data={
                "demonstrations": {"train": "demonstrations.jsonl", "held_out": "d.jsonl"},
                "rankings": {"train": "rankings.jsonl", "held_out": "r.jsonl"},
                "prompts": {"train": "prompts.jsonl", "held_out": "p.jsonl"},
                "template": "plain",
            },
            sft={"steps": 20, "batch_size": 2, "learning_rate": 1e-3},
            rm={
                "steps": 20,
                "batch_size": 2,
                "microbatch_tokens": 24,
                "evaluate_every": 7,
                "learning_rate": 1e-3,
                **again,
            },
            ppo={
                "iterations": 20,
                "rollout_batch_size": 4,
                "minibatch_size": 2,  # now and then both rows are one process's
                "ppo_epochs": 1,
                "microbatch_tokens": 24,
                "max_response_tokens": 6,
                "learning_rate": 1e-3,
                "evaluate_every": 9,
                "samples_every": 5,
                "ptx_coef": 0.1,
                "ptx_batch_size": 1,
                **again,
            },
        )
        held_out = {"prompt": "one more film"}
        write_jsonl(folder / "d.jsonl", [held_out | {"response": " good"}])
        write_jsonl(folder / "r.jsonl", [held_out | {"responses": [" good", " dull"], "ranks": [1, 2]}])
        write_jsonl(folder / "p.jsonl", [held_out])
        ended = group.run("run", recipe, processes=processes, **said)
        assert ended.codes == [0] * processes, ended.output
        found[kind] = folder / "runs" / "tiny", ended.output[0]
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_give_the_adapters_of_one(
    runs: dict[str, tuple[Path, str]], stage: str, kind: str
) -> None:
    one, two = (runs[name][0] / stage / "final" for name in ("one", kind))
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert ours.keys() == theirs.keys()
    distance = sum(float((ours[k] - theirs[k]).square().sum()) for k in ours) ** 0.5
    size = sum(float(ours[k].square().sum()) for k in ours) ** 0.5
    assert size > 0
    assert distance <= 1e-4 * size


@pytest.mark.parametrize("kind", TWO)
def test_they_sample_the_same_responses(runs: dict[str, tuple[Path, str]], kind: str) -> None:
    """All four of each of the 20 iterations, in their order."""
    one, two = (_rows(runs[name][0] / "ppo" / "samples.jsonl") for name in ("one", kind))
    texts = ("step", "prompt", "response", "reference")
    assert [[row.get(name) for name in texts] for row in one] == [
        [row.get(name) for name in texts] for row in two
    ]
    assert len(one) == 80
    one, two = (_rows(runs[name][0] / "ppo" / "held_out.jsonl") for name in ("one", kind))
    texts = ("prompt", "reference", "policy")
    assert [[row[name] for name in texts] for row in one] == [[row[name] for name in texts] for row in two]


@pytest.mark.parametrize("kind", TWO)
@pytest.mark.parametrize("stage", STAGES)
def test_metrics_are_those_of_the_whole_batch(
    runs: dict[str, tuple[Path, str]], stage: str, kind: str
) -> None:
    _same_metrics(*(runs[name][0] / stage for name in ("one", kind)))


def _same_metrics(one: Path, two: Path, clipped: float = 1e-4) -> None:
    """To rounding; clip fractions to `clipped`, as a token at the bound is in or out."""
    ours, theirs = (_rows(folder / "metrics.jsonl") for folder in (one, two))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if not name.startswith((*TIMED, "engine/", "savings/")) and value is not None:
                close = clipped if name.endswith("clip_fraction") else 1e-4
                assert b[name] == pytest.approx(value, rel=2e-3, abs=close), (one.name, a["step"], name)


def test_what_is_shared_out_is_told(runs: dict[str, tuple[Path, str]]) -> None:
    states = "optimizers' states are shared out among 2 processes"
    wanted = {
        "shards": f"the base's layers (FSDP2) and the {states}",
        "zero2": f"the {states}",
        "zero3": f"the base's layers (DeepSpeed's ZeRO-3) and the {states}",
    }
    for kind, (_, said) in runs.items():
        told = [line for line in said.splitlines() if "shared out" in line]
        assert told == ([f"{stage}: {wanted[kind]}" for stage in STAGES] if kind in wanted else [])


@needs_deepspeed
@pytest.mark.parametrize("stage", STAGES)
def test_optimizers_that_are_shared_out_give_the_same_bits(
    runs: dict[str, tuple[Path, str]], stage: str
) -> None:
    ours, theirs = (runs[kind][0] / stage / "final" for kind in ("copies", "zero2"))
    for path in ours.glob("*.safetensors"):
        assert path.read_bytes() == (theirs / path.name).read_bytes(), path.name


def test_a_process_keeps_the_states_of_its_parameters_only(group: Ranks) -> None:
    """What it saves and takes up again are those of all parameters, as torch's own AdamW has them."""
    ended = group.run("call", "rank_probes:shared_out", **FSDP2)
    assert ended.codes == [0, 0], ended.output
    found = [json.loads(output.splitlines()[-1]) for output in ended.output]
    kept = [one["kept"] for one in found]
    assert sorted(kept[0] + kept[1]) == [0, 1, 2, 3]
    assert [sum([12, 8, 3, 1][i] for i in mine) for mine in kept] == [12, 12]
    for one, mine in zip(found, kept, strict=True):
        assert one["again"] == one["kept after saving"] == mine
    assert all(one["same"] and one["saved"] and one["resumed"] for one in found)


@pytest.mark.parametrize("kind", ["shards", pytest.param("zero3", marks=needs_deepspeed)])
def test_a_process_holds_its_part_of_a_sharded_base(group: Ranks, tiny_base: Path, kind: str) -> None:
    """It samples and learns as with the whole base, with more or fewer passes than the other process."""
    ended = group.run("call", "rank_probes:sharded", tiny_base, **KINDS[kind][1])
    assert ended.codes == [0, 0], ended.output
    found = [json.loads(output.splitlines()[-1]) for output in ended.output]
    for one in found:
        assert one["held"] * 2 == one["whole"]
        assert one["bytes"][0] - one["bytes"][1] == 4 * one["held"]  # told where memory runs out
        assert one["adapters"] == ["Parameter"]  # no DTensor
        # ZeRO-3 puts weights together a matrix at a time, where each is called.
        assert one["lean"] == [True, kind == "shards"]
        assert one["same"]
        assert one["gradients"] and one["again"]  # also where its layers run again in the backward pass
        assert one["logprobs"] == [True, True]
    assert found[0]["lengths"][0] == 3
    assert found[1]["lengths"] == [1]


DETAILS = {
    "rewards": [{"run": "this"}, {"function": "judge:length", "weight": 0.1}],
    "responses_per_prompt": 2,
    "score_clip": 1.0,
    "reward_shape": "centred",
    "reference_responses": 2,
    "length_penalty": 0.01,
    "kl_coef": 0.2,
    "kl_in": "loss",
    "kl_target": 0.05,
    "kl_horizon": 40,
    "entropy_coef": 0.01,
    "ptx_coef": 0.1,
    "ptx_batch_size": 5,  # an uneven share
    "target_kl": 0.05,
    "value_warmup": 1,
    "importance_cap": 2.0,
    "evaluate_every": 2,
    "keep": "best",
    "learning_rate": 3e-3,
}


TRUNK = {
    "value_init": "policy",
    "value_model": "shared",
    "responses_per_prompt": 2,
    "min_response_tokens": 1,
    "value_warmup": 1,
    "microbatch_tokens": 24,  # a row, or little more: processes have different numbers of microbatches
    "learning_rate": 3e-3,
}


RLOO = {
    "advantage": "rloo",
    "responses_per_prompt": 4,
    "microbatch_tokens": 24,
    "learning_rate": 3e-3,
}


def _from(run: Path, folder: Path, base: Path, **fields: object) -> Path:
    """A recipe whose sft and rm are another folder's run."""
    parents = {"sft": str(run), "rm": str(run), "guard": str(run)}
    recipe = make_recipe(folder, base)
    raw = json.loads(recipe.read_text())
    raw["ppo"] |= {**parents, **fields}
    recipe.write_text(json.dumps(raw))
    (folder / "judge.py").write_text("def length(prompts, responses): return [len(r) for r in responses]\n")
    return recipe


@pytest.mark.parametrize("kind", TWO)
def test_ppos_details_are_of_all_processes(
    group: Ranks, runs: dict[str, tuple[Path, str]], tmp_path: Path, tiny_base: Path, kind: str
) -> None:
    folders = _by_one_and(kind, group, runs, tmp_path, tiny_base, DETAILS)
    _same_metrics(*folders, clipped=0.02)
    rows = _rows(folders[0] / "metrics.jsonl")
    assert len({row["kl/coef"] for row in rows if "kl/coef" in row}) > 2
    assert {"policy/ptx_loss", "policy/kl_loss", "guard/score", "reward/length"} <= rows[1].keys()


@pytest.mark.parametrize("kind", TWO)
def test_a_value_head_on_the_policys_adapter_is_of_all_processes(
    group: Ranks, runs: dict[str, tuple[Path, str]], tmp_path: Path, tiny_base: Path, kind: str
) -> None:
    """One pass for policy and value, and a different number of them in each process."""
    folders = _by_one_and(kind, group, runs, tmp_path, tiny_base, TRUNK)
    _same_metrics(*folders, clipped=0.02)
    rows = [row for row in _rows(folders[0] / "metrics.jsonl") if "value/loss" in row]
    assert [row["policy/learning_rate"] > 0 for row in rows] == [False, True, True, True]
    assert len({row["value/loss"] for row in rows}) == 4


@pytest.mark.parametrize("kind", TWO)
def test_the_responses_to_a_prompt_are_compared_wherever_they_were_sampled(
    group: Ranks, runs: dict[str, tuple[Path, str]], tmp_path: Path, tiny_base: Path, kind: str
) -> None:
    """Every prompt's four responses lie on two processes, and there is no value model."""
    folders = _by_one_and(kind, group, runs, tmp_path, tiny_base, RLOO)
    _same_metrics(*folders, clipped=0.02)
    assert not [key for row in _rows(folders[0] / "metrics.jsonl") for key in row if key.startswith("value/")]


def _by_one_and(
    kind: str,
    group: Ranks,
    runs: dict[str, tuple[Path, str]],
    folder: Path,
    base: Path,
    fields: dict[str, Any],
) -> list[Path]:
    """The ppo folders by one process and as `kind` says, which give the same answers."""
    folders = []
    for name in ("one", kind):
        recipe = _from(runs["one"][0], folder / name, base, **fields)
        processes, said = KINDS[name]
        ended = group.run("ppo", recipe, processes=processes, **said)
        assert ended.codes == [0] * processes, ended.output
        folders.append(recipe.parent / "runs" / "tiny" / "ppo")
    answers = [
        [(row["reference"], row["policy"]) for row in _rows(folder / "held_out.jsonl")] for folder in folders
    ]
    assert answers[0] == answers[1]
    return folders


def test_a_vllm_server_samples_for_a_sharded_base(
    group: Ranks, runs: dict[str, tuple[Path, str]], tmp_path: Path, tiny_base: Path
) -> None:
    with serving(Fake(tiny_base)) as url:
        recipe = _from(runs["one"][0], tmp_path, tiny_base, engine="vllm", engine_url=url)
        ended = group.run("ppo", recipe, **KINDS["shards"][1])
    assert ended.codes == [0, 0], ended.output
    rows = _rows(recipe.parent / "runs" / "tiny" / "ppo" / "metrics.jsonl")
    assert max(row["engine/logprob_gap"] for row in rows if "engine/logprob_gap" in row) < 1e-5


@needs_paged
def test_continuous_batching_refuses_a_sharded_base(
    group: Ranks, runs: dict[str, tuple[Path, str]], tmp_path: Path, tiny_base: Path
) -> None:
    recipe = _from(runs["one"][0], tmp_path, tiny_base, engine="paged")
    ended = group.run("ppo", recipe, **KINDS["shards"][1])
    assert ended.codes == [2, 2], ended.output
    assert "engine paged cannot sample from a base that is sharded" in ended.output[0]
    assert "Traceback" not in "".join(ended.output)


BREAKS = """
import os
if os.environ.get("RANK") == "1":
    import align.ppo.update as update
    original = update.policy_loss

    def broken(*arguments):
        loss, stats = original(*arguments)
        return loss * float("nan"), stats

    update.policy_loss = broken
"""


def test_a_nan_on_one_process_stops_both(
    runs: dict[str, tuple[Path, str]], tmp_path: Path, tiny_base: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAKS)
    recipe = _from(runs["one"][0], tmp_path / "nan", tiny_base, ppo_epochs=1)
    done = align("ppo", recipe, "--num-processes", "2", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("3 steps in a row could not be applied") == 1
    assert "Traceback" not in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "nan/runs/tiny/ppo/bad-steps.jsonl").open()]
    assert [row["iteration"] for row in rows] == [1, 1, 2]
    assert sorted(one["row"] for row in rows[:2] for one in row["rows"]) == list(range(8))


def test_a_function_that_fails_on_one_process_ends_both(
    runs: dict[str, tuple[Path, str]], tmp_path: Path, tiny_base: Path
) -> None:
    fields = {"rewards": [{"function": "judge:fails"}], "value_init": "policy"}
    recipe = _from(runs["one"][0], tmp_path, tiny_base, **fields)
    code = "def fails(prompts, responses): return [1.0] * (os.environ['RANK'] == '0') * len(prompts)\n"
    (tmp_path / "judge.py").write_text(f"import os\n{code}")
    done = align("ppo", recipe, "--num-processes", "2")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("gave 0 scores for 4 responses") == 1
    assert "Traceback" not in done.stderr


def test_a_share_without_a_comparison_keeps_the_processes_in_step(
    group: Ranks, runs: dict[str, tuple[Path, str]], tmp_path: Path, tiny_base: Path
) -> None:
    """One ranking of six decides anything, so one process of two has nothing to learn from in any step."""
    metrics, adapters = [], []
    for count in (1, 2):
        folder = tmp_path / str(count)
        recipe = make_recipe(
            folder,
            tiny_base,
            data={"template": "plain", "rankings": {"train": "some.jsonl", "held_out": "other.jsonl"}},
            rm={"steps": 6, "batch_size": 2, "learning_rate": 1e-2, "sft": str(runs["one"][0])},
        )
        tied = [{"prompt": f"a film {i}", "responses": [" good", " dull"], "ranks": [1, 1]} for i in range(5)]
        decided = {"prompt": "the story", "responses": [" loud", " warm", " old"], "ranks": [2, 1, 3]}
        write_jsonl(folder / "some.jsonl", [*tied, decided])
        write_jsonl(folder / "other.jsonl", [{**decided, "prompt": "another story"}])
        ended = group.run("rm", recipe, processes=count)
        assert ended.codes == [0] * count, ended.output
        run = folder / "runs" / "tiny" / "rm"
        metrics.append([json.loads(line) for line in (run / "metrics.jsonl").open()])
        adapters.append(load_file(run / "final" / "adapter_model.safetensors"))
    losses = [[row["train/loss"] for row in rows if "train/loss" in row] for rows in metrics]
    assert [loss > 0 for loss in losses[0]].count(True) == 2  # once an epoch
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, values in adapters[0].items():
        assert float((values - adapters[1][name]).norm()) <= 1e-4 * float(values.norm()) + 1e-6


def test_accelerate_launch_works_too(tiny_recipe: Callable[..., Path]) -> None:
    recipe = tiny_recipe()
    options = "--cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *options.split()]
    done = subprocess.run(
        [*launcher, "-m", "align", "sft", str(recipe)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (recipe.parent / "runs" / "tiny" / "sft" / "final" / "adapter_model.safetensors").is_file()


def test_an_accelerate_configuration_can_be_named(tiny_recipe: Callable[..., Path], tmp_path: Path) -> None:
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: 'no'\n"
        "num_machines: 1\nnum_processes: 1\nuse_cpu: true\n"
    )
    done = align("sft", tiny_recipe(), "--accelerate-config", config)
    assert done.returncode == 0, done.stderr


def test_a_mistake_is_told_once_with_its_exit_code(tiny_recipe: Callable[..., Path]) -> None:
    done = align("sft", tiny_recipe(sft={"batch_size": 3}), "--num-processes", "2")
    assert done.returncode == 2
    assert done.stderr.count("sft.batch_size is 3") == 1
    assert "Traceback" not in done.stderr
    done = align("ppo", tiny_recipe(), "--num-processes", "2")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


def test_a_mistake_is_told_where_the_main_process_comes_late(
    tiny_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """The launcher ends it before it can speak, because the other one has failed already."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "if os.environ.get('RANK') == '0':\n"
        "    import align.processes.distributed as d\n"
        "    check = d.check_divisible\n"
        "    d.check_divisible = lambda *a: (time.sleep(30), check(*a))\n"
    )
    recipe = tiny_recipe(sft={"batch_size": 3})
    done = align("sft", recipe, "--num-processes", "2", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("sft.batch_size is 3") == 1


def test_a_missing_accelerate_configuration_is_named(tiny_recipe: Callable[..., Path]) -> None:
    done = align("sft", tiny_recipe(), "--accelerate-config", "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
