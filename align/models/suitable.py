"""Whether a base can go through the stages, found out from its configuration, before its weights are loaded.

The model is built without weights, and only what follows its decoder is run, on made-up hidden states. How
it reads rows is seen on a small model of the same architecture. This takes neither memory nor the time to
load a checkpoint, so `align check` can afford it. Stages prove the same on the weights before they write.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from align.errors import UserError
from align.models.base import BaseCheckpoint
from align.models.forward import check_padding
from align.models.logits import check_trainer, last_step
from align.models.lora import check_adapters
from align.models.text_part import auto_class, name_decoder, output_width, text_decoder
from align.recipe.sections import Lora
from align.run.hub import first_line

# What building a model, or a part of one, raises where its configuration is not one of a language model.
_UNFIT = (ValueError, ImportError, TypeError, AttributeError, LookupError, RuntimeError)
_FACTORS = (64, 32, 16, 8, 4, 2, 1)  # by which widths are divided, the first that builds and runs
_WIDTHS = (
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_attention_heads",
    "num_heads",
    "n_embd",
    "n_head",
    "n_inner",
    "d_model",
    "n_heads",
    "d_inner",
    "ffn_dim",
)
_PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers")
_TOKENS, _LARGEST, _DRAWS = (
    64,
    3 * 10**7,
    2,
)  # of a small model: its vocabulary, weights, and how many are tried
_LOUD = 100.0  # the size of made-up hidden states: logits of some tens, on which a cap shows
_ROWS = 16  # tokens of the made-up output layer: more than a probe's


def check_base(base: BaseCheckpoint, lora: Lora) -> None:
    """Raise UserError where a stage would refuse the base, or the adapters that the recipe describes."""
    model = skeleton(base)
    check_reading(model)
    check_logits(model)
    check_adapters(skeleton(base), lora)


def skeleton(base: BaseCheckpoint) -> PreTrainedModel:
    """The model without weights (on the meta device).

    Raises UserError where it is no language model whose decoder can be read apart from its output layer.
    """
    return built(f"base {base.spec.name}", base.config, base.spec.trust_remote_code)


def built(name: str, config: PreTrainedConfig, trusted: bool = False, **more: Any) -> PreTrainedModel:
    """The same of a configuration.

    name: what messages call it. more: what transformers' from_config takes.
    """
    config = copy.deepcopy(config)
    if config.is_encoder_decoder:
        raise UserError(
            f"{name} is an encoder-decoder ({config.model_type}): it writes an answer with another part than "
            "it reads the prompt with, and roles read both with one. Choose a base that goes on with its "
            "prompt (a causal language model)"
        )
    try:
        with torch.device("meta"):
            model: PreTrainedModel = auto_class(config).from_config(config, trust_remote_code=trusted, **more)
    except _UNFIT as error:
        raise UserError(
            f"{name}: transformers cannot build a language model of its config.json: {first_line(error)}. "
            "Choose a base that generates text"
        ) from error
    name_decoder(model)
    if text_decoder(model) is model:
        raise UserError(
            f"{name}: {type(model).__name__} has no decoder apart from its output layer, and roles read "
            "hidden states. Choose a base that has, such as Llama, Qwen, Mistral or Gemma"
        )
    return model.eval()


def check_reading(model: PreTrainedModel) -> None:
    """Raise UserError where a small decoder of this architecture reads rows as `check_padding` refuses.

    Whether padding or later words change a row lies in the architecture, not in its sizes. A configuration
    that cannot be made small is left to the stages.
    """
    broken: list[str] = []  # what decoders of other sizes failed with
    for factor in _FACTORS:
        try:
            found = _refusal(_small(model, factor, 0))
        except Exception:  # whatever it is, this size does not suit, and the next one may
            continue
        if found is not None and found.__cause__ is not None:  # it did not run, perhaps for its sizes alone
            broken.append(str(found))
            if factor == 1 and len(set(broken)) == 1:
                raise _of(model, broken[0])
            continue
        # One refusal may be rounding: an expert more or less.
        if found is not None and _refusal(_small(model, factor, 1)):
            raise _of(model, str(found))
        return


def _refusal(decoder: PreTrainedModel) -> UserError | None:
    try:
        check_padding(decoder)
    except UserError as error:
        return error
    return None


def _of(model: PreTrainedModel, refusal: str) -> UserError:
    """A decoder's refusal, by the name of its model, which is that of the checkpoint."""
    _, _, rest = refusal.removeprefix("base: ").partition(" ")
    return UserError(f"base: {type(model).__name__} {rest}")


def _small(model: PreTrainedModel, factor: int, seed: int) -> PreTrainedModel:
    """The decoder with few layers, few tokens and widths divided by the factor, and random weights."""
    config: PreTrainedConfig = copy.deepcopy(model.config.get_text_config())
    kinds = getattr(config, "layer_types", None) or ()
    layers = max([2, *(kinds.index(kind) + 1 for kind in set(kinds))])
    pad = None if getattr(config, "pad_token_id", None) is None else 0
    sizes: dict[str, Any] = {"num_hidden_layers": layers, "vocab_size": _TOKENS, "pad_token_id": pad}
    sizes |= {name: value[:layers] for name, value in vars(config).items() if name in _PER_LAYER and value}
    for name in _WIDTHS:
        value = getattr(config, name, None)
        if isinstance(value, int) and value % factor == 0 and value // factor:
            sizes[name] = value // factor
    if isinstance(shared := getattr(config, "num_key_value_heads", None), int):
        sizes["num_key_value_heads"] = max(1, shared // factor)
    for name, value in sizes.items():
        if hasattr(config, name):
            setattr(config, name, value)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModel.from_config(config).parameters())
    if size > _LARGEST:
        raise ValueError("still too large")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float32)
    if not all(p.isfinite().all() for p in made.parameters()):
        raise ValueError("weights that are not finite")
    return made.eval()


def check_logits(model: PreTrainedModel) -> None:
    """Raise UserError where the model's last step is not known, or TRL would take another.

    model: without weights; what follows its decoder gets some, and is run on made-up hidden states. A part
    that cannot be run so is left to the stages.
    """
    try:
        decoder = _made_up(model)
        last_step(model, decoder)
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model)
        check_trainer(model, model)
    except _UNFIT:
        return


def _made_up(model: PreTrainedModel) -> nn.Module:
    """Give weights to all but the decoder, which from now on gives any ids [2, 5] the same hidden states."""
    decoder, head = text_decoder(model), model.get_output_embeddings()
    drawn = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, output_width(model), generator=drawn) * _LOUD
    for part in (decoder, model.get_decoder()):  # OPT calls the inner one of two
        part.forward = lambda *given, **named: _Output(last_hidden_state=hidden)
    if isinstance(head, nn.Linear):
        model.set_output_embeddings(nn.Linear(head.in_features, _ROWS, bias=head.bias is not None))
    model.probe_ids = list(range(1, _ROWS))  # what the made-up embedding has rows for
    model.set_input_embeddings(nn.Embedding(_ROWS, model.get_input_embeddings().weight.shape[1]))
    for name, module in model.named_modules():
        if name.split(".")[0] != model.base_model_prefix:
            for key, parameter in module.named_parameters(recurse=False):
                if parameter.is_meta:
                    drawn_ones = torch.empty(parameter.shape).normal_(std=0.1, generator=drawn)
                    setattr(module, key, nn.Parameter(drawn_ones))
    return decoder


@dataclass
class _Output(BaseModelOutputWithPast):
    """What decoders give: the last hidden state, and nothing of whatever else a model may ask for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None
