"""Two heads and several members by two processes: the same reward models as by one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import make_recipe
from ranks import Ranks
from safetensors.torch import load_file

from align.recipe.load import load_recipe
from align.stages import rm, sft

KINDS = {
    "odin": {"length_debias": "odin"},
    "members": {"members": 2, "member_share": 0.7, "length_debias": "linear"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_one_does(group: Ranks, tmp_path: Path, tiny_base: Path, kind: str) -> None:
    more = {"steps": 4, "batch_size": 4, "microbatch_tokens": 48, "learning_rate": 1e-3}
    alone = make_recipe(tmp_path / "one", tiny_base, rm={**more, **KINDS[kind]})
    sft.run(load_recipe(alone))
    both = make_recipe(tmp_path / "two", tiny_base, rm={**more, **KINDS[kind]})
    shutil.copytree(tmp_path / "one/runs", tmp_path / "two/runs")
    rm.run(load_recipe(alone))
    ended = group.run("rm", both)
    assert ended.codes == [0, 0], ended.output
    finals = [path.parent / "runs/tiny/rm/final" for path in (alone, both)]
    files = sorted(path.relative_to(finals[0]) for path in finals[0].rglob("*.safetensors"))
    assert len(files) == 2 * KINDS[kind].get("members", 1)  # type: ignore[operator]
    for file in files:
        ours, theirs = (load_file(final / file) for final in finals)
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
