"""`--without` of the training commands: a short form of `--set data.KIND.without=[…]`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from align.errors import UserError
from align.recipe.data import RECORD, term_of
from align.stage_table import STAGES, Stage

if TYPE_CHECKING:
    from align.recipe.sections import Recipe


def overrides_without(recipe: Recipe, stages: Sequence[Stage], terms: Sequence[str]) -> list[str]:
    """What `--set` says for the terms, which come beside those of the recipe; raises UserError.

    labeler and source name rankings. An ID may be FILE:LINE; its kind is one that the stages read.
    """
    kinds = list(dict.fromkeys(kind for stage in stages for kind in STAGES[stage].records))
    named: dict[str, list[str]] = {}
    for term in terms:
        try:
            what, name = term_of(term)
        except ValueError as error:
            raise UserError(f"--{error}".replace("without:", "without", 1)) from None
        if what == RECORD:
            for kind, record in _records(recipe, kinds, name):
                named.setdefault(kind, []).append(record)
        elif "rankings" not in kinds or recipe.data.rankings is None:
            raise UserError(
                f"--without {term}: only rankings say their labeler and source, and align "
                f"{'run' if len(stages) > 1 else stages[0]} reads {' and '.join(kinds)}: name records of "
                "these by record:FILE:LINE"
            )
        else:
            named.setdefault("rankings", []).append(term)
    found = []
    for kind, mine in named.items():
        whole = list(dict.fromkeys([*getattr(recipe.data, kind).without, *mine]))
        found.append(f"data.{kind}.without={json.dumps(whole, ensure_ascii=False)}")
    return found


def _records(recipe: Recipe, kinds: Sequence[str], name: str) -> list[tuple[str, str]]:
    """The kinds whose data have the record, and its term."""
    from align.data.load import read_table
    from align.data.without import record_at
    from align.records import RECORDS

    found = []
    for kind, record in RECORDS.items():
        source = getattr(recipe.data, kind) if kind in kinds else None
        if source is not None:
            digest = record_at(read_table(record, source, kind, recipe.data.cache_folder), name)
            found += [(str(kind), f"{RECORD}:{digest[:16]}")] if digest else []
    if not found:
        raise UserError(
            f"--without {RECORD}:{name}: no such record in data.{', data.'.join(kinds)}: name it as "
            "FILE:LINE, as messages do, or by the start of its SHA-256"
        )
    return found
