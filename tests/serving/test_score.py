"""align score: the file's order, the reward model's numbers, and nothing half done."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import align, write_jsonl
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from align.cli.app import app
from align.data.formats import chosen
from align.serving import score as module
from align.serving.records import ScoreItem, read_items

RESPONSES = [
    " good and bright",
    " dull",
    " old and tired and loud",
    " a joy",
    " is moving and the jokes are new",
]
ROWS = [{"id": i, "prompt": f"the film {i % 3}", "response": RESPONSES[i % 5]} for i in range(11)]


@pytest.fixture(scope="module")
def by_hand(finished_run: Path, tiny_base: Path) -> Any:
    """A function (prompt, response) -> score that uses PEFT and the head's file only, one row at a time."""
    final = finished_run / "rm" / "final"
    tokenizer = AutoTokenizer.from_pretrained(final)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), str(final)).eval()
    weight = load_file(final / "head.safetensors")["weight"]

    def score(prompt: str, response: str) -> float:
        ids = [*tokenizer(prompt).input_ids, *tokenizer(response).input_ids, tokenizer.eos_token_id]
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
        return float(hidden[0, -1] @ weight)

    return score


def run_score(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_records_come_back_in_order_with_their_scores(
    finished_run: Path, tmp_path: Path, by_hand: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WINDOW", 4)
    code, out, err = run_score(finished_run, write_jsonl(tmp_path / "in.jsonl", ROWS))
    assert code == 0, err
    rows = rows_of(out)
    assert [{k: v for k, v in row.items() if k != "score"} for row in rows] == ROWS
    want = [by_hand(row["prompt"], row["response"]) for row in ROWS]
    assert max(want) - min(want) > 0.01
    assert [row["score"] for row in rows] == pytest.approx(want, abs=1e-5)
    assert "score 11/11" in err


def test_rankings_get_a_list_and_need_no_ranks(finished_run: Path, tmp_path: Path, by_hand: Any) -> None:
    row = {"prompt": "the film 1", "responses": RESPONSES, "when": "today"}
    whole = {"prompt": "a plot", "responses": RESPONSES[:2], "ranks": [1, 2]}
    code, out, _ = run_score(finished_run, write_jsonl(tmp_path / "in.jsonl", [row, whole]))
    assert code == 0
    first, second = rows_of(out)
    assert first["when"] == "today"
    assert first["scores"] == pytest.approx([by_hand("the film 1", r) for r in RESPONSES], abs=1e-5)
    assert second["scores"] == pytest.approx([by_hand("a plot", r) for r in RESPONSES[:2]], abs=1e-5)


def test_other_formats_and_kinds_of_files_are_read(finished_run: Path, tmp_path: Path, by_hand: Any) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text('prompt,chosen,rejected\nthe film 1," good and bright"," dull"\n')
    code, out, err = run_score(finished_run, pairs)
    assert code == 0, err
    (row,) = rows_of(out)
    assert row["responses"] == [" good and bright", " dull"]
    assert row["scores"] == pytest.approx([by_hand("the film 1", r) for r in row["responses"]], abs=1e-5)

    (tmp_path / "own.csv").write_text('q,x,y\nthe film 1," good and bright"," dull"\n')
    code, out, _ = run_score(
        finished_run, tmp_path / "own.csv", "--columns", "{prompt: q, responses: [x, y]}"
    )
    assert (code, rows_of(out)) == (0, [{key: row[key] for key in ("prompt", "responses", "scores")}])
    code, out, err = run_score(finished_run, tmp_path / "own.csv", "--columns", "{prompt: q, respones: x}")
    assert (code, out) == (2, "")
    assert "--columns.respones: unknown key; did you mean responses?" in err

    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(ROWS[0]).encode()))
    assert run_score(finished_run, packed)[0] == 0
    code, out, _ = run_score(finished_run, pairs, "--format", "nonsense")
    assert (code, out) == (2, "")


def test_a_table_has_its_lists_as_text_and_empty_rows_are_none(tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text("prompt;responses\na;\"['x', '[y]']\"\n;\nb;[z]\n")
    good, bad = read_items(table)
    assert good.responses == ("x", "[y]")
    assert good.row["responses"] == ["x", "[y]"]
    assert "in.csv:4: `responses` begins like a list" in str(bad)


def test_what_is_left_out_is_told(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "long.csv").write_text("q,a,s\nthe film 1, good,1\nthe film 1, dull,2\na plot, dull,1\n")
    columns = "{prompt: q, responses: a, scores: s, group_by: q}"
    code, out, err = run_score(finished_run, tmp_path / "long.csv", "--columns", columns)
    assert (code, len(rows_of(out))) == (0, 1)
    assert "1 left out, and not scored: 1 × an answer alone in its group (`q`)" in " ".join(err.split())


def test_a_part_of_the_prompt_beside_it_is_not_passed_over(tmp_path: Path) -> None:
    row = {"prompt": "Is it open?", "response": "Yes.", "system": "Be brief.", "input": ""}
    path = write_jsonl(tmp_path / "in.jsonl", [row, {**row, "system": None}])
    told, item = read_items(path)
    assert "in.jsonl:1: `system` looks like a part of the prompt, and only `prompt` is read" in str(told)
    assert isinstance(item, ScoreItem)
    form = chosen(None, {"prompt": "prompt", "system": "system", "response": "response"})
    whole, _ = read_items(path, form)
    assert isinstance(whole, ScoreItem)
    assert [message["content"] for message in whole.prompt] == ["Be brief.", "Is it open?"]


def test_to_writes_a_file_and_only_that(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    code, out, _ = run_score(finished_run, source, "--to", tmp_path / "out.jsonl")
    assert (code, out) == (0, "")
    assert len(rows_of((tmp_path / "out.jsonl").read_text())) == len(ROWS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_small_budget_gives_the_same_scores(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    run = shutil.copytree(finished_run, tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    assert "microbatch_tokens: 128" in recipe
    (run / "recipe.yaml").write_text(recipe.replace("microbatch_tokens: 128", "microbatch_tokens: 1"))
    large, small = (rows_of(run_score(folder, source)[1]) for folder in (finished_run, run))
    assert [r["score"] for r in small] == pytest.approx([r["score"] for r in large], abs=1e-5)


BAD = [
    ({"prompt": "p", "response": ""}, "in.jsonl:2: `response` is empty"),
    ({"prompt": "p", "responses": []}, "in.jsonl:2: `responses` must be a list of texts"),
    ({"prompt": "p", "responses": ["a", 3]}, "in.jsonl:2: `responses[1]` must be text, not a number"),
    ({"prompt": "p"}, "in.jsonl:2: "),
    ({"prompt": "p", "response": "r", "score": 1}, "in.jsonl:2: `score` is there already"),
    (
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}], "response": "r"},
        "in.jsonl:2: the prompt is a conv",
    ),
    ({"prompt": "the film " * 400, "response": "r"}, "the base reads at most 256"),
    ({"prompt": "p", "response": "a <eos> b"}, "in.jsonl:2: the response holds '<eos>'"),
    (["no", "object"], "in.jsonl:2: is not an object with columns"),
]


@pytest.mark.parametrize(("bad", "says"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_bad_record_is_named_and_nothing_is_written(
    finished_run: Path, tmp_path: Path, bad: Any, says: str
) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [ROWS[0], bad, ROWS[1]])
    code, out, err = run_score(finished_run, source, "--to", tmp_path / "out.jsonl")
    assert (code, out) == (2, "")
    assert says in err.replace("\n  ", " ")
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_twenty_problems_are_shown_and_the_others_counted(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"prompt": "", "response": "r"}] * 33)
    code, _, err = run_score(finished_run, source)
    assert code == 2
    assert "33 problems" in err
    assert err.count("`prompt` is empty") == 20
    assert "and 13 more" in err


def test_broken_files_are_one_message(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"prompt": "x\n')
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "binary.jsonl").write_bytes(bytes(range(256)))
    for name, says in (
        ("torn.jsonl", "torn.jsonl:2: broken JSON"),
        ("empty.jsonl", "has no records"),
        ("binary.jsonl", "binary.jsonl"),
        ("nowhere.jsonl", "no such file"),
    ):
        code, out, err = run_score(finished_run, tmp_path / name)
        assert (code, out) == (2, "")
        assert says in err
        assert "Traceback" not in err


def test_an_interrupt_leaves_no_half_file(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> Any:
        if calls:
            # The first window is written, beside the target, when the second is interrupted.
            aside = [p for p in tmp_path.iterdir() if p.name not in ("in.jsonl", "out.jsonl")]
            assert aside
            raise KeyboardInterrupt
        calls.append(1)
        return score_pairs(*arguments)

    calls: list[int] = []
    score_pairs = module.score_pairs
    monkeypatch.setattr(module, "score_pairs", interrupted)
    monkeypatch.setattr(module, "_WINDOW", 4)
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "out.jsonl").write_text("before\n")
    code, _, err = run_score(finished_run, source, "--to", tmp_path / "out.jsonl")
    assert code == 130
    assert "interrupted" in err
    assert (tmp_path / "out.jsonl").read_text() == "before\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_targets_that_would_lose_something_are_refused(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    before = source.read_bytes()
    for to, says in (
        (source, "is the file that is read"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "out.jsonl", "there is no folder"),
    ):
        code, _, err = run_score(finished_run, source, "--to", to)
        assert code == 2
        assert says in err
    assert source.read_bytes() == before


def test_a_run_without_a_reward_model_is_exit_3(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("rm"))
    code, _, err = run_score(run, write_jsonl(tmp_path / "in.jsonl", ROWS))
    assert code == 3
    assert "rm has not run" in err


def test_long_records_are_scored_with_a_word_of_doubt(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("max_length: 1024", "max_length: 16"))
    rows = [ROWS[0], {"prompt": "the film is", "response": " and bright" * 12}]
    code, out, err = run_score(run, write_jsonl(tmp_path / "in.jsonl", rows))
    assert code == 0
    assert len(rows_of(out)) == 2
    assert "1 of 2 responses" in err


def test_columns_that_json_does_not_know_and_odd_texts_survive(finished_run: Path, tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    from datetime import date

    table = pa.Table.from_pylist([{**ROWS[0], "day": date(2024, 5, 1), "x": float("nan"), "ö": "ü\u2028"}])
    pq.write_table(table, tmp_path / "in.parquet")
    code, out, _ = run_score(finished_run, tmp_path / "in.parquet")
    assert code == 0
    row = json.loads(out)
    assert (row["day"], row["x"], row["ö"]) == ("2024-05-01", None, "ü\u2028")


def test_the_command_as_a_person_types_it(finished_run: Path, tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ROWS)
    done = align("score", finished_run, source, OMP_NUM_THREADS=os.environ["OMP_NUM_THREADS"])
    assert done.returncode == 0, done.stderr
    assert len(rows_of(done.stdout)) == len(ROWS)
    assert "Loading weights" not in done.stderr
