"""The labeling guideline: a Markdown file that people edit while the app runs."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

from align.errors import UserError

_LOG = logging.getLogger("labeling")
TEMPLATE = Path(__file__).with_name("guideline.md")


_MOST = 2**20  # bytes: it is read for every page of a task


def read_guideline(path: Path | None) -> str:
    """The guideline's text as it is now; raises UserError where the file can't be read, or says nothing."""
    file = path or TEMPLATE
    try:
        text, problem = _text(file), ""
    except (OSError, UnicodeDecodeError) as error:
        text, problem = "", getattr(error, "strerror", None) or "is not UTF-8 text: save it as UTF-8"
    if not problem and "\0" in text:
        problem = "is not a text file"
    if not problem and not text.strip():  # also while an editor writes it anew
        problem = "is empty"
    if problem:
        raise UserError(f"labeling.guideline: {file}: {problem}")
    return text


def _text(file: Path) -> str:
    """A file's text without a byte order mark; OSError also for what could keep a page waiting."""
    about = file.stat()
    if stat.S_ISDIR(about.st_mode):
        raise OSError(0, "is a folder: name a file")
    if not stat.S_ISREG(about.st_mode):
        raise OSError(0, "is not a file")
    if about.st_size > _MOST:
        raise OSError(0, f"has over {_MOST // 2**20} MiB")
    return file.read_text(encoding="utf-8-sig")


class Told:
    """Tells in the terminal once what is wrong with the guideline's file, and once that it is good again."""

    def __init__(self) -> None:
        self._last: str | None = None

    def __call__(self, problem: str | None) -> None:
        """`problem`: None where there is none."""
        before, self._last = self._last, problem
        if problem is not None and problem != before:
            _LOG.warning("%s. People work on with the last version.", problem)
        elif problem is None and before is not None:
            _LOG.warning("labeling.guideline: the file is read again.")
