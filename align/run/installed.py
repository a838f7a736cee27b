"""Where the installed libraries are too old for what a recipe asks, told without importing them."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

from align.errors import UserError
from align.recipe import EngineName

PAGED_FROM = Version("5.19")  # of transformers: before it, pages have another name, and attention is switched


def check_engine(name: EngineName) -> None:
    """Raises UserError where the engine asks for a newer transformers than there is."""
    found = version("transformers")
    if name == "paged" and Version(found) < PAGED_FROM:
        raise UserError(
            f"engine paged needs transformers {PAGED_FROM} or newer, and {found} is installed: take engine "
            f"hf, which draws the same tokens, or `pip install 'transformers>={PAGED_FROM},<6'`"
        )
