"""The labeling guideline: a Markdown file that people edit while the app runs."""

from __future__ import annotations

from pathlib import Path

from align.errors import UserError

TEMPLATE = Path(__file__).with_name("guideline.md")


def read_guideline(path: Path | None) -> str:
    """The guideline's text as it is now; raises UserError where the file can't be read."""
    file = path or TEMPLATE
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise UserError(f"labeling.guideline: {file}: {reason}") from error
    if "\0" in text:
        raise UserError(f"labeling.guideline: {file}: is not a text file")
    return text
