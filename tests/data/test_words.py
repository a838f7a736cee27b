"""Encoding word by word gives the tokenizer's own ids, for every text, or is not done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from align.data import words
from align.data.words import WordEncoder, word_encoder

TEXT = [
    "the film is warm, and the plot isn't: it's 1999 again. What a (dull) end!\n\n- one\n- two  three"
] * 3
PIECES = [
    "a",
    "The",
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    "é",
    "“",
    "’s",
    "'s",
    "1",
    "234",
    "<eos>",
    "<",
    ".",
    "(",
    "/",
]
PIECES += [
    "\u00a0",
    "\u3000",
    "中文",
    "\u0301",
    "e\u0301",
    "🙂",
    "\u200b",
    "word",
    "<|a|>",
    "<|a|><|a|>",
    "\x85",
]
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join)


def trained(pre: pre_tokenizers.PreTokenizer, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    raw = Tokenizer(models.BPE())
    if normalizer is not None:
        raw.normalizer = normalizer
    raw.pre_tokenizer = pre
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<pad>", "<eos>", "<|a|>", "<|a|><|a|>"]
    raw.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return raw


def fast(raw: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")


def split_then_bytes(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def byte_level(**given: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **given})


KNOWN: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: trained(byte_level()),
    "smollm": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level()])),
    **{
        f"split {i}": lambda pattern=pattern: trained(split_then_bytes(pattern), normalizers.NFC())
        for i, pattern in enumerate(sorted(words._PATTERNS))
    },
}
ENCODERS = {name: fast(make()) for name, make in KNOWN.items()}


@pytest.mark.parametrize("name", KNOWN)
@given(several=st.lists(texts, min_size=1, max_size=6))
def test_the_ids_are_the_tokenizers_own(name: str, several: list[str]) -> None:
    tokenizer = ENCODERS[name]
    encoder = word_encoder(tokenizer)
    assert encoder is not None
    whole = tokenizer(several, add_special_tokens=False)["input_ids"]
    assert encoder.encode(several) == whole
    assert encoder.encode(several) == whole  # now all words are known


def test_what_is_known_stays_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MOST", 20)
    tokenizer = ENCODERS["gpt2"]
    encoder = word_encoder(tokenizer)
    assert isinstance(encoder, WordEncoder)
    several = [" ".join(f"{a}{b}" for b in "klmnopqrst") for a in "abcdefgh"] + ["x" * 100 + " y"]
    for text in several:
        assert encoder.encode([text]) == tokenizer([text], add_special_tokens=False)["input_ids"]
        assert len(encoder._known) < 20 + 20
    assert all(len(word) <= words._LONGEST for word in encoder._known)


def with_added(token: AddedToken) -> Tokenizer:
    raw = trained(byte_level())
    raw.add_tokens([token])
    return raw


@pytest.mark.parametrize(
    "make",
    [
        lambda: trained(byte_level(add_prefix_space=True)),
        lambda: trained(byte_level(use_regex=False)),
        lambda: trained(split_then_bytes(r"\s+\p{L}+|.")),
        lambda: trained(byte_level(), normalizers.Lowercase()),
        lambda: with_added(AddedToken("tail", lstrip=True, normalized=False)),
        lambda: Tokenizer(models.WordLevel({"<eos>": 0, "<pad>": 1}, unk_token="<pad>")),
    ],
)
def test_a_tokenizer_that_may_not_cut_at_every_space_is_left_alone(make: Callable[[], Tokenizer]) -> None:
    assert word_encoder(fast(make())) is None


def test_a_template_encodes_word_by_word(tiny_base: Path) -> None:
    from transformers import AutoTokenizer

    from align.data.template import Template

    template = Template(AutoTokenizer.from_pretrained(tiny_base), "chat")
    assert template._words is not None
