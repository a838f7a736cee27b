"""What `labels.py` learns from: rankings that people made, each response as a vector of a base's states.

A response's vector has, of two layers (a third and half of the way up), the state at its last token and the
mean over its tokens. The base does not train, so this is done once; the vectors are kept in a folder.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from align.data.load import load
from align.data.template import Template
from align.messages import Messages
from align.models.base import find_base
from align.recipe.data import Entry, Source
from align.recipe.sections import Base
from align.records import Ranking, prompt_key
from align.stats.rankings import comparisons

PROMPT_TOKENS, RESPONSE_TOKENS = 48, 64  # the last of a prompt, the first of a response
MOST = 1000  # rankings of a data set
DTYPE: Literal["bfloat16", "float32"] = "bfloat16"  # twice as fast on a CPU that has products in it
FILES = {
    "hh-rlhf": [("hh-rlhf/harmless-base-test-first-1800.jsonl.gz", None)],
    "oasst1": [("oasst1/validation-en.jsonl.gz", "oasst-messages"), ("oasst1/en-100-trees.jsonl.gz", None)],
    "finegrained-rlhf": [("finegrained-rlhf/dev_feedback.json.gz", "finegrained-rlhf")],
    "pandalm": [("pandalm/testset-v1.json.gz", None)],
}


@dataclass(frozen=True)
class Task:
    """A prompt's responses, by their rows in the features, and people's order of them."""

    rows: tuple[int, ...]
    ranks: tuple[float, ...]  # the mean over those who ranked it; lower is better
    group: str  # how its conversation begins: a conversation is on one side

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Rows of (chosen, rejected)."""
        return [(self.rows[i], self.rows[j]) for i, j in comparisons(self.ranks)]


@dataclass(frozen=True)
class Dataset:
    """Rankings of one data set."""

    features: NDArray[np.float32]  # [responses, D]
    tokens: NDArray[np.int64]  # [responses]: how long each one is, uncut
    tasks: list[Task]


def dataset(name: str, data: Path, base: Path, kept: Path) -> Dataset:
    """The rankings of FILES[name] in the folder `data`, with features by the base.

    What was computed is kept in `kept`.
    """
    rankings = first_tasks(_rankings(name, data, kept), MOST)
    texts = _by_prompt(rankings)
    row_of = {
        (key, text): row
        for row, (key, text) in enumerate((key, text) for key, (_, found) in texts.items() for text in found)
    }
    tasks = merged(
        (
            (tuple(row_of[prompt_key(one.prompt), text] for text in one.responses), one.ranks),
            _opening(one.prompt),
        )
        for one in rankings
    )
    path = kept / f"{name}-{_code(base, texts.values())}.npz"
    if not path.exists():
        features, tokens = _compute(list(texts.values()), base, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".aside.npz")
        np.savez(aside, features=features, tokens=tokens)
        aside.replace(path)  # complete or absent
    with np.load(path, allow_pickle=False) as found:
        return Dataset(found["features"].astype(np.float32), found["tokens"], tasks)


def merged(judged: Iterable[tuple[tuple[tuple[int, ...], Sequence[int | None]], str]]) -> list[Task]:
    """A task for each set of responses, with mean ranks where several people ranked it.

    Those without a pair go.
    """
    orders: dict[tuple[int, ...], list[dict[int, int]]] = defaultdict(list)
    groups: dict[tuple[int, ...], str] = {}
    for (rows, ranks), group in judged:
        ranked = {row: rank for row, rank in zip(rows, ranks, strict=True) if rank is not None}
        key = tuple(sorted(ranked))
        orders[key].append(ranked)
        groups[key] = group
    tasks = [
        Task(rows, tuple(sum(one[row] for one in found) / len(found) for row in rows), groups[rows])
        for rows, found in orders.items()
    ]
    return [task for task in tasks if task.pairs]


def _rankings(name: str, data: Path, kept: Path) -> list[Ranking]:
    entries = [Entry(path=str(data / file), format=form) for file, form in FILES[name]]
    source = Source(train=entries, held_out=0.0, on_bad_record="skip")
    return list(load(Ranking, source, "rankings", kept / "records").train)


def planted() -> Dataset:
    """A control: worths that are linear in the features, and judged without an error.

    A rule can help here. Four of five tasks differ along ten of the features alone.
    """
    draw, k, width = np.random.default_rng(0), 4, 60
    features = draw.normal(size=(480, k, width))
    features[np.arange(480) % 5 > 0, :, 10:] *= 0.1
    worths = features @ draw.normal(size=width)
    ranks = (-worths).argsort(1).argsort(1) + 1.0
    tasks = [Task(tuple(range(i * k, i * k + k)), tuple(ranks[i]), str(i)) for i in range(480)]
    return Dataset(features.reshape(-1, width).astype(np.float32), np.ones(480 * k, int), tasks)


def first_tasks(rankings: Iterable[Ranking], most: int) -> list[Ranking]:
    """All rankings of the first `most` different sets of responses."""
    seen: set[tuple[str, frozenset[str]]] = set()
    found = []
    for one in rankings:
        key = (prompt_key(one.prompt), frozenset(one.responses))
        if key in seen or len(seen) < most:
            seen.add(key)
            found.append(one)
    return found


def _by_prompt(rankings: Iterable[Ranking]) -> dict[str, tuple[str | Messages, list[str]]]:
    """Each prompt, by its key, and the different responses to it, in their order."""
    found: dict[str, tuple[str | Messages, list[str]]] = {}
    for one in rankings:
        _, texts = found.setdefault(prompt_key(one.prompt), (one.prompt, []))
        texts += [text for text in dict.fromkeys(one.responses) if text not in texts]
    return found


def _opening(prompt: str | Messages) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[0]["content"])


def _code(base: Path, texts: Iterable[object]) -> str:
    """Changes with the base, with what is read of it, and with the texts."""
    fingerprint = find_base(Base(name=str(base), dtype=DTYPE)).fingerprint
    made_of = [MOST, PROMPT_TOKENS, RESPONSE_TOKENS, str(DTYPE), fingerprint, *map(str, texts)]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:8]


@torch.no_grad()
def _compute(
    texts: Sequence[tuple[str | Messages, list[str]]], base: Path, name: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features [responses, 4 D] and lengths [responses]; a prompt goes through the model once."""
    torch.set_num_threads(1)
    found = find_base(Base(name=str(base), dtype=DTYPE))
    template = Template(found.tokenizer, "chat")
    model = found.load_model(torch.device("cpu")).model
    read = [len(model.layers) // 3, len(model.layers) // 2]
    model.layers, model.norm = model.layers[: read[-1]], torch.nn.Identity()
    features, lengths, start = [], [], time.monotonic()
    for number, (prompt, responses) in enumerate(texts):
        ids = [template.response_ids(text) for text in responses]
        lengths += [len(one) for one in ids]
        cut = [torch.tensor(one[:RESPONSE_TOKENS]) for one in ids]
        head = torch.tensor([template.prompt_ids(prompt)[-PROMPT_TOKENS:]])
        features.append(_states(model, head, cut, read).half().numpy())
        if number % 50 == 0:
            print(f"{name}: {number} of {len(texts)}, {time.monotonic() - start:.0f} s", flush=True)
    return np.concatenate(features), np.array(lengths)


def _states(model: Any, prompt: torch.Tensor, responses: list[torch.Tensor], read: list[int]) -> torch.Tensor:
    """[K, 2 layers × (last, mean) × D]."""
    count = len(responses)
    cache = model(input_ids=prompt, use_cache=True).past_key_values
    cache.batch_repeat_interleave(count)
    ids = torch.nn.utils.rnn.pad_sequence(responses, batch_first=True)
    there = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in responses], batch_first=True)
    mask = torch.cat([torch.ones(count, prompt.shape[1], dtype=torch.long), there], 1)
    done = model(input_ids=ids, attention_mask=mask, past_key_values=cache, output_hidden_states=True)
    parts = []
    for layer in read:
        states = done.hidden_states[layer].float()
        ends = there.sum(1) - 1
        parts.append(states[torch.arange(count), ends])
        parts.append((states * there[..., None]).sum(1) / there.sum(1, keepdim=True))
    return torch.cat(parts, 1)
