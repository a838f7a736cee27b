"""The top of the page: the numbers looked for first, and what to look at before believing them."""

from __future__ import annotations

from statistics import fmean

from align.report.parts import Figure
from align.report.read import RunFiles, StageFiles
from align.report.reward import agreement
from align.text import number, percent, two


def figures(run: RunFiles) -> list[Figure]:
    """The numbers that a person looks for first."""
    shown = []
    if (sft := run.stages.get("sft")) and "eval/loss" in sft.manifest.results:
        detail = "nats a token on held-out demonstrations"
        results = sft.manifest.results
        if "eval/perplexity" in results:
            detail += f"; perplexity {number(results['eval/perplexity'])}"
        shown.append(Figure("SFT loss", number(results["eval/loss"]), detail))
    if (rm := run.stages.get("rm")) and (rows := agreement(rm)):
        detail = f"of {rows[0].count} as people ordered them"
        if rows[0].interval:
            detail = f"95% interval {rows[0].interval}; {detail}"
        if len(rows) > 1:
            detail += f"; {rows[1].name}: {rows[1].value}"
        shown.append(Figure("Reward model agrees", rows[0].value, detail))
    if (ppo := run.stages.get("ppo")) and "eval/score" in ppo.manifest.results:
        results = ppo.manifest.results
        before = f"{two(results['eval/reference_score'])} → " if "eval/reference_score" in results else ""
        detail = f"on {number(results.get('eval/prompts', 0))} held-out prompts"
        shown.append(Figure("Score, SFT → PPO", before + two(results["eval/score"]), detail))
        if "eval/kl" in results:
            eos = f"; {percent(results['eval/eos'])} end by themselves" if "eval/eos" in results else ""
            shown.append(Figure("KL to SFT", number(results["eval/kl"]), f"nats a response{eos}"))
    return shown


def warnings(run: RunFiles) -> list[str]:
    """What a person should look at before believing the numbers."""
    found = []
    if rm := run.stages.get("rm"):
        found += _doubts_about_rm(rm)
    if ppo := run.stages.get("ppo"):
        found += _doubts_about_ppo(ppo)
    return found


def _doubts_about_rm(stage: StageFiles) -> list[str]:
    found, doubts = stage.evaluation, []
    own, length = found.accuracy, found.length_only.value if found.length_only else None
    if own.low is not None and own.low <= (0.5 if length is None else length):
        what = "guessing" if length is None else f"length alone ({percent(length)})"
        doubts.append(f"The reward model is not clearly better than {what}: its interval reaches there.")
    if own.count is not None and 0 < own.count < 200:
        doubts.append(
            f"Only {number(own.count)} held-out comparisons: with more of them the interval is narrower."
        )
    if longer := found.longer_preferred:
        model, people = longer.model.value, longer.people.value
        if model is not None and people is not None and model - people > 0.1:
            doubts.append(
                f"The reward model prefers the longer response in {percent(model)} of the comparisons, "
                f"people in {percent(people)}: PPO is likely to exploit that."
            )
    raw = found.calibration.raw if found.calibration else None
    if raw and raw.ece is not None and raw.ece > 0.1:
        doubts.append(f"The reward model's probabilities are off by {percent(raw.ece)} in the mean (ECE).")
    return doubts


def _doubts_about_ppo(stage: StageFiles) -> list[str]:
    doubts, results = [], stage.manifest.results
    if results.get("eval/eos", 1) < 0.5:
        doubts.append(
            f"Only {percent(results['eval/eos'])} of the policy's responses end by themselves; the length "
            "limit cuts the others."
        )
    lengths = [
        (row.reference_length, row.policy_length)
        for row in stage.held_out
        if row.reference_length is not None and row.policy_length is not None
    ]
    if lengths:
        before, after = (fmean(part) for part in zip(*lengths, strict=True))
        if before and not 0.5 <= after / before <= 2:
            doubts.append(
                f"Responses went from {number(round(before, 1))} to {number(round(after, 1))} tokens: check "
                "whether the reward model rewards length."
            )
    gaps = stage.curve("engine/logprob_gap")
    if gaps and gaps[-1][1] > 0.05:
        doubts.append(
            f"Sampler and trainer disagree by {number(gaps[-1][1])} nats a token: the ratios of PPO are off."
        )
    return doubts
