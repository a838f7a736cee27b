"""What checkpoints cost: their share of the wall time, and their size beside what must be in them.

    python benchmarks/checkpoint.py [--steps N] [--folder FOLDER]

Runs the quick start's three stages (recipes/quickstart/prepare.py makes its base and data) for a few
steps each with a checkpoint after every one, nothing held out, and one thread. Prints a line of JSON a
stage: median seconds of a step and of a checkpoint (fsync and hashes included), and with them the share of
the wall time at the recipe's own interval; bytes of a checkpoint, of the adapters, heads and two Adam
moments in float32 that it cannot do without, and of the base. --folder: write there, on the disk that is
to be measured. Exit code 1 where the share is 3% or more, or the size 2% over what it must be.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from align.stage_table import STAGES

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BASE = ROOT / ".cache" / "quickstart" / "base"
COUNTS = {"sft": "steps", "rm": "steps", "ppo": "iterations"}
SHARE, EXCESS = 0.03, 1.02


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4, help="of each stage; the first is not counted")
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; a temporary folder")
    arguments = parser.parse_args()
    if not BASE.is_dir():
        sys.exit(
            "error: the quick start's base and data are not here; run recipes/quickstart/prepare.py first"
        )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        results = [measure(stage, Path(name), arguments.steps) for stage in COUNTS]
    for result in results:
        print(json.dumps(result))
    if any(r["share"] >= SHARE or r["bytes"] > EXCESS * r["bytes_needed"] for r in results):
        sys.exit(1)


def measure(stage: str, folder: Path, steps: int) -> dict[str, Any]:
    """Run one stage with a checkpoint after each step."""
    from align.recipe.load import load_recipe
    from align.run.folder import StageRun

    recipe_file = ROOT / "recipes" / "quickstart.yaml"
    own = getattr(load_recipe(recipe_file), stage)
    overrides = [f"data.{kind}.held_out=0.0" for kind in ("demonstrations", "rankings", "prompts")]
    overrides += [f"{stage}.{COUNTS[stage]}={steps}", f"{stage}.checkpoint_every=1", "run.threads=1"]
    overrides += [f"{stage}.evaluate_every=null", f"run.folder={folder}"]
    recipe = load_recipe(recipe_file, overrides)
    save, moments, sizes = StageRun.save, [], []

    def timed(self: StageRun, *given: Any, **named: Any) -> None:
        started = time.monotonic()
        save(self, *given, **named)
        moments.append((started, time.monotonic()))
        newest = max(self.checkpoints.glob("step-*"))
        sizes.append(sum(file.stat().st_size for file in newest.iterdir()))

    StageRun.save = timed  # type: ignore[method-assign]
    try:
        importlib.import_module(STAGES[stage].module).run(recipe)
    finally:
        StageRun.save = save  # type: ignore[method-assign]
    saving = statistics.median(ended - started for started, ended in moments)
    between = zip(moments, moments[1:], strict=False)
    step = statistics.median(later[0] - earlier[1] for earlier, later in between)
    final = recipe.run.path / stage / "final"
    trained = sum(elements(path) for path in final.rglob("*.safetensors"))
    return {
        "stage": stage,
        "seconds_a_step": round(step, 2),
        "seconds_a_checkpoint": round(saving, 3),
        "every": own.checkpoint_every,
        "share": round(saving / (own.checkpoint_every * step + saving), 5),
        "bytes": sizes[-1],
        "bytes_needed": 3 * 4 * trained,
        "bytes_of_the_base": sum(path.stat().st_size for path in BASE.glob("*.safetensors")),
    }


def elements(path: Path) -> int:
    """Of all tensors in a safetensors file."""
    from safetensors.torch import load_file

    return sum(tensor.numel() for tensor in load_file(path).values())


if __name__ == "__main__":
    main()
