"""How rated snippets become records: cleaning, ties, and that nothing held out leaks into training."""

from __future__ import annotations

import random

import pytest

import snippets
from align.records import Demonstration, Prompt, Ranking
from snippets import QuickstartData, Snippet


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("It's a movie    and an album    you won't miss.", "It's a movie - and an album - you won't miss."),
        ("...a roller coaster ride of a movie", "A roller coaster ride of a movie."),
        ("''Extreme Ops'' exceeds expectations.", '"Extreme Ops" exceeds expectations.'),
        ("Griffin &amp; Co. manage to be  outrageous.", "Griffin & Co. manage to be outrageous."),
        ("Much of it is funny , but ... it drags .", "Much of it is funny, but... it drags."),
        ("We’ve seen ( literally ) `worse'", "We've seen (literally) 'worse'"),
        ("No cute factor here.... Not that I mind", "No cute factor here... Not that I mind."),
    ],
)  # fmt: skip
def test_clean(raw: str, expected: str) -> None:
    assert snippets.clean(raw) == expected


def test_parse_takes_the_mean_of_the_ratings_and_drops_doubles() -> None:
    texts = "1\t9\tA fine film.\r\n2\t9\ta fine film\r\n3\t9\tA dull one.\r\n"
    ratings = "1\t9\t0\t[1, 2]\n2\t9\t0\t[4, 4]\n3\t9\t0\t[-1, -2, 0]\n"
    assert snippets.parse(texts, ratings) == [
        Snippet(1, "A fine film.", 1.5, 2),
        Snippet(3, "A dull one.", -1.0, 3),
    ]


@pytest.mark.parametrize(
    ("ratings", "ranks"),
    [
        ([-1.0, 2.0, 0.5, 3.0], [4, 2, 3, 1]),
        ([0.6, 0.8, -2.0, 0.0], [1, 1, 3, 2]),  # 0.2 apart is a tie, though 0.8 - 0.6 > 0.2 in floats
        ([0.0, 0.21, 1.0, 1.0], [3, 2, 1, 1]),
        ([0.0, 0.15, 0.3, 0.45], [1, 1, 1, 1]),  # neighbours tie, so no pair is split by less than 0.2
    ],
)
def test_rank(ratings: list[float], ranks: list[int]) -> None:
    assert snippets.rank(ratings) == ranks


def test_different_ranks_mean_different_ratings() -> None:
    draw = random.Random(0)
    for _ in range(200):
        ratings = [draw.uniform(-1, 1) for _ in range(4)]
        ranks = snippets.rank(ratings)
        for i in range(4):
            for j in range(4):
                if ranks[i] < ranks[j]:
                    assert ratings[i] - ratings[j] > snippets.TIE


STARTS = [
    "The film",
    "A film",
    "This is",
    "It is a",
    "What we",
    "There are",
    "Some call it",
    "We all",
    "They never",
]


@pytest.fixture(scope="module")
def rated() -> list[Snippet]:
    """3,000 made-up sentences of 6 to 30 words with many openings in common."""
    draw = random.Random(1)
    words = [
        f"{a}{b}"
        for a in ("ba", "ke", "lo", "mi", "nu", "ro", "sa")
        for b in ("dra", "fel", "gon", "pim", "tur")
    ]
    texts = [
        f"{draw.choice(STARTS)} {' '.join(draw.choices(words, k=draw.randint(4, 27)))} {number}."
        for number in range(3000)
    ]
    return [Snippet(i, text, draw.uniform(-3, 3), 20) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def data(rated: list[Snippet]) -> QuickstartData:
    return snippets.split(rated, lambda opening: "mi" not in opening)


def texts(record: dict[str, object]) -> list[str]:
    responses = record.get("responses", [record.get("response", "")])
    assert isinstance(responses, list)
    return [f"{record['prompt']}{response}" for response in responses]


def test_no_held_out_opening_or_snippet_trains(data: QuickstartData) -> None:
    training = [*data.demonstrations, *data.rankings_train, *data.prompts_train]
    openings = {snippets.key(str(record["prompt"])) for record in training}
    shown = {text for record in training for text in texts(record)}
    for record in [*data.rankings_held_out, *data.prompts_held_out]:
        assert snippets.key(str(record["prompt"])) not in openings
        assert not shown & set(texts(record))


def test_every_snippet_serves_once_and_is_kept_verbatim(rated: list[Snippet], data: QuickstartData) -> None:
    used = [
        t
        for part in (data.demonstrations, data.rankings_train, data.rankings_held_out)
        for r in part
        for t in texts(r)
    ]
    assert len(used) == len(set(used))
    assert set(used) <= {snippet.text for snippet in rated}


def test_rankings_follow_the_ratings(rated: list[Snippet], data: QuickstartData) -> None:
    rating = {snippet.text: snippet.rating for snippet in rated}
    assert data.rankings_train and data.rankings_held_out
    for record in [*data.rankings_train, *data.rankings_held_out]:
        whole = texts(record)
        assert len(whole) == snippets.K
        assert record["ranks"] == snippets.rank([rating[text] for text in whole])


def test_demonstrations_are_as_often_below_zero_as_above(rated: list[Snippet], data: QuickstartData) -> None:
    rating = {snippet.text: snippet.rating for snippet in rated}
    below = sum(rating[texts(record)[0]] < 0 for record in data.demonstrations)
    assert data.demonstrations
    assert below == len(data.demonstrations) / 2


def test_prompts_are_neutral(data: QuickstartData) -> None:
    assert len(data.prompts_held_out) == snippets.HELD_OUT_PROMPTS
    assert data.prompts_train
    assert all("mi" not in str(r["prompt"]) for r in [*data.prompts_train, *data.prompts_held_out])


def test_the_records_are_what_align_reads(data: QuickstartData) -> None:
    kinds = {"demonstrations": Demonstration, "rankings": Ranking, "prompts": Prompt}
    for name, records in data.files().items():
        for record in records:
            kinds[name.split(".")[0]].from_dict(record)
            assert all(
                text.startswith(f"{record['prompt']} ") for text in texts(record) if text != record["prompt"]
            )


def test_the_order_of_the_input_does_not_matter(rated: list[Snippet], data: QuickstartData) -> None:
    assert snippets.split(rated[::-1], lambda opening: "mi" not in opening) == data
