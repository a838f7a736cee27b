"""Token ids that probes read: text, as the model was trained on.

Special tokens and rare ones carry states that half precision rounds by half their size: a probe on them says
nothing about the two ways that it compares.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

TEXT = (
    "Every morning the baker opens the shop before the sun is up, lights two ovens and puts the first bread "
    "on the shelf. People come in from the street, ask for rolls and talk about the weather, the news and "
    "their children. By noon nothing is left but a little flour on the floor."
)
_APART = 7919  # between ids where there is no text


def keep_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let probes of this model read text; where its tokenizer makes too little of it, they do without."""
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    model.probe_ids = [i for i in ids if i < _rows(model)]


def probe_ids(model: nn.Module, count: int) -> Tensor:
    """So many token ids [count]: of a text, or else from all over the vocabulary."""
    found = getattr(model, "probe_ids", [])
    if len(found) < count:
        found = [i * _APART % _rows(model) for i in range(1, count + 1)]
    return torch.tensor(found[:count], device=next(p.device for p in model.parameters() if not p.is_meta))


def _rows(model: Any) -> int:
    return int(model.config.get_text_config().vocab_size)
