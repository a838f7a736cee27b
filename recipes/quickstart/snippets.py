"""Turn rated movie-review snippets into demonstrations, rankings and prompts.

The snippets and their ratings come from Hutto & Gilbert (ICWSM 2014): 10,605 sentences of film reviews,
each rated by 15 to 29 people from -4 (extremely negative) to 4 (extremely positive). People rated the
snippets one by one, never against each other: a ranking here puts together four snippets that begin
with the same words and orders them by their mean rating. That grouping is ours.

Every draw is a hash of the snippet's number, so the same input always gives the same records. A snippet
serves once: what is held out shares no snippet and no opening with anything that trains.
"""

from __future__ import annotations

import ast
import hashlib
import html
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

Record = dict[str, object]

DEMONSTRATED = range(5, 17)  # words of a demonstrated snippet: nine in ten responses fit in 20 tokens
RANKED = range(4, 19)  # words of a ranked snippet
OPENING = range(2, 5)  # words of an opening that is cut off one snippet
K = 4  # responses of a ranking
TIE = 0.2  # means no further apart than this are a tie: about one standard error of such a mean
DEMONSTRATIONS = 960
HELD_OUT_RANKINGS = 90
TRAIN_PROMPTS = 1024
HELD_OUT_PROMPTS = 192


@dataclass(frozen=True)
class Snippet:
    """One sentence of a review and what people thought of it."""

    number: int  # the dataset's ID
    text: str  # cleaned
    rating: float  # the mean of people's ratings, -4 to 4
    raters: int

    @property
    def words(self) -> list[str]:
        return self.text.split(" ")


@dataclass(frozen=True)
class QuickstartData:
    """The records of the quick start, file by file."""

    demonstrations: list[Record]
    rankings_train: list[Record]
    rankings_held_out: list[Record]
    prompts_train: list[Record]
    prompts_held_out: list[Record]

    def files(self) -> dict[str, list[Record]]:
        return {
            "demonstrations.jsonl": self.demonstrations,
            "rankings.train.jsonl": self.rankings_train,
            "rankings.held_out.jsonl": self.rankings_held_out,
            "prompts.train.jsonl": self.prompts_train,
            "prompts.held_out.jsonl": self.prompts_held_out,
        }


# ---------------------------------------------------------------------------------------- reading


def clean(text: str) -> str:
    """Undo what the dataset's tokenisation did to a sentence.

    Dashes were replaced by runs of spaces, quotes doubled, brackets put around words that a critic's
    quote added, and cuts marked by a leading ellipsis.
    """
    text = html.unescape(text.strip())
    text = text.replace("''", '"').replace("`", "'").replace("\u2019", "'").replace("\u2018", "'")
    text = re.sub(r"\s*[\u2013\u2014]\s*|\s{3,}", " - ", text)
    text = re.sub(r"\s{2,}", " ", text)
    text = re.sub(r"\s*\.{2,}\s*", "... ", text).strip()  # one way to write an ellipsis
    text = re.sub(r"^(?:\.{3}\s*)+", "", text)
    text = re.sub(r"\s+([,.;:!?)])", r"\1", text)
    text = re.sub(r"\(\s+", "(", text)
    if text and text[-1].isalnum():
        text += "."
    return text[:1].upper() + text[1:]


def parse(texts: str, ratings: str) -> list[Snippet]:
    """Read the dataset's two tables: ID, mean, text and ID, mean, deviation, list of ratings.

    The mean is computed from the ratings. Of sentences with the same letters only the first is kept.
    """
    by_number = {}
    for line in ratings.splitlines():
        number, _mean, _deviation, listed = line.split("\t")
        by_number[int(number)] = ast.literal_eval(listed)
    snippets: dict[str, Snippet] = {}
    for line in texts.splitlines():
        number, _mean, raw = line.split("\t")
        text = clean(raw)
        given = by_number[int(number)]
        key = re.sub(r"[^a-z0-9]", "", text.casefold())
        snippets.setdefault(key, Snippet(int(number), text, fmean(given), len(given)))
    return list(snippets.values())


# --------------------------------------------------------------------------------------- choosing


def draw(purpose: str, number: int) -> int:
    """A number from 0 to 2^64 - 1 that depends on its arguments only."""
    return int.from_bytes(hashlib.sha256(f"quickstart/{purpose}/{number}".encode()).digest()[:8], "big")


def shuffled(purpose: str, snippets: Iterable[Snippet]) -> list[Snippet]:
    return sorted(snippets, key=lambda snippet: draw(purpose, snippet.number))


def first_words(snippet: Snippet, count: int) -> str | None:
    """The opening of `count` words, or None where it would hold more than plain words and a last comma."""
    words = snippet.words[:count]
    bare = [*words[:-1], words[-1].rstrip(",")]
    plain = all(re.fullmatch(r"[^\W\d_]+(?:'[^\W\d_]+)?", word) for word in bare)
    return " ".join(words) if plain and len(snippet.words) >= count + 3 else None


def own_opening(snippet: Snippet) -> str | None:
    """An opening of two to four words; which, the snippet's number decides."""
    return first_words(snippet, OPENING[draw("opening", snippet.number) % len(OPENING)])


def key(opening: str) -> str:
    """What two openings are compared by: case and a last comma don't make them different."""
    return opening.rstrip(",").casefold()


def rank(ratings: Sequence[float], tie: float = TIE) -> list[int]:
    """Ranks from ratings: 1 for the highest, then 2, ...; sorted neighbours within `tie` share a rank.

    So any two responses with different ranks are further apart than `tie`.
    """
    order = sorted(range(len(ratings)), key=lambda i: -ratings[i])
    ranks = [1] * len(ratings)
    for above, below in zip(order, order[1:], strict=False):
        gap = ratings[above] - ratings[below]
        ranks[below] = ranks[above] + (gap > tie + 1e-9)  # 1e-9: means are sums of floats
    return ranks


def group(snippets: Sequence[Snippet]) -> list[tuple[str, list[Snippet]]]:
    """Sets of K snippets behind the longest opening that enough of them share, three words first."""
    left = {snippet.number: snippet for snippet in snippets}
    groups: list[tuple[str, list[Snippet]]] = []
    for count in (3, 2, 1):
        sharing: dict[str, list[Snippet]] = defaultdict(list)
        for snippet in shuffled(f"group/{count}", left.values()):
            opening = first_words(snippet, count)
            if opening is not None and not opening.endswith(","):
                sharing[opening].append(snippet)
        for opening in sorted(sharing):
            members = sharing[opening]
            for start in range(0, len(members) - K + 1, K):
                chosen = members[start : start + K]
                groups.append((opening, chosen))
                for snippet in chosen:
                    del left[snippet.number]
    return groups


def ranking(opening: str, members: Sequence[Snippet]) -> Record:
    numbers = ",".join(str(snippet.number) for snippet in members)
    return {
        "prompt": opening,
        "responses": [snippet.text[len(opening) :] for snippet in members],
        "ranks": rank([snippet.rating for snippet in members]),
        "source": f"hutto-gilbert-2014 snippets {numbers}, rated one by one; grouped by the quick start",
    }


def comparisons(record: Record) -> int:
    """How many pairs of a ranking have a better and a worse response."""
    ranks = record["ranks"]
    assert isinstance(ranks, list)
    return sum(a != b for a, b in combinations(ranks, 2))


def hold_out(groups: Sequence[tuple[str, list[Snippet]]], wanted: int) -> set[str]:
    """Openings whose rankings are held out: whole openings, until there are `wanted` rankings.

    Openings with over 10 rankings stay in training: one of them would fill the held-out part alone.
    """
    sizes: dict[str, int] = defaultdict(int)
    for opening, _members in groups:
        sizes[key(opening)] += 1
    chosen: set[str] = set()
    held = 0
    for opening in sorted(sizes, key=lambda o: hashlib.sha256(f"quickstart/hold-out/{o}".encode()).digest()):
        if sizes[opening] <= 10 and held + sizes[opening] <= wanted:
            chosen.add(opening)
            held += sizes[opening]
    return chosen


def demonstrations(snippets: Sequence[Snippet], wanted: int) -> dict[int, Record]:
    """Snippets split after their opening, half of them rated below zero and half above.

    SFT shall teach how such sentences go on, not to be pleased.
    """
    sides = [[s for s in shuffled("demonstration", snippets) if s.rating * sign > 0] for sign in (-1, 1)]
    half = min(wanted // 2, *map(len, sides))
    taken: dict[int, Record] = {}
    for snippet in [*sides[0][:half], *sides[1][:half]]:
        opening = own_opening(snippet)
        assert opening is not None
        taken[snippet.number] = {"prompt": opening, "response": snippet.text[len(opening) :]}
    return taken


def split(snippets: Sequence[Snippet], is_neutral: Callable[[str], bool]) -> QuickstartData:
    """Everything the quick start trains and evaluates on.

    `is_neutral` says whether an opening is without sentiment, so that a prompt does not give it away.
    Short snippets become demonstrations and rankings; the longer ones only lend their openings as prompts.
    """
    short = [snippet for snippet in snippets if len(snippet.words) in RANKED]
    long = [snippet for snippet in snippets if len(snippet.words) > RANKED[-1]]

    openings: dict[str, str] = {}
    for snippet in shuffled("prompt", long):
        opening = own_opening(snippet)
        if opening is not None and is_neutral(opening):
            openings.setdefault(key(opening), opening)
    held_prompts = dict(list(openings.items())[:HELD_OUT_PROMPTS])

    def free(snippet: Snippet) -> bool:
        opening = own_opening(snippet)
        return opening is not None and key(opening) not in held_prompts

    candidates = [s for s in short if len(s.words) in DEMONSTRATED and free(s)]
    shown = demonstrations(candidates, DEMONSTRATIONS)
    demonstrated = {key(str(record["prompt"])) for record in shown.values()}
    groups = [
        (opening, members)
        for opening, members in group([snippet for snippet in short if snippet.number not in shown])
        if key(opening) not in held_prompts and len({m.rating for m in members}) > 1
    ]
    held = hold_out([g for g in groups if key(g[0]) not in demonstrated], HELD_OUT_RANKINGS)
    train_prompts = [opening for k, opening in openings.items() if k not in held_prompts and k not in held]
    return QuickstartData(
        demonstrations=[shown[number] for number in sorted(shown, key=lambda n: draw("file", n))],
        rankings_train=[ranking(o, m) for o, m in groups if key(o) not in held],
        rankings_held_out=[ranking(o, m) for o, m in groups if key(o) in held],
        prompts_train=[{"prompt": opening} for opening in train_prompts[:TRAIN_PROMPTS]],
        prompts_held_out=[{"prompt": opening} for opening in held_prompts.values()],
    )
