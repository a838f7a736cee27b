"""Label Studio's and Argilla's exports: the order people gave, and nothing that they did not say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from align.data.formats import FORMATS, Format, LeftOut, chosen, detect
from align.data.load import load
from align.errors import UserError
from align.recipe.data import Entry, Source
from align.records import Ranking
from align.values import RecordError

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases" / "data"
ITEMS = [{"id": "a", "body": "A."}, {"id": "b", "body": "B."}, {"id": "c", "body": "C."}]
BUCKETS = {"_": ["b"], "bad": ["c"], "good": ["a"]}


def found(format: Format, *rows: dict[str, Any]) -> list[Any]:
    """Ranks, and reasons of what is left out, as a loader reads a file."""
    placed = iter([(f"file:{i}", row) for i, row in enumerate(rows, 1)])
    placed = format.gather(placed) if format.gather else placed
    results = [result for _, row in placed for result in format.read(row)]
    return [result.reason if isinstance(result, LeftOut) else list(result.ranks) for result in results]


def task(*results: Any, data: dict[str, Any] | None = None, **annotation: Any) -> dict[str, Any]:
    """A task of Label Studio with one annotation."""
    return {
        "data": data or {"prompt": "P?", "items": ITEMS},
        "annotations": [{"result": results, **annotation}],
    }


def ranker(lists: Any, name: str = "rank") -> dict[str, Any]:
    return {"from_name": name, "to_name": "list", "type": "ranker", "value": {"ranker": lists}}


def pairwise(to_name: Any, side: str = "left") -> dict[str, Any]:
    return {"from_name": "pw", "to_name": to_name, "type": "pairwise", "value": {"selected": side}}


def test_buckets_have_no_order_unless_the_recipe_says_one() -> None:
    rows = [task(ranker({"rank": ["a", "b", "c"]})), task(ranker(BUCKETS)), task(ranker({"worse": ["a"]}))]
    with pytest.raises(UserError, match=r"buckets _, bad, good, worse, .* `buckets: \[best, …, worst\]`"):
        found(FORMATS["label-studio"], *rows)


@pytest.mark.parametrize(
    ("buckets", "ranks"),
    [
        (["good", "_", "bad"], [1, 2, 3]),
        (["bad", "_", "good"], [3, 2, 1]),
        (["good", "bad"], [1, None, 2]),
        (["_", "bad", "good"], [3, 1, 2]),
    ],
)
def test_buckets_are_tiers_in_the_recipes_order(buckets: list[str], ranks: list[Any]) -> None:
    assert found(chosen(None, buckets=buckets), task(ranker(BUCKETS))) == [ranks]
    turned = dict(reversed(BUCKETS.items()))  # how JSON orders keys says nothing
    assert found(chosen("label_studio", buckets=buckets), task(ranker(turned))) == [ranks]


def test_what_is_in_no_list_of_a_ranker_is_unplaced() -> None:
    row = task(ranker({"good": ["a"], "bad": ["c"]}))
    assert found(chosen(None, buckets=["good", "_", "bad"]), row) == [[1, 2, 3]]
    assert found(chosen(None, buckets=["good", "bad"]), row) == [[1, None, 2]]


def test_one_bucket_that_holds_all_is_no_order() -> None:
    row = task(ranker({"good": ["b", "a", "c"]}))
    with pytest.raises(UserError, match="the buckets good, and JSON keeps no order"):
        found(FORMATS["label-studio"], row)
    full = task(ranker({"good": [], "bad": ["a", "b", "c"]}))
    assert found(chosen(None, buckets=["good", "bad"]), row, full) == [[1, 1, 1], [2, 2, 2]]
    # The one list of a ranker without buckets has the ranker's name, also beside one with buckets.
    both = task(ranker({"rank": ["b", "a", "c"]}), ranker({"good": ["a"], "bad": []}, "sort"))
    assert found(chosen(None, buckets=["good", "bad"]), both) == [[2, 1, 3], [1, None, None]]


def test_a_bucket_that_the_list_does_not_name_is_an_error() -> None:
    with pytest.raises(RecordError, match=r"the bucket 'bad', which `buckets: \[good, _\]` does not name"):
        found(chosen(None, buckets=["good", "_"]), task(ranker(BUCKETS)))


def test_a_named_bucket_that_no_row_has_is_an_error_of_the_file() -> None:
    with pytest.raises(
        UserError, match=r"names 'best', and no ranker here has it: its buckets are _, bad, good"
    ):
        found(chosen(None, buckets=["best", "good", "bad"]), task(ranker(BUCKETS)), task(ranker(BUCKETS)))
    with pytest.raises(UserError, match="it has no buckets"):
        found(chosen(None, buckets=["best"]), task(ranker({"rank": ["a", "b", "c"]})))
    with pytest.raises(UserError, match="names one bucket twice"):
        chosen(None, buckets=["good", "good"])


def test_a_ranker_that_nobody_touched_ranks_nothing() -> None:
    row = task(ranker({"_": ["a", "b", "c"], "good": [], "bad": []}))
    assert found(chosen(None, buckets=["good", "bad"]), row) == ["a ranker in which nothing was placed"]


def test_buckets_of_a_cancelled_annotation_need_no_order() -> None:
    row = task(ranker(BUCKETS), was_cancelled=True)
    assert found(FORMATS["label-studio"], row) == ["a cancelled annotation"]


@pytest.mark.parametrize(
    ("result", "field", "words"),
    [
        (
            ranker(["a", "q"]),
            "annotations[0].result[0].value.ranker",
            "ranks 'q', which is not in data.items",
        ),
        (ranker({"rank": ["a", "a"]}), "annotations[0].result[0].value.ranker", "ranks 'a' twice"),
        (ranker(3), "annotations[0].result[0].value.ranker", "must be a list of ids, not 3"),
        (pairwise("a,b", "both"), "annotations[0].result[0].value.selected", "left or right, not 'both'"),
        (pairwise("a"), "annotations[0].result[0].to_name", "the left and the right element"),
    ],
)
def test_label_studios_mistakes_are_named(result: Any, field: str, words: str) -> None:
    with pytest.raises(RecordError) as caught:
        found(FORMATS["label-studio"], task(result))
    assert (caught.value.field, words in str(caught.value)) == (field, True), str(caught.value)


PAIR = {"prompt": "P?", "text1": "A.", "text2": "B."}


def test_elements_that_are_no_data_are_mapped_by_the_recipe() -> None:
    row = task(pairwise("txt-1,txt-2", "right"), data=PAIR)
    with pytest.raises(RecordError) as caught:
        found(FORMATS["label-studio"], row)
    for words in (
        "'txt-1' and 'txt-2'",
        "data are prompt, text1, text2",
        "`columns: {responses: [left, right]}`",
    ):
        assert words in str(caught.value)
    assert found(chosen("label-studio", {"responses": ["text1", "text2"]}), row) == [[2, 1]]
    (turned,) = chosen("label-studio", {"responses": ["text2", "text1"]}).read(row)
    assert (turned.responses, turned.ranks) == (("B.", "A."), (2, 1))
    with pytest.raises(RecordError, match="'prompt', 'text1', 'text2'"):
        found(chosen("label-studio", {"responses": ["text1", "text3"]}), row)
    with pytest.raises(UserError, match="`labeler` comes from the people's answers"):
        chosen("label-studio", {"labeler": "who"})


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("label-studio", task(pairwise("text1,text2"), data=PAIR | {"system": "Be brief.", "context": " "})),
        (
            "argilla",
            {
                "fields": {**PAIR, "system": "Be brief."},
                "responses": {"best": [{"value": ["text1", "text2"], "user_id": "u"}]},
            },
        ),
    ],
)
def test_what_may_be_a_part_of_the_prompt_is_never_left_out_unsaid(format: str, row: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match=r"has prompt, system: .*`columns: \{prompt: \[prompt, system\]\}`"):
        found(FORMATS[format], row)
    (record,) = chosen(format, {"prompt": ["system", "prompt"]}).read(row)
    assert record.prompt == "Be brief.\n\nP?"
    (record,) = chosen(format, {"prompt": "prompt"}).read(row)
    assert record.prompt == "P?"


def test_an_id_is_no_prompt() -> None:
    data = {"task_id": "t-17", "text1": "A.", "text2": "B."}
    with pytest.raises(RecordError, match="has no prompt among 'task_id', 'text1', 'text2'"):
        found(FORMATS["label-studio"], task(pairwise("text1,text2"), data=data))


def test_label_studios_short_export_is_refused_by_name() -> None:
    row = {**PAIR, "id": 1, "pw": "left", "annotator": 1, "annotation_id": 2, "lead_time": 3.5}
    with pytest.raises(RecordError, match="short export .* export as JSON"):
        found(detect(row), row)


def test_argillas_options_must_be_fields() -> None:
    values = {"ranking": {"value": [{"value": "best", "rank": 1}, {"value": "a", "rank": 2}]}}
    row = {
        "fields": {"question": "Sea?", "a": "Dry."},
        "responses": [{"status": "submitted", "values": values}],
    }
    with pytest.raises(RecordError, match="'best', which is no text among the record's fields") as caught:
        found(FORMATS["argilla"], row)
    assert caught.value.field == "responses[0].values.ranking.value[0].value"
    row["responses"] = {"ranking": [{"value": ["a", "best"], "user_id": "u"}]}
    with pytest.raises(RecordError, match="'best', which is no text among the record's fields"):
        found(FORMATS["argilla"], row)


def argilla(value: Any, question: str = "order") -> dict[str, Any]:
    return {
        "fields": {"prompt": "P?", "a": "A.", "b": "B.", "c": "C."},
        "responses": {question: [{"value": value, "user_id": "u"}]},
    }


@pytest.mark.parametrize(
    ("value", "ranks"),
    [
        (["c", "a", "b"], [2, 3, 1]),
        (["c", ["a", "b"]], [2, 2, 1]),
        ([{"value": "b", "rank": 1}, {"value": "a", "rank": 3}, {"value": "c", "rank": 2}], [3, 1, 2]),
        ({"value": ["a", "b", "c"], "rank": [3, 1, 2]}, [3, 1, 2]),
        ([{"value": "b"}, {"value": "a"}], "an answer to `order` that ranks fewer than two fields"),
        (["a"], "an answer to `order` that ranks fewer than two fields"),
        (["funny", "true"], "an answer to `order`, which ranks none of the fields"),
        (4, "an answer to `order`, which ranks none of the fields"),
    ],
)
def test_every_form_of_argillas_rankings(value: Any, ranks: Any) -> None:
    assert found(FORMATS["argilla"], argilla(value)) == [ranks]


def test_a_question_that_chooses_fields_ranks_none() -> None:
    with pytest.raises(UserError, match="`good` names other fields in one answer than in another"):
        found(FORMATS["argilla"], argilla(["a", "b"], "good"), argilla(["a", "b", "c"], "good"))


def test_rankings_that_all_are_the_order_of_the_options_are_refused() -> None:
    rows = [argilla(["a", "b", "c"])] * 10
    with pytest.raises(UserError, match=r"all 10 answers to `order` .* \(a, b, c\).* REST interface"):
        found(FORMATS["argilla"], *rows)
    assert len(found(FORMATS["argilla"], *rows, argilla(["b", "a", "c"]))) == 11


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"buckets": ["a", "b"], "format": "argilla"}, "buckets are a ranker's in label-studio"),
        ({"buckets": ["a", "b"], "columns": {"prompt": "p"}}, "name it by format"),
        ({"buckets": ["a", "b"], "format": "labels"}, "buckets are a ranker's in label-studio"),
        ({"columns": {"prompt": "p"}, "format": "hh-rlhf"}, "keep one"),
    ],
)
def test_an_entry_says_buckets_of_label_studio_alone(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Entry.model_validate({"path": "a.json", **entry})


def test_a_recipes_entry_reaches_the_format(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(
        json.dumps([task(ranker(BUCKETS)), task(ranker(BUCKETS), data={"prompt": "Q?", "items": ITEMS})])
    )

    def ranks(**keys: Any) -> list[Any]:
        source = Source.model_validate({"train": [{"path": str(path), **keys}], "held_out": 0.0})
        return [record.ranks for record in load(Ranking, source, "rankings", tmp_path / "cache").train]

    with pytest.raises(UserError, match=r"`buckets: \[best, …, worst\]`"):
        ranks()
    assert ranks(buckets=["good", "_", "bad"]) == [(1, 2, 3)] * 2
    assert ranks(buckets=["bad", "_", "good"]) == [(3, 2, 1)] * 2


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases are not on this machine")
@pytest.mark.parametrize(
    ("name", "keys", "results"),
    [
        ("ls_ranker", {"buckets": ["relevant_results", "_", "biased_results"]}, [[1, 2, 3]]),
        ("ls_part", {}, [[1, 2], "an annotation of type choices"]),
        ("ls_pair", {"name": "label-studio", "columns": {"responses": ["text1", "text2"]}}, [[1, 2]]),
        ("argilla_to_json", {}, [[2, 1]]),
    ],
)
def test_the_cases(name: str, keys: dict[str, Any], results: list[Any]) -> None:
    rows = json.loads((CASES / f"{name}.json").read_text())
    format = chosen(keys.pop("name", None), **keys) or detect(rows[0])
    assert found(format, *rows) == results
