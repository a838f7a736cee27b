"""The base checkpoint: found, fingerprinted, loaded once."""

from __future__ import annotations

import hashlib
import importlib.util
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.data.template import Template, response_end
from align.errors import UserError
from align.models.folder import base_folder, positions_of
from align.models.probe_ids import keep_text
from align.models.slices import Cut, before_reading
from align.models.text_part import auto_class, name_decoder
from align.recipe.data import Data
from align.recipe.sections import Base as BaseSpec
from align.run.files import read_json
from align.run.hub import first_line

_SAMPLE = 2**16  # bytes read at each place of a weight file
_PLACES = 32
# What transformers raises where a checkpoint is broken.
_BROKEN = (OSError, ValueError, ImportError, LookupError, TypeError, AttributeError, SafetensorError)


@dataclass(frozen=True)
class BaseCheckpoint:
    """A base checkpoint on this machine, its weights not yet loaded."""

    spec: BaseSpec
    folder: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str

    def load_model(self, device: torch.device, cut: Cut | None = None) -> PreTrainedModel:
        """The causal language model, frozen, in eval mode (dropout off), on the device.

        Each tensor goes from its file to the device: no copy of the model lies in the machine's memory.
        cut: called with the model before its weights are read, of which this process then reads its part.

        Raises UserError where transformers cannot load it, or would initialise weights that it lacks.
        """
        dtype = _dtype(self.spec.dtype, device)
        quantized = {} if self.spec.quantize is None else _in_four_bits(dtype)
        try:
            model: PreTrainedModel
            with before_reading(cut) as parts:
                model, found = auto_class(self.config).from_pretrained(
                    self.folder,
                    config=self.config,
                    dtype=dtype,
                    device_map={"": device},
                    attn_implementation=self.spec.attention,
                    trust_remote_code=self.spec.trust_remote_code,
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                    **quantized,
                    **parts,
                )
        except _BROKEN as error:
            raise UserError(f"base {self.spec.name} cannot be loaded: {first_line(error)}") from error
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise UserError(
                f"base {self.spec.name} cannot be loaded: its config.json is that of another model"
            ) from error
        missing = sorted(found["missing_keys"])
        if missing:
            raise UserError(
                f"base {self.spec.name} is not complete: {len(missing)} of its model's weights, such as "
                f"{missing[0]}, are in none of its files. Copy or download it again"
            )
        model.requires_grad_(False)
        keep_text(model, self.tokenizer)
        return name_decoder(model).eval()

    def cache_bytes(self, device: torch.device) -> int | None:
        """Of keys and values that attention keeps of a token; None where the config does not say it."""
        config = self.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None)
        layers, width = getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)
        if not (heads and layers and width):
            return None
        head = getattr(config, "head_dim", None) or width // heads
        shared = getattr(config, "num_key_value_heads", None) or heads
        return int(2 * layers * shared * head * _dtype(self.spec.dtype, device).itemsize)

    @property
    def positions(self) -> int | None:
        """How many tokens it can read, as its config says it; None where it does not."""
        return positions_of(self.folder)

    @property
    def rows(self) -> int | None:
        """How many tokens its embedding table has rows for; None where its config does not say it."""
        return getattr(self.config.get_text_config(), "vocab_size", None)

    @property
    def pad_id(self) -> int:
        """A token with an embedding to fill batches with; masks, never ids, tell what is padding."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if isinstance(token_id, int) and (self.rows is None or token_id < self.rows):
                return token_id
        return 0

    @property
    def other_ends(self) -> list[int]:
        """Tokens that its configurations call an end of sequence, and that end no response here."""
        configs = (self.config, self.config.get_text_config())
        named = [getattr(config, "eos_token_id", None) for config in configs]
        path = self.folder / "generation_config.json"
        if path.is_file():
            named.append(read_json(path).get("eos_token_id"))
        ids = [i for one in named for i in (one if isinstance(one, list) else [one]) if isinstance(i, int)]
        return [i for i in dict.fromkeys(ids) if i != response_end(self.tokenizer)]

    def told_end(self) -> str:
        """Which token ends a response, and where the base's configurations say otherwise."""
        shown = [
            f"{self.tokenizer.convert_ids_to_tokens(i)!r} (token {i})"
            for i in (response_end(self.tokenizer), *self.other_ends)
        ]
        text = f"responses end with {shown[0]}, the tokenizer's EOS"
        if shown[1:]:
            text += f"; {' and '.join(shown[1:])}, which the base's configuration names, ends none"
        return text

    def template(self, data: Data) -> Template:
        """How a recipe's text becomes tokens for this base; raises UserError as Template does."""
        return Template.of_recipe(data, self.tokenizer, self.positions, self.rows)


def find_base(spec: BaseSpec) -> BaseCheckpoint:
    """Find the checkpoint in a folder, in the hub's cache or on the hub, and load its tokenizer.

    Raises UserError as `base_folder` does, and where its files are broken.
    """
    folder = base_folder(spec)
    given: dict[str, Any] = {"trust_remote_code": spec.trust_remote_code, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(folder, **given)
        tokenizer = AutoTokenizer.from_pretrained(folder, **given)
    except _BROKEN as error:
        raise UserError(
            f"base {spec.name}: its config or tokenizer files are missing or broken: {first_line(error)}"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of base {spec.name} has no EOS token, and responses must end with one"
        )
    text = config.get_text_config()
    pad_id = getattr(text, "pad_token_id", None)
    if isinstance(pad_id, int) and pad_id >= getattr(text, "vocab_size", math.inf):
        text.pad_token_id = None  # transformers could not build the model; nothing here pads by it
    if getattr(text, "rescale_every", 0):
        # RWKV would divide weights in eval mode alone, against float16's overflow, and adapters on them not.
        text.rescale_every = 0
    # An adapter is trained around the rounding of four bits: on whole weights it is another model.
    kind = f"+{spec.quantize}" if spec.quantize else ""
    return BaseCheckpoint(spec, folder, config, tokenizer, fingerprint(folder) + kind)


def fingerprint(folder: Path) -> str:
    """A hash that tells checkpoints apart: small files whole, weights by size and samples.

    Reading every byte of a large checkpoint would cost minutes at each start, so of each weight file
    the header, the end and evenly spaced places are read.
    """
    digest = hashlib.sha256()
    for pattern in ("config.json", "*.safetensors"):
        for path in sorted(folder.glob(pattern)):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                for place in range(_PLACES + 1):
                    file.seek(max(0, (size - _SAMPLE) * place // _PLACES))
                    digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:32]


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _in_four_bits(dtype: torch.dtype) -> dict[str, Any]:
    """What from_pretrained needs to quantize while it loads, as QLoRA does (2305.14314)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            "base.quantize: bitsandbytes is not installed: `pip install bitsandbytes`, or take quantize out"
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": config}
