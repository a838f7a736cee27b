"""Forward passes: what lies below all adapters once, the upper layers a role at a time, logits only
where a response token is predicted, and never as a [B, T, V] tensor that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from align.errors import UserError, ran_out_of_memory
from align.models import fused_llama
from align.models.batch import Batch, PrefixStates, response_positions
from align.models.block_attention import BLOCK, block_mask, in_blocks
from align.models.gradient_checkpointing import layers_checkpointed, layers_of
from align.models.logits import probe
from align.models.logprobs import token_logprobs
from align.models.packed import Packed
from align.models.probe_ids import probe_ids
from align.models.roles import Roles
from align.run.hub import first_line

# How far the hidden states of two ways through the model may lie apart, relative to their norm.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
_COARSE = 5e-2  # of half precision, where each kernel rounds in its own way
_NOISE = 4
_SAVINGS = {  # what is said where one is off
    "split": "no layers are run once for all roles",
    "lean": "no lean passes",
    "share_prompt": "each response goes through the model behind a prompt of its own",
    "blocks": "in packed rankings attention computes every pair of tokens",
}
# What is refused is further away: in half precision an expert more or less may be rounding too.
_REFUSED, _REFUSED_COARSE = 1e-3, 0.2


@dataclass(frozen=True)
class PackedStates:
    """What all roles have in common of packed rankings: the hidden states below the lowest adapter."""

    batch: Packed
    input_ids: Tensor
    hidden: Tensor | None  # None where the layers cannot run apart
    within: Callable[[], AbstractContextManager[object]]
    inputs: dict[str, Any]


Below = PrefixStates | PackedStates


class Forward:
    """The passes of a base and its roles.

    At the start a probe is run both ways; where the model cannot be split at the lowest adapted layer
    with the same result (it scales its embeddings, say), every pass goes through the whole model.
    `share_prompt` says whether rankings may come packed; `share_prompts` finds out. `fused` says whether
    passes are those of `fused_llama`, which have to agree with the model's own on the probe. No response
    ends within its first `min_response_tokens` tokens: there `eos_id` has no probability, as in sampling.
    logits: whether log probabilities will be read; raises UserError where the base's last step is not known.
    gradient_checkpointing: a role's layers keep their inputs alone, and run again in the backward pass;
    raises UserError where the base's layers are not found.
    proof: without it no probe runs, and what a base of this kind allows is taken for granted: for one that
    has no weights (meta tensors), whose passes are only counted.
    """

    def __init__(
        self,
        roles: Roles,
        eos_id: int = 0,
        min_response_tokens: int = 0,
        logits: bool = True,
        gradient_checkpointing: bool = False,
        proof: bool = True,
    ) -> None:
        self.roles = roles
        self.eos_id, self.min_response_tokens = eos_id, min_response_tokens
        self.share_prompt = False
        self.blocks_from: int | None = None  # tokens of a packed row from which on attention goes by blocks
        if proof:
            check_padding(roles.base)
        self.split = roles.lowest_adapted_layer
        self._off: dict[str, str] = {}  # a saving that this base does not allow -> why
        if self.split and not (_splittable(roles.decoder) and (not proof or self._split_agrees())):
            self.split = 0
            self._off["split"] = "its lower layers, which have no adapter, cannot be run apart"
        if why := self._not_fused(proof):
            self._off["lean"] = why
        self.fused = not why
        self.checkpointed_layers = layers_of(roles.decoder) if gradient_checkpointing else []
        if gradient_checkpointing and not self.checkpointed_layers:
            raise UserError(
                f"gradient_checkpointing: {type(roles.base).__name__} has no list of layers that could be "
                "run again one by one: take it out, and lower microbatch_tokens"
            )
        if logits:
            roles.prove_logits(proof)

    def refuse_sharing(self, why: str | None) -> None:
        """Rankings come packed from now on, unless there is a reason against it."""
        self.share_prompt = why is None
        if why is not None:
            self._off["share_prompt"] = why

    def refuse_blocks(self, why: str | None, least: int) -> None:
        """Packed rows of `least` tokens and more attend by blocks now, unless a reason is given."""
        self.blocks_from = least if why is None else None
        if why is not None:
            self._off["blocks"] = why

    def remarks(self) -> list[str]:
        """What this base does not allow and so costs more than on others, each with its reason."""
        name = type(self.roles.base).__name__
        return [f"{_SAVINGS[saving]} on {name}: {why}" for saving, why in self._off.items()]

    def savings(self) -> dict[str, float]:
        """1 for each way of saving work that is in use, 0 for one that is not, as metrics.

        Of sharing prompts and of blocks only where somebody has asked for it.
        """
        on = {"lean": self.fused, "split": bool(self.split)}
        if self.share_prompt or "share_prompt" in self._off:
            on["share_prompt"] = self.share_prompt
        if self.blocks_from is not None or "blocks" in self._off:
            on["blocks"] = self.blocks_from is not None
        return {f"savings/{name}": float(used) for name, used in on.items()}

    @torch.no_grad()
    def prefix(self, batch: Batch) -> PrefixStates:
        """Run the layers below the lowest adapter."""
        device = self.roles.base.device
        ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
        hidden = self._lower(ids, attention_mask=mask)
        return PrefixStates(ids, mask, batch.prompt_lengths.to(device), batch.lengths.to(device), hidden)

    def hidden(self, role: str, prefix: PrefixStates, at: Tensor) -> Tensor:
        """A role's last hidden states [B, T, D], after the final norm, at the positions `at` [B, T]."""
        if not self.fused:
            whole = self._upper(role, prefix.input_ids, prefix.hidden, attention_mask=prefix.attention_mask)
            return fused_llama.take(whole, at)
        self.roles.activate(role)
        adapter, again = self.roles.adapter_of(role), bool(self.checkpointed_layers)
        hidden, first = prefix.hidden, self.split
        if hidden is None:
            hidden, first = self._embedded(prefix.input_ids), 0
        return fused_llama.decode(self.roles.decoder, adapter, hidden, first, at=at, checkpointing=again)

    def logprobs(
        self,
        role: str,
        prefix: PrefixStates,
        temperature: float,
        entropy_gradient: bool = False,
        end_anywhere: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log probabilities of the response tokens, entropies, and the response mask, each [B, T].

        Entropies carry a gradient only if asked. Padding has 0 in both. end_anywhere: the responses were
        not sampled, so that `min_response_tokens` does not hold for them.
        """
        at, mask = response_positions(prefix)
        found = self.hidden(role, prefix, at)
        return *self._read(found, at, mask, prefix, temperature, entropy_gradient, end_anywhere), mask

    def logprobs_and_values(
        self, role: str, head: str, prefix: PrefixStates, temperature: float, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `logprobs` gives, and the values [B, T] of a head that reads the same hidden states."""
        at, mask = response_positions(prefix)
        found = self.hidden(role, prefix, at)
        logprobs, entropies = self._read(found, at, mask, prefix, temperature, entropy_gradient)
        return logprobs, entropies, mask, self.roles.heads[head](found).masked_fill(~mask, 0.0)

    def _read(
        self,
        hidden: Tensor,
        at: Tensor,
        mask: Tensor,
        prefix: PrefixStates,
        temperature: float,
        entropy_gradient: bool = False,
        end_anywhere: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Log probabilities and entropies [B, T] from the hidden states [B, T, D]."""
        taken = hidden[mask]
        labels = prefix.input_ids.gather(1, (at + 1).clamp(max=prefix.input_ids.shape[1] - 1))
        head = self.roles.base.get_output_embeddings()
        least = 0 if end_anywhere else self.min_response_tokens
        early = mask.cumsum(1)[mask] <= least if least else None
        flat, entropy = token_logprobs(
            taken.to(head.weight.dtype),
            head.weight,
            getattr(head, "bias", None),
            labels[mask],
            temperature,
            entropy_gradient,
            None if early is None else (early, self.eos_id),
            self.roles.last_step,
        )
        zeros = torch.zeros(mask.shape, dtype=flat.dtype, device=mask.device)
        return zeros.masked_scatter(mask, flat), zeros.masked_scatter(mask, entropy)

    def values(self, role: str, prefix: PrefixStates) -> Tensor:
        """The value [B, T] before each response token is written; 0 at padding."""
        at, mask = response_positions(prefix)
        values: Tensor = self.roles.heads[role](self.hidden(role, prefix, at))
        return values.masked_fill(~mask, 0.0)

    def scores(self, role: str, prefix: PrefixStates) -> Tensor:
        """The score [B] of each sequence, read at its last real token, whatever the ids are.

        Of a reward model with several members, what they say together.
        """
        ensemble = self.roles.ensembles.get(role)
        if ensemble is None:
            return self._scores(role, prefix)
        return ensemble.reduced(self.member_scores(role, prefix))

    def member_scores(self, role: str, prefix: PrefixStates) -> Tensor:
        """What each member of a reward model says, [M, B], in units of the first one's scores."""
        ensemble = self.roles.ensembles.get(role)
        if ensemble is None:
            return self._scores(role, prefix)[None]
        return torch.stack([factor * self._scores(one, prefix) for one, factor in ensemble.members])

    def _scores(self, role: str, prefix: PrefixStates) -> Tensor:
        head: Any = self.roles.heads[role]
        scores: Tensor = head.scores(self._last(role, prefix), prefix.lengths - prefix.prompt_lengths)
        return scores

    def ends(self, role: str, batch: Batch | Packed) -> Tensor:
        """A role's last hidden states [N, D] at the end of each response, packed or in rows of their own."""
        return self.above(role, self.below(batch))

    def below(self, batch: Batch | Packed) -> Below:
        """What all roles have in common of some responses: the layers below all adapters have run."""
        if isinstance(batch, Batch):
            return self.prefix(batch)
        base = self.roles.base
        within: Callable[[], AbstractContextManager[object]] = nullcontext
        inputs: dict[str, Any]
        if self.blocks_from is not None and batch.input_ids.shape[1] >= self.blocks_from:
            batch = batch.padded(BLOCK)
            inputs = {"position_ids": batch.positions.to(base.device)}
            inputs["attention_mask"] = block_mask(batch.branch.to(base.device))
            within = partial(in_blocks, self.roles.decoder.config)
        else:
            inputs = batch.inputs(base.device, base.dtype)
        ids = batch.input_ids.to(base.device)
        with torch.no_grad(), within():
            lower = self._lower(ids, **inputs)
        return PackedStates(batch, ids, lower, within, inputs)

    def above(self, role: str, below: Below) -> Tensor:
        """A role's last hidden states [N, D] at responses' ends, from what all roles have in common."""
        if isinstance(below, PrefixStates):
            return self._last(role, below)
        hidden = self._upper(role, below.input_ids, below.hidden, below.within, **below.inputs)
        return hidden[below.batch.rows.to(hidden.device), below.batch.columns.to(hidden.device)]

    def _last(self, role: str, prefix: PrefixStates) -> Tensor:
        return self.hidden(role, prefix, prefix.lengths[:, None] - 1)[:, 0]

    def _lower(self, ids: Tensor, **inputs: Any) -> Tensor | None:
        """The hidden states below the lowest adapter, where these layers can be run apart."""
        if not self.split:
            return None
        with _layers(self.roles.decoder, 0, self.split):
            return self._decode(input_ids=ids, **inputs)

    def _embedded(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.roles.base.get_input_embeddings()(ids)
        return embedded

    def _upper(
        self,
        role: str,
        ids: Tensor,
        lower: Tensor | None,
        within: Callable[[], AbstractContextManager[object]] = nullcontext,
        **inputs: Any,
    ) -> Tensor:
        """A role's last hidden states, from the lower ones or else from the ids."""

        @contextmanager
        def its() -> Iterator[None]:
            # Backward may come when another role is active: PEFT's layers are what the active one makes them.
            self.roles.activate(role)
            with within():
                yield

        with its(), layers_checkpointed(self.checkpointed_layers, its):
            if lower is None:
                return self._decode(input_ids=ids, **inputs)
            with _layers(self.roles.decoder, self.split, None):
                return self._decode(inputs_embeds=lower, **inputs)

    def _decode(self, **inputs: Any) -> Tensor:
        output = self.roles.decoder(**inputs, use_cache=False, return_dict=True)
        hidden: Tensor = output.last_hidden_state
        return hidden

    @torch.no_grad()
    def _split_agrees(self) -> bool:
        ids, mask = probe(self.roles.base)
        whole = self._decode(input_ids=ids, attention_mask=mask)
        try:
            with _layers(self.roles.decoder, 0, self.split):
                lower = self._decode(input_ids=ids, attention_mask=mask)
            with _layers(self.roles.decoder, self.split, None):
                upper = self._decode(inputs_embeds=lower, attention_mask=mask)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
            return False
        return bool(torch.equal(whole[mask], upper[mask]))

    def _not_fused(self, proof: bool) -> str | None:
        """Why passes are the model's own; None: they are those of `fused_llama`."""
        layers = layers_of(self.roles.decoder)
        if self.roles.shard_group and not all(isinstance(layer, FSDPModule) for layer in layers):
            return "the base is sharded by DeepSpeed, which puts weights together a matrix at a time"
        if not fused_llama.suits(self.roles.decoder):
            return (
                "they are for Llama, Mistral, Qwen2 and Qwen3 with plain LoRA, and base.attention sdpa or "
                "flash_attention_2"
            )
        return None if not proof or self._fused_agrees() else "they give other numbers than its own passes"

    @torch.no_grad()
    def _fused_agrees(self) -> bool:
        ids, mask = probe(self.roles.base)
        own = self._decode(input_ids=ids, attention_mask=mask)[mask]
        everywhere = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        adapter = self.roles.adapter_of(self.roles.active or "")
        ours = fused_llama.decode(self.roles.decoder, adapter, self._embedded(ids), 0, at=everywhere)[mask]
        rows = [row[kept][None] for row, kept in zip(ids, mask, strict=True)]
        alone = torch.cat([self._decode(input_ids=row)[0] for row in rows])
        return agree(ours, own, noise(alone, own))


@torch.no_grad()
def check_padding(model: PreTrainedModel) -> None:
    """Refuse a base that gives a row other numbers when it is padded behind its end, as every stage pads, or
    when other text follows, and one that cannot read padded rows at all."""
    ids, name = probe_ids(model, 9), type(model).__name__
    row, mask = ids[:4], torch.ones(2, 9, dtype=torch.bool, device=ids.device)
    mask[1, len(row) :] = False

    def read(**inputs: Tensor) -> Tensor:
        hidden: Tensor = model.base_model(**inputs, use_cache=False, return_dict=True).last_hidden_state
        return hidden[:, : len(row)].float()

    try:
        (alone,) = read(input_ids=row[None])
        followed, padded = read(
            input_ids=torch.stack([ids, torch.where(mask[1], ids, 0)]), attention_mask=mask
        )
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError) as error:
        if ran_out_of_memory(error):
            raise
        raise UserError(
            f"base: {name} cannot read rows of different lengths with a mask ({first_line(error)}). Choose a "
            "base that can, such as Llama, Qwen or Mistral"
        ) from error
    limit = _REFUSED if model.dtype in _TOLERANCE else _REFUSED_COARSE
    if not (padded - alone).norm() <= limit * alone.norm():
        raise UserError(
            f"base: {name} gives a text other numbers when padding stands behind it, so rows of different "
            "lengths cannot be trained or scored together. Choose another, such as Llama, Qwen or Mistral"
        )
    if not (followed - alone).norm() <= limit * alone.norm():
        raise UserError(
            f"base: {name} reads a text in both directions: what follows changes what it makes of the words "
            "before. Choose a base that reads forwards only (a causal language model), such as Llama or Qwen"
        )


def noise(alone: Tensor, together: Tensor) -> float:
    """How far two right ways may be apart: a few times what the model gives a row alone and in a batch."""
    return _NOISE * float((alone - together).float().norm())


def agree(one: Tensor, other: Tensor, least: float = 0.0) -> bool:
    """Whether hidden states are the same up to rounding; the second's norm is what counts.

    least: how far from each other two ways may be at least, in the same norm; see `noise`.
    """
    apart, norm = (one - other).float().norm(), other.float().norm()
    return bool(apart <= max(_TOLERANCE.get(other.dtype, _COARSE) * float(norm), least))


def _splittable(decoder: nn.Module) -> bool:
    return isinstance(getattr(decoder, "layers", None), nn.ModuleList) and hasattr(decoder, "norm")


class _Skipped(nn.Module):
    """Takes the place of a layer that is left out."""

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden


@contextmanager
def _layers(decoder: nn.Module, first: int, last: int | None) -> Iterator[None]:
    """Let the decoder consist of layers first:last, with the final norm only where they reach the end.

    Layers keep their place in the list: models with several kinds of attention choose a layer's by it.
    """
    layers, norm = decoder.layers, decoder.norm
    assert isinstance(layers, nn.ModuleList)
    decoder.layers = nn.ModuleList([_Skipped()] * first + list(layers[first:last]))
    if last is not None:
        decoder.norm = nn.Identity()
    try:
        yield
    finally:
        decoder.layers, decoder.norm = layers, norm
