"""Prompt and response together are their text, to the byte, whatever a tokenizer puts in front of a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chat_templates
import pytest
from sentencepiece_like import bare, legacy, metaspace, phi3, unigram
from test_tokenize import tokenizer
from tokenizers.normalizers import NFC
from transformers import PreTrainedTokenizerFast

from align.data.template import Template
from align.data.words import word_encoder

Make = Callable[..., PreTrainedTokenizerFast]
PROMPTS = ["Q: is it?\nA:", " leads", "  two", "the film", "the fil ", "a\n\n", "\nx", "🙂", "é"]
RESPONSES = [
    " yes, it is",
    "Yes",
    "  two",
    "\nnew\n line",
    " 你好",
    "🙂 ok",
    "é",
    " a  b ",
    "\t tab",
    "(a",
    " ",
]
KINDS = [legacy, metaspace, bare, unigram, tokenizer]


def lossy(**changes: Any) -> PreTrainedTokenizerFast:
    return unigram(lossy=True, **changes)


@pytest.mark.parametrize("make", KINDS)
def test_plain_is_the_text_of_both_to_the_byte(make: Make) -> None:
    tok = make()
    template = Template(tok, "plain")
    for prompt in PROMPTS:
        start = template.prompt_ids(prompt)
        for response in RESPONSES:
            ids = template.response_ids(response)
            assert ids[-1] == tok.eos_token_id
            whole = tok.decode([*start, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)
            assert whole == prompt + response


@pytest.mark.parametrize("make", KINDS)
def test_what_is_sampled_keeps_its_first_space(make: Make) -> None:
    template = Template(make(), "plain")
    for response in RESPONSES:
        ids = template.response_ids(response)
        assert template.text(ids) == template.text(ids[:-1]) == response
        assert template.loses("the film", response) is None
    assert all(template.loses(prompt) is None for prompt in PROMPTS)


def test_half_a_character_spoils_nothing_before_it() -> None:
    template = Template(legacy(), "plain")
    ids = template.response_ids(" a 🙂")[:-1]
    assert [template.text(ids[:-n]) for n in (1, 2)] == [" a " + "\ufffd" * 3, " a " + "\ufffd" * 2]


def test_words_are_not_looked_up_where_a_text_begins_with_a_space_of_its_own() -> None:
    assert all(word_encoder(make()) is None for make in (legacy, metaspace, bare, unigram, lossy))
    assert word_encoder(tokenizer()) is not None


def test_what_a_tokenizer_drops_is_found() -> None:
    template = Template(lossy(), "plain")
    assert template.loses("the film", " warm") is None
    assert template.loses("the film", "one\ntwo ") == "one two"
    assert template.loses("one\ntwo") == "one two"
    composed = tokenizer()
    composed.backend_tokenizer.normalizer = NFC()
    assert Template(composed, "plain").loses("the film", " caf\u00e9") is None
    assert Template(composed, "plain").loses("the film", " cafe\u0301") == " caf\u00e9"


CHATS = [
    chat_templates.QWEN25,
    chat_templates.LLAMA2,
    chat_templates.MISTRAL,
    chat_templates.GEMMA,
    chat_templates.ZEPHYR,
    chat_templates.PHI3,
]


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("make", KINDS)
def test_a_chat_is_trained_as_the_template_and_the_tokenizer_write_it(make: Make, chat: str) -> None:
    """The tokens are the first ones of what transformers makes of the whole conversation."""
    tok = make(chat=chat)
    template = Template(tok, "chat")
    user = {"role": "user", "content": "is it open?"}
    for response in ("Yes, it is", "two  words\nand 你好", "🙂 ok", "(a", "é"):
        answered = [user, {"role": "assistant", "content": response}]
        whole = tok.apply_chat_template(answered, tokenize=True, return_dict=False)
        ids = template.prompt_ids("is it open?") + template.response_ids(response)
        assert whole[: len(ids) - 1] == ids[:-1]
        assert not template.straddles(response)
        assert template.text(template.response_ids(response)) == response


def test_phi_3_trains_what_its_marks_leave() -> None:
    """`<|assistant|>` swallows the line break behind it, and the answer's own; the latter is told."""
    tok = phi3(chat=chat_templates.PHI3)
    template = Template(tok, "chat")
    for response in ("Yes, it", "\nYes", " Yes", "🙂"):
        answered = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": response}]
        whole = tok.apply_chat_template(answered, return_dict=False)
        ids = template.prompt_ids("Hi") + template.response_ids(response)
        assert whole[: len(ids)] == ids
        assert template.text(template.response_ids(response)) == response.lstrip()
        assert template.loses("Hi", response) == (None if response[0] in "Y🙂" else "Yes")


def test_llama_2_trains_the_spaces_that_its_template_writes_around_an_answer() -> None:
    tok = metaspace(chat=chat_templates.LLAMA2)
    template = Template(tok, "chat")
    tokens = tok.convert_ids_to_tokens(template.response_ids("Yes"))
    assert "".join(tokens) == "▁Yes▁</s>"
    assert template.text(template.response_ids("Yes")) == "Yes"
    assert template.text(template.response_ids("Yes")[:-1]) == "Yes "  # it was cut off, so it may go on


def test_a_token_that_begins_before_the_response_is_found() -> None:
    """Two line breaks are one token: what stands behind the generation prompt's own cannot be it."""
    tok = tokenizer(chat=chat_templates.ZEPHYR, corpus=["a\n\n\nb"] * 5, vocab_size=264)
    assert "ĊĊ" in tok.get_vocab()
    template = Template(tok, "chat")
    answered = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "\n\nb"}]
    ids = template.prompt_ids("Hi") + template.response_ids("\n\nb")[:-1]
    whole = tok.apply_chat_template(answered, return_dict=False)
    assert whole[: len(ids)] != ids
    assert tok.decode(whole).startswith(tok.decode(ids))
    assert template.straddles("\n\nb")
    assert not template.straddles("b")
    assert not Template(tok, "plain").straddles("\n\nb")


def test_tokens_that_change_are_another_template() -> None:
    """The hash of a byte-level base stays as it was; a run on another goes on only with the same tokens."""
    tok = tokenizer(chat=chat_templates.ZEPHYR)
    assert Template(tok, "plain")._joining.identity is None
    assert Template(tok, "chat")._joining.identity is None
    assert Template(legacy(), "plain")._joining.identity is not None
    spaced = tokenizer(chat=chat_templates.MISTRAL)
    assert Template(spaced, "chat")._joining.identity is not None
