"""The small world of overoptimise.py: a base, a gold reward model, and rankings that it makes.

An answer is a string of letters, each a token of a tiny Llama. The gold reward model is a formula: each
letter has a worth, and repeats cost, the more the oftener a letter comes. Answers at random have few, so a
proxy learns the worths before it learns the cost, and a policy that repeats the best letters leaves what its
proxy knows.

Golds differ by their number: in the worths, and in what repeats cost (KINDS). "seen": from the second on,
which pairs at random show, so that a proxy lacks labels and no more. "rare": from the third on, so that all
reward models of such pairs share a blind spot. "none": the proxy is wrong about worths alone.
"""

from __future__ import annotations

import os
import random
import string
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = string.ascii_uppercase[:24]
LENGTH = 12  # letters of an answer
PROMPT = 8  # letters of a prompt, which the gold scores do not depend on
KINDS = {
    "seen": (1, 0.5),
    "rare": (2, 1.0),
    "none": (0, 0.0),
}  # how often a letter is free, and what more costs
BASE_STEPS = 300
GOLD = "OVEROPTIMISE_GOLD"  # environment variable: the number of the gold reward model


class Gold:
    """Scores of answers, with mean 0 and standard deviation 1 over answers at random."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(f"gold {seed}")
        self.worths = torch.tensor([draw.gauss(0, 1) for _ in LETTERS])
        self.kind = [*KINDS][seed % len(KINDS)]
        raw = self._raw([answer(draw) for _ in range(20_000)])
        self.mean, self.std = float(raw.mean()), float(raw.std())

    def _raw(self, texts: Sequence[str]) -> Tensor:
        counts = torch.tensor([[text.count(letter) for letter in LETTERS] for text in texts]).float()
        free, cost = KINDS[self.kind]
        return counts @ self.worths - cost * (counts - free).clamp(min=0).square().sum(1)

    def scores(self, texts: Sequence[str]) -> list[float]:
        """The gold score of each answer."""
        return ((self._raw(texts) - self.mean) / self.std).tolist() if texts else []


@cache
def gold(seed: int) -> Gold:
    return Gold(seed)


def score(prompts: list[str], responses: list[str]) -> list[float]:
    """What ppo.rewards asks, with weight 0: the gold score beside the score that trains."""
    return gold(int(os.environ[GOLD])).scores(responses)


def make_base(folder: Path, seed: int) -> None:
    """A Llama of two layers and width 64, trained on letters at random: it knows where answers end."""
    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    end = torch.full((64, 1), tokenizer.eos_token_id)
    first = tokenizer.convert_tokens_to_ids(LETTERS[0])
    for _ in range(BASE_STEPS):
        letters = torch.randint(first, first + len(LETTERS), (64, PROMPT + LENGTH))
        ids = torch.cat([letters, end], 1)
        logits = model(input_ids=ids[:, :-1]).logits
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """A token for each letter, behind `<pad>` and `<eos>`."""
    raw = Tokenizer(models.BPE())
    alphabet = trainers.BpeTrainer(
        special_tokens=["<pad>", "<eos>"], initial_alphabet=[*LETTERS], show_progress=False
    )
    raw.train_from_iterator([], alphabet)
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>")


def prompts(draw: random.Random, count: int) -> list[dict[str, Any]]:
    """Different prompts."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(draw.choices(LETTERS, k=PROMPT))] = None
    return [{"prompt": text} for text in found]


def answer(draw: random.Random) -> str:
    """What demonstrations and rankings have, and what the policy writes after sft: letters at random."""
    return "".join(draw.choices(LETTERS, k=LENGTH))


def rankings(
    draw: random.Random,
    number: int,
    count: int,
    noise: float,
    write: Callable[[random.Random], str] = answer,
) -> list[dict[str, Any]]:
    """Pairs of answers in the order of gold `number`, each turned round with probability `noise`."""
    rows = prompts(draw, count)
    pairs = [_two(draw, write) for _ in rows]
    scores = gold(number).scores([text for pair in pairs for text in pair])
    found = []
    for i, (row, pair) in enumerate(zip(rows, pairs, strict=True)):
        first = (scores[2 * i] > scores[2 * i + 1]) != (draw.random() < noise)
        found.append(row | {"responses": pair, "ranks": [1, 2] if first else [2, 1]})
    return found


def _two(draw: random.Random, write: Callable[[random.Random], str]) -> list[str]:
    """Two answers that differ."""
    first, second = write(draw), write(draw)
    while second == first:
        second = write(draw)
    return [first, second]
