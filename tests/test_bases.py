"""A base of each kind goes through every command, as `make bases` takes all of them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_bases import CONFIGS, TITLES

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ROOT / "benchmarks" / "bases.py"


def command() -> Any:
    spec = importlib.util.spec_from_file_location("bases", COMMAND)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bases"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "names",
    [
        ("llama3", "qwen3_moe", "gemma3", "t5"),  # dense, experts, one that also sees; refused
        ("mamba2", "lfm2", "gemma2"),  # state spaces, a hybrid, capped logits
    ],
)
def test_a_base_of_each_kind_goes_through_every_command(names: tuple[str, ...], tmp_path: Path) -> None:
    page = tmp_path / "bases.md"
    page.write_text((ROOT / "docs" / "bases.md").read_text(encoding="utf-8"), encoding="utf-8")
    script = (
        f"import sys; sys.path.insert(0, {str(COMMAND.parent)!r}); import bases; from pathlib import Path; "
        f"bases.KEPT, bases.PAGE = Path({str(tmp_path / 'kept.json')!r}), Path({str(page)!r}); "
        f"sys.exit(bases.main({list(names)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in set(names) - {"t5"}:
        assert f"{name}: check sft rm ppo resume score export chat" in done.stdout
    if "t5" in names:
        assert "refused: base t5 is an encoder-decoder (t5)" in done.stdout


def test_the_page_keeps_what_people_wrote_and_shows_what_fails() -> None:
    bases = command()
    rows = [
        bases.Row("llama3", "LlamaForCausalLM", dict.fromkeys(bases.CELLS, bases.WORKS)),
        bases.Row("t5", "T5", dict.fromkeys(bases.CELLS, bases.REFUSED), "it is an encoder-decoder"),
        bases.Row("mamba", "MambaForCausalLM", {"check": bases.WORKS, "sft": "a crash"}),
    ]
    page = f"above\n{bases.BEGIN}\nold\n{bases.END}\nbelow\n"
    found = bases.with_table(page, rows)
    assert found.startswith(f"above\n{bases.BEGIN}\nMade by `make bases` with transformers ")
    assert found.endswith(f"{bases.END}\nbelow\n") and "old" not in found
    assert "| Llama 3 | `llama3` | LlamaForCausalLM | " + " | ".join(["works"] * 8) + " |" in found
    assert "- T5: it is an encoder-decoder" in found
    assert "- **Mamba, sft fails**: a crash" in found
    assert rows[2].faults == {"sft": "a crash"} and not rows[1].faults
    with pytest.raises(SystemExit, match="two marks"):
        bases.with_table("nothing", rows)


def test_every_base_has_a_title_and_the_page_shows_it() -> None:
    assert CONFIGS.keys() == TITLES.keys()
    page = (ROOT / "docs" / "bases.md").read_text(encoding="utf-8")
    assert [name for name in CONFIGS if f"| {TITLES[name]} | `{name}` |" not in page] == []
    assert "fails**" not in page
