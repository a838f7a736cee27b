"""When two texts count as the same, nearly the same, or as different."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from align.check.texts import (
    NEAR,
    Alike,
    Repeats,
    alike,
    bare_words,
    ends_with_no_cell,
    foreign_markup,
    is_list_as_text,
    is_no_cell,
    jaccard,
    normal,
    normal_prompt,
    repeats,
    says_nothing,
    word_triples,
)
from align.text import key


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Hello, World!", "hello world", True),
        ("Straße", "STRASSE", True),
        ("a\u00a0b\tc\n", "abc", True),
        ("no.", "No!", True),
        ("👍", "👎", False),  # symbols may be all there is
        ("...", "!!!", False),
        ("हिन्दी", "हन्द", False),  # vowel signs are letters
        ("1 + 1", "1 = 1", False),
    ],
)
def test_normal_form(one: str, other: str, same: bool) -> None:
    assert (normal(one) == normal(other)) is same


def test_a_text_is_one_user_message() -> None:
    assert normal_prompt("Hi there") == normal_prompt(({"role": "user", "content": "hi, there"},))
    assert normal_prompt("Hi") != normal_prompt(
        ({"role": "system", "content": "Hi"}, {"role": "user", "content": "Hi"})
    )


def test_only_punctuation_says_nothing() -> None:
    assert says_nothing(" ?! …\n")
    assert not says_nothing("42")
    assert not says_nothing("👍")


def test_cells_of_tables_and_marks_of_templates_are_seen() -> None:
    assert is_no_cell(" NaN ") and not is_no_cell("Nan is a bread.")
    for text in ("nan", "Sum it up.\n\n<noinput>", "Sum it up.\n\n None\n"):
        assert ends_with_no_cell(text)
    assert not any(map(ends_with_no_cell, ("Is it N/A", "What is\nnan", "nan\n\nWhat is it?")))
    assert is_list_as_text('["Is it open?", "And now?"]')
    assert not any(map(is_list_as_text, ("[1, 2]", '["a"] is a list', '["a', "Open?")))
    assert foreign_markup("<s>[INST] Open? [/INST]") == {"<s>", "[INST]", "[/INST]"}
    assert foreign_markup("### Instruction:\nOpen?\n\n### Response:\n") == {
        "### Instruction:",
        "### Response:",
    }
    assert foreign_markup("It was <s>open</s> closed. ## Response: no") == set()


def test_identical_and_near_identical_responses() -> None:
    assert alike(["Yes.", " Yes.\n", "yes", "No."]) == Alike([(0, 1)], [(0, 2), (1, 2)])


def test_near_is_nine_tenths_of_the_word_triples() -> None:
    words = [f"w{i}" for i in range(62)]  # 60 triples
    changed_end = [*words[:-1], "x"]  # 59 common of 61: 0.967
    changed_inside = [*words[:30], "x", *words[31:]]  # 57 common of 63: 0.905
    changed_twice = [*words[:20], "x", *words[21:40], "y", *words[41:]]  # 54 of 66: 0.82
    texts = [" ".join(part) for part in (words, changed_end, changed_inside, changed_twice)]
    assert (0, 1) in alike(texts).near
    assert (0, 2) in alike(texts).near
    assert (0, 3) not in alike(texts).near


@given(
    words=st.lists(st.sampled_from("abcdefgh"), max_size=50),
    changes=st.lists(st.tuples(st.integers(0, 49), st.sampled_from(["", "x", "y z", "a"])), max_size=5),
)
def test_every_pair_that_shares_nine_tenths_of_its_triples_is_found(
    words: list[str], changes: list[tuple[int, str]]
) -> None:
    other = list(words)
    for at, word in changes:
        if at < len(other):
            other[at] = word
    one, two = " ".join(words), " ".join(filter(None, other))
    lengths = sorted((len(normal(one)), len(normal(two))))
    a, b = bare_words(one), bare_words(two)
    is_near = normal(one) == normal(two) or (
        lengths[1] <= 1.4 * lengths[0] and jaccard(word_triples(a), word_triples(b)) >= NEAR
    )
    assert bool(alike([one, two]).near) == (is_near and one.strip() != two.strip())


def test_few_words_are_near_only_in_another_guise() -> None:
    assert alike(["two words", "two birds"]) == Alike([], [])
    assert alike(["two words", "Two Words!"]) == Alike([], [(0, 1)])


def test_keys_are_the_same_in_every_process() -> None:
    assert key("abc") == 0xD8BB14D833D59559  # b2sum -l 64
    assert key("abc") != key("abd")


def test_repeats_tell_prompts_from_whole_records() -> None:
    records = [(1, 100, "x"), (1, 100, "x"), (1, 100, "y"), (2, 100, "x"), (3, 300, "x")]
    assert repeats(records) == Repeats(prompts=3, again=2, near=1, whole=1)
    assert repeats([]) == Repeats(0, 0, 0, 0)
