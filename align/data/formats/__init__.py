"""Formats: how rows of any source become prompts, demonstrations and rankings. Plain Python, no torch."""

from align.data.formats.base import UNUSED, Format, LeftOut, Placed, Record, Row, Unranked
from align.data.formats.columns import from_columns
from align.data.formats.convert import as_kind
from align.data.formats.registry import FORMATS, built_in, chosen, detect, find, given

__all__ = [
    "FORMATS",
    "UNUSED",
    "Format",
    "LeftOut",
    "Placed",
    "Record",
    "Row",
    "Unranked",
    "as_kind",
    "built_in",
    "chosen",
    "detect",
    "find",
    "from_columns",
    "given",
]
