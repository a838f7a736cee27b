"""Files of other tools come in: as tasks, and with what people ranked there, ties and gaps as they were."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import func, select  # noqa: E402

from align.cli.app import app  # noqa: E402
from align.data.load import load  # noqa: E402
from align.recipe.data import Source  # noqa: E402
from align.records import Ranking
from labeling.store.models import Item, Person, Slot  # noqa: E402

SAMPLES = Path(__file__).resolve().parents[1] / "data" / "formats" / "samples"


def exported(folder: Path, tool: str) -> Path:
    """A file as the tool writes it: Label Studio one JSON list, Argilla's REST one object with `items`."""
    rows = json.loads((SAMPLES / f"{tool}.json").read_text())["rows"]
    if tool == "argilla":
        rows = {"items": [inner for row in rows for inner in row.get("items", [row])], "total": 2}
    path = folder / f"{tool}.json"
    path.write_text(json.dumps(rows, indent=1))
    return path


def run(site: Any, file: Path, *options: str) -> Any:
    recipe = file.with_name("recipe.yaml")
    database = json.dumps(str(site.config.store.engine.url.database))
    recipe.write_text(f"base: none\nrun: {{name: demo}}\nlabeling: {{database: {database}}}\n")
    return CliRunner().invoke(app, ["label", "import", str(recipe), str(file), *options])


def by_response(prompt: Any, responses: Any, ranks: Any, labeler: Any) -> tuple[Any, ...]:
    return prompt, tuple(sorted(zip(responses, ranks, strict=True))), labeler


@pytest.mark.parametrize(
    ("tool", "tasks", "rankings", "people"), [("label-studio", 2, 4, 3), ("argilla", 3, 5, 3)]
)
def test_an_export_gives_its_rankings_by_both_ways(
    site: Any, tmp_path: Path, tool: str, tasks: int, rankings: int, people: int
) -> None:
    path = exported(tmp_path, tool)
    result = run(site, path)
    assert result.exit_code == 0, result.output
    assert f"{tasks} tasks added" in result.output
    assert f"{rankings} rankings by people not kept (--with-labels keeps them)" in result.output.replace(
        "\n", " "
    )
    assert site.records() == []
    result = run(site, path, "--with-labels")
    assert f"0 tasks added, {tasks} were there before; {rankings} rankings kept" in result.output
    assert f"{tasks} were there before; 0 rankings kept" in run(site, path, "--with-labels").output

    source = Source.model_validate({"train": str(path), "held_out": 0.0})
    read = load(Ranking, source, "rankings").train
    wanted = Counter(by_response(r.prompt, r.responses, r.ranks, r.labeler) for r in read)
    kept = site.records()
    assert len(read) == len(kept) == rankings
    found = Counter(by_response(r["prompt"], r["responses"], r["ranks"], r["labeler"]) for r in kept)
    assert found == wanted
    flat = [ranks for _, ranks, _ in wanted]
    tied = any(len({rank for _, rank in ranks}) < len(ranks) for ranks in flat)
    assert tied == (tool == "argilla"), "there is a tie among them"
    with site.config.store.read() as session:
        assert session.scalar(select(func.count(Item.id))) == tasks
        assert session.scalar(select(func.count(Person.id))) == people
        assert session.scalar(select(func.count(Person.id)).where(Person.disabled.is_(None))) == 0
        assert session.scalar(select(func.count(Slot.id)).where(Slot.state == "free")) == 0
    assert site.client().get("/work").status_code == 401


def test_a_mapping_of_columns_reads_tasks_and_rankings_as_in_training(site: Any, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("q,x,y\nOpen?,Yes.,No.\nRain?,Yes.,No.\n")
    assert (
        "2 tasks added" in run(site, tmp_path / "t.csv", "--columns", "{prompt: q, responses: [x, y]}").output
    )
    long = "q,who,text,stars\nOpen?,ana,Yes.,5\nSun?,ana,Yes.,1\nOpen?,ana,No.,2\nSun?,ana,No.,4\n"
    (tmp_path / "long.csv").write_text(long)
    columns = "{prompt: q, responses: text, scores: stars, labeler: who, group_by: [q, who]}"
    result = run(site, tmp_path / "long.csv", "--columns", columns, "--with-labels")
    assert "1 task added, 1 were there before; 2 rankings kept" in result.output
    assert sorted((row["prompt"], row["ranks"]) for row in site.records()) == [
        ("Open?", [1, 2]),
        ("Sun?", [2, 1]),
    ]
    wrong = run(site, tmp_path / "t.csv", "--columns", "{prompt: q, responses: [x, z]}")
    assert wrong.exit_code == 2 and "t.csv:2: `z` is missing" in wrong.output
    both = run(site, tmp_path / "t.csv", "--columns", "{prompt: q}", "--format", "align")
    assert both.exit_code == 2 and "--format and --columns both say how to read a row" in both.output


def test_a_ranking_given_again_replaces_the_first(site: Any, tmp_path: Path) -> None:
    row = {"prompt": "p", "responses": ["x", "y"], "labeler": "ann", "seconds": 3.5}
    ann = site.person("ann")
    for ranks in ([1, 2], [2, 1], [None, 1]):
        (tmp_path / "r.jsonl").write_text(json.dumps({**row, "ranks": ranks}) + "\n")
        assert run(site, tmp_path / "r.jsonl", "--with-labels").exit_code == 0
    (found,) = site.records()
    assert found["ranks"] == [2, 1] and found["labeler"] == "ann" and found["seconds"] == 3.5
    with site.config.store.read() as session:
        assert session.get_one(Person, ann.id).disabled is None, "who has an account keeps it"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.jsonl", '{"prompt": "a"}\n\n{"prompt": \n', "t.jsonl:3: broken JSON"),
        (
            "t.jsonl",
            '{"prompt": "a"}\n{"prompt": "b", "responses": [""]}\n',
            "t.jsonl:2: `responses[0]` is empty",
        ),
        ("t.txt", '{"prompt": "a"}\n', "unknown kind of file"),
        ("t.json", '[{"prompt": "a"}, {"frage": "b"}]', "no known format"),
    ],
)
def test_a_bad_file_is_told_by_its_place_and_adds_nothing(
    site: Any, tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    result = run(site, tmp_path / name)
    assert result.exit_code == 2 and said in result.output.replace("\n", ""), result.output
    admin = site.signed_in("root", "admin")
    for as_name in (name, f"../{name}", f"a\0/{name}"):
        reply = admin.post(
            "/tasks", files={"file": (as_name, text.encode())}, headers={"Accept": "text/html"}
        )
        assert reply.status_code == 422 and name in reply.text, reply.text
    assert admin.get("/api/v1/tasks").json()["tasks"] == []
    assert "No such file" in run(site, tmp_path / "none.jsonl").output


def test_what_our_own_machine_said_comes_back_as_nobodys_label(site: Any, tmp_path: Path) -> None:
    site.person("rm-bot", "machine")
    row = {"prompt": "p", "responses": ["x", "y"], "ranks": [1, 2]}
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row | {"labeler": name}) + "\n" for name in ("rm-bot", "ann")))
    result = run(site, path, "--with-labels")
    assert result.exit_code == 0 and "1 ranking kept as labels" in result.output.replace("\n", " ")
    assert [record["labeler"] for record in site.records()] == ["ann"]


def test_tasks_in_a_table_have_their_lists_as_text_and_empty_rows_are_none(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "tasks.csv"
    path.write_text(
        'prompt;responses;meta\nOpen?;"[""Yes."", ""No.""]";"{""a"": 1}"\n;;\n'
        "Rain?;\"['No.', 'Yes.']\";\nx;[Yes];\n"
    )
    assert "tasks.csv:5" in (said := run(site, path).output.replace("\n", " "))
    assert "begins like a list" in said
    path.write_text(path.read_text().rpartition("x;")[0])
    assert "2 tasks added" in run(site, path).output


def test_what_becomes_no_task_is_told_and_a_function_gets_numbers(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / "long.csv"
    long.write_text("q,a,s\nOpen?,Yes.,9\nOpen?,No.,10\nRain?,Yes.,1\n")
    columns = "{prompt: q, responses: a, scores: s, group_by: q}"
    said = " ".join(run(site, long, "--columns", columns).output.split())
    assert "1 task added; 1 left out (1 × an answer alone in its group (`q`)" in said
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_of_tasks.py").write_text(
        "def big(row):\n"
        "    pair = {'prompt': row['q'], 'responses': [row['a'], '?'], 'ranks': [1, 2]}\n"
        "    return pair if row['s'] > 5 else None\n"
    )
    said = " ".join(run(site, long, "--format", "mine_of_tasks:big").output.split())
    assert "2 tasks added; 1 left out (1 × mine_of_tasks:big gave None)" in said


def test_an_import_reads_as_an_entry_of_a_recipe_does(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = [
        {"q": f"Open {i}?", "text": text, "stars": stars, "system": "Be brief."}
        for text, stars in (("Yes.", 5), ("No.", 1))
        for i in range(2)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in long))
    columns = "{prompt: q, responses: text, scores: stars, group_by: q}"
    refused = run(site, path, "--columns", columns)
    assert refused.exit_code == 2
    assert "`system` holds something in 4 rows" in " ".join(refused.output.split())
    assert "2 tasks added" in run(site, path, "--columns", columns, "--ignore", "system").output


def test_rows_of_a_guessed_format_that_belong_together_are_one_task(site: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    judged = [
        {"prompt": "Is it raining?", "completion": text, "label": good, "note": "n"}
        for text, good in (("Yes.", True), ("No.", False))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in judged))
    output = " ".join(run(site, path).output.split())
    assert output.startswith("1 task added")
    assert "nothing of `note` is used" in output


def test_a_rankers_buckets_are_named_on_the_command_line(site: Any, tmp_path: Path) -> None:
    lists = {"good": ["a"], "bad": ["b"]}
    result = {"from_name": "r", "to_name": "items", "type": "ranker", "value": {"ranker": lists}}
    answers = [{"id": "a", "body": "Yes."}, {"id": "b", "body": "No."}]
    task = {
        "data": {"prompt": "Open?", "items": answers},
        "annotations": [{"completed_by": 1, "result": [result]}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps([task]))
    assert run(site, path).exit_code == 2
    assert "1 ranking kept" in run(site, path, "--buckets", "good, bad", "--with-labels").output
    assert site.records()[0]["ranks"] == [1, 2]
