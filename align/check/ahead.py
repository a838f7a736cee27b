"""Before the first of several stages trains: the later ones' records, so that none is refused after hours."""

from __future__ import annotations

import os
from collections.abc import Sequence

from align.data.load import load
from align.recipe.data import LABELS, Source
from align.recipe.sections import Recipe
from align.records import RECORDS
from align.stage_table import STAGES, Stage


def look_ahead(recipe: Recipe, stages: Sequence[Stage]) -> None:
    """Read what the stages after the first read; raises UserError as `load` does.

    What was read is kept in `data.cache`, and the stage finds it there. Labeling databases are left to their
    stage, as people label on meanwhile, and so are kinds that the recipe does not name. The main
    process alone does this.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    for stage in stages[1:]:
        for name, record in RECORDS.items():
            source: Source | None = getattr(recipe.data, name)
            if name in STAGES[stage].records and source is not None and not _of_people(source):
                load(record, source, name, recipe.data.cache_folder)


def _of_people(source: Source) -> bool:
    held_out = source.held_out if isinstance(source.held_out, list) else []
    return any(entry.format == LABELS for entry in [*source.train, *held_out])
