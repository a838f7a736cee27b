"""A base's tokenizer alone, loaded without torch where the checkpoint's own files say which one it is.

transformers' AutoTokenizer imports torch, which takes longer than checking a small file. It is asked
wherever the answer is not known here; training always asks it, and tokens of another tokenizer would not
be found again, since `Template.hash` would be another.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.specifiers import SpecifierSet

from align.data.template import Template
from align.models.folder import base_folder, positions_of
from align.recipe.data import Data
from align.recipe.sections import Base as BaseSpec
from align.run.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from align.models.base import BaseCheckpoint

# Of transformers, whose AutoTokenizer takes these; in older ones every tokenizer imports torch all the same.
KNOWN_VERSIONS = SpecifierSet(">=5.18,<5.25")
_BACKEND = "tokenization_utils_tokenizers.TokenizersBackend"
_QWEN2 = "models.qwen2.tokenization_qwen2.Qwen2Tokenizer"
_GPT2 = "models.gpt2.tokenization_gpt2.GPT2Tokenizer"
# By config.json's model_type and tokenizer_config.json's tokenizer_class (without "Fast"): the class.
KNOWN = {
    ("gpt2", "GPT2Tokenizer"): _GPT2,
    ("gpt2", "PreTrainedTokenizer"): _BACKEND,
    ("gpt2", "TokenizersBackend"): _BACKEND,
    ("llama", "GPT2Tokenizer"): _GPT2,
    ("llama", "PreTrainedTokenizer"): _BACKEND,
    ("llama", "TokenizersBackend"): _BACKEND,
    ("qwen2", "PreTrainedTokenizer"): _QWEN2,
    ("qwen2", "Qwen2Tokenizer"): _QWEN2,
    ("qwen2", "TokenizersBackend"): _QWEN2,
    ("qwen3", "PreTrainedTokenizer"): _BACKEND,
    ("qwen3", "Qwen2Tokenizer"): _QWEN2,
    ("qwen3", "TokenizersBackend"): _BACKEND,
}
_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LINEAR = {"gpt2": ("c_attn", "c_proj", "c_fc"), "llama": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA}


@dataclass(frozen=True)
class BaseTokenizer:
    """What texts need of a base."""

    tokenizer: PreTrainedTokenizerBase
    positions: int | None  # as BaseCheckpoint has them
    rows: int | None
    checkpoint: BaseCheckpoint | None = None  # where the tokenizer was not known without it
    linear: tuple[str, ...] = ()  # the names of its linear layers, where they are known without it
    layers: int = 0  # how many it has, where that is known without it

    def template(self, data: Data) -> Template:
        """How a recipe's text becomes tokens for this base; raises UserError as Template does."""
        return Template.of_recipe(data, self.tokenizer, self.positions, self.rows)


def find_tokenizer(spec: BaseSpec) -> BaseTokenizer:
    """The tokenizer of a base, equal to the one that `find_base` loads; raises UserError as that does."""
    folder = base_folder(spec)
    found = _known_tokenizer(folder)
    if found is not None:
        return found
    from align.models.base import find_base

    base = find_base(spec)
    return BaseTokenizer(base.tokenizer, base.positions, base.rows, base)


def _known_tokenizer(folder: Path) -> BaseTokenizer | None:
    """The tokenizer where its class is known and its files are whole, else None."""
    import transformers

    try:
        config, own = (read_json(folder / name) for name in ("config.json", "tokenizer_config.json"))
        given = (config["model_type"], own["tokenizer_class"].removesuffix("Fast"))
        rows, linear = config["vocab_size"], LINEAR[config["model_type"]]
        layers = config.get("num_hidden_layers", config.get("n_layer"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    foreign = "auto_map" in config or "auto_map" in own
    whole = isinstance(rows, int) and isinstance(layers, int) and (folder / "tokenizer.json").is_file()
    if foreign or not whole or given not in KNOWN or transformers.__version__ not in KNOWN_VERSIONS:
        return None
    module, _, name = KNOWN[given].rpartition(".")
    kind: Any = getattr(importlib.import_module(f"transformers.{module}"), name)
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    except Exception:  # whatever it is, find_base meets it too, and says what is wrong
        return None
    if tokenizer.eos_token_id is None:
        return None
    return BaseTokenizer(tokenizer, positions_of(folder), rows, linear=linear, layers=layers)
