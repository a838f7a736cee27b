"""align suggest: the reward model's scores arrive in the app, and what goes wrong is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, align, write_jsonl
from typer.testing import CliRunner

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from sqlalchemy import select  # noqa: E402

from align.cli.app import app  # noqa: E402
from align.loop import suggest as module  # noqa: E402
from labeling import client  # noqa: E402
from labeling.store.models import Suggestion  # noqa: E402
from labeling.store.people import new_token  # noqa: E402

RESPONSES = [" good and bright", " dull", " old and tired and loud", " a joy"]
ROW = {"prompt": "the film 1", "responses": RESPONSES}


def run_suggest(*arguments: object, token: str | None = None) -> tuple[int, str, str]:
    environment = {"ALIGN_LABELING_TOKEN": token}
    result = CliRunner().invoke(app, ["suggest", *map(str, arguments)], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def token_of(site: Any, name: str, role: str = "machine") -> str:
    person = site.person(name, role)
    with site.config.store.write() as session:
        return str(new_token(session, "api", person=person))


def kept(site: Any) -> list[Suggestion]:
    with site.config.store.read() as session:
        return list(session.scalars(select(Suggestion).order_by(Suggestion.item_id)))


def test_the_command_as_a_machine_types_it(
    finished_run: Path, tmp_path: Path, make_site: Any, served: Any
) -> None:
    site = make_site(suggestions="machine", audit=0.0)
    site.add(ROW)
    address = served(site)
    (tmp_path / "token").write_text(token_of(site, "rm-bot"))
    done = align("suggest", finished_run, "--url", address, "--token-file", tmp_path / "token")
    assert (done.returncode, done.stdout) == (0, f"1 task scored by tiny/rm, sent to {address}\n"), (
        done.stderr
    )
    assert "Loading weights" not in done.stderr


def test_scores_arrive_for_every_task_once(
    finished_run: Path, tmp_path: Path, make_site: Any, served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_PAGE", 1)
    monkeypatch.setattr(module, "_WINDOW", 1)
    site = make_site(suggestions="machine", audit=0.0)
    ids = site.add(
        ROW,
        {"prompt": "a plot", "responses": RESPONSES[:2], "kind": "compare"},
        {"prompt": "the film " * 200, "responses": RESPONSES},  # more than the base reads
        {"prompt": "known", "responses": RESPONSES[:2], "gold": [1, 2]},
        {"prompt": "write"},
    )
    address = served(site)
    token = tmp_path / "token"
    token.write_text(token_of(site, "rm-bot") + "\n")
    code, out, err = run_suggest(finished_run, "--url", address, "--token-file", token)
    assert code == 0, err
    assert out == f"3 tasks scored by tiny/rm, sent to {address}\n"
    assert "1 task cannot be scored" in err and f"task {ids[2]}:" in err and "suggest 8/8" in err
    first, second, gold = kept(site)
    assert [first.item_id, second.item_id, gold.item_id] == [*ids[:2], ids[3]]
    scored = align("score", finished_run, write_jsonl(tmp_path / "in.jsonl", [ROW]))
    want = json.loads(scored.stdout)["scores"]
    assert first.scores == pytest.approx(want, abs=1e-5) and len(set(want)) == 4
    manifest = json.loads((finished_run / "rm" / "manifest.json").read_text())
    assert first.version == manifest["final"]["adapter_model.safetensors"] and first.source == "tiny/rm"
    (row,) = site.records()
    best = max(range(4), key=lambda i: want[i])
    assert row["labeler"] == "rm-bot" and row["ranks"][best] == 1
    again = run_suggest(finished_run, "--url", address, "--token-file", token)
    assert again[0] == 0 and len(kept(site)) == 3
    site.add({**ROW, "prompt": "the film 2"})
    code, out, _ = run_suggest(finished_run, "--url", address, "--token-file", token)
    assert (code, out.split()[0]) == (0, "1")


def test_what_is_wrong_is_told_before_torch_is_loaded(
    finished_run: Path, tmp_path: Path, site: Any, served: Any
) -> None:
    address = served(site)
    site.add(ROW)
    good = token_of(site, "rm-bot")
    sft_only = tmp_path / "run"
    sft_only.mkdir()
    (sft_only / "recipe.yaml").write_text((finished_run / "recipe.yaml").read_text())
    empty = tmp_path / "empty"
    empty.write_text("\n")
    cases: list[tuple[list[object], str | None, int, str]] = [
        ([finished_run, "--url", address], None, 2, "ALIGN_LABELING_TOKEN"),
        ([finished_run, "--url", address], "not a token", 2, "is not a token"),
        ([finished_run, "--url", address, "--token-file", empty], good, 2, "--token-file"),
        ([finished_run, "--url", address, "--token-file", tmp_path / "no"], good, 2, "No such file"),
        ([finished_run, "--url", address], "wrong", 2, "does not know this token"),
        ([finished_run, "--url", address], token_of(site, "ann", "labeler"), 2, "not a machine's"),
        ([finished_run, "--url", "127.0.0.1:8700"], good, 2, "starts with http"),
        ([finished_run, "--url", "http://127.0.0.1:9"], good, 2, "no labeling app answers"),
        ([finished_run, "--url", f"{address}/static"], good, 2, "no such page. (404)"),
        ([tmp_path / "nowhere", "--url", address], good, 2, "no such folder"),
        ([sft_only, "--url", address], good, 3, "rm has not run"),
    ]
    for arguments, token, wanted, message in cases:
        code, out, err = run_suggest(*arguments, token=token)
        assert (code, out) == (wanted, "") and message in err, (arguments, code, err)
        assert good not in err
    assert kept(site) == []
    program = (
        "import sys; from typer.testing import CliRunner; from align.cli.app import app; "
        "r = CliRunner().invoke(app, sys.argv[1:]); "
        "print(r.exit_code, r.stderr, sorted({'torch', 'transformers', 'sqlalchemy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ALIGN_LABELING_TOKEN": "wrong"}
    command = [sys.executable, "-c", program, "suggest", str(finished_run), "--url", address]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("2 ") and done.stdout.rstrip().endswith("[]"), done.stdout
