"""Memory runs out in a stage: what to lower, what each role held, and where to go on from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.llama import modeling_llama
from typer.testing import CliRunner

from align.cli.app import app
from align.models import fused_llama
from align.run.memory import Held

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …"
SIZES = r"held [\d.]+ MiB of parameters, [\d.]+ MiB of gradients, [\d.]+ MiB of optimizer state"


def test_sizes_are_counted_from_the_tensors() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2**20))
    assert Held("base", [parameter]).line().startswith("base held 4.0 MiB of parameters, 0.0 MiB of grad")
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.zeros(2**20)
    optimizer.step()
    line = Held("policy", [parameter], optimizer).line()
    assert line == "policy held 4.0 MiB of parameters, 4.0 MiB of gradients, 8.0 MiB of optimizer state"


@pytest.mark.parametrize(
    ("stage", "lowers", "holders"),
    [
        (
            "sft",
            "sft.microbatch_size (the result stays the same), set sft.gradient_checkpointing, or lower "
            "sft.max_length",
            ["adapter"],
        ),
        (
            "rm",
            "rm.microbatch_tokens (the result stays the same), set rm.gradient_checkpointing, or lower "
            "rm.max_length",
            ["reward"],
        ),
        (
            "ppo",
            "ppo.microbatch_tokens (the result stays the same), set ppo.sampling_tokens or "
            "ppo.gradient_checkpointing, or lower ppo.rollout_batch_size or ppo.max_response_tokens",
            ["policy", "reference", "reward", "value"],
        ),
    ],
)
def test_the_message_says_what_to_lower_and_what_each_role_held(
    tiny_recipe: Callable[..., Path],
    finished_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    lowers: str,
    holders: list[str],
) -> None:
    parents = {"rm": {"sft": str(finished_run)}, "ppo": {"sft": str(finished_run), "rm": str(finished_run)}}
    path = tiny_recipe(**({stage: parents[stage]} if stage in parents else {}))
    checkpoints = path.parent / "runs" / "tiny" / stage / "checkpoints"

    def full_after_a_checkpoint(whole: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*arguments: Any, **named: Any) -> Any:
            if torch.is_grad_enabled() and list(checkpoints.glob("step-*")):
                raise torch.OutOfMemoryError(FULL)
            return whole(*arguments, **named)

        return forward

    for owner, name in ((modeling_llama.LlamaModel, "forward"), (fused_llama, "decode")):
        monkeypatch.setattr(owner, name, full_after_a_checkpoint(getattr(owner, name)))
    ended = CliRunner().invoke(app, [stage, str(path)])
    assert ended.exit_code == 1
    error = ended.stderr
    assert f"memory ran out; lower {lowers}; then the same command goes on" in error
    assert "Traceback" not in error
    assert re.search(rf"\nbase {SIZES}\n", error)
    for role in holders:
        assert re.search(rf"\n{role} {SIZES}\n", error), role
    (last,) = [line for line in error.splitlines() if line.startswith("the last checkpoint is ")]
    assert Path(last.removeprefix("the last checkpoint is ")) in checkpoints.iterdir()
