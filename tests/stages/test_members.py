"""rm.members: several reward models side by side, as if each had been trained alone, and read as one."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import align, make_recipe
from safetensors.torch import load_file, save_file

from align.data.tokenize import Encoded
from align.errors import UserError
from align.loop.priorities import open_reward_models
from align.models.ensemble import Ensemble, spread
from align.models.roles import Roles
from align.models.scoring import score_members, score_pairs, score_rankings
from align.ppo import train as ppo
from align.recipe.load import load_recipe
from align.run.lineage import parent
from align.sampling.params import Sampled
from align.serving.run import open_run, reward_model
from align.stages import rm, sft
from align.stages.frame import set_up
from align.stages.members import Member, members_of, trained
from align.stages.ranking_gradients import gradients
from align.stages.ranking_rows import RankingRow

THREE = ["rm.members=3", "rm.member_share=0.7"]
PAIRS = [([5, 6, 7], [8] * 3 + [1]), ([5, 6], [9] * 7 + [1]), ([7], [10, 11, 1])]


@pytest.fixture(scope="module")
def recipe_path(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """sft, and rm with three members."""
    path = make_recipe(tmp_path_factory.mktemp("members"), tiny_base)
    sft.run(load_recipe(path))
    rm.run(load_recipe(path, THREE))
    return path


def final_of(path: Path) -> Path:
    return path.parent / "runs" / "tiny" / "rm" / "final"


def test_members_together_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0], [3.0, -2.0], [5.0, 0.0]])
    names = [("a", 1.0), ("b", 1.0), ("c", 1.0)]
    assert Ensemble(names).reduced(scores).tolist() == [3.0, 0.0]
    assert Ensemble(names, "min").reduced(scores).tolist() == [1.0, -2.0]
    std = (8 / 3) ** 0.5  # of 1, 3, 5 and of 2, -2, 0: sum of squares 8
    assert spread(scores).tolist() == pytest.approx([std, std])
    assert Ensemble(names, "mean_minus_std").reduced(scores).tolist() == pytest.approx([3 - std, -std])


def test_each_member_learns_from_its_share_of_the_prompts() -> None:
    rows = [RankingRow(Encoded([i, 7], [[1], [2, 1]]), (1, 2)) for i in range(2000)]
    learnt = [[row.encoded.prompt[0] for row in rows if Member(n, 0, 0.7).learns(row)] for n in range(3)]
    for one in learnt:
        assert len(one) == pytest.approx(1400, abs=70)
    both = len(set(learnt[0]) & set(learnt[1]))
    assert both == pytest.approx(980, abs=80)  # 0.7 x 0.7: independent
    assert learnt[0] == [row.encoded.prompt[0] for row in rows if Member(0, 0, 0.7).learns(row)]


def count_lower(forward: Any) -> list[int]:
    """Gets an item each time that the layers below all adapters run."""
    passes: list[int] = []
    lower = forward._lower

    def counted(*args: Any, **named: Any) -> Any:
        passes.append(1)
        return lower(*args, **named)

    forward._lower = counted
    return passes


def test_members_gradients_are_those_of_each_alone(recipe_path: Path) -> None:
    """Also where rankings are larger than a pass; the layers below all adapters run once for all members."""
    rows = [
        RankingRow(Encoded([5, 6 + i], [[7, 8, 9, 1], [9, 1], [10, 11 + i, 12, 13, 1]]), (1, 2, 3))
        for i in range(6)
    ]
    for tokens in (9, 256):
        recipe = load_recipe(recipe_path, [*THREE, f"rm.microbatch_tokens={tokens}"])
        setup, folder = set_up(recipe), recipe_path.parent / "runs/tiny/sft/final"
        forward = rm._model(setup, folder, 0, recipe.rm, False)
        forward.share_prompt = True
        members, passes = members_of(recipe.rm, 0), count_lower(forward)
        sums = gradients(forward, rows, recipe.rm, setup.accel, members)
        found = {
            member.role: {n: p.grad.clone() for n, p in trained(forward.roles, member.role).items()}
            for member in members
        }
        heads = [forward.roles.heads[m.role].weight for m in members]
        assert not torch.equal(heads[0], heads[1])
        one = load_recipe(recipe_path, [f"rm.microbatch_tokens={tokens}"]).rm
        for i, member in enumerate(members):
            its = [row for row in rows if member.learns(row)]
            assert 0 < len(its) < 6
            alone = rm._model(setup, folder, 0, one, False)
            alone.share_prompt = True
            alone.roles.heads["reward"].load_state_dict(forward.roles.heads[member.role].state_dict())
            (by_hand,) = gradients(alone, its, one, setup.accel)
            torch.testing.assert_close(sums[i], by_hand)
            for name, p in trained(alone.roles).items():
                where = name.replace(".reward.", f".{member.role}.")
                torch.testing.assert_close(found[member.role][where], p.grad, rtol=1e-4, atol=1e-6)
        if tokens == 256:
            assert len(passes) == 1


def test_a_run_is_read_as_the_mean_of_its_members(recipe_path: Path, tmp_path: Path) -> None:
    final, run = final_of(recipe_path), recipe_path.parent / "runs" / "tiny"
    assert sorted(p.name for p in (final / "members").iterdir()) == ["1", "2"]
    heads = [load_file(f / "head.safetensors")["weight"] for f in (final, final / "members/1")]
    assert not torch.equal(*heads)
    forward = reward_model(open_run(run, "rm"))
    members = score_members(forward, "reward", PAIRS, 512)
    folders = [final, final / "members/1", final / "members/2"]
    stds = [json.loads((folder / "score.json").read_text())["std"] for folder in folders]
    raw = [score_pairs(forward, f"reward_member{i}", PAIRS, 512) for i in (1, 2)]
    torch.testing.assert_close(members[1], raw[0] * stds[0] / stds[1])
    torch.testing.assert_close(members[2], raw[1] * stds[0] / stds[2])
    torch.testing.assert_close(score_pairs(forward, "reward", PAIRS, 512), members.mean(0))
    forward.share_prompt = True
    packed = score_rankings(forward, "reward", [Encoded(p, [r]) for p, r in PAIRS], 512)
    torch.testing.assert_close(torch.cat(packed), members.mean(0), rtol=1e-4, atol=1e-5)

    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"prompt": "the film is", "responses": [" good", " dull"]}) + "\n")
    done = align("score", run, answers)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert len(row["scores"]) == len(row["disagreement"]) == 2 and min(row["disagreement"]) > 0
    done = align("export", run, "--to", tmp_path / "out")
    assert done.returncode == 2 and "3 members" in done.stderr


@pytest.mark.parametrize("reduce", ["mean", "min", "mean_minus_std"])
def test_ppo_pays_what_the_members_say_together(recipe_path: Path, tmp_path: Path, reduce: str) -> None:
    from align.ppo.roles import prepare

    recipe = load_recipe(recipe_path, [*THREE, f"ppo.reward_reduce={reduce}"])
    context = prepare(
        recipe, set_up(recipe), recipe_path.parent / "runs/tiny/sft/final", final_of(recipe_path)
    )
    draws, prompts = ppo.Draws(0, "ppo", 0, [0, 1]), [[5, 6, 7], [8, 9]]
    sampled = context.engine.sample(prompts, draws, ppo.sampling_params(context.cfg, context.setup.base))
    rollout = ppo.score_rollout(
        context.forward, sampled, context.rewards, None, temperature=1.0, microbatch_tokens=512
    )
    pairs = [(one.prompt, one.response) for one in sampled]
    said = score_members(context.forward, "reward", pairs, 512).double().numpy()
    mean, std = said.mean(0), said.std(0)
    expected = {"mean": mean, "min": said.min(0), "mean_minus_std": mean - std}[reduce]
    assert rollout.scores.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert rollout.disagreement is not None
    assert rollout.disagreement.tolist() == pytest.approx(std.tolist(), abs=1e-5)


def test_a_whole_ppo_logs_disagreement(recipe_path: Path, tmp_path: Path) -> None:
    fields = [*THREE, f"run.folder={tmp_path}", "ppo.reward_reduce=mean_minus_std", "ppo.scale_scores=true"]
    run = recipe_path.parent / "runs/tiny"
    ppo.run(load_recipe(recipe_path, [*fields, f"ppo.sft={run}", f"ppo.rm={run}", f"ppo.guard={run}"]))
    rows = [json.loads(line) for line in (tmp_path / "tiny/ppo/metrics.jsonl").open()]
    assert rows[0]["reward/disagreement"] > 0 and "guard/score" in rows[0]
    samples = [json.loads(line) for line in (tmp_path / "tiny/ppo/samples.jsonl").open()]
    assert samples[0]["disagreement"] > 0
    manifest = json.loads((tmp_path / "tiny/ppo/manifest.json").read_text())
    parents = {parent["kind"]: parent for parent in manifest["parents"]}
    assert parents["rm"]["members"] and parents["rm"]["members"] == parents["guard"]["members"]
    assert parents["sft"].get("members") is None


def test_another_second_member_is_another_reward_model(recipe_path: Path, tmp_path: Path) -> None:
    run = tmp_path / "tiny"
    shutil.copytree(recipe_path.parent / "runs/tiny/rm", run / "rm")
    shutil.copy(recipe_path.parent / "runs/tiny/recipe.yaml", run / "recipe.yaml")
    recipe = load_recipe(recipe_path, THREE)
    before = parent(recipe, "rm", str(run), {}).ref("rm")
    head = run / "rm/final/members/2/head.safetensors"
    save_file({"weight": load_file(head)["weight"] + 1}, head)
    with pytest.raises(UserError, match="members/2/head.safetensors is not what rm wrote"):
        parent(recipe, "rm", str(run), {})
    manifest = run / "rm/manifest.json"
    document = json.loads(manifest.read_text())
    document["final"]["members/2/head.safetensors"] = hashlib.sha256(head.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(document))
    assert parent(recipe, "rm", str(run), {}).ref("rm").hashes != before.hashes


def test_one_run_with_members_tells_where_they_disagree(recipe_path: Path, finished_run: Path) -> None:
    recipe = load_recipe(recipe_path, THREE)
    setup = set_up(recipe)
    policy: Any = SimpleNamespace(setup=setup, roles=Roles(setup.load_model()))
    models = open_reward_models(recipe, policy, "disagreement", ())
    tasks = [[Sampled([5, 6], [7, 1], []), Sampled([5, 6], [9, 10, 1], [])], [Sampled([5], [7, 1], [])] * 2]
    found = models.priorities(tasks)
    members = score_members(models.forward, "reward0", [([5, 6], [7, 1]), ([5, 6], [9, 10, 1])], 512)
    chances = [1 / (1 + math.exp(float(b - a))) for a, b in members.tolist()]
    assert found == pytest.approx([float(np.var(chances)), 0.0], abs=1e-6)
    alone: Any = SimpleNamespace(setup=setup, roles=Roles(setup.load_model()))
    with pytest.raises(UserError, match="needs several reward models"):
        open_reward_models(load_recipe(finished_run.parents[1] / "recipe.yaml"), alone, "disagreement", ())


def test_a_plan_counts_every_member(recipe_path: Path) -> None:
    short = ["--set", "sft.max_length=64", "--set", "rm.max_length=64"]
    done = align("plan", recipe_path, "--gpu", "h100-80", "--set", "rm.members=3", *short)
    assert done.returncode == 0, done.stderr
    assert "reward_member1" in done.stdout and "reward_member2" in done.stdout


def test_members_go_on_with_the_same_bits(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = [*THREE, f"run.folder={tmp_path}", f"rm.sft={recipe_path.parent / 'runs/tiny'}"]
    original, calls = rm.gradients, []

    def dies(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rm, "gradients", dies)
        with pytest.raises(KeyboardInterrupt):
            rm.run(load_recipe(recipe_path, fields))
    rm.run(load_recipe(recipe_path, fields))
    ours, theirs = tmp_path / "tiny/rm/final", final_of(recipe_path)
    for file in sorted(theirs.rglob("*.safetensors")):
        assert (ours / file.relative_to(theirs)).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("rm.members=0", "rm.members"),
        ("rm.members=17", "rm.members"),
        ("rm.member_share=0.5", "member_share does nothing with members: 1"),
        ("rm.member_share=1.5", "rm.member_share"),
        ("ppo.reward_reduce=median", "ppo.reward_reduce"),
    ],
)
def test_wrong_fields_are_refused(tiny_recipe: Callable[..., Path], field: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(tiny_recipe(), [field])
    assert message in str(caught.value)


def test_odin_and_members_do_not_go_together(tiny_recipe: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="odin trains one reward model"):
        load_recipe(tiny_recipe(), ["rm.members=2", "rm.length_debias=odin"])


def test_a_single_reward_model_has_nothing_to_reduce(finished_run: Path, tmp_path: Path) -> None:
    recipe = finished_run.parents[1] / "recipe.yaml"
    fields = [f"run.folder={tmp_path}", f"ppo.sft={finished_run}", f"ppo.rm={finished_run}"]
    with pytest.raises(UserError, match="reward_reduce: min is about a reward model with several members"):
        ppo.run(load_recipe(recipe, [*fields, "ppo.reward_reduce=min"]))
