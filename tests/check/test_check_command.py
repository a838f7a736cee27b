"""`align check` as a person runs it: good data, seeded faults, data of one kind only, real data."""

from __future__ import annotations

import ast
import gzip
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, align, make_recipe, write_jsonl
from tiny_bases import make_base

from align.check.result import Finding, Report
from align.check.run import check
from align.check.show import lines
from align.recipe.load import load_recipe
from align.records import Demonstration, Prompt, Ranking

REAL = ROOT.parent / "shared" / "data"
Make = Callable[..., Path]


def ranking(prompt: str, responses: list[str], ranks: list[int | None], **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "responses": responses, "ranks": ranks, **more}


def run(recipe: Path, *overrides: str) -> Report:
    return check(load_recipe(recipe, overrides), str(recipe))


def found(report: Report, code: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == code]


def the(report: Report, code: str) -> Finding:
    (finding,) = found(report, code)
    return finding


def text_of(report: Report, width: int | None = None) -> str:
    return "\n".join("".join(part for part, _ in line) for line in lines(report, "there", width))


@pytest.fixture
def rankings(tmp_path: Path, tiny_recipe: Make) -> Callable[..., Report]:
    """Check a recipe with these rankings (training ones and, if given, held-out ones) and nothing else."""

    def make(
        train: list[dict[str, Any]],
        held_out: list[dict[str, Any]] | float = 0.0,
        source: dict[str, Any] | None = None,
        overrides: Sequence[str] = (),
        **sections: Any,
    ) -> Report:
        recipe = tiny_recipe(**sections)
        write_jsonl(tmp_path / "train.jsonl", train)
        if isinstance(held_out, list):
            write_jsonl(tmp_path / "held_out.jsonl", held_out)
        named = {
            "train": "train.jsonl",
            "held_out": "held_out.jsonl" if isinstance(held_out, list) else held_out,
        }
        data = {"template": "plain", "rankings": {**named, **(source or {})}, **sections.get("data", {})}
        document = json.loads(recipe.read_text())
        document["data"] = data
        recipe.write_text(json.dumps(document))
        return run(recipe, *overrides)

    return make


def test_good_data_exits_0_writes_json_and_says_what_next(tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    done = align("check", recipe)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith(f"align run {recipe}")
    written = json.loads((tmp_path / "runs" / "tiny" / "check.json").read_text())
    by_name = {(part["kind"], part["side"]): part for part in written["sets"]}
    train, held_out = by_name["rankings", "train"], by_name["rankings", "held_out"]
    assert train["records"] + held_out["records"] == 24
    # Eight rankings each of K = 2, 3 and 4; ranks 1 2, 1 2 2, 1 2 2 3: 1, 2 and 5 comparisons.
    assert train["labels"]["comparisons"] + held_out["labels"]["comparisons"] == 8 * (1 + 2 + 5)
    assert train["labels"]["ties"] + held_out["labels"]["ties"] == 8 * (0 + 1 + 1)
    assert {k: train["labels"]["k"].get(k, 0) + held_out["labels"]["k"].get(k, 0) for k in "234"} == {
        "2": 8,
        "3": 8,
        "4": 8,
    }
    assert written["exit_code"] == 0


def test_what_was_understood_of_each_file_comes_first(
    tmp_path: Path, tiny_recipe: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tiny_recipe()
    (tmp_path / "pairs.csv").write_text(
        'question,good,bad,note,id\nOpen?,"Yes, until six.",No idea.,by phone,1\nRain?,No.,Maybe.,,2\n'
    )
    document = json.loads(recipe.read_text())
    entry = {"path": "pairs.csv", "columns": {"prompt": "question", "chosen": "good", "rejected": "bad"}}
    document["data"] = {"template": "plain", "rankings": {"train": [entry], "held_out": "rankings.jsonl"}}
    recipe.write_text(json.dumps(document))
    report = run(recipe)
    text = text_of(report).splitlines()
    shown = [line for line in text[3:14] if not line.startswith(("  used", "  not used"))]
    assert shown[:8] == [
        "rankings train pairs.csv",
        "  format      columns, the recipe's columns",
        "  read        2 rows, 2 records, none left out",
        "  pairs.csv:2",
        '    prompt        "Open?"',
        '    rank 1, best  "Yes, until six."',
        '    rank 2        "No idea."',
        "  pairs.csv:3",
    ]
    assert any(line.startswith("rankings held-out rankings.jsonl") for line in text)


def test_lengths_are_those_that_training_sees(tiny_recipe: Make) -> None:
    from align.data.load import load
    from align.data.template import Template
    from align.data.tokenize import encode_rankings
    from align.models.base import find_base
    from align.records import Ranking

    recipe = load_recipe(tiny_recipe())
    report = check(recipe, "r.yaml")
    assert recipe.data.rankings is not None
    train = load(Ranking, recipe.data.rankings, "rankings").train
    template = Template(find_base(recipe.base).tokenizer, "plain")
    encoded = encode_rankings(template, list(train), 1000, "data.rankings")
    (set_,) = (part for part in report.sets if (part.kind, part.side) == ("rankings", "train"))
    assert set_.records == len(train)
    assert set_.lengths and set_.lengths.response and set_.lengths.sequence
    assert set_.lengths.prompt.max == max(len(e.prompt) for e in encoded)
    assert set_.lengths.response.max == max(len(r) for e in encoded for r in e.responses)
    assert set_.lengths.sequence.max == max(len(e.prompt) + max(map(len, e.responses)) for e in encoded)


def test_seeded_faults_are_all_named(tiny_recipe: Make, tmp_path: Path) -> None:
    long = " so" * 200  # 401 tokens: over rm.max_length, and over the 256 that the base reads
    rows = [
        ranking("the film", [" is warm", " is dull"], [1, 2], labeler="ana"),
        ranking("the film", [" is warm", " is dull"], [2, 1], labeler="ben"),
        ranking("the plot", [" same text", " same text", " other"], [1, 2, 3]),
        ranking("the play", [" Good, and bright.", " good and bright", " old"], [1, 2, 3]),
        ranking("the music", [" loud", " tired"], [1, 1]),
        ranking("the jokes", ["glued on", " apart"], [1, 2]),
        ranking("the heart", [" has <pad> in it", " has none"], [1, 2]),
        ranking("The Film!", [" one", " two"], [1, 2]),
        ranking("held out too", [" one", " two"], [1, 2]),
        ranking("a long one", [long, " short"], [1, 2]),
        *[ranking("round", [f" {a}", f" {b}"], [1, 2]) for a, b in ("xy", "yz", "zx")],
        ranking("the year", [" bright", " old"], [2, 1], labeler="eva"),
        ranking("the year", [" bright", " old"], [2, 1], labeler="eva"),
    ]
    file = write_jsonl(tmp_path / "faults.jsonl", rows)
    first_bad = len(rows) + 1
    with file.open("a") as out:
        out.write('{"prompt": "broken", "responses": [\n')
        out.write(json.dumps(ranking("empty", [" a", " "], [1, 2])) + "\n")
        out.write(json.dumps(ranking("ranks", [" a", " b"], [1])) + "\n")
        out.write(json.dumps(ranking("eos", [" a", " b<eos>"], [1, 2])) + "\n")
    write_jsonl(
        tmp_path / "held.jsonl",
        [ranking("held out too", [" c", " d"], [1, 2]), ranking("A long one.", [" c", " d"], [1, 2])],
    )
    write_jsonl(tmp_path / "asked.jsonl", [{"prompt": "the film"}, {"prompt": "never seen"}])
    recipe = tiny_recipe(
        data={
            "demonstrations": None,
            "rankings": {"train": "faults.jsonl", "held_out": "held.jsonl"},
            "prompts": {"train": "prompts.jsonl", "held_out": "asked.jsonl"},
        },
        rm={"max_length": 64},
    )
    done = align("check", recipe)
    assert done.returncode == 2, done.stderr
    for number, field, says in (
        (first_bad, "", "broken JSON"),
        (first_bad + 1, "`responses[1]` ", "is empty"),
        (first_bad + 2, "`ranks` ", "has length 1"),
        (first_bad + 3, "`responses[1]` ", "end-of-sequence"),
    ):
        assert re.search(rf"faults\.jsonl:{number}: {re.escape(field)}.*{says}", done.stdout), (field, says)
    assert done.stdout.splitlines()[-1].startswith("Training would refuse this. Correct the ")
    written = json.loads((tmp_path / "runs" / "tiny" / "check.json").read_text())
    seen = {(part["code"], part["severity"]) for part in written["findings"]}
    assert {
        ("wrong_records", "error"),
        ("too_long", "error"),
        ("beyond_base", "error"),
        ("same_text_ranked_apart", "warning"),
        ("near_identical", "note"),
        ("all_tied", "note"),
        ("glued", "note"),
        ("control_token", "warning"),
        ("near_prompts", "note"),
        ("repeated_records", "warning"),
        ("contradictory_labels", "warning"),
        ("cycles", "warning"),
        ("few_comparisons", "note"),
        ("no_data", "note"),
    } <= seen
    leaks = {(leak["trains"], leak["held_out"]): (leak["prompts"], leak["near"]) for leak in written["leaks"]}
    # One prompt on both sides of the rankings and one nearly; one ranked in training and asked in the end.
    assert leaks == {("rankings", "rankings"): (1, 1), ("rankings", "prompts"): (1, 0)}
    assert written["wrong_records"][0]["count"] == 4
    assert written["wrong_records"][0]["empty"] == 1
    assert written["agreement"][0]["by"] == [["ana", "ben", 1]]
    assert written["agreement"][0]["cycles"] == 1
    for code, place in (
        ("same_text_ranked_apart", 3),
        ("near_identical", 4),
        ("glued", 6),
        ("control_token", 7),
    ):
        (finding,) = (part for part in written["findings"] if part["code"] == code)
        assert [Path(example).name for example in finding["examples"]] == [f"faults.jsonl:{place}"]


def test_texts_that_no_person_wrote_so_are_warnings(
    rankings: Callable[..., Report],
) -> None:
    rows = [
        ranking('["Is it open?"]', ["Yes.", "No."], [1, 2]),
        ranking("Is it late?", ["nan", "No."], [1, 2]),
        ranking("<s>Is it [INST] wet? [/INST]", ["Yes.</s>", "No."], [1, 2]),
        ranking("Human: Is it wet?", ["Yes.", "No."], [1, 2]),
        ranking("<image>\nIs it wet?", ["Yes.", "No."], [1, 2]),
        ranking("Sum it up.\n\n<noinput>", ["Yes.", "No."], [1, 2]),
    ]
    report = rankings(rows, data={"template": "chat"})
    places = {
        code: [Path(f.examples[0]).name for f in found(report, code)]
        for code in ("list_as_text", "no_cell", "speaker_tag", "placeholder", "no_input")
    }
    assert places == {
        "list_as_text": ["train.jsonl:1"],
        "no_cell": ["train.jsonl:2"],
        "speaker_tag": ["train.jsonl:4"],
        "placeholder": ["train.jsonl:5"],
        "no_input": ["train.jsonl:6"],
    }
    assert [finding.severity for finding in found(report, "foreign_markup")] == ["warning"] * 4


def test_what_is_skipped_is_a_warning(rankings: Callable[..., Report]) -> None:
    rows = [ranking(f"film {i}", [" warm", " dull"], [1, 2]) for i in range(5)]
    bad = [ranking("empty", [" a", ""], [1, 2]), ranking("long", [" so" * 200, " b"], [1, 2])]
    refused = rankings([*rows, *bad])
    assert [(f.code, f.severity) for f in refused.findings if f.severity == "error"] == [
        ("wrong_records", "error"),
        ("beyond_base", "error"),
    ]
    left_out = rankings([*rows, *bad], source={"on_bad_record": "skip"})
    assert left_out.exit_code == 0
    assert the(left_out, "wrong_records").severity == the(left_out, "beyond_base").severity == "warning"


def test_where_what_is_skipped_leaves_nothing_training_refuses(rankings: Callable[..., Report]) -> None:
    empty, long = ranking("empty", [" a", ""], [1, 2]), ranking("long", [" so" * 200, " b"], [1, 2])
    all_wrong = rankings([empty], source={"on_bad_record": "skip"})
    assert the(all_wrong, "no_records").severity == "error"
    all_long = rankings([long], source={"on_bad_record": "skip"})
    assert the(all_long, "beyond_base").severity == "error"
    assert "they leave a side empty" in the(all_long, "beyond_base").message
    light = rankings(
        [ranking("p", [" a", " b"], [1, 2])], source={"train": {"path": "train.jsonl", "weight": 1e-9}}
    )
    assert the(light, "no_records").severity == "error"


def test_a_wrong_record_is_told_whether_or_not_the_file_ends_well(tiny_recipe: Make, tmp_path: Path) -> None:
    rows = [json.dumps(ranking(f"film {i * i * 7919}", [" a", " b"], [1, 2])) for i in range(9000)]
    rows[2] = json.dumps(ranking("film", [" a"], [1]))
    packed = gzip.compress("\n".join(rows).encode())
    (tmp_path / "torn.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    source = {"train": ["rankings.jsonl", "torn.jsonl.gz"]}
    recipe = tiny_recipe(data={"template": "plain", "rankings": source})
    for report in (run(recipe), run(recipe)):  # the second finds the other file in the cache
        (wrong,) = report.wrong_records
        assert (wrong.count, wrong.files) == (2, 1)
        assert "torn.jsonl.gz:3: `responses` has 1" in wrong.first[0]
        # Training uses no record of a file that cannot be read to its end.
        assert sum(part.records for part in report.sets if part.kind == "rankings") == 24


KINDS = {"demonstrations": Demonstration, "rankings": Ranking, "prompts": Prompt}


@pytest.mark.parametrize("held_out", [0.2, ["held_out.jsonl"]])
def test_stages_find_all_that_a_check_read(
    tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: Any
) -> None:
    from align.data import load as loading
    from align.data.template import Template
    from align.data.tokenize import encode_demonstrations, encode_prompts, encode_rankings
    from align.stages.frame import set_up

    rows = [ranking(f"film {i}", [" warm", " dull" * (i % 3 + 1)], [1, 2]) for i in range(40)]
    write_jsonl(tmp_path / "more.jsonl", [*rows, ranking("eos", [" a<eos>", " b"], [1, 2]), {"prompt": "no"}])
    write_jsonl(tmp_path / "held_out.jsonl", rows[:3])  # leaks: training goes on without them
    train = [{"path": "more.jsonl", "weight": 0.5}, {"path": "rankings.jsonl", "weight": 3}]
    source = {"train": train, "held_out": held_out, "on_bad_record": "skip"}
    recipe = load_recipe(tiny_recipe(data={"template": "plain", "rankings": source}))
    first = check(recipe, "r.yaml")
    assert first.exit_code == 0
    cache = recipe.data.cache_folder
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    template = set_up(recipe).template
    template.hash  # noqa: B018  (its probe is tokenised)

    def refuse(*given: Any) -> Any:
        raise AssertionError("read or tokenised again")

    monkeypatch.setattr(loading, "scan_file", refuse)
    monkeypatch.setattr(Template, "responses_ids", refuse)
    monkeypatch.setattr(Template, "prompts_ids", refuse)
    for name, encode in (
        ("demonstrations", encode_demonstrations),
        ("rankings", encode_rankings),
        ("prompts", encode_prompts),
    ):
        split = loading.load(KINDS[name], getattr(recipe.data, name), name, cache)
        for side in (split.train, split.held_out):
            encoded: Any = encode(template, side, 200, name, cache=cache, skip=True)  # type: ignore[operator]
            assert len(encoded)
    assert check(recipe, "r.yaml") == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == kept


def test_a_cache_that_cannot_be_written_is_an_error_and_everything_is_checked(
    tiny_recipe: Make, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    good, report = run(tiny_recipe()), run(tiny_recipe(), f"data.cache={tmp_path / 'file'}")
    cache = the(report, "cache")
    assert (cache.severity, cache.where, report.exit_code) == ("error", "data.cache", 2)
    assert f"the cache {tmp_path / 'file'}" in cache.message and "cannot be written" in cache.message
    assert report.sets == good.sets


def test_stopped_in_the_middle_it_leaves_nothing_half_written(
    tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from align.data.template import Template

    recipe = tiny_recipe()
    responses_ids = Template.responses_ids

    def stopped(self: Template, texts: Any) -> Any:
        if any("tired" in text for text in texts):  # in the rankings; the demonstrations are done
            raise KeyboardInterrupt
        return responses_ids(self, texts)

    monkeypatch.setattr(Template, "responses_ids", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    names = [path.name for path in (tmp_path / "cache").rglob("*.arrow*")]
    assert any(name.endswith(".arrow") for name in names) and not any(".part-" in name for name in names)
    assert not (tmp_path / "runs").exists()
    monkeypatch.undo()
    assert run(recipe).exit_code == 0


def test_labels_of_a_database_are_checked(
    tiny_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"labels": str(tmp_path / "labeling.db"), "held_out": 0.2}
    recipe = tiny_recipe(data={"template": "plain", "rankings": source})
    missing = run(recipe)
    assert missing.exit_code == 2 and "labeling.db" in missing.wrong_records[0].first[0]
    reading = pytest.importorskip("labeling.store.records", reason="needs the `labeling` extra")
    rows = [ranking(f"film {i}", [" warm", " dull"], [1, 1], labeler=f"l{i % 4}") for i in range(30)]
    monkeypatch.setattr(reading, "read_records", lambda path, kind, filters: rows)
    report = run(recipe)
    assert sum(part.records for part in report.sets if part.kind == "rankings") == 30
    assert {finding.where for finding in found(report, "no_comparison")} >= {"data.rankings.train"}
    (train, _) = (part.labels for part in report.sets if part.kind == "rankings")
    assert train is not None and train.labelers == 4


def test_a_missing_file_is_an_error_even_where_records_are_skipped(tiny_recipe: Make) -> None:
    source = {"train": ["rankings.jsonl", "gone.jsonl"], "on_bad_record": "skip"}
    report = run(tiny_recipe(data={"template": "plain", "rankings": source}))
    assert "gone.jsonl" in text_of(report)
    assert report.exit_code == 2


def test_wrong_records_of_one_kind_are_one_line_and_counted(rankings: Callable[..., Report]) -> None:
    report = rankings([ranking("p", [" a", ""], [1, 2])] * 30 + [ranking("q", [" a", " b"], [1, 2])])
    (wrong,) = report.wrong_records
    assert (wrong.count, len(wrong.first), wrong.empty) == (30, 1, 30)
    assert "30 wrong records, 30 with an empty text: training refuses them" in text_of(report)
    assert "(30 times; also " in wrong.first[0]


def test_responses_that_repeat_the_prompt_are_a_warning(rankings: Callable[..., Report]) -> None:
    twice = rankings(
        [ranking(f"Open {i}?", [f"Open {i}? Yes.", f" Open {i}? No."], [1, 2]) for i in range(20)]
    )
    assert the(twice, "repeats_prompt").severity == "warning"
    once = rankings([ranking(f"Open {i}?", [f"Open {i}? Yes.", " No."], [1, 2]) for i in range(20)])
    assert not found(once, "repeats_prompt")


def test_demonstrations_beside_a_column_that_judges_them_are_a_warning(
    tiny_recipe: Make, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Open {i}?", "completion": " Yes.", "is_correct": i % 2 == 0} for i in range(20)]
    write_jsonl(tmp_path / "judged.jsonl", rows)
    data = {"template": "plain", "rankings": None, "prompts": None}
    warned = run(tiny_recipe(data=data | {"demonstrations": "judged.jsonl"}))
    assert "`is_correct` may say how good an answer is" in the(warned, "judged_demonstrations").message
    named = {"train": [{"path": "judged.jsonl", "ignore": ["is_correct"]}]}
    assert not found(run(tiny_recipe(data=data | {"demonstrations": named})), "judged_demonstrations")


@pytest.mark.parametrize("kind", ["demonstrations", "rankings", "prompts"])
def test_one_kind_alone_is_enough(tiny_recipe: Make, kind: str) -> None:
    data = {other: None for other in ("demonstrations", "rankings", "prompts") if other != kind}
    report = run(tiny_recipe(data={"template": "plain", kind: f"{kind}.jsonl", **data}))
    assert {part.kind for part in report.sets} == {kind}
    assert report.exit_code == 0
    stage = {"demonstrations": "sft", "rankings": "rm", "prompts": "ppo"}[kind]
    assert report.next.split(": ")[-1].startswith(f"align {stage} ")
    assert len(found(report, "no_data")) == 2


def test_a_recipe_without_data_is_an_error(tiny_recipe: Make) -> None:
    data = {"demonstrations": None, "rankings": None, "prompts": None}
    report = run(tiny_recipe(data={"template": "plain", **data}))
    assert (report.exit_code, report.sets) == (2, [])
    assert the(report, "no_data").severity == "error"


def test_nothing_decided_is_what_training_refuses(rankings: Callable[..., Report]) -> None:
    tied = [ranking("p", [" a", " b"], [1, 1]), ranking("q", [" a", " b"], [2, 2])]
    assert the(rankings(tied), "no_comparison").severity == "error"
    assert rankings(tied, rm={"ties": "half"}).exit_code == 0


def test_length_that_decides_is_a_warning(rankings: Callable[..., Report]) -> None:
    longer = [ranking(f"film {i}", [" warm and bright", " dull"], [1, 2]) for i in range(40)]
    shorter = [ranking(f"plot {i}", [" warm and bright", " dull"], [2, 1]) for i in range(10)]
    report = rankings(
        longer, [ranking("a " + r["prompt"], r["responses"], r["ranks"]) for r in longer + shorter]
    )
    assert report.length_bias is not None
    assert (report.length_bias.rule, report.length_bias.accuracy) == ("longer", 0.8)
    assert the(report, "length_bias").severity == "warning"
    assert "80.0%" in the(report, "length_bias").message


def test_without_a_tokenizer_texts_are_still_checked(tiny_recipe: Make) -> None:
    report = run(tiny_recipe(), "base.name=/nowhere/at/all")
    assert the(report, "base").severity == "error"
    (train, *_) = (part for part in report.sets if part.kind == "rankings")
    assert train.lengths and (train.lengths.unit, train.lengths.limits) == ("characters", [])
    assert report.length_bias is not None and report.length_bias.unit == "characters"
    assert "characters" in text_of(report)


def test_chat_without_a_chat_template_is_an_error(tiny_recipe: Make, tiny_base: Path, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_base, bare)
    (bare / "chat_template.jinja").unlink()
    report = run(tiny_recipe(), f"base.name={bare}", "data.template=chat")
    assert "chat template" in the(report, "template").message
    assert report.exit_code == 2


def test_conversations_where_plain_is_asked_for_are_wrong_records(rankings: Callable[..., Report]) -> None:
    row = ranking("p", [" a", " b"], [1, 2])
    row["prompt"] = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    (wrong,) = rankings([row, ranking("q", [" a", " b"], [1, 2])]).wrong_records
    assert (wrong.count, "data.template: chat" in wrong.first[0]) == (1, True)


def with_template(base: Path, tmp_path: Path, template: str) -> Path:
    """A copy of the base with another chat template."""
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    return tmp_path / "base"


THINKER = (  # drops what was thought before an answer, and opens the thought of the next one
    "{% for m in messages %}<{{ m.role }}> {{ m.content.split('</think>')[-1] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> <think>\n{% endif %}"
)


@pytest.mark.parametrize("opens", [True, False])
def test_what_the_chat_template_makes_of_reasoning_is_told(
    rankings: Callable[..., Report], tiny_base: Path, tmp_path: Path, opens: bool
) -> None:
    base = with_template(tiny_base, tmp_path, THINKER if opens else THINKER.replace(" <think>\n", " "))
    before = {"role": "assistant", "content": "<think>hm</think> yes"}
    row = ranking("p", ["so </think> is", "<b>no</b>"], [1, 2])
    row["prompt"] = [{"role": "user", "content": "p"}, before, {"role": "user", "content": "q"}]
    others = [ranking(f"q {i}", [f"hm </think> {i}", "<think>a</think> b"], [1, 2]) for i in range(2)]
    report = rankings([row, *others], overrides=[f"base.name={base}"], data={"template": "chat"})
    dropped, stripped = the(report, "reasoning_dropped"), the(report, "answer_stripped")
    assert (dropped.severity, "1 prompt has reasoning" in dropped.message) == ("note", True)
    assert "'so </think>'" in stripped.message
    if opens:
        assert stripped.severity == "note"
        (wrong,) = report.wrong_records
        assert (wrong.count, "come twice" in wrong.first[0]) == (2, True)
        never = the(report, "reasoning_never_ends")
        assert (never.severity, "1 response has no end" in never.message) == ("warning", True)
    else:
        assert (stripped.severity, "5 responses have words" in stripped.message) == ("warning", True)
        assert not found(report, "reasoning_never_ends")


def test_a_template_that_drops_a_system_message_makes_wrong_records(
    rankings: Callable[..., Report], tiny_base: Path, tmp_path: Path
) -> None:
    template = (tiny_base / "chat_template.jinja").read_text()
    base = with_template(
        tiny_base, tmp_path, template.replace("in messages", "in messages if m.role != 'system'")
    )
    row = ranking("p", ["a", "b"], [1, 2])
    row["prompt"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "p"}]
    chat = {"template": "chat"}
    report = rankings([row, ranking("q", ["a", "b"], [1, 2])], overrides=[f"base.name={base}"], data=chat)
    (wrong,) = report.wrong_records
    assert wrong.count == 1
    assert "drops the system message 'Be brief.'" in wrong.first[0]


def test_the_code_that_would_run_is_named(tiny_recipe: Make) -> None:
    train = [{"path": "rankings.jsonl", "format": "nowhere_at_all.formats:mine"}]
    data = {"template": "plain", "rankings": {"train": train}}
    report = run(tiny_recipe(data=data), "base.trust_remote_code=true")
    assert ["trust_remote_code" in report.code[0], "nowhere_at_all.formats:mine" in report.code[1]] == [
        True,
        True,
    ]
    assert report.exit_code == 2  # there is no such module


def test_it_works_where_nothing_can_be_written(tiny_recipe: Make, tmp_path: Path) -> None:
    recipe = tiny_recipe(run={"name": "tiny", "folder": str(tmp_path / "recipe.yaml")})  # a file
    done = align("check", recipe)
    assert (done.returncode, "nowhere" in done.stdout) == (0, True), done.stderr


def test_lines_fit_a_terminal_and_hide_no_terminal_codes(
    rankings: Callable[..., Report], capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from align.check.show import show

    rows = [ranking("p", [" a", " b"], ranks, labeler="x\x1b[31mred") for ranks in ([1, 2], [2, 1])]
    report = rankings(rows)
    assert found(report, "contradictory_labels")
    # The first two say paths, and the last a command to be copied whole.
    assert max(map(len, text_of(report, 100).splitlines()[2:-1])) <= 100
    show(report, "there", Console())
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize("file", ["oasst1/validation-en.jsonl.gz", "oasst1/en-100-trees.jsonl.gz"])
def test_length_predicts_openassistant_as_known(tiny_recipe: Make, file: str) -> None:
    # shared/data/SOURCES.md: "the longer one wins" predicts 66 to 70% of the pairs.
    rankings = {"train": str(REAL / file), "held_out": 0.3}
    report = run(
        tiny_recipe(data={"template": "chat", "demonstrations": None, "prompts": None, "rankings": rankings})
    )
    bias = report.length_bias
    assert bias is not None and bias.rule == "longer"
    wins = (bias.train.longer + bias.held_out.longer, bias.train.comparisons + bias.held_out.comparisons)
    assert 0.64 <= wins[0] / wins[1] <= 0.72
    assert the(report, "length_bias").severity in ("warning", "note")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
def test_three_labelers_agree_as_published(tiny_recipe: Make) -> None:
    # shared/data/SOURCES.md: pairs judged by three people, who agree on .91 to .93, ties counted as a choice.
    source = {"train": str(REAL / "pandalm/testset-v1.json.gz"), "held_out": 0.0, "on_bad_record": "skip"}
    data = {"template": "chat", "demonstrations": None, "prompts": None, "rankings": source}
    found = run(tiny_recipe(data=data)).agreement[0]
    assert found.agreement is not None
    alike = found.agreement * found.judgements + found.both_tied
    assert 0.91 <= alike / (found.judgements + found.one_tied + found.both_tied) <= 0.93


def test_the_page_explains_every_finding() -> None:
    codes: set[str] = set()
    for name in ("findings.py", "run.py", "poison.py"):
        for node in ast.walk(ast.parse((ROOT / "align" / "check" / name).read_text())):
            called = getattr(getattr(node, "func", None), "id", "")
            if isinstance(node, ast.Call) and called in ("Finding", "found"):
                argument = node.args[1 if called == "Finding" else 0]
                codes |= {part.value for part in ast.walk(argument) if isinstance(part, ast.Constant)}
    assert len(codes) > 25
    page = (ROOT / "docs" / "check.md").read_text()
    assert {code for code in codes if f"`{code}`" not in page} == set()


def test_all_code_that_a_recipe_would_run_is_listed(tiny_recipe: Callable[..., Path]) -> None:
    from align.check.run import foreign_code

    plain = load_recipe(tiny_recipe())
    assert list(foreign_code(plain)) == []
    mine = {"path": "demonstrations.jsonl", "format": "mine:read"}
    functions = [{"function": "judge.py:kind"}, {"function": "pack.judge:other"}]
    path = tiny_recipe(
        data={"demonstrations": {"train": mine, "held_out": [mine]}},
        ppo={"rewards": [{"run": "this"}, *functions]},
    )
    recipe = load_recipe(path, ["base.trust_remote_code=true"])
    assert list(foreign_code(recipe)) == [
        f"the Python code of {recipe.base.name} (base.trust_remote_code)",
        "the format mine:read, for data.demonstrations.train",
        "the format mine:read, for data.demonstrations.held_out",
        f"the function {recipe.ppo.rewards[1].function}, for ppo.rewards",
        "the function pack.judge:other, for ppo.rewards",
    ]


def test_code_of_another_runs_base_is_listed_too(
    tiny_recipe: Callable[..., Path], finished_run: Path, tmp_path: Path
) -> None:
    from align.check.run import foreign_code

    theirs = Path(shutil.copytree(finished_run, tmp_path / "theirs"))
    manifest = json.loads((theirs / "rm" / "manifest.json").read_text())
    manifest["recipe"]["base"] |= {"trust_remote_code": True, "attention": "someone/kernel"}
    (theirs / "rm" / "manifest.json").write_text(json.dumps(manifest))
    rewards = [{"run": "this"}, {"run": str(theirs), "name": "other"}]
    recipe = load_recipe(tiny_recipe(ppo={"rewards": rewards}), ["base.attention=kernels-community/x"])
    assert list(foreign_code(recipe)) == [
        "the Hub's kernel kernels-community/x (base.attention)",
        f"the Python code of {recipe.base.name} (base.trust_remote_code), for {theirs} in ppo.rewards",
        f"the Hub's kernel someone/kernel (base.attention), for {theirs} in ppo.rewards",
    ]


def test_a_base_that_cannot_have_the_adapters_is_an_error(tmp_path: Path, tiny_base: Path) -> None:
    base = make_base("qwen3_moe", tiny_base, tmp_path / "base")
    recipe = make_recipe(tmp_path, base, lora={"targets": "all-linear", "layers": None})
    assert run(recipe).exit_code == 0
    report = run(recipe, "lora.dropout=0.1")
    assert report.exit_code == 2 and "lora.dropout: the base's experts" in the(report, "base").message
    done = align("sft", recipe, "--set", "lora.dropout=0.1")
    assert done.returncode == 2 and "lora.dropout: the base's experts" in done.stderr
    assert not (tmp_path / "runs" / "tiny" / "sft").exists()


@pytest.mark.parametrize(
    ("kind", "told"), [("t5", "is an encoder-decoder"), ("bert", "reads a text in both directions")]
)
def test_a_base_that_no_stage_can_train_is_an_error_before_sft(
    tmp_path: Path, tiny_base: Path, kind: str, told: str
) -> None:
    recipe = make_recipe(tmp_path, make_base(kind, tiny_base, tmp_path / "base"))
    report = run(recipe)
    assert report.exit_code == 2 and told in the(report, "base").message
    done = align("sft", recipe)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "runs" / "tiny" / "sft").exists()
