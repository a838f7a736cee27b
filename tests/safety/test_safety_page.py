"""docs/safety.md says what the suite is: its figures, its attacks, an example that loads."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from align.safety.adapters import FORMATS
from align.safety.attacks import ATTACKS
from align.safety.suite import built_in, cases

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")


def test_its_figures_are_the_suites() -> None:
    found = cases()
    by_expected = Counter(case.expected for case in found)
    assert f"Then there are {len(found):,} cases:\n" in PAGE
    assert f"{by_expected['refuse']:,} to refuse, {by_expected['comply']:,} harmless ones, " in PAGE
    assert f"{by_expected['withhold']} with a canary." in PAGE
    rows = re.findall(r"^\| [^|]+ \| (\d+)(?: \+ (\d+))? \| `?\w+`?", PAGE, re.MULTILINE)
    assert sum(int(number) for row in rows for number in row if number) == len(built_in())
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"A suite of {len(built_in())} cases" in log
    assert f"behind {len(ATTACKS)} attacks" in log


def test_it_names_every_field_of_harm_and_every_attack() -> None:
    named = set(re.findall(r"`([\w/…]+)`", PAGE))
    for name in {case.attack for case in cases()}:
        short = re.sub(r"/answer_in_(french|spanish)$", r"…_\1", name).removeprefix("language")
        in_a_group = {f"{name.split('/')[0]}/…", "suffix/3" if name == "suffix/2" else name, short}
        assert in_a_group & named, name
    (fields,) = re.findall(r"^The fields: (.*?)\.\n", PAGE, re.DOTALL | re.MULTILINE)
    harms = {case.harm for case in built_in() if case.expected == "refuse"}
    assert set(re.split(r",\s+", fields)) == harms


def test_its_example_loads_and_its_formats_are_those_that_are_read(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    path = tmp_path / "mine.jsonl"
    path.write_text(example, encoding="utf-8")
    mine = [case for case in cases([path], ["plain", "injection"]) if case.source == "mine.jsonl"]
    assert [case.expected for case in mine] == ["refuse", "comply", "withhold"]
    for form in FORMATS[1:]:
        assert all(f"`{column}`" in PAGE for column in form.spelled if column != "entry_type"), form.name
