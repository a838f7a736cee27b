"""The memory of one process runs out while the others wait for it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, align
from ranks import FSDP2, Ranks

HELD = r"held [\d.]+ MiB of parameters, [\d.]+ MiB of gradients, [\d.]+ MiB of optimizer state"
ROLES = {"sft": "adapter", "rm": "reward", "ppo": "policy"}


@pytest.mark.parametrize("kind", ["copies", "shards"])
@pytest.mark.parametrize("stage", ROLES)
def test_one_message_and_both_end(
    group: Ranks,
    tiny_recipe: Callable[..., Path],
    finished_run: Path,
    tmp_path: Path,
    stage: str,
    kind: str,
) -> None:
    earlier = {"sft": [], "rm": ["sft"], "ppo": ["sft", "rm"]}[stage]
    recipe = tiny_recipe(**{stage: dict.fromkeys(earlier, str(finished_run))})
    said = {"ALIGN_EXIT_FILE": str(tmp_path / "code"), **(FSDP2 if kind == "shards" else {})}
    ended = group.run("call", "big_base_probes:out_of_memory", stage, str(recipe), **said)
    assert ended.codes == [1, 1], ended.output
    assert ended.seconds < 60
    waited, full = ended.output
    assert "error" not in waited, waited
    assert "Traceback" not in full
    assert full.count("error: process 1: the GPU's memory ran out; lower ") == 1
    assert "\nCUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has" in full
    for part in ("base", ROLES[stage]):
        assert re.search(rf"\n{part} {HELD}\n", full), part
    assert re.search(rf"\nthe last checkpoint is \S+/{stage}/checkpoints/step-\d+\n", full)
    assert (tmp_path / "code").read_text() == "1"


# As with NCCL, nobody notices that another process is gone: this one is told by the launcher alone.
WAITS = """
import time
from align.processes import stopping
with stopping.heeded(600, speaks=True):
    print("waits", flush=True)
    while True:
        time.sleep(1)
"""


def test_who_waits_for_one_that_has_failed_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "code.told").touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "0", "ALIGN_EXIT_FILE": f"{tmp_path}/code"}
    with subprocess.Popen(
        [sys.executable, "-c", WAITS],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "waits\n"
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert stderr == ""


def test_the_command_ends_with_one_message(tiny_recipe: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import torch, align.stages.trainer as t\n"
        "    step = t.ResumableTrainer.training_step\n"
        "    def full(self, *arguments, **named):\n"
        "        if self.state.global_step == 3:\n"
        "            raise torch.OutOfMemoryError('CUDA out of memory.')\n"
        "        return step(self, *arguments, **named)\n"
        "    t.ResumableTrainer.training_step = full\n"
    )
    recipe = tiny_recipe(sft={"steps": 6, "checkpoint_every": 2})
    started = time.monotonic()
    done = align("sft", recipe, "--num-processes", "2", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1, done.stderr
    assert time.monotonic() - started < 90
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "error: process 1: the GPU's memory ran out; lower sft.microbatch_size" in done.stderr
    assert "checkpoints/step-000002" in done.stderr
    assert "Traceback" not in done.stderr
