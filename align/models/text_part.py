"""The part of a base that reads text: all of a plain language model, one branch of a composite one.

Checkpoints that also see or hear keep their text model's layers, width and limits in a configuration of
its own, beside a tower for images. `align` trains on text alone: the tower gets no adapter and never runs.
"""

from __future__ import annotations

from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)


def auto_class(config: PreTrainedConfig) -> type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
    """The class that loads a checkpoint: a causal language model, or what one is a part of.

    A text part alone would do, too, but Llama 3.2 Vision's could not be loaded again once it is exported.
    """
    known = all(type(c) in MODEL_FOR_CAUSAL_LM_MAPPING for c in (config, config.get_text_config()))
    return (
        AutoModelForImageTextToText
        if not known and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        else AutoModelForCausalLM
    )


def is_composite(model: PreTrainedModel) -> bool:
    """Whether the text model is one branch of the model."""
    return model.config.get_text_config() is not model.config


def text_decoder(model: PreTrainedModel) -> nn.Module:
    """The layers that read text, without the output layer."""
    found: nn.Module = model.get_decoder() if is_composite(model) else model.base_model
    return found


def output_width(model: PreTrainedModel) -> int:
    """The width of the last hidden state, which the output layer and every scalar head read.

    Some bases end narrower than their layers are (OPT-350m's word_embed_proj_dim).
    """
    head = model.get_output_embeddings()
    width = getattr(head, "in_features", None)
    return int(width or model.config.get_text_config().hidden_size)


def name_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """Let `base_model` be the decoder where the model's class has no part by the name that it gives it.

    Llama 4's text model calls its decoder `model`, and says that it is called `language_model`; transformers,
    TRL and `text_decoder` would then take the whole model for its decoder.
    """
    if model.base_model is model and not is_composite(model):
        parts = [name for name, module in model.named_children() if isinstance(module, PreTrainedModel)]
        if len(parts) == 1:
            model.base_model_prefix = parts[0]
    return model
