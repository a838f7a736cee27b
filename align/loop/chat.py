"""`align chat`: talk to a policy in the terminal; what you write in place of an answer is a demonstration."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from align.errors import UserError
from align.loop.policy import Partner
from align.loop.queues import Keeper

HELP = """\
/edit        write what the last answer should have been, in your editor ($VISUAL, $EDITOR)
/edit TEXT   the same, on one line
/new         begin a new conversation
/quit        end, as Ctrl-D does; Ctrl-C stops an answer"""


@dataclass
class Chat:
    """A conversation on a terminal, or line by line from a pipe."""

    partner: Partner
    keeper: Callable[[], Keeper]  # opened when there is something to keep
    lines: TextIO
    out: TextIO
    notes: TextIO
    messages: list[dict[str, str]] = field(default_factory=list)
    answer: str | None = None  # the policy's own words for the last message; None: nothing to edit
    answered: float = 0.0  # when
    turn: int = 0
    _keeper: Keeper | None = None

    @property
    def on_terminal(self) -> bool:
        """Whether a person types and reads here."""
        return self.lines.isatty() and self.out.isatty()

    def run(self) -> int:
        """Until the end of the lines, /quit or Ctrl-C; the exit code."""
        origin = self.partner.policy.origin
        memory = "" if self.partner.remembers else "; each message stands alone (data.template: plain)"
        self._note(f"talking to {origin}{memory}. /help lists the commands")
        while True:
            try:
                line = self._line("> ")
            except KeyboardInterrupt:
                self._note("")
                return 130
            if line is None:
                return 0
            text = line.strip()
            if text == "/quit":
                return 0
            try:
                self._obey(text)
            except UserError as error:
                self._note(str(error))

    def _obey(self, text: str) -> None:
        command, _, rest = text.partition(" ")
        if not text:
            return
        if command == "/edit":
            self._edit(rest.strip())
        elif command == "/new":
            self.messages, self.answer = [], None
            self._note("a new conversation")
        elif text.startswith("/"):
            self._note(HELP)
        else:
            self._ask(text)

    def _ask(self, text: str) -> None:
        asked = [*self.messages, {"role": "user", "content": text}]
        told: list[str] = []

        def hear(piece: str) -> None:
            told.append(piece)
            self.out.write(_harmless(piece))
            self.out.flush()

        try:
            answer = self.partner.answer(asked, self.turn, hear)
        except KeyboardInterrupt:
            answer = "".join(told)
            self._note(" (stopped)")
        self.out.write("\n")
        self.out.flush()
        self.turn += 1
        # A chat template refuses an empty message; in the conversation it stands for "no answer".
        self.messages = [*asked, {"role": "assistant", "content": answer if answer.strip() else "…"}]
        self.answer, self.answered = answer, time.monotonic()

    def _edit(self, text: str) -> None:
        if self.answer is None:
            raise UserError("there is no answer yet to edit")
        text = text or self._written()
        if not text.strip():
            raise UserError("nothing was written: the answer is unchanged")
        if text == self.messages[-1]["content"]:
            raise UserError("nothing was changed")
        if self._keeper is None:
            self._keeper = self.keeper()
        prompt = self.partner.prompt(self.messages[:-1])
        origin, seconds = self.partner.policy.origin, time.monotonic() - self.answered
        self._keeper.keep(prompt, self.answer, text, origin, seconds)
        self.messages[-1] = {"role": "assistant", "content": text}
        self._note(f"kept as a demonstration in {self._keeper.place}")

    def _written(self) -> str:
        """What the answer should have been: from an editor, or the next line."""
        editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if not self.on_terminal or not editor:
            return (self._line("the right answer: ") or "").strip()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "answer.md"
            path.write_text(self.messages[-1]["content"], encoding="utf-8")
            try:
                code = subprocess.call([*shlex.split(editor), str(path)])
                text = path.read_text(encoding="utf-8").rstrip("\n")
            except (OSError, ValueError) as error:
                raise UserError(f"{editor}: {error}. The answer is unchanged") from error
        if code:
            raise UserError(f"{editor} ended with code {code}: the answer is unchanged")
        return text

    def _line(self, prompt: str) -> str | None:
        """The next line; None at the end."""
        if not self.on_terminal:
            return self.lines.readline() or None
        import readline  # noqa: F401  arrows and a history in input()

        try:
            return input(prompt)
        except EOFError:
            self._note("")
            return None

    def _note(self, text: str) -> None:
        """What is not the policy's: to stderr, so that a pipe gets answers alone."""
        self.notes.write(text + "\n")
        self.notes.flush()


def _harmless(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def chat(partner: Partner, keeper: Callable[[], Keeper]) -> int:
    """On this process's own streams; the exit code."""
    return Chat(partner, keeper, sys.stdin, sys.stdout, sys.stderr).run()
