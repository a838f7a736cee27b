"""What says how far labelers can be trusted: rankings of what others ranked too, and known orders.

From files these are the rankings that train. A labeling database gives more: what people said of tasks whose
rankings do not train because people disagree, or because a reviewer decided, and answers to gold tasks beside
the order that is known, which stands in a row without a labeler. What is held out is no evidence, so that
nothing of it reaches training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterator

from align.data.split import side
from align.data.table import Records
from align.data.without import names_it
from align.recipe.data import LABELS, Entry, Source
from align.records import Ranking, prompt_key
from align.stats.reliability import Answer
from align.text import key

Read = Callable[[Entry], bytes]  # what align.data.labels.read_evidence does


def evidence(
    source: Source, train: Records[Ranking], held_out: Records[Ranking], read: Read
) -> Iterator[Answer]:
    """All answers by which the labelers of `source` are judged; raises as `read` does.

    A ranking that trains and is in a database's evidence comes twice, which `votes` counts once.
    """
    once, _ = train.distinct()
    yield from (answer(ranking) for ranking in once if ranking.labeler is not None)
    yield from of_databases(source, set(held_out.prompts.tolist()), read)


def of_databases(source: Source, held_out: Container[int], read: Read) -> Iterator[Answer]:
    """The part that labeling databases give; held_out: the first 64 bits of each held-out prompt's hash."""
    share = source.held_out if isinstance(source.held_out, float) else 0.0
    for entry in source.train:
        for line in read(entry).splitlines() if entry.format == LABELS else ():
            ranking = Ranking.from_dict(json.loads(line))
            if names_it(ranking, source.without):
                continue
            where = prompt_key(ranking.prompt)
            if int(where[:16], 16) not in held_out and side(where, share) == "train":
                yield answer(ranking)


def answer(ranking: Ranking) -> Answer:
    """A ranking as votes are made of it; one without a labeler is a known order."""
    order = ranking.shown_order
    return Answer(
        int(prompt_key(ranking.prompt)[:16], 16),
        tuple(key(text.strip()) for text in ranking.responses),
        ranking.ranks,
        ranking.labeler,
        None if order is None else tuple(order.index(i) for i in range(len(order))),
        tuple(map(len, ranking.responses)),
    )
