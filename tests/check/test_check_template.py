"""What is asked of a tokenizer and its chat template before they meet any text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align.check.template import control_tokens, look
from align.data.template import Template

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<sys>You are helpful, and brief.</sys>{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'system' %}<sys>{{ m['content'] }}</sys>{% else %}"
    "<{{ m['role'] }}>{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


def looked(tokenizer: Any, chat_template: str | None = None) -> Any:
    tokenizer.chat_template = chat_template or tokenizer.chat_template
    return look(tokenizer, Template(tokenizer, "chat"), "chat")


def test_a_default_system_prompt_is_found_and_counted(tokenizer: Any) -> None:
    facts = looked(tokenizer, CHATML)
    assert facts.system_prompt == "You are helpful, and brief."
    # The tokens that a prompt loses when an empty template takes the default away, but for the closing tag.
    header = tokenizer("<sys>You are helpful, and brief.", add_special_tokens=False)["input_ids"]
    assert facts.system_tokens == len(header)
    assert (facts.turn_ends_with_eos, facts.answer_follows) == (True, True)


def test_a_template_without_one_has_none(tokenizer: Any) -> None:
    facts = looked(tokenizer)
    assert (facts.system_prompt, facts.system_tokens, facts.pad_is_eos) == (None, 0, False)
    # The fixture's template ends a turn with a line break, not with an EOS: nothing to be told apart.
    assert (facts.turn_end, facts.turn_ends_with_eos, facts.answer_follows) == (None, None, True)


def test_a_template_that_refuses_a_system_message_is_no_problem(tokenizer: Any) -> None:
    loop = CHATML[CHATML.index("{% for") :]
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + loop
    assert looked(tokenizer, refuses).system_prompt is None


def test_a_turn_that_ends_otherwise_than_with_eos_is_seen(tokenizer: Any) -> None:
    facts = looked(tokenizer, CHATML.replace("<eos>", "<pad>"))
    assert (facts.turn_end, facts.turn_ends_with_eos) == ("<pad>", False)


def test_an_answer_that_the_template_writes_otherwise_is_seen(tokenizer: Any) -> None:
    thinks = CHATML.replace("<assistant>{% endif %}", "<assistant><think></think>{% endif %}")
    assert looked(tokenizer, thinks).answer_follows is False


def test_control_tokens_are_found_in_text(tokenizer: Any) -> None:
    assert control_tokens(tokenizer)("a<eos>b < eos> <pad>") == ["<eos>", "<pad>"]
    assert control_tokens(tokenizer)("a b") == []


def test_plain_asks_nothing_of_a_chat_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    tokenizer.pad_token = tokenizer.eos_token
    facts = look(tokenizer, Template(tokenizer, "plain"), "plain")
    assert (facts.pad_is_eos, facts.system_prompt, facts.turn_end, facts.answer_follows) == (
        True,
        None,
        None,
        None,
    )
