"""The figures of benchmarks/gpu/run.py as Markdown."""

from __future__ import annotations

from shapes import SHAPES

Figures = dict[str, object]
_COLUMNS = ("peak, GiB", "planned, GiB", "seconds")


def table(found: dict[str, Figures]) -> str:
    """The machine in a line, a table of the stages, and what else was asked."""
    machine = dict(found.get("machine", {}))
    rate, bandwidth = (_number(machine.get(key)) for key in ("matrix product, Tflop/s", "memory, GB/s"))
    lines = [", ".join(f"{name} {value}" for name, value in machine.items() if value is not None), ""]
    lines += [
        "| part | figures | share of the floor | peak, GiB | planned, GiB | s |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in found.items():
        if name == "machine":
            continue
        own = {
            k: v
            for k, v in figures.items()
            if k not in ("seconds", "peak, GiB", "planned, GiB") and v is not None
        }
        shown = ", ".join(f"{key} {_shown(value)}" for key, value in own.items())
        rest = [figures.get(key) for key in ("peak, GiB", "planned, GiB", "seconds")]
        cells = [name, shown, _floor(name, figures, rate, bandwidth), *map(_shown, rest)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _floor(name: str, figures: Figures, rate: float | None, bandwidth: float | None) -> str:
    """How much of a matrix product's rate training reached, and of the bandwidth's bound sampling did."""
    parts = []
    for key, value in figures.items():
        if key.endswith("Tflop/s") and (reached := _number(value)) and rate:
            parts.append(f"{key.removesuffix('Tflop/s').strip() or 'train'} {reached / rate:.0%}")
    sampled = _number(figures.get("sampled tokens/s"))
    if sampled and bandwidth and (shape := SHAPES.get(name.split("-")[1])):
        bytes_a_weight = 2 if rate and rate > 10 else 4  # bfloat16 on GPUs
        bound = shape.rollout * bandwidth * 1e9 / (shape.weights * bytes_a_weight)
        parts.append(f"sample {sampled / bound:.0%}")
    return ", ".join(parts)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value).replace("|", "/")
