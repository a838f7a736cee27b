"""PPO with a KL penalty to the SFT policy: respond, judge, estimate advantages, update; the loop is here.

What is unusual: policy, reference, reward and value are four adapters on one base that lies in memory
once. Layers below all adapters run once a response, for all roles and all epochs. Every draw is a
function of (seed, iteration, row), so the state between iterations is weights, optimizers and a count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from align.data.batches import step_rows
from align.data.load import load
from align.data.tokenize import encode_prompts
from align.errors import UserError
from align.evaluation.policy import Answered, summary
from align.models.export import save_adapter, save_head
from align.objectives.gae import gae
from align.objectives.kl import reverse_k3
from align.objectives.masked import masked_sum, mean_and_var, moments, whiten_with
from align.recipe import Recipe
from align.records import Prompt
from align.report.page import refresh
from align.rollouts.assess import assess
from align.rollouts.engine import sampling_params
from align.rollouts.params import Draws
from align.rollouts.rewards import find_sources, part_metrics, texts_of
from align.rollouts.rollout import Rollout
from align.runtime import distributed
from align.runtime.files import write_text
from align.runtime.lineage import parent
from align.runtime.memory import itemised
from align.runtime.metrics import json_line
from align.runtime.run import StageRun, open_stage
from align.stages.labels import Labels
from align.stages.ppo_ptx import load_demonstrations, with_demonstrations
from align.stages.ppo_roles import Context, prepare, resume, save
from align.stages.ppo_steer import check_outcome, is_bad, kl_rewards, steer
from align.stages.ppo_update import update
from align.stages.ppo_watch import (
    HeldOut,
    consider,
    engine_metrics,
    guard_metrics,
    importance,
    outcome,
    prune_best,
    watch,
    write_samples,
)
from align.stages.setup import set_up, source, write_skipped


def run(recipe: Recipe, restart: bool = False) -> None:
    """Train the policy that the recipe describes, or go on from its newest checkpoint."""
    cfg, setup = recipe.ppo, set_up(recipe)
    accel = setup.accel
    sft = parent(recipe, "sft", cfg.sft, setup.lineage)
    sources = find_sources(recipe, setup.lineage)
    spec, cache = source(recipe, "prompts", "ppo"), recipe.data.cache_folder
    labels = Labels(recipe, "ppo", accel, restart)
    split = load(Prompt, spec, "prompts", cache, labels)
    guard = parent(recipe, "rm", cfg.guard, setup.lineage) if cfg.guard else None
    parents = {"sft": sft.adapter_hash}
    for one in sources:
        parents |= one.lineage
    if guard is not None:
        parents |= {"guard": guard.adapter_hash, "guard_head": guard.head_hash}
    lineage = {**setup.lineage, **parents}
    distributed.check_divisible(cfg.rollout_batch_size, "ppo.rollout_batch_size", accel)
    ptx = load_demonstrations(recipe, labels)
    data = {"prompts": split.fingerprint} | ({"demonstrations": ptx.fingerprint} if ptx else {})
    made_of = {"lineage": lineage, "data": data}
    with (
        open_stage(recipe, "ppo", accel, **made_of, labels=labels.contents, restart=restart) as stage,
        ExitStack() as held,
    ):
        if stage.finished:
            stage.say(f"ppo is finished: {stage.final}")
            return
        prompts, held_out = (
            encode_prompts(
                setup.template,
                side,
                cfg.max_prompt_tokens,
                where,
                cfg.max_response_tokens,
                cache,
                skip=spec.on_bad_record == "skip",
            )
            for side, where in ((split.train, "data.prompts"), (split.held_out, "data.prompts (held out)"))
        )
        write_skipped(stage, split.skipped, prompts.skipped, held_out.skipped)
        if not prompts:
            raise UserError("data.prompts: there is no training prompt")
        if not held_out and cfg.keep == "best":
            raise UserError(
                "ppo.keep: best needs held-out prompts to compare iterations: data.prompts.held_out"
            )
        context = prepare(recipe, setup, sft.final, sources, guard.final if guard else None)
        held.callback(context.engine.close)
        context = with_demonstrations(context, recipe, ptx)
        done = resume(context, stage)
        judged = HeldOut(context, held_out)
        clock = _Clock()
        with (
            stage.steps(cfg.iterations, done) as bar,
            itemised(stage, lambda: context.forward.roles.held(context.optimizers)),
        ):
            for iteration in range(done, cfg.iterations):
                stage.heed(iteration, partial(save, context, stage, iteration))
                metrics = _iteration(context, stage, prompts, iteration)
                last = iteration + 1 == cfg.iterations
                watch(context, stage, iteration + 1, metrics)
                if cfg.evaluate_every and (iteration + 1) % cfg.evaluate_every == 0 and not last:
                    results = summary(judged.answered())
                    consider(context, stage, iteration + 1, results)
                    metrics |= results
                stage.metrics.append(iteration + 1, metrics | clock.other(metrics))
                due = (iteration + 1) % cfg.checkpoint_every == 0 or last
                if due and not context.state.bad_in_a_row:  # else it may be the weights that are bad
                    save(context, stage, iteration + 1)
                    prune_best(context, stage)
                shown = {"score": "reward/score", "kl": "kl/reference", "eos": "response/eos"}
                bar.advance({name: metrics[key] for name, key in shown.items()})
        answered, results = outcome(context, stage, judged)
        check_outcome(context, stage, results)
        _finish(context, stage, answered, results)
        if stage.main:
            refresh(recipe.run.path, stage.say)


def _iteration(
    context: Context, stage: StageRun, prompts: Sequence[list[int]], iteration: int
) -> dict[str, float]:
    """One turn of the algorithm: sample, judge, reward, advantages, update."""
    cfg, accel = context.cfg, context.accel
    clock = _Clock()
    rows = distributed.share(list(range(cfg.rollout_batch_size)), accel)
    each = cfg.responses_per_prompt
    drawn = step_rows(context.seed, "ppo", iteration, cfg.rollout_batch_size // each, len(prompts))
    chosen = [row for row in drawn for _ in range(each)]
    with stage.unchanged(iteration, partial(save, context, stage, iteration)):
        context.engine.update()
        draws, params = Draws(context.seed, "ppo", iteration, rows), sampling_params(cfg, context.setup.base)
        sampled = context.engine.sample([prompts[chosen[i]] for i in rows], draws, params)
        clock("sample")
        rollout = assess(
            context.forward,
            sampled,
            context.rewards,
            texts_of(context.rewards, sampled, prompts, [chosen[i] for i in rows], context.setup.base),
            temperature=cfg.temperature,
            eos_id=context.setup.template.eos_id,
            pad_id=context.setup.base.pad_id,
            microbatch_tokens=cfg.microbatch_tokens,
        )
        clock("judge")
    mask = rollout.response_mask
    rewards = kl_rewards(context, rollout)
    coef = steer(context, stage, rollout, iteration)
    advantages, returns = gae(rewards, rollout.old_values, mask, cfg.gamma, cfg.gae_lambda)
    if cfg.whiten_advantages:
        mean, var = mean_and_var(*distributed.total(torch.stack(moments(advantages, mask)), accel))
        advantages = whiten_with(advantages, mask, mean, var)
    advantages = advantages * importance(context, rollout)
    metrics = _rollout_metrics(rollout, rewards, returns, accel)
    metrics |= part_metrics(rollout.parts, cfg, accel)
    metrics |= engine_metrics(context, stage, rollout)
    metrics["kl/coef"] = coef
    if not is_bad(context, stage, rollout, rewards, iteration):
        loss_coef = coef if cfg.kl_in == "loss" else 0.0
        metrics |= update(context, stage, rollout, advantages, returns, loss_coef, iteration)
    clock("update")
    metrics |= guard_metrics(context, rollout)
    write_samples(context, stage, rollout, sampled, rollout.scores, iteration)
    return metrics | clock.metrics()


def _rollout_metrics(
    rollout: Rollout, rewards: Tensor, returns: Tensor, accel: Accelerator
) -> dict[str, float]:
    """Means over all processes' responses or tokens."""
    mask = rollout.response_mask
    kl = masked_sum(rollout.old_logprobs - rollout.ref_logprobs, mask, dim=1)
    reverse = masked_sum(reverse_k3(rollout.old_logprobs, rollout.ref_logprobs), mask, dim=1)
    errors = returns - rollout.old_values
    scores = rollout.scores.double()
    per_response = [scores, scores.square(), kl, reverse, rewards.sum(1), mask.sum(1), rollout.eos]
    sums = torch.stack([torch.ones_like(kl).sum(), *(x.double().sum() for x in per_response)]).double()
    tokens = torch.stack([masked_sum(x, mask) for x in (mask.float(), rollout.entropies)]).double()
    spread = torch.stack([*moments(returns, mask), *moments(errors, mask)])
    rows, score, squares, forward, backward, reward, length, eos = distributed.total(sums, accel).tolist()
    count, entropy = distributed.total(tokens, accel).tolist()
    spread = distributed.total(spread, accel)
    var_returns, var_errors = (float(mean_and_var(*spread[i : i + 3])[1]) for i in (0, 3))
    return {
        "reward/score": score / rows,
        "reward/score_std": max(squares / rows - (score / rows) ** 2, 0.0) ** 0.5,
        "reward/total": reward / rows,
        "kl/reference": forward / rows,
        "kl/reverse": backward / rows,
        "response/length": length / rows,
        "response/eos": eos / rows,
        "policy/entropy": entropy / count,
        "value/explained_variance": 1 - var_errors / var_returns if var_returns else float("nan"),
    }


def _finish(context: Context, stage: StageRun, answered: list[Answered], results: dict[str, float]) -> None:
    roles = context.forward.roles
    if stage.main:
        write_text(stage.folder / "held_out.jsonl", "".join(json_line(a.row()) for a in answered))

    def write(folder: Path) -> None:
        assert roles.peft is not None
        save_adapter(roles.peft, "policy", folder)
        if context.cfg.value_trunk == "own":
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


class _Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._parts: dict[str, float] = {}

    def __call__(self, part: str) -> None:
        now = time.monotonic()
        self._parts[f"seconds/{part}"] = now - self._last
        self._last = now

    def metrics(self) -> dict[str, float]:
        return self._parts

    def other(self, parts: dict[str, float]) -> dict[str, float]:
        """What the parts leave of the time since the last call: evaluation, samples, checkpoint, metrics."""
        now = time.monotonic()
        known = sum(value for name, value in parts.items() if name.startswith("seconds/"))
        spent, self._last = now - self._last, now
        return {"seconds/other": max(spent - known, 0.0)}
