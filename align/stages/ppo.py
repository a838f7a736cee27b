"""PPO with a KL penalty to the SFT policy: respond, judge, estimate advantages, update; the loop is here.

What is unusual: policy, reference, reward and value are four adapters on one base that lies in memory
once. Layers below all adapters run once a response, for all roles and all epochs. Every draw is a
function of (seed, iteration, row), so the state between iterations is weights, optimizers and a count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from align.data.batches import generator, step_rows
from align.data.load import load
from align.data.tokenize import encode_prompts
from align.errors import AlignError, UserError
from align.evaluation.policy import Answered, answer, summary
from align.models.export import save_adapter, save_head
from align.models.forward import Forward, stack
from align.models.roles import Roles, tensors_of
from align.objectives.gae import gae
from align.objectives.masked import masked_sum, mean_and_var, moments, whiten_with
from align.objectives.ppo import policy_loss, token_rewards, value_loss
from align.recipe import PPO, Recipe
from align.records import Prompt
from align.rollouts.assess import assess
from align.rollouts.hf import sample, uniforms
from align.rollouts.rollout import Rollout, Sampled
from align.runtime import distributed
from align.runtime.checkpoint import load_into, load_optimizer, optimizer_tensors
from align.runtime.files import write_text
from align.runtime.lineage import parent
from align.runtime.metrics import json_line
from align.runtime.run import StageRun, open_stage
from align.runtime.schedule import learning_rate
from align.stages.setup import Setup, set_up, source

_ADAM_EPS = 1e-5  # 2403.17031, detail 20: with 1e-8 the first updates are too large
_SAMPLES = 4  # rows of samples.jsonl an iteration
_TRAINED = ("policy", "value")


@dataclass(frozen=True)
class Context:
    """What the steps of an iteration share."""

    cfg: PPO
    seed: int
    forward: Forward
    optimizers: dict[str, torch.optim.Optimizer]
    setup: Setup

    @property
    def accel(self) -> Accelerator:
        return self.setup.accel


def run(recipe: Recipe, restart: bool = False) -> None:
    """Train the policy that the recipe describes, or go on from its newest checkpoint."""
    cfg, setup = recipe.ppo, set_up(recipe)
    accel = setup.accel
    sft = parent(recipe, "sft", cfg.sft, setup.lineage)
    rm = parent(recipe, "rm", cfg.rm, setup.lineage)
    split = load(Prompt, source(recipe, "prompts", "ppo"), "prompts")
    parents = {"sft": sft.adapter_hash, "rm": rm.adapter_hash, "rm_head": rm.head_hash}
    lineage = {**setup.lineage, **parents}
    distributed.check_divisible(cfg.rollout_batch_size, "ppo.rollout_batch_size", accel)
    with open_stage(
        recipe, "ppo", accel, lineage=lineage, data={"prompts": split.fingerprint}, restart=restart
    ) as stage:
        if stage.finished:
            stage.say(f"ppo is finished: {stage.final}")
            return
        limits = {"max_prompt_tokens": cfg.max_prompt_tokens, "room": cfg.max_response_tokens}
        prompts = encode_prompts(setup.template, split.train, where="data.prompts", **limits)
        held_out = encode_prompts(setup.template, split.held_out, where="data.prompts (held out)", **limits)
        if not prompts:
            raise UserError("data.prompts: there is no training prompt")
        context = _prepare(recipe, setup, sft.final, rm.final)
        done = _resume(context, stage)
        with stage.bar("ppo", cfg.iterations, done) as bar:
            for iteration in range(done, cfg.iterations):
                metrics = _iteration(context, stage, prompts, iteration)
                last = iteration + 1 == cfg.iterations
                if cfg.evaluate_every and (iteration + 1) % cfg.evaluate_every == 0 and not last:
                    metrics |= summary(_answer(context, held_out))
                stage.metrics.append(iteration + 1, metrics)
                if (iteration + 1) % cfg.checkpoint_every == 0 or last:
                    _save(context, stage, iteration + 1)
                shown = {"score": "reward/score", "kl": "kl/reference", "eos": "response/eos"}
                bar.advance({name: metrics[key] for name, key in shown.items()})
        answered = _answer(context, held_out)
        results = summary(answered)
        stage.metrics.append(cfg.iterations, results)
        _finish(context, stage, answered, results)


def _iteration(
    context: Context, stage: StageRun, prompts: list[list[int]], iteration: int
) -> dict[str, float]:
    """One turn of the algorithm: sample, judge, reward, advantages, update."""
    cfg, accel = context.cfg, context.accel
    clock = _Clock()
    rows = distributed.share(list(range(cfg.rollout_batch_size)), accel)
    chosen = step_rows(context.seed, "ppo", iteration, cfg.rollout_batch_size, len(prompts))
    sampled = _sample(context, [prompts[chosen[i]] for i in rows], rows, iteration)
    clock("sample")
    rollout = assess(
        context.forward,
        sampled,
        temperature=cfg.temperature,
        eos_id=context.setup.template.eos_id,
        pad_id=context.setup.base.pad_id,
        microbatch_size=cfg.microbatch_size,
    )
    clock("judge")
    mask = rollout.response_mask
    scores = rollout.scores - cfg.missing_eos_penalty * (~rollout.eos).float()
    rewards = token_rewards(scores, rollout.old_logprobs, rollout.ref_logprobs, mask, cfg.kl_coef)
    advantages, returns = gae(rewards, rollout.old_values, mask, cfg.gamma, cfg.gae_lambda)
    if cfg.whiten_advantages:
        mean, var = mean_and_var(*distributed.total(torch.stack(moments(advantages, mask)), accel))
        advantages = whiten_with(advantages, mask, mean, var)
    metrics = _rollout_metrics(rollout, rewards, returns, accel)
    metrics |= _update(context, rollout, advantages, returns, iteration)
    clock("update")
    _write_samples(context, stage, rollout, sampled, iteration)
    return metrics | clock.metrics()


def _sample(context: Context, prompts: list[list[int]], rows: list[int], iteration: int) -> list[Sampled]:
    cfg = context.cfg
    return sample(
        context.forward.roles,
        "policy",
        prompts,
        uniforms(context.seed, "ppo", iteration, rows, cfg.max_response_tokens),
        temperature=cfg.temperature,
        eos_id=context.setup.template.eos_id,
        pad_id=context.setup.base.pad_id,
        batch_size=cfg.microbatch_size * 4,
    )


def _update(
    context: Context, rollout: Rollout, advantages: Tensor, returns: Tensor, iteration: int
) -> dict[str, float]:
    """ppo_epochs passes over the rollout in minibatches drawn over all processes' rows."""
    cfg, accel = context.cfg, context.accel
    lengths = distributed.gather_rows(rollout.response_mask.sum(1), accel)
    mine = {row: local for local, row in enumerate(distributed.share(list(range(len(lengths))), accel))}
    rates = {
        role: learning_rate(peak, iteration, cfg.iterations, cfg.warmup, cfg.schedule)
        for role, peak in (
            ("policy", cfg.learning_rate),
            ("value", cfg.value_learning_rate or cfg.learning_rate),
        )
    }
    sums: dict[str, float] = {}
    updates = 0
    for epoch in range(cfg.ppo_epochs):
        drawn = torch.randperm(
            len(lengths), generator=generator(context.seed, "ppo", iteration, "epoch", epoch)
        )
        for minibatch in drawn.split(cfg.minibatch_size):
            count = int(lengths[minibatch.to(lengths.device)].sum())
            local = [mine[row] for row in minibatch.tolist() if row in mine]
            for name, value in _minibatch(context, rollout, advantages, returns, local, count, rates).items():
                sums[name] = sums.get(name, 0.0) + value
            updates += 1
    metrics = {name: value / updates for name, value in sums.items()}
    return metrics | {f"{role}/learning_rate": rate for role, rate in rates.items()}


def _minibatch(
    context: Context,
    rollout: Rollout,
    advantages: Tensor,
    returns: Tensor,
    rows: list[int],
    count: int,
    rates: dict[str, float],
) -> dict[str, float]:
    """One optimizer step of the policy and one of the value model, each with its own adapter active."""
    cfg, forward, accel = context.cfg, context.forward, context.accel
    rows = sorted(rows, key=lambda i: int(rollout.trunks[i].lengths))
    sums = torch.zeros(5, dtype=torch.float64, device=forward.roles.base.device)
    for start in range(0, len(rows), cfg.microbatch_size):
        part = rows[start : start + cfg.microbatch_size]
        trunk = stack([rollout.trunks[i] for i in part])
        width = int((trunk.lengths - trunk.prompt_lengths).max())

        def cut(field: Tensor, part: list[int] = part, width: int = width) -> Tensor:
            return field[part, :width]

        logprobs, _, mask = forward.logprobs("policy", trunk, cfg.temperature)
        loss, stats = policy_loss(
            logprobs, cut(rollout.old_logprobs), cut(advantages), mask, cfg.clip_range, count
        )
        loss.backward()
        values = forward.values("value", trunk)
        error, value_stats = value_loss(
            values, cut(rollout.old_values), cut(returns), mask, cfg.value_clip_range, count
        )
        error.backward()
        parts = [loss, stats.clip_fraction_sum / count, stats.approx_kl_sum / count]
        sums += torch.stack([*parts, error, value_stats.clip_fraction_sum / count]).detach()
    norms = {role: _clip(context, role) for role in _TRAINED}
    for role, norm in norms.items():
        if not norm < float("inf"):
            raise AlignError(
                f"ppo: the {role}'s gradient is {norm}; lower its learning rate. This update was not applied"
            )
    for role in _TRAINED:
        _apply(context, role, rates[role])
    names = ("policy/loss", "policy/clip_fraction", "policy/approx_kl", "value/loss", "value/clip_fraction")
    metrics = dict(zip(names, distributed.total(sums, accel).tolist(), strict=True))
    return metrics | {f"{role}/gradient_norm": norm for role, norm in norms.items()}


def _clip(context: Context, role: str) -> float:
    """Sum the processes' gradients and clip them; returns the norm before clipping."""
    parameters = list(context.forward.roles.parameters_of(role).values())
    distributed.sum_gradients(parameters, context.accel)
    return float(torch.nn.utils.clip_grad_norm_(parameters, context.cfg.max_grad_norm))


def _apply(context: Context, role: str, rate: float) -> None:
    optimizer = context.optimizers[role]
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()


def _rollout_metrics(
    rollout: Rollout, rewards: Tensor, returns: Tensor, accel: Accelerator
) -> dict[str, float]:
    """Means over all processes' responses or tokens."""
    mask = rollout.response_mask
    kl = masked_sum(rollout.old_logprobs - rollout.ref_logprobs, mask, dim=1)
    gap = (rollout.engine_logprobs - rollout.old_logprobs).abs()
    errors = returns - rollout.old_values
    per_response = [rollout.scores, kl, rewards.sum(1), mask.sum(1), rollout.eos]
    sums = torch.stack([torch.ones_like(kl).sum(), *(x.float().sum() for x in per_response)]).double()
    tokens = torch.stack([masked_sum(x, mask) for x in (mask.float(), rollout.entropies, gap)]).double()
    spread = torch.stack([*moments(returns, mask), *moments(errors, mask)])
    rows, score, kl_sum, reward, length, eos = distributed.total(sums, accel).tolist()
    count, entropy, mismatch = distributed.total(tokens, accel).tolist()
    spread = distributed.total(spread, accel)
    var_returns, var_errors = (float(mean_and_var(*spread[i : i + 3])[1]) for i in (0, 3))
    return {
        "reward/score": score / rows,
        "reward/total": reward / rows,
        "kl/reference": kl_sum / rows,
        "response/length": length / rows,
        "response/eos": eos / rows,
        "policy/entropy": entropy / count,
        "engine/logprob_gap": mismatch / count,
        "value/explained_variance": 1 - var_errors / var_returns if var_returns else float("nan"),
    }


def _prepare(recipe: Recipe, setup: Setup, sft: Path, rm: Path) -> Context:
    """Four roles on one base: policy and frozen reference from SFT, reward and value from RM."""
    roles = Roles(setup.base.load_model(setup.accel.device))
    roles.add("policy", sft, trains=True)
    roles.add("reference", sft, trains=False)
    roles.add("reward", rm, trains=False)
    roles.add_head("reward", rm)
    roles.add("value", rm, trains=True)
    roles.add_head("value", rm)
    optimizers: dict[str, torch.optim.Optimizer] = {
        role: torch.optim.AdamW(
            roles.parameters_of(role).values(), eps=_ADAM_EPS, weight_decay=recipe.ppo.weight_decay
        )
        for role in _TRAINED
    }
    return Context(recipe.ppo, recipe.run.seed, Forward(roles), optimizers, setup)


def _resume(context: Context, stage: StageRun) -> int:
    """Load the newest checkpoint, if there is one; returns the number of iterations done."""
    found = stage.newest()
    if found is None:
        return 0
    for role in _TRAINED:
        load_into(context.forward.roles.parameters_of(role), found.tensors(role), str(found.path))
        load_optimizer(context.optimizers[role], found.tensors(f"{role}_optimizer"))
    return found.step


def _save(context: Context, stage: StageRun, iteration: int) -> None:
    tensors = {role: tensors_of(context.forward.roles, role) for role in _TRAINED}
    tensors |= {f"{role}_optimizer": optimizer_tensors(context.optimizers[role]) for role in _TRAINED}
    stage.save(iteration, tensors, {})


def _answer(context: Context, prompts: list[list[int]]) -> list[Answered]:
    return answer(
        context.forward,
        prompts,
        context.cfg,
        seed=context.seed,
        eos_id=context.setup.template.eos_id,
        pad_id=context.setup.base.pad_id,
        tokenizer=context.setup.base.tokenizer,
        accel=context.accel,
    )


def _finish(context: Context, stage: StageRun, answered: list[Answered], results: dict[str, float]) -> None:
    roles = context.forward.roles
    if stage.main:
        write_text(stage.folder / "held_out.jsonl", "".join(json_line(a.row()) for a in answered))

    def write(folder: Path) -> None:
        assert roles.peft is not None
        save_adapter(roles.peft, "policy", folder)
        save_adapter(roles.peft, "value", folder / "value")
        save_head(roles.heads["value"], folder / "value")
        context.setup.base.tokenizer.save_pretrained(str(folder))

    stage.finish(write, results)
    stage.say(f"ppo is finished: {stage.final}")
    if results:
        stage.say(
            f"on {results['eval/prompts']:.0f} held-out prompts the score went from "
            f"{results['eval/reference_score']:.3f} to {results['eval/score']:.3f} "
            f"at {results['eval/kl']:.2f} nats a response"
        )


def _write_samples(
    context: Context, stage: StageRun, rollout: Rollout, sampled: list[Sampled], iteration: int
) -> None:
    """A few of the main process's responses, as text, with score and KL."""
    tokenizer = context.setup.base.tokenizer
    kl = masked_sum(rollout.old_logprobs - rollout.ref_logprobs, rollout.response_mask, dim=1)
    for i, one in enumerate(sampled[:_SAMPLES]):
        row = {
            "prompt": tokenizer.decode(one.prompt, skip_special_tokens=True),
            "response": tokenizer.decode(one.response, skip_special_tokens=True),
            "score": float(rollout.scores[i]),
            "kl": float(kl[i]),
        }
        stage.samples.append(iteration + 1, row)


class _Clock:
    """Seconds by part of an iteration."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._parts: dict[str, float] = {}

    def __call__(self, part: str) -> None:
        now = time.monotonic()
        self._parts[f"seconds/{part}"] = now - self._last
        self._last = now

    def metrics(self) -> dict[str, float]:
        return self._parts
