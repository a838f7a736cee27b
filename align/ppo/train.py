"""PPO with a KL penalty to the SFT policy: respond, score, estimate advantages, update; the loop is here.

What is unusual: policy, reference, reward and value are four adapters on one base that lies in memory
once. Layers below all adapters run once a response, for all roles and all epochs. Every draw is a
function of (seed, iteration, row), so the state between iterations is weights, optimizers and a count.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from align.data.tokenize import encode_prompts
from align.errors import UserError
from align.evaluation.policy import Answered, summary
from align.models.adapters import save_adapter, save_head
from align.objectives.kl import reverse_k3
from align.objectives.masked import masked_sum, mean_and_var, moments
from align.plan.flops import work_of
from align.plan.lengths import lengths_of_prompts
from align.plan.speed import Computed, of_sampling, of_scoring, of_updates, peak_memory, speed
from align.ppo.advantages import AdvantageEstimate, estimate
from align.ppo.monitor import (
    HeldOut,
    consider,
    engine_metrics,
    guard_metrics,
    outcome,
    prune_best,
    warn,
    write_samples,
)
from align.ppo.ptx import with_demonstrations
from align.ppo.references import announced, draw_references, shape_metrics
from align.ppo.refusals import watched_refusals
from align.ppo.roles import Context, prepare, resume, save
from align.ppo.rollout import Rollout, score_rollout
from align.ppo.safety import check_outcome, is_bad, update_kl_coef
from align.ppo.update import update
from align.processes import distributed
from align.recipe.sections import Recipe
from align.records import Demonstration, Prompt
from align.rewards.rewards import find_sources, part_metrics, texts_of
from align.run.clock import Clock
from align.run.energy import on_this_machine
from align.run.files import write_text
from align.run.folder import StageRun
from align.run.installed import check_engine
from align.run.memory import itemised
from align.run.metrics import json_line
from align.sampling.engines import sampling_params
from align.sampling.params import Draws
from align.seeds import step_rows
from align.stage_table import Accepted
from align.stages.frame import Inputs


def run(
    recipe: Recipe, restart: bool = False, accepted: Sequence[Accepted] = (), anyway: bool = False
) -> None:
    """Train the policy that the recipe describes, or go on from its newest checkpoint.

    accepted: what may have changed since it began. anyway: also where memory will not do. Raises MissingStage
    where an earlier stage has not finished, UserError where something must be changed.
    """
    cfg, inputs = recipe.ppo, Inputs(recipe, "ppo", restart, accepted, anyway)
    sft = inputs.parent("sft", "sft", cfg.sft)
    sources = find_sources(recipe, inputs.setup.lineage)
    inputs.parents += [one.parent for one in sources if one.parent]
    guard = inputs.parent("guard", "rm", cfg.guard) if cfg.guard else None
    inputs.read(Prompt)
    ptx = inputs.read(Demonstration) if cfg.ptx_coef else None
    check_engine(cfg.engine)
    distributed.check_divisible(cfg.rollout_batch_size, "ppo.rollout_batch_size", inputs.setup.accel)
    with inputs.open() as stage, ExitStack() as held:
        if stage.finished:
            return
        encode = partial(encode_prompts, room=cfg.max_response_tokens)
        prompts, held_out = inputs.encode(stage, Prompt, encode, cfg.max_prompt_tokens)
        if not prompts:
            raise UserError("data.prompts: there is no training prompt")
        if not held_out and cfg.keep == "best":
            raise UserError("ppo.keep: best compares iterations on held-out prompts: data.prompts.held_out")
        recipe = inputs.settled(stage, lengths_of_prompts(recipe, prompts.lengths))
        context = prepare(recipe, inputs.setup, sft, sources, guard)
        held.callback(context.engine.close)
        context = with_demonstrations(context, recipe, ptx)
        done = resume(context, stage)
        _say_remarks(context, stage, len(prompts))
        answers, refusals = HeldOut(context, held_out), watched_refusals(context, recipe, stage)
        if 0 < done < cfg.iterations:  # a limit that was passed still is, unless it was raised
            refusals.check(refusals.measured(), stage, done)
        clock, energy = Clock(), on_this_machine()
        with (
            stage.steps(cfg.iterations, done) as bar,
            itemised(stage, lambda: context.forward.roles.held(context.optimizers)),
        ):
            for iteration in range(done, cfg.iterations):
                stage.stop_if_told(iteration, partial(save, context, stage, iteration))
                done_now = iterate(context, stage, prompts, iteration)
                metrics, last = done_now.metrics, iteration + 1 == cfg.iterations
                write_samples(context, stage, done_now.rollout, iteration)
                warn(context, stage, iteration + 1, metrics)
                if cfg.evaluate_every and (iteration + 1) % cfg.evaluate_every == 0 and not last:
                    results = summary(answers.answered())
                    consider(context, stage, iteration + 1, results)
                    metrics |= results | refusals.measured()
                timed = clock.other(metrics) | peak_memory(context.accel.device) | energy()
                stage.metrics.append(iteration + 1, metrics | context.forward.savings() | timed)
                due = (iteration + 1) % cfg.checkpoint_every == 0 or last
                if due and not context.state.bad_in_a_row:  # else it may be the weights that are bad
                    save(context, stage, iteration + 1)
                    prune_best(context, stage)
                refusals.check(metrics, stage, iteration + 1)
                shown = {"score": "reward/score", "kl": "kl/reference", "eos": "response/eos"}
                bar.advance({name: metrics[key] for name, key in shown.items()})
        answered, results = outcome(context, stage, answers, refusals.measured)
        refusals.check(results, stage, cfg.iterations)
        check_outcome(context, stage, results)
        _finish(context, stage, answered, results)


def _say_remarks(context: Context, stage: StageRun, prompts: int) -> None:
    """What a person should know before it begins."""
    remarks = [*context.forward.remarks(), *context.engine.remarks(), *announced(context, prompts)]
    for remark in remarks:
        stage.say(f"ppo: {remark}")


@dataclass(frozen=True)
class Iteration:
    """What one turn of the algorithm found."""

    rollout: Rollout
    estimate: AdvantageEstimate
    metrics: dict[str, float]


def iterate(context: Context, stage: StageRun, prompts: Sequence[list[int]], iteration: int) -> Iteration:
    """One turn of the algorithm: sample, score, rewards and advantages, update. It changes the trained roles.

    prompts: token ids of all training prompts; which the iteration has is a function of (seed, iteration).
    Raises AlignError at ppo.kl_limit and ppo.engine_gap_stop, and after too many bad steps.
    """
    cfg, accel, clock = context.cfg, context.accel, Clock()
    with stage.unchanged(iteration, partial(save, context, stage, iteration)):
        rollout = roll_out(context, prompts, iteration, clock)
    found = estimate(cfg, rollout, context.state.kl_coef, context.score_std, accel)
    coef = update_kl_coef(context, stage, rollout, iteration)
    metrics = rollout_metrics(rollout, found, accel)
    metrics |= part_metrics(rollout.parts, cfg, accel) | shape_metrics(context, rollout)
    if rollout.disagreement is not None:
        apart = rollout.disagreement.double()
        sums = torch.stack([apart.sum(), torch.ones_like(apart).sum()])
        whole, rows = distributed.total(sums, accel).tolist()
        metrics["reward/disagreement"] = whole / rows
    metrics |= engine_metrics(context, stage, rollout)
    metrics["kl/coef"] = coef
    if not is_bad(context, stage, rollout, found.rewards, iteration):
        loss_coef = coef if cfg.kl_in == "loss" else 0.0
        metrics |= update(context, stage, rollout, found, loss_coef, iteration)
    clock("update")
    metrics |= clock.metrics()
    metrics |= speeds(context, rollout, metrics, trained=iteration >= cfg.value_warmup)
    metrics |= guard_metrics(context, rollout)
    return Iteration(rollout, found, metrics)


def roll_out(context: Context, prompts: Sequence[list[int]], iteration: int, clock: Clock) -> Rollout:
    """This process's responses to the iteration's prompts, with what every role says of them."""
    cfg = context.cfg
    each = cfg.responses_per_prompt
    drawn = step_rows(context.seed, "ppo", iteration, cfg.rollout_batch_size // each, len(prompts))
    if cfg.reward_shape != "none":
        draw_references(context, prompts, drawn)
        clock("reference")
    rows = distributed.share(list(range(cfg.rollout_batch_size)), context.accel)
    chosen = [drawn[row // each] for row in rows]
    context.engine.update()
    draws, params = Draws(context.seed, "ppo", iteration, rows), sampling_params(cfg, context.setup.base)
    sampled = context.engine.sample([prompts[i] for i in chosen], draws, params)
    clock("sample")
    rollout = score_rollout(
        context.forward,
        sampled,
        context.rewards,
        texts_of(context.rewards, sampled, prompts, chosen, context.setup.template),
        temperature=cfg.temperature,
        microbatch_tokens=cfg.microbatch_tokens,
    )
    clock("judge")
    if cfg.reward_shape == "none":
        return rollout
    return replace(rollout, reference_scores=context.references.of(chosen).to(rollout.scores))


def rollout_metrics(rollout: Rollout, found: AdvantageEstimate, accel: Accelerator) -> dict[str, float]:
    """Means over all processes' responses or tokens."""
    mask = rollout.response_mask
    kl = masked_sum(rollout.old_logprobs - rollout.ref_logprobs, mask, dim=1)
    reverse = masked_sum(reverse_k3(rollout.old_logprobs, rollout.ref_logprobs), mask, dim=1)
    scores = rollout.scores.double()
    per_response = [scores, scores.square(), kl, reverse, found.rewards.sum(1), mask.sum(1), rollout.eos]
    sums = torch.stack([torch.ones_like(kl).sum(), *(x.double().sum() for x in per_response)]).double()
    tokens = torch.stack([masked_sum(x, mask) for x in (mask.float(), rollout.entropies)]).double()
    rows, score, squares, forward, backward, reward, length, eos = distributed.total(sums, accel).tolist()
    count, entropy = distributed.total(tokens, accel).tolist()
    return {
        "reward/score": score / rows,
        "reward/score_std": max(squares / rows - (score / rows) ** 2, 0.0) ** 0.5,
        "reward/total": reward / rows,
        "kl/reference": forward / rows,
        "kl/reverse": backward / rows,
        "response/length": length / rows,
        "response/eos": eos / rows,
        "policy/entropy": entropy / count,
        **_explained_variance(rollout, found.returns, accel),
    }


def speeds(context: Context, rollout: Rollout, metrics: dict[str, float], trained: bool) -> dict[str, float]:
    """Tokens and operations a second, by part; trained: whether the policy was updated too."""
    cfg, accel, split = context.cfg, context.accel, bool(context.forward.split)
    roles = context.forward.roles
    work = work_of(roles.base, roles.adapter_of("policy"))
    lengths = [(len(one.prompt), len(one.response)) for one in rollout.sampled]
    apart = cfg.has_value_model and cfg.value_model == "separate"
    ensembles = [roles.ensembles.get(role) for role in context.rewards.roles.values()]
    judges = sum(1 if one is None else len(one.members) for one in ensembles)
    scored = of_scoring(work, lengths, 2 + apart + judges, 2, split)
    share = metrics.get("policy/updates", 0.0) * cfg.minibatch_size / cfg.rollout_batch_size
    both = cfg.value_model == "shared"  # then the policy's adapter learns the values too
    updated = of_updates(work, lengths, share, trained or both, apart, split)
    sampled = of_sampling(work, lengths, cfg.responses_per_prompt)
    parts = {"sample": sampled, "judge": scored, "update": updated}
    counts = torch.tensor([[one.tokens, one.flops] for one in parts.values()], dtype=torch.float64)
    found: dict[str, float] = {}
    for (part, _), row in zip(parts.items(), distributed.total(counts.to(accel.device), accel), strict=True):
        tokens, flops = row.tolist()
        seconds = metrics[f"seconds/{part}"]
        done, rated = Computed(tokens, flops), part != "sample"
        found |= speed(done, seconds, accel.num_processes, accel.device, part, rated)
    return found


def _explained_variance(rollout: Rollout, returns: Tensor | None, accel: Accelerator) -> dict[str, float]:
    """How much of the returns' variance the values told, where there is a value model."""
    if returns is None or rollout.old_values is None:
        return {}
    mask = rollout.response_mask
    sums = torch.stack([*moments(returns, mask), *moments(returns - rollout.old_values, mask)])
    sums = distributed.total(sums, accel)
    var_returns, var_errors = (float(mean_and_var(*sums[i : i + 3])[1]) for i in (0, 3))
    return {"value/explained_variance": 1 - var_errors / var_returns if var_returns else float("nan")}


def _finish(context: Context, stage: StageRun, answered: list[Answered], results: dict[str, float]) -> None:
    roles = context.forward.roles
    if stage.main:
        write_text(stage.folder / "held_out.jsonl", "".join(json_line(a.row()) for a in answered))

    def write(folder: Path) -> None:
        assert roles.peft is not None
        save_adapter(roles.peft, roles.adapter_of("policy"), folder)
        if context.cfg.has_value_model:
            if context.cfg.value_model == "separate":
                save_adapter(roles.peft, roles.adapter_of("value"), folder / "value")
            save_head(roles.heads["value"], folder / "value")
        context.setup.template.save_tokenizer(folder)

    stage.finish(write, results)
    stage.say(f"ppo is finished: {stage.final}")
    if results:
        stage.say(
            f"on {results['eval/prompts']:.0f} held-out prompts the score went from "
            f"{results['eval/reference_score']:.3f} to {results['eval/score']:.3f} "
            f"at {results['eval/kl']:.2f} nats a response"
        )
