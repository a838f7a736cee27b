"""What says how far labelers can be trusted: rankings of what others ranked too, and known orders.

From files these are the rankings that train. A labeling database gives more: what people said of tasks whose
rankings do not train because people disagree, or because a reviewer decided, and answers to gold tasks beside
the order that is known, which stands in a row without a labeler. What is held out is no evidence, so that
nothing of it reaches training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from align.data.split import side
from align.data.table import Records
from align.recipe.sections import LABELS, Entry, Source
from align.records import Ranking, prompt_key
from align.stats.reliability import Answer
from align.text import key


def evidence(
    source: Source,
    train: Records[Ranking],
    held_out: Records[Ranking],
    read: Callable[[Entry], bytes],
) -> Iterator[Answer]:
    """All answers by which the labelers of `source` are judged; read: see align.data.labels.read_evidence.

    A ranking that trains and is evidence too comes twice, which `votes` counts once.
    """
    once, _ = train.distinct()
    yield from (answer(ranking) for ranking in once if ranking.labeler is not None)
    apart = set(held_out.prompts.tolist())
    share = source.held_out if isinstance(source.held_out, float) else 0.0
    for entry in source.train:
        if entry.format != LABELS:
            continue
        for line in read(entry).splitlines():
            ranking = Ranking.from_dict(json.loads(line))
            where = prompt_key(ranking.prompt)
            if int(where[:16], 16) not in apart and side(where, share) == "train":
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
