"""Tokenizers that behave as SentencePiece's do once they are a tokenizer.json, trained on a few lines."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "the film is warm and funny, and the plot isn't dull",
    "Yes, tell me a story about the sea. Yes! No.",
    "a dull plot with wooden acting  and   no heart at all",
    "[INST] the user asks [/INST] the assistant answers",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>", "<|user|>", "<|assistant|>"]


def _bpe(special: list[str]) -> dict[str, Any]:
    """Vocabulary and merges over words with a ▁ in front, as SentencePiece has them."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=190, show_progress=False)
    raw.train_from_iterator(CORPUS, trainer)
    found = json.loads(raw.to_str())["model"]
    learnt = sorted(found["vocab"], key=found["vocab"].__getitem__)
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*special, *BYTES, *learnt, "▁▁", "▁▁▁▁"]))}
    merges = [tuple(merge) for merge in found["merges"]] + [("▁", "▁"), ("▁▁", "▁▁")]
    return {"vocab": vocab, "merges": merges, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}


def _finished(
    raw: Tokenizer, special: list[str], chat: str | None, **changes: Any
) -> PreTrainedTokenizerFast:
    raw.add_special_tokens(special)
    raw.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", raw.token_to_id("<s>"))])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | changes
    made = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    made.chat_template = chat
    return made


def legacy(chat: str | None = None, **changes: Any) -> PreTrainedTokenizerFast:
    """Llama 2, TinyLlama, Phi-3, Mistral 7B v0.1: a normalizer puts ▁ in front of each piece of text."""
    raw = Tokenizer(models.BPE(**_bpe(SPECIAL)))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = _dropping()
    return _finished(raw, SPECIAL, chat, **changes)


def phi3(chat: str | None = None, **changes: Any) -> PreTrainedTokenizerFast:
    """Phi-3: its marks swallow the white space behind them, and each text after one gets a ▁."""
    raw = Tokenizer(models.BPE(**_bpe(SPECIAL)))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = _dropping()
    raw.add_special_tokens([AddedToken(mark, rstrip=True, special=True) for mark in SPECIAL[3:]])
    return _finished(raw, SPECIAL[:3], chat, **{"eos_token": "<|end|>", **changes})


def metaspace(chat: str | None = None, **changes: Any) -> PreTrainedTokenizerFast:
    """Llama 2 and Mistral as transformers 5 and newer files write them: Metaspace, in front of the first."""
    raw = Tokenizer(models.BPE(**_bpe(SPECIAL)))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    raw.decoder = _dropping()
    return _finished(raw, SPECIAL, chat, **changes)


def bare(chat: str | None = None, **changes: Any) -> PreTrainedTokenizerFast:
    """Gemma: spaces are ▁, and none is put in front."""
    raw = Tokenizer(models.BPE(**_bpe(SPECIAL)))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _finished(raw, SPECIAL, chat, **changes)


def unigram(chat: str | None = None, lossy: bool = False, **changes: Any) -> PreTrainedTokenizerFast:
    """A Unigram model with bytes; `lossy`: as T5's, which folds spaces and letters (NFKC)."""
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    learner.train_from_iterator(CORPUS, trainer)
    learnt = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["vocab"]]
    bytes_ = [(token, -15.0) for token in BYTES]
    raw = Tokenizer(models.Unigram([*learnt, *bytes_], unk_id=0, byte_fallback=True))
    if lossy:
        raw.normalizer = normalizers.Sequence(
            [normalizers.NFKC(), normalizers.Replace("\n", " "), normalizers.Strip()]
        )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    raw.decoder = _dropping()
    return _finished(raw, SPECIAL, chat, **changes)


def _dropping() -> decoders.Decoder:
    """Drops the space that is put in front when encoding."""
    return decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
