"""What each part of benchmarks/gpu/run.py measures: a function from a work folder to figures by name."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES, make_base, make_recipe

from align.errors import UserError
from align.plan.base import plan_base
from align.plan.lengths import limits
from align.plan.machine import this_machine
from align.plan.memory import Question
from align.plan.stage import stage_plan
from align.recipe.load import load_recipe
from align.recipe.sections import Recipe
from align.run.folder import StageRun
from align.stage_table import STAGES, Stage

ROOT = Path(__file__).resolve().parents[2]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One measurement, in a process of its own. needs: parts whose runs it goes on from."""

    name: str
    measure: Callable[[Path], Figures]
    needs: tuple[str, ...] = ()


def parts(shapes: list[str], vllm_url: str | None) -> list[Part]:
    """All parts of these shapes, in the order in which they run."""
    found = [Part("machine", machine), Part("tests", gpu_tests)]
    for shape in shapes:
        sft = f"sft-{shape}"
        found.append(Part(sft, lambda work, shape=shape: sft_speed(work, shape)))
        for k in (4, 9):
            for packed in (True, False):
                name = f"rm-{shape}-k{k}-{'packed' if packed else 'pairs'}"
                found.append(Part(name, lambda work, a=(shape, k, packed, name): rm_speed(work, *a), (sft,)))
        for engine in ("hf", "paged", "vllm"):
            name = f"ppo-{shape}-{engine}"
            found.append(
                Part(
                    name,
                    lambda work, a=(shape, engine, name): ppo_speed(work, *a, vllm_url),
                    (sft, f"rm-{shape}-k4-packed"),
                )
            )
    return [*found, Part("resume", resume)]


def machine(_: Path) -> Figures:
    """Names and versions, and what the floors are made of: a matrix product's rate, and a copy's."""
    import accelerate
    import peft
    import transformers
    import trl

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found: Figures = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "CPU",
        "memory, GiB": round(torch.cuda.mem_get_info()[1] / 2**30, 1) if device.type == "cuda" else None,
        "driver": _driver() if device.type == "cuda" else None,
        "CUDA": torch.version.cuda,
        "python": platform.python_version(),
    }
    found |= {one.__name__: one.__version__ for one in (torch, transformers, peft, trl, accelerate)}
    found["matrix product, Tflop/s"] = round(matrix_rate(device) / 1e12, 2)
    found["memory, GB/s"] = round(bandwidth(device) / 1e9, 1)
    return found


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def matrix_rate(device: torch.device) -> float:
    """Operations a second of a large product in the precision that the base has here, best of several."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(_seconds(device, lambda: a @ b) for _ in range(10))


def bandwidth(device: torch.device) -> float:
    """Bytes a second of reading what no cache holds: a copy reads as many as it writes."""
    a = torch.ones(2**28 if device.type == "cuda" else 2**25, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() * 4 / min(_seconds(device, lambda: b.copy_(a)) for _ in range(10))


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    if device.type != "cuda":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def gpu_tests(_: Path) -> Figures:
    """The tests with the mark gpu; without a GPU they skip."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"pytest": lines[-1] if lines else done.stderr[-500:], "failed": failed}


def sft_speed(work: Path, shape: str) -> Figures:
    """Tokens a second of LoRA SFT, all linear layers, rank 16."""
    make_base(shape, work / shape / "base")
    ran = _run("sft", make_recipe(shape, work, "sft"))
    return _speeds(ran, {"tokens/s": "perf/tokens_per_second"})


def rm_speed(work: Path, shape: str, k: int, packed: bool, name: str) -> Figures:
    """Rankings of k responses a second: prompts read once, or each response behind its own."""
    own = {"share_prompt": packed, "sft": str(work / shape / "runs/sft")}
    recipe = make_recipe(shape, work, name, rm=own, rankings={"responses": k})
    ran = _run("rm", recipe)
    found = _speeds(ran, {"tokens/s": "perf/tokens_per_second"})
    seconds = statistics.median(row["seconds/train"] for row in ran.rows)
    if packed:
        found["prompts shared"] = ran.rows[0]["savings/share_prompt"]
    return {"rankings/s": SHAPES[shape].rankings / seconds, **found}


def ppo_speed(work: Path, shape: str, engine: str, name: str, vllm_url: str | None) -> Figures:
    """Responses a second, and where the time goes."""
    if engine == "vllm" and vllm_url is None:
        return {"not run": "no server: --vllm-url"}
    own: dict[str, Any] = {
        "engine": engine,
        "sft": str(work / shape / "runs/sft"),
        "rm": str(work / shape / f"runs/rm-{shape}-k4-packed"),
    }
    if engine == "vllm":
        own["engine_url"] = vllm_url
    recipe = make_recipe(shape, work, name, ppo=own)
    try:
        ran = _run("ppo", recipe)
    except UserError as error:
        if engine == "paged":  # which older transformers lack
            return {"not run": str(error)}
        raise
    parts = ("sample", "judge", "update", "other")
    rows = ran.rows
    seconds = {part: statistics.median(row[f"seconds/{part}"] for row in rows) for part in parts}
    whole = sum(seconds[part] for part in parts[:3])
    found = {
        "responses/s": SHAPES[shape].rollout / whole,
        "tokens/s": SHAPES[shape].rollout * SHAPES[shape].answer / whole,
        **{f"{part}, s": seconds[part] for part in parts},
        "sampled tokens/s": _median(rows, "perf/sample_tokens_per_second"),
        "gap": _median(rows, "engine/logprob_gap"),
        "checkpoint, s": statistics.median(ran.saves) if ran.saves else None,
    }
    for part in ("judge", "update"):
        found |= _speeds(ran, {}, part)
    return found


def resume(work: Path) -> Figures:
    """All stages killed twice and started again: whether final/ has the bits of a run that was left alone."""
    shape = "tiny" if not torch.cuda.is_available() else "135m"
    make_base(shape, work / shape / "base")
    alone = _killed(work, shape, "alone", kill=False)
    same = {name: _killed(work, shape, name, kill=True) == alone for name in ("killed-once", "killed-again")}
    return {name: "same bits" if found else "OTHER BITS" for name, found in same.items()}


def _killed(work: Path, shape: str, run: str, kill: bool) -> dict[str, str]:
    """Hashes of every stage's final weights; each stage is killed when it has done a step or two."""
    small = {"batch_size": 4, "steps": 6, "checkpoint_every": 1}
    ppo = {"iterations": 4, "rollout_batch_size": 8, "minibatch_size": 4, "max_response_tokens": 8}
    recipe = make_recipe(shape, work, run, sft={**small, "microbatch_size": 4}, rm=small, ppo=ppo)
    for stage in ("sft", "rm", "ppo"):
        folder = work / shape / "runs" / run / stage
        if (folder / "final").is_dir():
            continue
        command = [sys.executable, "-m", "align", stage, str(recipe)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if kill:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            while process.poll() is None and _lines(folder / "metrics.jsonl") < 2:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    files = sorted((work / shape / "runs" / run).glob("*/final/**/*.safetensors"))
    return {f"{p.parents[1].name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


@dataclass(frozen=True)
class Ran:
    """Steps but the first, in which kernels are chosen; seconds of checkpoints; the planned peak in GiB."""

    rows: list[dict[str, float]]
    saves: list[float]
    planned: float


def _run(stage: Stage, path: Path) -> Ran:
    """Run a stage anew, with what its checkpoints take."""
    saves: list[float] = []
    save = StageRun.save

    def timed(self: StageRun, *arguments: Any, **keywords: Any) -> Any:
        started = time.monotonic()
        result = save(self, *arguments, **keywords)
        saves.append(time.monotonic() - started)
        return result

    # The stage makes its StageRun itself, so the class's method is the place to time it.
    StageRun.save = timed  # type: ignore[method-assign]
    recipe = load_recipe(path)
    importlib.import_module(STAGES[stage].module).run(recipe, restart=True)
    lines = (recipe.run.path / stage / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "seconds/other" in row]
    return Ran(rows[1:], saves, planned(recipe, stage))


def planned(recipe: Recipe, stage: Stage) -> float:
    """GiB that `align plan` counts for tensors on this machine: what is held, and the largest pass."""
    base = plan_base(recipe.base)
    asked = Question(recipe, base, limits(recipe, positions=base.positions), this_machine())
    memory = stage_plan(asked, stage).memory
    return (memory.static + memory.largest.size) / 2**30


def _speeds(ran: Ran, more: dict[str, str], part: str = "") -> Figures:
    """Medians over the steps: operations a second, their share of the card's, and the peak of memory."""
    before = f"perf/{part}_" if part else "perf/"
    named = f"{part} " if part else ""
    found = {name: _median(ran.rows, key) for name, key in more.items()}
    found[f"{named}Tflop/s"] = _median(ran.rows, f"{before}tflops")
    found[f"{named}MFU"] = _median(ran.rows, f"{before}mfu")
    peak = max((row.get("memory/peak", 0.0) for row in ran.rows), default=0.0)
    return found | {"peak, GiB": peak or None, "planned, GiB": ran.planned}


def _median(rows: list[dict[str, float]], key: str) -> float | None:
    found = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(found) if found else None
