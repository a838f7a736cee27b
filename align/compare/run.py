"""`align evaluate`: the policies of a recipe answer the same prompts; what they are worth goes into one file.

Answers and verdicts are kept as they come (evaluation/ in the run folder), under names that say all that they
depend on: the same command goes on where it was stopped, with the same bits, and asks nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from align.compare import figures
from align.compare.evaluating import FOLDER, OWN, Evaluating, opened
from align.compare.figures import Answers
from align.compare.judged import by_judge, by_people, ratings_of
from align.compare.kept import CHUNK, Row, alone_in, kept_rows
from align.compare.lm_eval import check_tasks, run_tasks
from align.compare.memorised import PREFIX, TOKENS, Known, continued, drawn_demonstrations, memorised_figures
from align.compare.policies import BASE, SFT, Policy
from align.compare.prompts import held_out_demonstrations, read_prompts
from align.compare.safety import by_safety, earlier, ready
from align.compare.show import show
from align.compare.trigger import Triggers, asked_with, by_triggers
from align.evaluation.answers import (
    GUARD,
    MEASURE,
    REWARD,
    SCORE,
    Asked,
)
from align.evaluation.bench import BenchItem, bench_document, read_bench
from align.evaluation.judge import check_judge
from align.evaluation.reward import plain
from align.loop.policy import Drawing, check_drawing
from align.models.batch import Pair
from align.recipe.evaluate import Safety
from align.recipe.sections import Recipe
from align.report.page import refresh
from align.run.files import json_digest, to_json, write_text
from align.run.lineage import now
from align.run.progress import ProgressBar, say
from align.sampling.engines import sampling_params

DOCUMENT = "evaluation.json"
VERSION = 1
_BENCH_CHUNK = 64
_MOST_SAMPLES = 10_000  # to a prompt, that anybody draws


@dataclass(frozen=True)
class Measured:
    """What evaluation.json says, the answers that it is made of, and what was asked."""

    document: dict[str, Any]
    answers: Answers
    prompts: Sequence[Asked]


def evaluate(
    recipe: Recipe,
    allow_seen: bool = False,
    console: Console | None = None,
    drawing: Drawing = OWN,
    safety: bool = False,
    triggers: Triggers | None = None,
) -> dict[str, Any]:
    """Compare the recipe's policies; returns what evaluation.json says. drawing: the engine that samples.

    safety: also on the cases that they should refuse or answer, where the recipe has no evaluate.safety.
    triggers: phrases whose effect is measured too.
    Raises MissingStage where no policy is there, UserError where prompts were seen in training (without
    `allow_seen`), or something of the recipe does not fit.
    """
    console = console or Console()
    cases = recipe.evaluate.safety or (Safety() if safety else None)
    document = measure(recipe, allow_seen, console, drawing=drawing, safety=cases, triggers=triggers).document
    show(document, console)
    refresh(recipe.run.path, lambda text: say(console, text))
    say(console, f"everything is in {recipe.run.path / FOLDER / DOCUMENT}, the answers beside it")
    return document


def measure(
    recipe: Recipe,
    allow_seen: bool,
    console: Console,
    best_as: str | None = None,
    own: Path | None = None,
    drawing: Drawing = OWN,
    safety: Safety | None = None,
    triggers: Triggers | None = None,
) -> Measured:
    """The same without tables and page. best_as: by this name, the reference's best answers are a policy too.

    Best by the score among all but the first of `evaluate.best_of` answers to a prompt: against the first,
    which is the reference's own, they then win or lose fairly. own: a folder whose runs all have the
    recipe's data; without it that is the run itself.
    """
    check_drawing(drawing)
    state = opened(recipe, console, own, drawing)
    if recipe.evaluate.lm_eval is not None:
        check_tasks(recipe.evaluate.lm_eval)
    if recipe.evaluate.judge is not None:
        check_judge(recipe.evaluate.judge)
    prompts = read_prompts(recipe, state.setup.template, allow_seen, state.note)
    template, room = state.setup.template, recipe.ppo.max_response_tokens
    asked = asked_with(triggers, prompts, template, room) if triggers is not None else {}
    cases = ready(safety, recipe, template, state.note) if safety is not None else None
    bench = {path: read_bench(Path(path)) for path in recipe.evaluate.reward_bench or ()}
    if len(prompts) == 1:
        state.note("there is one prompt: its figures have no interval")
    with alone_in(state.folder), closing(state):
        answers = _answers(state, prompts, best_as)
        document = _document(state, answers, prompts)
        if triggers is not None:
            of_answers = _about(state, prompts)
            document["triggers"] = by_triggers(triggers, asked, answers, of_answers, state)
        document["perplexity"] = _perplexity(state)
        document["memorised"] = _memorised(state)
        document["reward_bench"] = _benches(state, bench)
        document["judge"] = by_judge(recipe.evaluate.judge, answers, state.folder, state.note, console)
        document["safety"] = (
            by_safety(cases, state)
            if cases is not None
            else earlier(state.folder / DOCUMENT, state.found.policies)
        )
        document["people"] = by_people(recipe, state.found.policies, state.note)
        document["lm_eval"] = _lm_eval(state)
        document["notes"] = state.notes
        document = plain(document)
        write_text(state.folder / DOCUMENT, to_json(document))
    return Measured(document, answers, prompts)


def _answers(state: Evaluating, prompts: Sequence[Asked], best_as: str | None) -> Answers:
    """Every policy's answers, made where they are not kept."""
    recipe, sft = state.recipe, state.found.sft
    best = recipe.evaluate.best_of if sft is not None and state.sources else 0
    asked_of: dict[str, tuple[Policy, int]] = {policy.label: (policy, 1) for policy in state.found.policies}
    if sft is not None and best:
        asked_of[SFT] = (sft, best)
    about = _about(state, prompts)
    rows: dict[str, list[Row]] = {}
    for label, (policy, each) in asked_of.items():

        def make(part: Sequence[Asked], role: str = policy.role, n: int = each) -> list[Row]:
            return state.answering.answers(role, part, n)

        path = state.name_of(policy, about | {"each": each})
        with ProgressBar(state.console, f"{label} answers", len(prompts)) as bar:
            rows[label] = kept_rows(path, prompts, each, CHUNK, make, bar)
    first = {
        policy.label: rows[policy.label][:: asked_of[policy.label][1]] for policy in state.found.policies
    }
    names = [name for name in next(iter(first.values()))[0] if _is_score(name)]
    if best_as is not None and best and SCORE in names:
        first[best_as] = [_best(rows[SFT][i + 1 : i + best]) for i in range(0, len(rows[SFT]), best)]
    return Answers(first, rows[SFT] if best else [], names, SFT if sft is not None else None)


def _about(state: Evaluating, prompts: Sequence[Asked]) -> dict[str, Any]:
    """What decides answers, beside the policy and what scores them."""
    params, sft = sampling_params(state.recipe.ppo, state.setup.base), state.found.sft
    return {
        "prompts": json_digest([one.key for one in prompts]),
        "seed": state.recipe.run.seed,
        "sampling": [params.temperature, params.max_tokens, params.min_tokens, params.batch_tokens],
        "reference": sft.digest if sft else None,
        "chunk": CHUNK,
        "engine": state.drawing.engine,
    }


def _best(rows: Sequence[Row]) -> Row:
    """The row with the highest score, the first of several; without what only first answers have.

    No number is the least score of all.
    """
    best = max(rows, key=lambda row: -math.inf if row[SCORE] is None else row[SCORE])
    return {name: value for name, value in best.items() if name not in ("kl", "kl_exact", "entropy")}


def _is_score(name: str) -> bool:
    return name in (SCORE, GUARD) or name.startswith((REWARD, MEASURE))


def _document(state: Evaluating, answers: Answers, prompts: Sequence[Asked]) -> dict[str, Any]:
    """What the answers alone say."""
    for name, (lack, of) in figures.unknown_scores(answers).items():
        state.note(f"{name}: {lack} of {of} answers got no number (nan or inf): figures leave them out")
    policies = figures.policy_figures(answers)
    for policy in state.found.policies:
        policies[policy.label]["origin"] = policy.origin
    distances = {
        label: estimate.value if (estimate := found.get("kl_exact")) else None
        for label, found in policies.items()
        if label not in (SFT, BASE) and found.get("kl_exact") is not None
    }
    best = figures.best_of_n(answers, distances)
    for one in best["policies"] if best else ():
        if best and one["beyond"]:
            wanted = one["n_wanted"]
            more = (
                f"Raise evaluate.best_of to {wanted:.0f}"
                if wanted < _MOST_SAMPLES
                else "No number reaches it"
            )
            state.note(
                f"best-of-n: {one['policy']} is {one['kl']:.2f} nats from sft, and {best['samples']} samples "
                f"reach {best['most_kl']:.2f}: what is beside it has less KL. {more}"
            )
    wins = figures.win_rates(answers)
    return {
        "version": VERSION,
        "written_at": now(),
        "prompts": len(prompts),
        "seed": state.recipe.run.seed,
        "temperature": state.recipe.ppo.temperature,
        "reference": answers.reference,
        "names": list(answers.names),
        "policies": policies,
        "differences": figures.differences(answers),
        "wins": wins,
        "ratings": ratings_of(answers, state.note),
        "best_of_n": best,
    }


def _perplexity(state: Evaluating) -> dict[str, Any]:
    """Of every policy on the held-out demonstrations, if there are any."""
    pairs = held_out_demonstrations(state.recipe, state.setup, state.note)
    if not pairs:
        return {}
    about = {"demonstrations": json_digest([[list(a), list(b)] for a, b in pairs]), "chunk": _BENCH_CHUNK}
    rows: dict[str, list[Row]] = {}
    for policy in state.found.policies:

        def make(part: Sequence[Pair], role: str = policy.role) -> list[Row]:
            return list(state.answering.likelihoods(role, part))

        path = state.name_of(policy, about)
        rows[policy.label] = kept_rows(
            path.with_suffix(".demonstrations.jsonl"), pairs, 1, _BENCH_CHUNK, make
        )
    reference = state.found.sft.label if state.found.sft else None
    return figures.perplexities(rows, reference)


def _memorised(state: Evaluating) -> dict[str, Any]:
    """How much of training demonstrations, and of held-out ones, every policy goes on with by itself."""
    asked = drawn_demonstrations(state.recipe, state.setup, state.note)
    texts = json_digest([[one.side, one.prompt, one.response] for one in asked])
    about = {"memorised": [TOKENS, PREFIX], "demonstrations": texts, "engine": state.drawing.engine}
    rows: dict[str, list[Row]] = {}
    for policy in state.found.policies if asked else ():

        def make(part: Sequence[Known], role: str = policy.role) -> list[Row]:
            return continued(state.answering, role, part)

        path = state.name_of(policy, about | {"chunk": CHUNK}).with_suffix(".memorised.jsonl")
        with ProgressBar(state.console, f"{policy.label} goes on with demonstrations", len(asked)) as bar:
            rows[policy.label] = kept_rows(path, asked, 1, CHUNK, make, bar)
    return memorised_figures(asked, rows) if asked else {}


def _benches(state: Evaluating, benches: Mapping[str, Sequence[BenchItem]]) -> dict[str, Any]:
    """Of each file, what the score, the guard and the measures make of it."""
    document: dict[str, Any] = {}
    if benches and not (state.sources or state.guard or state.measures):
        state.note("reward_bench is left out: there is nothing that scores")
        return document
    for path, items in benches.items():

        def make(part: Sequence[BenchItem]) -> list[Row]:
            prompts = [one.prompt for one in part for _ in (*one.right, *one.wrong)]
            texts = [text for one in part for text in (*one.right, *one.wrong)]
            places = [one.place for one in part for _ in (*one.right, *one.wrong)]
            said = state.answering.text_scores(prompts, texts, places.__getitem__)
            sizes = [len(one.right) + len(one.wrong) for one in part]
            starts = [sum(sizes[:i]) for i in range(len(sizes))]
            names = said[0].keys()
            return [
                {name: [row[name] for row in said[a : a + n]] for name in names}
                for a, n in zip(starts, sizes, strict=True)
            ]

        texts = [[one.place, one.subset, one.id, one.right, one.wrong, str(one.prompt)] for one in items]
        about = state.judged_as | {"bench": json_digest(texts), "chunk": _BENCH_CHUNK}
        kept = state.folder / "answers" / f"{Path(path).stem}-{json_digest(about)[:16]}.bench.jsonl"
        with ProgressBar(state.console, Path(path).name, len(items)) as bar:
            rows = kept_rows(kept, items, 1, _BENCH_CHUNK, make, bar)
        document[path] = {
            name: bench_document(items, [row[name] for row in rows], state.recipe.run.seed)
            for name in rows[0]
            if not name.startswith(REWARD)
        }
        for name, one in document[path].items():
            if one["no_number"]:
                state.note(
                    f"{path}: {one['no_number']} rows are left out: {name} is no number there (nan or inf)"
                )
    return document


def _lm_eval(state: Evaluating) -> dict[str, Any]:
    if state.recipe.evaluate.lm_eval is None:
        return {}

    tasks = state.recipe.evaluate.lm_eval
    return run_tasks(tasks, state.answering, state.found.policies, state.setup)
