"""Texts that hold a list or an object: JSON, what Python prints, and what looks like either and is none."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from align.data.formats.base import listed
from align.data.json_text import json_value
from align.literals import python_value
from align.values import RecordError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text(), parts),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[]", []),
        (' [1, "a"]', [1, "a"]),
        ("[{'role': 'user', 'content': \"It's\"}]", [{"role": "user", "content": "It's"}]),
        ("{'a': None, 'b': (True, 2.5)}", {"a": None, "b": [True, 2.5]}),
        ('["a", NaN]', ["a", None]),
        ("Open?", "Open?"),
        ("", ""),
        (None, None),
        (3, 3),
    ],
)
def test_a_list_that_stands_as_text_is_read(text: Any, value: Any) -> None:
    assert listed(text, "column") == value


@pytest.mark.parametrize(
    "text",
    [
        "[Your Name]\nDear Sir",
        "['a' 'b']",  # numpy's; for Python this is one text
        "['a'\n 'b']",
        "[1 2]",
        "{1, 2}",
        "{1: 2}",
        "[b'a']",
        "[array(['a'])]",
        '{"a": 1, "a": 2}',
        "[Infinity]",
        "[1, nan]",
        "[" * 100_000,
        "['\0']",
        '["a"] and more',
    ],
)
def test_what_begins_like_a_list_and_is_none_is_refused_by_its_column(text: str) -> None:
    with pytest.raises(RecordError) as caught:
        listed(text, "column")
    assert caught.value.field == "column"


@given(st.lists(JSON) | st.dictionaries(st.text(), JSON))
def test_what_python_prints_is_what_it_held(value: Any) -> None:
    assert listed(repr(value), "column") == value


@example("['a'#]")
@given(st.text("[]{}'\",:(1a\\\n #"))
def test_whatever_a_text_is_it_is_a_value_or_one_message(text: str) -> None:
    for read in (json_value, lambda text: listed(text, "column")):
        try:
            read(text)
        except RecordError as error:
            assert error.message


def test_numpy_s_list_of_objects_is_read_without_its_commas() -> None:
    assert python_value("[{'a': 'x} {y'}\n {'a': 2}]") == [{"a": "x} {y"}, {"a": 2}]
