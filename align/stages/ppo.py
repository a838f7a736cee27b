"""PPO with a KL penalty to the SFT policy: respond, judge, estimate advantages, update; the loop is here.

What is unusual: policy, reference, reward and value are four adapters on one base that lies in memory
once. Layers below all adapters run once a response, for all roles and all epochs. Every draw is a
function of (seed, iteration, row), so the state between iterations is weights, optimizers and a count.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from align.data.batches import step_rows
from align.data.load import load
from align.data.tokenize import encode_prompts
from align.errors import UserError
from align.evaluation.policy import Answered, answer, summary
from align.models.export import save_adapter, save_head
from align.objectives.gae import gae
from align.objectives.masked import masked_sum, mean_and_var, moments, whiten_with
from align.objectives.ppo import token_rewards
from align.recipe import Recipe
from align.records import Prompt
from align.report.page import refresh
from align.rollouts.assess import assess
from align.rollouts.hf import sample, uniforms
from align.rollouts.rollout import Rollout, Sampled
from align.runtime import distributed
from align.runtime.files import write_text
from align.runtime.lineage import parent
from align.runtime.metrics import json_line
from align.runtime.run import StageRun, open_stage
from align.stages.ppo_roles import Context, prepare, resume, save
from align.stages.ppo_update import update
from align.stages.setup import set_up, source, write_skipped

_SAMPLES = 4  # rows of samples.jsonl an iteration


def run(recipe: Recipe, restart: bool = False) -> None:
    """Train the policy that the recipe describes, or go on from its newest checkpoint."""
    cfg, setup = recipe.ppo, set_up(recipe)
    accel = setup.accel
    sft = parent(recipe, "sft", cfg.sft, setup.lineage)
    rm = parent(recipe, "rm", cfg.rm, setup.lineage)
    spec, cache = source(recipe, "prompts", "ppo"), recipe.data.cache_folder
    split = load(Prompt, spec, "prompts", cache)
    parents = {"sft": sft.adapter_hash, "rm": rm.adapter_hash, "rm_head": rm.head_hash}
    lineage = {**setup.lineage, **parents}
    distributed.check_divisible(cfg.rollout_batch_size, "ppo.rollout_batch_size", accel)
    with open_stage(
        recipe, "ppo", accel, lineage=lineage, data={"prompts": split.fingerprint}, restart=restart
    ) as stage:
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
        context = prepare(recipe, setup, sft.final, rm.final)
        done = resume(context, stage)
        with stage.bar("ppo", cfg.iterations, done) as bar:
            for iteration in range(done, cfg.iterations):
                metrics = _iteration(context, stage, prompts, iteration)
                last = iteration + 1 == cfg.iterations
                if cfg.evaluate_every and (iteration + 1) % cfg.evaluate_every == 0 and not last:
                    metrics |= summary(_answer(context, held_out))
                stage.metrics.append(iteration + 1, metrics)
                if (iteration + 1) % cfg.checkpoint_every == 0 or last:
                    save(context, stage, iteration + 1)
                shown = {"score": "reward/score", "kl": "kl/reference", "eos": "response/eos"}
                bar.advance({name: metrics[key] for name, key in shown.items()})
        answered = _answer(context, held_out)
        results = summary(answered)
        stage.metrics.append(cfg.iterations, results)
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
    scores = rollout.scores / context.spread - cfg.missing_eos_penalty * (~rollout.eos).float()
    rewards = token_rewards(scores, rollout.old_logprobs, rollout.ref_logprobs, mask, cfg.kl_coef)
    advantages, returns = gae(rewards, rollout.old_values, mask, cfg.gamma, cfg.gae_lambda)
    if cfg.whiten_advantages:
        mean, var = mean_and_var(*distributed.total(torch.stack(moments(advantages, mask)), accel))
        advantages = whiten_with(advantages, mask, mean, var)
    metrics = _rollout_metrics(rollout, rewards, returns, accel)
    metrics |= update(context, rollout, advantages, returns, iteration)
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


def _answer(context: Context, prompts: Sequence[list[int]]) -> list[Answered]:
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
