"""`align chat`: lines in, answers out, and what a person writes over an answer is a demonstration."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, align
from labeling_app import Site

from align.data.load import load
from align.errors import UserError
from align.loop.chat import Chat, _harmless
from align.loop.chat_lines import serve_lines
from align.loop.policy import Drawing, Partner, Pieces, open_beside, open_partner
from align.loop.queues import open_keeper
from align.recipe.data import Source
from align.records import Demonstration, Ranking


@pytest.fixture(scope="module")
def run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("chat") / "mine"))


@pytest.fixture(scope="module")
def partner(run: Path) -> Partner:
    return open_partner(run, None, Drawing(seed=3))


def talk(partner: Partner, *lines: str, keeper: Any = None) -> tuple[str, str, Chat]:
    """What was answered, the notes, and the chat after these lines."""
    out, notes = io.StringIO(), io.StringIO()
    chat = Chat(
        partner,
        keeper or (lambda: open_keeper(partner.recipe)),
        io.StringIO("".join(f"{line}\n" for line in lines)),
        out,
        notes,
    )
    assert chat.run() == 0
    return out.getvalue(), notes.getvalue(), chat


def fresh(run: Path) -> str:
    """The run's labeling database, emptied."""
    for path in run.glob("labeling.db*"):
        path.unlink()
    return str(run / "labeling.db")


def records(database: str, kind: Any, **filters: Any) -> list[Any]:
    source = Source.model_validate({"labels": database, "held_out": 0.0, **filters})
    return list(load(kind, source, "demonstrations").train)


def test_the_latest_policy_answers_each_line(partner: Partner) -> None:
    out, notes, chat = talk(partner, "the film is", "", "/help", "the plot was")
    assert "mine/ppo " in notes and "/edit" in notes
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 2
    first = partner.answer([{"role": "user", "content": "the film is"}], 0)
    assert first == chat.messages[1]["content"] and chat.answer == chat.messages[3]["content"]
    assert out == "".join(f"{_harmless(m['content'])}\n" for m in chat.messages[1::2])
    assert open_partner(Path(partner.recipe.run.path), "sft", Drawing()).policy.origin.startswith("mine/sft ")


def test_an_edit_is_a_demonstration_under_the_guideline(partner: Partner, run: Path) -> None:
    database = fresh(run)
    edits = ("/edit  a joy ", "/edit", " a marvel")
    _, notes, chat = talk(partner, "/edit too early", "the film is", *edits, "/quit", "never read")
    assert "no answer yet" in notes and notes.count(f"demonstration in {database}") == 2
    assert chat.turn == 1 and chat.messages[-1]["content"] == "a marvel"
    assert records(database, Demonstration) == [Demonstration("the film is", "a marvel")]
    (ranking,) = records(database, Ranking, corrections=True)
    assert ranking.responses == ("a marvel", chat.answer) and ranking.labeler == "admin"
    assert ranking.guideline and ranking.seconds is not None
    history = all_labels(database)
    assert {origin for *_, origin in history} == {partner.policy.origin}
    assert [(kind, content.get("text")) for kind, content, _ in history] == [
        ("correct", "a joy"),
        ("correct", "a marvel"),
    ]


def all_labels(database: str) -> list[tuple[str, dict[str, Any], str]]:
    """All labels with what the policy's answer was from."""
    from sqlalchemy import select

    from labeling.store.engine import Store
    from labeling.store.models import Item, Label

    store = Store(database)
    try:
        with store.read() as session:
            rows = session.execute(select(Label, Item).join(Item, Item.id == Label.item_id)).all()
            return [(label.kind, label.content, item.responses[0].origin) for label, item in rows]
    finally:
        store.close()


def test_nothing_is_kept_of_an_edit_that_changes_nothing(
    partner: Partner, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(run)
    monkeypatch.setattr(Partner, "answer", lambda *_: "a joy")
    _, notes, _ = talk(partner, "the film is", "/edit", "", "/edit a joy")
    assert "nothing was written" in notes and "nothing was changed" in notes
    assert not (run / "labeling.db").exists()


def test_without_the_labeling_app_it_goes_into_a_file(
    partner: Partner, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.loop.queues.importlib.util.find_spec", lambda name: None)
    path = run / "chat.jsonl"
    path.write_text('{"prompt": "torn')
    _, notes, _ = talk(partner, "the film is", "/edit a joy")
    assert str(path) in notes
    assert json.loads(path.read_text().splitlines()[-1]) == {"prompt": "the film is", "response": "a joy"}


def test_a_chat_template_gets_the_whole_conversation(
    partner: Partner, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = fresh(run)
    data = partner.recipe.data.model_copy(update={"template": "chat"})
    chatting = Partner(partner.policy, partner.recipe.model_copy(update={"data": data}))
    seen: list[Any] = []

    def ids(prompt: Any) -> list[int]:
        seen.append(prompt)
        return [5, 6, 7]

    monkeypatch.setattr(partner.policy.setup.template, "prompt_ids", ids)
    talk(chatting, "hi", "/edit hello", "and you?", "/edit fine", "/new", "again")
    conversation = (
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "and you?"},
    )
    assert seen == ["hi", conversation, "again"]
    assert records(database, Demonstration) == [
        Demonstration("hi", "hello"),
        Demonstration(conversation, "fine"),
    ]


def test_a_conversation_beyond_the_base_is_told(partner: Partner) -> None:
    out, notes, chat = talk(partner, "the film is " * 100)
    assert "the base reads at most 256: begin a new conversation" in notes
    assert out == "" and chat.messages == []


def test_pieces_hold_back_half_characters(partner: Partner) -> None:
    told: list[str] = []
    pieces = Pieces(partner.policy, told.append)
    text = "so é 🙂 it is"
    for token in partner.policy.setup.template.response_ids(text):
        pieces.add(token)
    pieces.end()
    assert "".join(told) == text and len(told) > 3 and not any("\ufffd" in piece for piece in told)


def test_programs_get_a_line_for_each_of_theirs(partner: Partner) -> None:
    asked = {"messages": [{"role": "user", "content": "the film is"}], "turn": 0}
    lines = [json.dumps(asked), "not json", json.dumps({"messages": []}), json.dumps(asked)]
    out = io.StringIO()
    serve_lines([partner], io.StringIO("\n".join(lines)), out)
    ready, first, *wrong, last = map(json.loads, out.getvalue().splitlines())
    assert ready["ready"].startswith("mine/ppo ") and ready["template"] == "plain"
    assert first == last == {"text": partner.answer(asked["messages"], 0)}
    assert len(wrong) == 2 and all(set(answer) == {"error"} for answer in wrong)


def test_programs_hear_an_answer_as_it_comes_and_can_stop_it(partner: Partner) -> None:
    asked = {"messages": [{"role": "user", "content": "the film is"}], "turn": 0, "stream": True}
    ours, theirs = os.pipe()
    lines, tell = os.fdopen(ours), os.fdopen(theirs, "w", buffering=1)

    class Out(io.StringIO):
        """Stops the second answer at its second piece."""

        def write(self, text: str) -> int:
            said = json.loads(text) if text.strip() else {}
            if said.get("id") == "b" and "piece" in said and self.getvalue().count('"id": "b"') == 1:
                tell.write(json.dumps({"stop": "b"}) + "\n")
                time.sleep(0.3)  # the lines are read in a thread
            if said.get("id") == "b" and "text" in said:
                tell.close()
            return super().write(text)

    out = Out()
    for name in "ab":
        tell.write(json.dumps({**asked, "id": name}) + "\n")
    serve_lines([partner], lines, out)
    said = [json.loads(line) for line in out.getvalue().splitlines()[1:]]
    whole, stopped = ([one for one in said if one["id"] == name] for name in "ab")
    text = partner.answer(asked["messages"], 0)
    assert "".join(one["piece"] for one in whole[:-1]) == text and len(whole) > 3
    assert whole[-1] == {"id": "a", "text": text}
    assert stopped[-1]["stopped"] is True and len(stopped) == 3
    assert text.startswith(stopped[-1]["text"]) and len(stopped[-1]["text"]) < len(text)


@pytest.mark.parametrize("engine", ["hf", "paged"])
def test_an_answer_that_nobody_wants_any_more_ends_in_the_middle(run: Path, engine: Any) -> None:
    partner = open_partner(run, None, Drawing(seed=3, engine=engine))
    asked = [{"role": "user", "content": "the film is"}]
    whole = partner.answer(asked, 0)
    wanted = iter([True, True])
    part = partner.answer(asked, 0, None, lambda: next(wanted, False))
    assert whole.startswith(part) and 0 < len(part) < len(whole)
    assert partner.answer(asked, 0) == whole, "the engine goes on after it"


def test_two_policies_on_one_base_answer_as_each_does_alone(run: Path, tmp_path: Path) -> None:
    both = open_partner(run, "ppo", Drawing(seed=3))
    beside = open_beside(both, run, "sft")
    asked = {"messages": [{"role": "user", "content": "the film is"}], "turn": 0}
    alone = open_partner(run, "sft", Drawing(seed=3, top_k=1))
    assert beside.policy.origin == alone.policy.origin != both.policy.origin
    before = both.answer(asked["messages"], 0)
    greedy = replace(beside, policy=replace(beside.policy, params=alone.policy.params))
    assert greedy.answer(asked["messages"], 0) == alone.answer(asked["messages"], 0)
    assert both.answer(asked["messages"], 0) == before
    out = io.StringIO()
    serve_lines([both, beside], io.StringIO(json.dumps({**asked, "policy": 1}) + "\n"), out)
    ready, said = map(json.loads, out.getvalue().splitlines())
    assert ready["policies"] == [both.policy.origin, beside.policy.origin]
    assert said == {"text": beside.answer(asked["messages"], 0)}
    with pytest.raises(UserError, match="the same policy"):
        open_beside(both, run, "ppo")


def test_a_run_without_a_policy_is_told(tmp_path: Path, run: Path) -> None:
    (tmp_path / "recipe.yaml").write_text((run / "recipe.yaml").read_text())
    ended = align("chat", tmp_path)
    assert ended.returncode == 3 and "sft has not run" in ended.stderr


def read_until(terminal: int, wanted: str, seconds: float = 120) -> str:
    text, deadline = "", time.monotonic() + seconds
    while wanted not in text:
        assert time.monotonic() < deadline, text
        if select.select([terminal], [], [], 1)[0]:
            try:
                text += os.read(terminal, 4096).decode(errors="replace")
            except OSError as error:  # the other side has gone
                if error.errno == errno.EIO:
                    break
                raise
    return text


@pytest.fixture
def terminal(run: Path, tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """`align chat` on a terminal, with an editor that writes one text."""
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "from the editor\\n" > "$1"\n')
    editor.chmod(0o755)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDITOR": str(editor), "VISUAL": "", "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "align", "chat", str(run)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(theirs)
    yield ours, process
    process.kill()
    process.wait()
    os.close(ours)


def test_on_a_terminal(terminal: tuple[int, subprocess.Popen[bytes]], run: Path) -> None:
    database = fresh(run)
    ours, process = terminal
    read_until(ours, "> ")
    os.write(ours, b"the film is\n")
    read_until(ours, "> ")
    os.write(ours, b"/edit\n")
    assert re.search("kept as a demonstration in .*labeling.db", read_until(ours, "labeling.db"))
    assert records(database, Demonstration) == [Demonstration("the film is", "from the editor")]
    os.write(ours, b"\x04")  # Ctrl-D
    assert process.wait(30) == 0


def test_ctrl_c_at_the_prompt_ends(terminal: tuple[int, subprocess.Popen[bytes]]) -> None:
    ours, process = terminal
    read_until(ours, "> ")
    time.sleep(1)  # until readline listens
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(
    partner: Partner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: Partner, messages: Any, turn: int, heard: Any) -> str:
        heard("so ")
        heard("\x1b[2Jfar")  # what would clear the screen
        raise KeyboardInterrupt

    monkeypatch.setattr(Partner, "answer", interrupted)
    out, notes, chat = talk(partner, "the film is")
    assert out == "so \ufffd[2Jfar\n" and "(stopped)" in notes
    assert chat.messages[-1]["content"] == "so \x1b[2Jfar"


def test_a_correction_sent_twice_is_one_label(site: Site) -> None:
    from labeling.store.corrections import keep_correction
    from labeling.store.models import now

    ann, bob = site.person("ann"), site.person("bob")
    given = {"prompt": "q", "answer": "wrong", "origin": "r/sft 1", "guideline": "be kind", "seconds": 7.5}
    given |= {"secret": site.config.secret}

    ann.created = bob.created = now() - timedelta(hours=1)  # nobody works longer than they are here

    def keep(person: Any, text: str, submission: str) -> int:
        with site.config.store.write() as session:
            return keep_correction(session, person, text=text, submission=submission, **given).id

    assert keep(ann, "right", "a" * 32) == keep(ann, "right", "a" * 32)
    assert keep(bob, "mine", "b" * 32) != keep(ann, "better", "c" * 32)
    assert site.records("demonstrations") == [
        {"prompt": "q", "response": "mine"},
        {"prompt": "q", "response": "better"},
    ]
    by = {row["labeler"]: row for row in site.records("rankings", corrections=True)}
    assert by["bob"]["seconds"] == pytest.approx(7.5, abs=1) and len(by["bob"]["guideline"]) == 64
    assert by["ann"]["seconds"] < 1  # no more than has gone by since her first
    assert site.signed_in("eve").get("/work").status_code == 303  # nothing waits for anybody
    with pytest.raises(Exception, match="Write the response first"):
        keep(ann, " ", "d" * 32)
