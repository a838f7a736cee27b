"""An adapter folded into a copy of the base: checkpoints that transformers loads without `align`.

The copy is loaded for this and computed in float32; the base that roles share is never merged into.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from align.data.template import response_end
from align.errors import UserError
from align.models.base import BaseCheckpoint
from align.models.ensemble import member_folders
from align.models.heads import LENGTH_BIAS
from align.models.roles import Roles
from align.run.checkpoint import read_tensors
from align.run.manifest import HEAD

NEW_PAD = "<|pad|>"  # the padding token that is added where a tokenizer has none to spare


def in_float32(base: BaseCheckpoint) -> BaseCheckpoint:
    """The same checkpoint, whose weights will be loaded whole, in float32."""
    return replace(base, spec=base.spec.model_copy(update={"dtype": "float32", "quantize": None}))


def merged_policy(base: BaseCheckpoint, adapter: Path) -> PreTrainedModel:
    """The base with the adapter of a folder folded in: a causal language model in float32, on the CPU."""
    roles = Roles(in_float32(base).load_model(torch.device("cpu")))
    roles.add("policy", adapter, trains=False)
    assert roles.peft is not None
    merged: PreTrainedModel = roles.peft.merge_and_unload()
    return merged.eval()


def merged_reward(base: BaseCheckpoint, final: Path, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The reward model of a folder as a sequence classifier with one label, in float32, on the CPU.

    It reads its score at the last token that is not `tokenizer.pad_token_id`. Raises UserError where
    transformers has no sequence classifier of this architecture, or one of another make.
    """
    weight = _bias_free(final)
    check_classifier(base)
    causal = merged_policy(base, final)
    config = copy.deepcopy(causal.config)
    config.num_labels = 1
    config.id2label, config.label2id = {0: "score"}, {"score": 0}
    config.problem_type = "regression"  # so that a pipeline gives the score itself, not its sigmoid
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    name, trunk, head = model.base_model_prefix, causal.base_model, getattr(model, "score", None)
    plain = isinstance(head, nn.Linear) and head.bias is None and head.in_features == weight.shape[0]
    if not plain or type(getattr(model, name, None)) is not type(trunk):
        raise UserError(
            f"{type(model).__name__} is not a {type(trunk).__name__} with a linear `score` without bias: "
            "this reward model has no plain sequence classifier; use `align score`"
        )
    setattr(model, name, trunk)
    model.score = nn.Linear(weight.shape[0], 1, bias=False)
    with torch.no_grad():
        model.score.weight.copy_(weight[None])
    if left := [key for key, tensor in model.named_parameters() if tensor.is_meta]:
        raise UserError(
            f"{type(model).__name__} has weights that no causal language model has ({left[0]}): "
            "this reward model has no plain sequence classifier; use `align score`"
        )
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model.eval()


def set_end(model: PreTrainedModel, base: BaseCheckpoint) -> None:
    """Let the configurations of a policy name the token that ends its responses, and no other.

    A base's own often name another one (`<|endoftext|>` beside a chat tokenizer's `<|im_end|>`), at which
    plain `generate` would stop in its place.
    """
    generation = model.generation_config
    assert generation is not None
    for config in (model.config, model.config.get_text_config(), generation):
        config.eos_token_id = response_end(base.tokenizer)
    if generation.pad_token_id is None:
        generation.pad_token_id = base.pad_id


def check_classifier(base: BaseCheckpoint) -> None:
    """Raise UserError unless transformers has a sequence classifier of the base's architecture."""
    if type(base.config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"transformers has no sequence classifier for {base.config.model_type} models, so this reward "
            "model cannot be exported; `align score` scores with it"
        )


def set_padding(tokenizer: PreTrainedTokenizerBase) -> str:
    """Give the tokenizer a padding token that cannot be the last of a sequence, on the right; returns it.

    transformers reads a sequence's score at the last token that is not padding, so padding with EOS
    would read it one token early. The tokenizer's own is kept where it is another than EOS. Else it is
    a special token that has no other use: one named like padding, then reserved ones, then the last;
    where there is none, a new token.
    """
    tokenizer.padding_side = "right"
    eos = response_end(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == eos:
        template = str(tokenizer.chat_template or "")
        taken = {eos, tokenizer.bos_token_id}
        spare = [
            token.content
            for number, token in sorted(tokenizer.added_tokens_decoder.items())
            if token.special and number not in taken and token.content not in template
        ]

        def preference(content: str) -> int:
            found = [i for i, word in enumerate(("pad", "reserved", "unused")) if word in content.lower()]
            return min(found, default=3)

        # min keeps the first of equals: from the end, that is the most obscure.
        chosen = min(reversed(spare), key=preference, default=NEW_PAD)
        tokenizer.add_special_tokens({"pad_token": chosen})
    return str(tokenizer.pad_token)


def _bias_free(final: Path) -> Tensor:
    """The reward head's weight [D]; a classifier's head has no bias."""
    tensors = read_tensors(final / HEAD)
    if len(members := member_folders(final)) > 1:
        raise UserError(
            f"{final} has {len(members)} members (rm.members), which no sequence classifier can be: score "
            "with `align score`, or train rm with `members: 1`"
        )
    if not tensors.keys().isdisjoint(LENGTH_BIAS):
        raise UserError(
            f"{final} takes a curve of length off its scores (rm.length_debias), which a sequence classifier "
            "cannot do: score with `align score`, or train rm with `length_debias: odin`, which has none"
        )
    if "bias" in tensors and float(tensors["bias"]):
        raise UserError(
            f"{final / HEAD} has a bias, which a sequence classifier cannot have: train rm again "
            "(`align rm RECIPE --restart`)"
        )
    return tensors["weight"].float()
