"""report.html: complete, harmless whatever the run folder holds, and never in a stage's way."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, write_jsonl
from typer.testing import CliRunner

from align.cli.app import app
from align.errors import UserError
from align.report import page
from align.report.page import refresh, write_report

PAYLOAD = "</style><script>alert(1)</script><img src=x onerror=alert(1)>'\" onload=x {{ 7*7 }}"
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "footer"),
    *("h1", "h2", "h3", "p", "div", "span", "b", "i", "a", "ul", "li", "code", "pre", "dl", "dt", "dd", "br"),
    *("table", "tr", "th", "td", "details", "summary", "figure", "figcaption"),
    *("svg", "line", "rect", "circle", "polyline", "text"),
    *("script", "input", "label", "output", "ins", "del"),
}
OWN = (Path(page.__file__).parent / "page.js").read_text(encoding="utf-8")
SHARE = {"value": 0.74, "low": 0.69, "high": 0.79, "count": 481, "prompts": 192}


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "br", "img", "input", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "rect", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def made(folder: Path) -> tuple[str, Page]:
    html = write_report(folder).read_text(encoding="utf-8")
    parsed = Page(html)
    assert parsed.open == []
    return html, parsed


def harmless(html: str, parsed: Page) -> None:
    """Nothing runs but the page's own lines, nothing is loaded."""
    assert set(parsed.tags) <= ALLOWED
    for tag, name, value in parsed.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "srcset", "action", "xlink:href")
        assert name != "href" or value.startswith("#")
        assert "url(" not in value
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in html
    digest = base64.b64encode(hashlib.sha256(OWN.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html
    assert html.lower().count("<script") == html.count(f"<script>{OWN}</script>") == 1


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    without = shutil.ignore_patterns("check.json")  # other tests may have checked its recipe
    return shutil.copytree(finished_run, tmp_path / "run", ignore=without)


def test_a_finished_run_has_its_page_from_the_stages(finished_run: Path) -> None:
    html = (finished_run / "report.html").read_text(encoding="utf-8")
    for words in ("Supervised fine-tuning", "Reward model agrees", "Score, SFT → PPO", "Calibration"):
        assert words in html
    results = json.loads((finished_run / "rm" / "manifest.json").read_text())["results"]
    assert f"{100 * results['eval/accuracy']:.1f}%" in html


def test_the_page_of_a_real_run_is_whole_and_loads_nothing(run: Path) -> None:
    html, parsed = made(run)
    harmless(html, parsed)
    assert parsed.tags.count("svg") > 15
    # Every section that the page links to is there.
    ids = {value for _, name, value in parsed.attributes if name == "id"}
    assert (
        {value[1:] for _, name, value in parsed.attributes if name == "href"}
        <= ids
        == {
            "sft",
            "rm",
            "ppo",
            "answers",
            "run",
        }
    )
    row = json.loads((run / "ppo" / "held_out.jsonl").read_text().splitlines()[0])
    assert row["prompt"] in parsed.text


def poisoned(value: Any) -> Any:
    """The same value, with the payload behind every text and every key."""
    if isinstance(value, dict):
        return {key: poisoned(part) for key, part in value.items()} | {PAYLOAD: PAYLOAD}
    if isinstance(value, list):
        return [poisoned(part) for part in value]
    return value + PAYLOAD if isinstance(value, str) else value


def test_whatever_is_in_the_folder_is_shown_and_never_run(run: Path) -> None:
    (run / "check.json").write_text(json.dumps(CHECK))
    write_jsonl(run / "rm" / "samples.jsonl", MISJUDGED)
    for path in [*run.rglob("manifest.json"), run / "check.json", run / "rm" / "evaluation.json"]:
        path.write_text(json.dumps(poisoned(json.loads(path.read_text()))))
    for path in [*run.rglob("samples.jsonl"), *run.rglob("held_out.jsonl")]:
        write_jsonl(path, [poisoned(json.loads(line)) for line in path.read_text().splitlines()])
    (run / "recipe.yaml").write_text(f"base: {{name: {json.dumps(PAYLOAD)}}}\n# {PAYLOAD}\n")
    evil = run.with_name("run<script>alert(1)<")
    run.rename(evil)
    html, parsed = made(evil)
    harmless(html, parsed)
    assert parsed.text.count(PAYLOAD) > 20
    assert "{{ 7*7 }}" in parsed.text


def test_control_characters_and_endless_texts_are_made_visible(run: Path) -> None:
    texts = {"preferred": "a\x00b\x1b[2Jc\u202ed", "other": "x" * 100_000}
    path = run / "rm" / "samples.jsonl"
    path.write_text(json.dumps({"prompt": "lone \ud800", "margin": 1.0, **texts}) + "\n")
    html, _ = made(run)
    assert "a\\x00b\\x1b[2Jc\\u202ed" in html
    assert "lone \\ud800" in html
    assert "(96,000 more characters)" in html
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", html)


def broken(run: Path) -> Iterator[str]:
    """What kills and disks leave, one thing after the other."""
    metrics = run / "ppo" / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-25])
    yield "the last line is half written"
    metrics.write_bytes(whole + b'[1]\n"x"\nnull\n{"step": "two"}\n{"reward/score": 1}\n\xff\xfe\n')
    yield "lines that are no objects, or say too little"
    metrics.unlink()
    yield "no metrics"
    for name in ("evaluation.json", "samples.jsonl"):
        (run / "rm" / name).write_text('{"accuracy": [], "calibration": {"raw": {"bins": 3}}, "people": 1}')
    yield "an evaluation of another shape"
    (run / "check.json").write_text('{"findings": [1, {"severity": 3}], "sets": {"a": 1}, "length_bias": []}')
    yield "a check of another shape"
    manifest = json.loads((run / "ppo" / "manifest.json").read_text())
    (run / "ppo" / "manifest.json").write_text(
        json.dumps({**manifest, "results": None, "lineage": 3, "started_at": 5, "versions": []})
    )
    yield "a manifest of another shape"
    (run / "ppo" / "manifest.json").write_text("{")
    (run / "recipe.yaml").write_bytes(b"\x00: [\xff")
    yield "nothing that can be read"
    (run / "recipe.yaml").unlink()
    shutil.rmtree(run / "sft")
    yield "files that are gone"


def test_a_damaged_folder_still_has_a_page(run: Path) -> None:
    for what in broken(run):
        html, parsed = made(run)
        harmless(html, parsed)
        assert "Reward model" in html, what


def test_a_stage_that_is_still_at_work_is_shown_as_it_is(run: Path) -> None:
    shutil.rmtree(run / "ppo")
    manifest = json.loads((run / "rm" / "manifest.json").read_text())
    (run / "rm" / "manifest.json").write_text(
        json.dumps({**manifest, "finished": False, "results": {}, "finished_at": None})
    )
    (run / "rm" / "evaluation.json").unlink()
    html, parsed = made(run)
    assert "not finished" in parsed.text
    assert "PPO" not in [line.strip() for line in parsed.text.splitlines()]


CHECK: dict[str, Any] = {
    "sets": [
        {
            "kind": "rankings",
            "side": "held_out",
            "records": 192,
            "repeats": {"prompts": 190, "again": 2, "near": 0, "whole": 0},
            "lengths": {"prompt": {"median": 4, "p95": 7, "max": 12}, "response": None, "sequence": None},
            "labels": {"k": {"4": 180, "9": 12}, "comparisons": 300, "ties": 100},
        }
    ],
    "length_bias": {"rule": "shorter", "accuracy": 0.531, "measured_on": "held_out"},
    "agreement": [
        {"side": "held_out", "agreement": None, "judgements": 0, "judged_twice": 0},
        {
            **{"side": "train", "agreement": 0.81, "judgements": 60, "judged_twice": 30},
            **{"contradictory": 2, "cycles": 1},
        },
    ],
    "findings": [
        {"severity": "note", "where": "data.prompts", "message": "later", "examples": []},
        {"severity": "error", "where": "data.rankings", "message": "first", "examples": ["f.jsonl:3"]},
    ],
}
MISJUDGED = [
    {
        "step": 6,
        "prompt": "p",
        "preferred": "human choice",
        "other": "model choice",
        "margin": 1.25,
        "x": "y",
    },
    {
        "step": 6,
        "prompt": [
            {"role": "user", "content": "first turn"},
            {"role": "assistant", "content": "second turn", "tool_calls": [{"name": "<w>"}]},
            {"no role": 1},
        ],
        "preferred": " ",
        "other": "b",
        "margin": 1.0,
    },
]


def test_the_check_is_shown_worst_first(run: Path) -> None:
    (run / "check.json").write_text(json.dumps(CHECK))
    _, parsed = made(run)
    text = " ".join(parsed.text.split())
    assert text.index("error data.rankings first") < text.index("note data.prompts later")
    assert "f.jsonl:3" in text
    assert "shorter response agrees with people on 53.1% of the held-out comparisons" in text
    assert "rankings, held out 192 190 4, 9 300 25.0% 4 / 12 – –" in text
    assert "prompts with a cycle training 81.0% 60 30 2 1" in text  # and no line for the side without any


def test_misjudged_comparisons_are_shown_with_who_preferred_what(run: Path) -> None:
    write_jsonl(run / "rm" / "samples.jsonl", MISJUDGED)
    text = " ".join(made(run)[1].text.split())
    assert "people preferred human choice model prefers model choice by 1.25 · x y" in text
    assert 'user first turn assistant second turn [{"name": "\\u003cw\\u003e"}]' in text
    assert "people preferred nothing" in text


EVALUATION: dict[str, Any] = {
    "accuracy": SHARE,
    "comparisons": 481,
    "length_only": {**SHARE, "value": 0.72, "low": 0.68, "high": 0.76, "longer_wins": False},
    "ties": 120,
    "score": {"std": 2.06, "centred_on": "demonstrations"},
    "people": {"agreement": {**SHARE, "value": 0.82}, "model": {**SHARE, "value": 0.77}},
    "longer_preferred": {"people": {**SHARE, "value": 0.5}, "model": {**SHARE, "value": 0.65}},
    "by_labeler": [{**SHARE, "name": "ana", "value": 0.912}],
    "by_rank_gap": [],
    "kendall_tau": {"value": -0.25, "low": -0.3, "high": -0.2, "count": 190, "prompts": 190},
    "calibration": {
        "temperature": 1.72,
        "at_bound": False,
        "raw": {"log_loss": SHARE, "brier": SHARE, "ece": 0.183, "bins": []},
        "scaled": None,
    },
}


def test_a_reward_model_stands_beside_what_it_must_beat(run: Path) -> None:
    (run / "rm" / "evaluation.json").write_text(json.dumps(EVALUATION))
    text = " ".join(made(run)[1].text.split())
    assert "reward model 481 comparisons 74.0% 69.0% to 79.0%" in text
    assert "only length: the shorter one wins 481 comparisons 72.0%" in text
    assert "people with each other 481 pairs 82.0%" in text
    assert "ana 481 comparisons 91.2%" in text
    assert "Kendall's tau 190 rankings −0.25 −0.3 to −0.2" in text
    assert "The fitted temperature is 1.72" in text
    assert "Held out: 481 comparisons, 120 ties." in text
    assert "demonstrations average 0, and the standard deviation is 2.06" in text
    # Its interval reaches what length alone gives; it likes length more than people; it is overconfident.
    assert "not clearly better than length alone (72.0%)" in text
    assert "prefers the longer response in 65.0% of the comparisons, people in 50.0%" in text
    assert "off by 18.3%" in text


def test_doubts_go_where_there_is_no_reason_for_them(run: Path) -> None:
    fine = {
        "accuracy": SHARE,
        "length_only": {**SHARE, "value": 0.53},
        "calibration": {"raw": {"ece": 0.02}},
    }
    (run / "rm" / "evaluation.json").write_text(json.dumps(fine))
    shutil.rmtree(run / "ppo")
    assert 'class="box warning"' not in made(run)[0]


def test_held_out_answers_are_chosen_by_what_they_gained(run: Path) -> None:
    rows = [
        {
            "prompt": f"prompt {i:02}",
            "reference": f"old {i:02}",
            "policy": f"new {i:02}",
            "reference_score": 0.0,
            "policy_score": i - 10.0,
            **{"reference_length": 5, "policy_length": 15, "reference_eos": True, "policy_eos": i % 4 == 0},
        }
        for i in range(21)
    ]
    write_jsonl(run / "ppo" / "held_out.jsonl", rows)
    text = made(run)[1].text
    gained, rest = text.split("Gained most")[1].split("In the middle")
    middle, rest = rest.split("Lost most")
    lost, every = rest.split("All of them, to be searched")
    assert len(set(re.findall(r"new (\d\d)", every))) == 21
    for part, wanted in ((gained, (20, 19, 18, 17)), (middle, (12, 11, 10, 9)), (lost, (0, 1, 2, 3))):
        assert {int(n) for n in re.findall(r"new (\d\d)", part)} == set(wanted)
    assert "Responses went from 5 to 15 tokens" in text
    assert "47.6%" in text  # 10 of 21 score higher than before


def test_the_command_writes_the_page_and_says_where(run: Path, tmp_path: Path) -> None:
    (run / "report.html").unlink()
    result = CliRunner().invoke(app, ["report", str(run)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(run / "report.html"))
    assert (run / "report.html").is_file()
    for folder in (tmp_path / "nowhere", tmp_path):
        result = CliRunner().invoke(app, ["report", str(folder)])
        assert result.exit_code == 2
    assert not (tmp_path / "report.html").exists()


def test_neither_the_report_nor_the_help_of_the_commands_wakes_torch(run: Path) -> None:
    code = (
        "import sys; from align.cli.app import main\n"
        "heavy = {'torch', 'transformers', 'peft', 'accelerate'}\n"
        "for line in (['report', sys.argv[1]], ['export', '--help'], ['score', '--help']):\n"
        "    sys.argv[1:] = line\n"
        "    try: main()\n"
        "    except SystemExit as end:\n"
        "        print('exit', end.code, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stderr.splitlines() == ["exit 0 []"] * 3


def test_a_page_that_cannot_be_written_never_fails_a_stage(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> str:
        raise ZeroDivisionError("oh")

    before = (run / "report.html").read_bytes()
    monkeypatch.setattr(page, "render", fails)
    said: list[str] = []
    refresh(run, said.append)
    assert said == [f"the report could not be written (ZeroDivisionError: oh): `align report {run}`"]
    assert (run / "report.html").read_bytes() == before
    with pytest.raises(UserError):
        write_report(run / "ppo" / "final")


@pytest.mark.parametrize("command", ["evaluate", "compare"])
@pytest.mark.parametrize(
    "document",
    [{"people": "x", "judge": [1]}, {"policies": 3, "notes": 7}, {"policies": {}, "notes": [PAYLOAD]}],
)
def test_findings_that_are_damaged_are_told_and_stop_no_page(
    run: Path, document: dict[str, Any], command: str
) -> None:
    file = {"evaluate": "evaluation/evaluation.json", "compare": "compare/compare.json"}[command]
    (run / file).parent.mkdir()
    (run / file).write_text(json.dumps(document))
    html, parsed = made(run)
    harmless(html, parsed)
    assert f"{file} cannot be understood: align {command} writes it anew" in parsed.text
