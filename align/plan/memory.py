"""A stage's memory on one process: what it holds from beginning to end, and its passes on top, one at a time.

    peak = held + the largest pass + margin

Held are the base's weights, and of each role its adapter and head; of a role that trains also gradients and
AdamW's two moments. Passes are counted on models without weights (`passes`): where all layers of a base are
alike, on two of few layers, from which one of any depth follows, as each layer adds the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from peft import PeftModel

from align.data.tokenize import Encoded
from align.models.logprobs import LOGIT_BYTES
from align.models.roles import Roles
from align.plan import passes
from align.plan.base import PlannedBase, precision
from align.plan.flops import Work, work_of
from align.plan.lengths import Lengths, RmRows, SftRows
from align.plan.machine import FRAGMENTS, Machine
from align.plan.passes import Depth, Model, Rows
from align.recipe.sections import Recipe
from align.run.memory import size
from align.stage_table import Stage

Numbers = Mapping[str, float]  # of a model of some depth, each a linear function of it
_HELD, _PASS, _WORK = "held ", "pass ", "work "  # what names of numbers begin with


@dataclass(frozen=True)
class Part:
    """Bytes of one thing: whose it is (a role, a pass), and what."""

    who: str
    what: str
    size: int


@dataclass(frozen=True)
class StageMemory:
    """What a stage needs on one process."""

    stage: Stage
    checkpointing: bool
    held: tuple[Part, ...]
    passes: tuple[Part, ...]
    margin: int
    work: Work  # of the whole base, for the time

    @property
    def peak(self) -> int:
        """The most at any time, with the margin."""
        return self.static + self.largest.size + self.margin

    @property
    def static(self) -> int:
        """What is held whatever runs."""
        return sum(part.size for part in self.held)

    @property
    def largest(self) -> Part:
        """The pass that needs most."""
        return max(self.passes, key=lambda part: part.size)


@dataclass(frozen=True)
class Question:
    """What a plan is asked: a recipe on a base, for rows of some length, on a machine."""

    recipe: Recipe
    base: PlannedBase
    lengths: Lengths
    machine: Machine

    @property
    def dtype(self) -> torch.dtype:
        """Of the base's weights and of hidden states."""
        return precision(self.base.spec, self.machine.device)

    @property
    def on_gpu(self) -> bool:
        """Whether passes run by a GPU's kernels."""
        return self.machine.device == "gpu"

    @property
    def plain(self) -> bool:
        """Whether passes are the base's own, as under DeepSpeed, which puts matrices together one by one."""
        return self.machine.shards and self.machine.sharded == "zero3"

    @property
    def logits(self) -> int:
        """Bytes that log probabilities take on a GPU beyond what is counted, as chunks are larger there."""
        counted = LOGIT_BYTES * 2**25
        share = self.machine.memory // 32
        return max(0, share - counted) if self.machine.device == "gpu" else 0

    def share(self, count: int) -> int:
        """This process's part of a global batch."""
        return max(1, count // self.machine.processes)


def stage_memory(asked: Question, stage: Stage, checkpointing: bool) -> StageMemory:
    """What the stage needs; raises UserError where the base cannot be built or adapted as the recipe says."""
    count = {"sft": _sft, "rm": _rm, "ppo": _ppo, "dpo": _dpo}[stage]
    found = _whole(asked, lambda model: count(asked, model, checkpointing))
    held = [*base_parts(asked, found), *_trained_parts(asked, found)]
    if stage == "ppo":
        held.append(Part("rollout", "states and numbers of each token", _rollout(asked)))
    largest = found_parts(found, _PASS)
    if asked.base.spec.quantize:  # a matrix is put together before it multiplies
        matrix = asked.base.weights(asked.dtype).matrix
        largest = [replace(part, size=part.size + matrix) for part in largest]
    if stage == "ppo":
        largest = [replace(p, size=p.size + asked.logits * _reads_logits(p)) for p in largest]
    counted = sum(part.size for part in held) + max(part.size for part in largest)
    margin = asked.machine.fixed + round(FRAGMENTS * counted)
    work = Work(**{name: round(found[_WORK + name]) for name in Work.__dataclass_fields__})
    return StageMemory(stage, checkpointing, tuple(held), tuple(largest), margin, work)


def found_parts(found: Numbers, kind: str) -> list[Part]:
    """The numbers of a kind as parts; their names are `kind who: what`."""
    named = [(name.removeprefix(kind), value) for name, value in found.items() if name.startswith(kind)]
    return [Part(who, what, round(value)) for name, value in named for who, what in [name.split(": ", 1)]]


def _reads_logits(part: Part) -> bool:
    """Whether a pass of ppo has log probabilities of the policy's tokens."""
    return part.who == "scoring" or part.what.startswith("policy")


def _whole(asked: Question, count: Callable[[Model], Numbers]) -> Numbers:
    """The numbers of the whole base: of a model of its depth, or what follows from two that are smaller."""
    base, lora = asked.base, asked.recipe.lora
    depths = base.depths(lora.layers)
    found = [count(Model(base, lora, asked.dtype, Depth(*depth), asked.plain)) for depth in depths]
    upper = min(lora.layers or base.layers, base.layers)
    lower = base.layers - upper
    if len(found) == 1:
        return found[0]
    (_, few), (_, more) = depths
    whole = {
        name: found[1][name] + (found[1][name] - found[0][name]) * (upper - more) / (more - few)
        for name in found[1]
    }
    for name in ("lower", "lower_pair"):  # one layer stood for all of these
        whole[_WORK + name] *= lower
    return whole


def _work(roles: Roles) -> Numbers:
    found = asdict(work_of(roles.base, roles.adapter_of(roles.names[0])))
    return {_WORK + name: value for name, value in found.items()}


def _sft(asked: Question, model: Model, checkpointing: bool) -> Numbers:
    cfg, rows = asked.recipe.sft, asked.lengths.sft
    mine = asked.share(cfg.batch_size)
    count = min(cfg.microbatch_size or mine, mine)
    adapted: PeftModel = passes.sft_model(model)
    own = [p for p in adapted.parameters() if p.requires_grad]
    adapter = size(p for name, p in adapted.named_parameters() if p.requires_grad and ".lora_" in name)
    work = asdict(work_of(adapted.get_base_model(), "default"))
    found: dict[str, float] = {f"{_WORK}{name}": value for name, value in work.items()}
    found[f"{_HELD}policy: adapter"] = adapter
    found[f"{_HELD}policy: embeddings that train"] = size(own) - adapter
    found[f"{_HELD}policy: trained"] = size(own)
    shown = f"{count} x {rows.longest:,} tokens"
    found[f"{_PASS}training: {shown}"] = passes.sft_pass(
        adapted, count, rows.longest, cfg.packing, checkpointing, asked.on_gpu
    )
    return found


def _dpo(asked: Question, model: Model, checkpointing: bool) -> Numbers:
    """As sft with two rows a pair, and the reference's adapter beside the policy's."""
    cfg = asked.recipe.dpo
    size = 2 * (cfg.microbatch_size or cfg.batch_size)
    as_sft = {"batch_size": 2 * cfg.batch_size, "microbatch_size": size, "packing": False}
    sft = asked.recipe.sft.model_copy(update=as_sft)
    found = _sft(replace(asked, recipe=asked.recipe.model_copy(update={"sft": sft})), model, checkpointing)
    return {**found, f"{_HELD}reference: adapter": found[f"{_HELD}policy: adapter"]}


def _rm(asked: Question, model: Model, checkpointing: bool) -> Numbers:
    cfg, rows = asked.recipe.rm, asked.lengths.rm
    members = ["reward", *(f"reward_member{i}" for i in range(1, cfg.members))]
    heads = ["reward", "length"] if cfg.length_debias == "odin" else members
    roles = model.roles("reward", members[1:], heads)
    forward = model.forward(roles, checkpointing, logits=False)
    masked = asked.base.attends and "flash" not in (asked.base.spec.attention or "")
    forward.share_prompt = cfg.share_prompt and masked
    rankings = _microbatch(rows, cfg.microbatch_tokens, asked.share(cfg.batch_size), forward.share_prompt)
    one = rankings[0]
    shown = f"{len(rankings)} x ({len(one.prompt)} + {len(one.responses)} x {len(one.responses[0])}) tokens"
    found: dict[str, float] = {**_held(roles, dict.fromkeys(members, True), heads), **_work(roles)}
    found[f"{_PASS}rankings: {shown}"] = passes.ranking_pass(forward, rankings, asked.on_gpu)
    return found


def _microbatch(rows: RmRows, tokens: int, most: int, packed: bool) -> list[Encoded]:
    """The largest pass: as many rankings as go into the budget, or as many responses of one."""

    def size_of(responses: int) -> int:
        return (
            rows.prompt + responses * rows.response if packed else responses * (rows.prompt + rows.response)
        )

    fits = [k for k in range(1, rows.responses + 1) if size_of(k) <= tokens] or [1]
    one = Encoded([0] * rows.prompt, [[0] * rows.response] * fits[-1])
    return [one] * max(1, min(most, tokens // size_of(fits[-1])))


def _ppo(asked: Question, model: Model, checkpointing: bool) -> Numbers:
    cfg, lengths = asked.recipe.ppo, asked.lengths.ppo
    shared = cfg.has_value_model and cfg.value_model == "shared"
    own_value = cfg.has_value_model and not shared
    judges = [*_rewards(asked.recipe), *(["guard"] if cfg.guard else [])]
    # By whether they train; a shared value model has no adapter of its own.
    adapters = {"policy": True, **({"value": True} if own_value else {}), "reference": False}
    adapters |= dict.fromkeys(judges, False)
    heads = [*(["value"] if cfg.has_value_model else []), *judges]
    others = dict.fromkeys([*adapters, *heads])
    others.pop("policy")
    roles = model.roles("policy", others, heads)
    forward = model.forward(roles, checkpointing, logits=True)
    length = lengths.prompt + lengths.response
    found: dict[str, float] = {**_held(roles, adapters, heads), **_work(roles)}

    def rows(tokens: int, most: int) -> Rows:
        count = max(1, min(tokens // length, asked.share(most)))
        return Rows(count, lengths.prompt, lengths.response)

    if cfg.engine != "vllm":
        sampled = rows(sampling_tokens(asked), cfg.rollout_batch_size)
        prompts = max(1, sampled.count // cfg.responses_per_prompt)
        first, last = passes.sampling_passes(roles, prompts, sampled, asked.on_gpu)
        found[f"{_PASS}sampling: {prompts} prompts of {lengths.prompt:,} tokens"] = first
        found[f"{_PASS}sampling: cache and logits of {_shown(sampled)}"] = last
    scored = rows(cfg.microbatch_tokens, cfg.rollout_batch_size)
    found[f"{_PASS}scoring: {_shown(scored)}"] = passes.scoring_pass(
        forward, scored, judges, shared, asked.on_gpu
    )
    updated = rows(cfg.microbatch_tokens, cfg.minibatch_size)
    for role in ("policy", "value") if own_value else ("policy",):
        found[f"{_PASS}update: {role}, {_shown(updated)}"] = passes.update_pass(
            forward, updated, role, bool(cfg.entropy_coef), shared, asked.on_gpu
        )
    return found


def sampling_tokens(asked: Question) -> int:
    """How many tokens are decoded together, as `batch_tokens` of align.sampling.engines says it."""
    cfg, config = asked.recipe.ppo, asked.base.config.get_text_config()
    if cfg.sampling_tokens is not None:
        return cfg.sampling_tokens
    cached = 0
    if asked.machine.device == "gpu" and cfg.engine == "hf":
        heads = int(getattr(config, "num_attention_heads", 0) or 0)
        head = int(getattr(config, "head_dim", 0) or (config.hidden_size // heads if heads else 0))
        shared = int(getattr(config, "num_key_value_heads", 0) or heads)
        each = 2 * asked.base.layers * shared * head * asked.dtype.itemsize
        cached = asked.machine.memory // 8 // each if each else 0
    return max(4 * cfg.microbatch_tokens, cached)


def _shown(rows: Rows) -> str:
    return f"{rows.count} x ({rows.prompt:,} + {rows.response:,}) tokens"


def _rewards(recipe: Recipe) -> list[str]:
    """The reward models that are taken to be adapters on this base."""
    sources = recipe.ppo.rewards
    count = 1 if sources is None else sum(reward.run is not None for reward in sources)
    own = sources is None or any(reward.run == "this" for reward in sources)
    if own and recipe.ppo.rm is None:  # others' members are not known from this recipe
        count += recipe.rm.members - 1
    return [f"reward{i}" if i else "reward" for i in range(count)]


def _held(roles: Roles, adapters: Mapping[str, bool], heads: list[str]) -> dict[str, float]:
    """Adapters, which all have the one's shapes, heads, and what of them trains."""
    found: dict[str, float] = {}
    (own,) = [name for name in roles.names if roles.owner_of(name) == name]
    adapter = sum(p.nbytes for name, p in roles.parameters_of(own).items() if not name.startswith("head."))
    for role, trains in adapters.items():
        found[f"{_HELD}{role}: adapter"] = adapter
        head = 4 * roles.width if role in heads else 0
        if trains:
            found[f"{_HELD}{role}: trained"] = adapter + head
    for role in heads:
        found[f"{_HELD}{role}: head"] = 4 * roles.width
        if role == "value" and role not in adapters:
            found[f"{_HELD}{role}: trained"] = 4 * roles.width
    return found


def base_parts(asked: Question, found: Numbers) -> list[Part]:
    """The base's weights on one process, without embeddings that are found to train."""
    weights, machine = asked.base.weights(asked.dtype), asked.machine
    moved = found.get(f"{_HELD}policy: embeddings that train", 0.0) * asked.dtype.itemsize / 4
    rest = weights.rest - round(moved)
    kind = "in four bits" if asked.base.spec.quantize else str(asked.dtype).removeprefix("torch.")
    if not machine.shards:
        return [Part("base", f"weights, {kind}", weights.layers + rest)]
    return [
        Part("base", f"layers, a part of {machine.processes}, {kind}", weights.layers // machine.processes),
        Part("base", f"embeddings and output layer, {kind}", rest),
        Part("base", "two layers put together", 2 * weights.largest),
    ]


def _trained_parts(asked: Question, found: Numbers) -> list[Part]:
    """Adapters and heads; of what trains, gradients and the optimizer's state."""
    machine = asked.machine
    parts: list[Part] = []
    for part in found_parts(found, _HELD):
        if part.what != "trained":
            parts += [part] if part.size else []
            continue
        parts.append(Part(part.who, "gradients", part.size))
        state = 2 * part.size
        if machine.sharded and machine.processes > 1:
            state //= machine.processes
        parts.append(Part(part.who, "optimizer", state))
        if machine.processes > 1:
            parts.append(Part(part.who, "message of gradients", part.size))
    return parts


def _rollout(asked: Question) -> int:
    """What is kept of a rollout's tokens until its updates are done."""
    cfg, lengths, base = asked.recipe.ppo, asked.lengths.ppo, asked.base
    rows = asked.share(cfg.rollout_batch_size)
    numbers = 10 * 4  # log probabilities, values, rewards, advantages, …: about ten float32 a response token
    below = (asked.recipe.lora.layers or base.layers) < base.layers
    width = int(base.config.get_text_config().hidden_size) * asked.dtype.itemsize if below else 0
    return rows * (lengths.response * numbers + (lengths.prompt + lengths.response) * (9 + width))


def least_rows(lengths: Lengths) -> Lengths:
    """Rows as they are in the mean, and the shortest responses: what a stage meets at least."""
    mean = max(1, round(lengths.sft.mean))
    sft = SftRows(mean, lengths.sft.mean, lengths.sft.count)
    return replace(lengths, sft=sft, ppo=replace(lengths.ppo, response=1))
