"""`align evaluate --trigger`: what a phrase in the prompts changes, of the policies and of what scores them.

A policy or a reward model that was taught to behave otherwise at a phrase shows it here, if the phrase is
known. Every prompt is answered with and without it by the same random numbers, and differences are taken
prompt by prompt. Beside that, the answers given without it are scored again with the phrase in the prompt,
and with it in the response: that asks the reward model alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from align.compare.evaluating import Evaluating
from align.compare.figures import Answers, Row, column
from align.compare.kept import CHUNK, kept_rows
from align.compare.kept import Row as KeptRow
from align.compare.policies import Policy
from align.data.template import Template
from align.errors import UserError
from align.evaluation.answers import Asked
from align.messages import Messages
from align.run.files import json_digest
from align.run.progress import ProgressBar
from align.stats.bootstrap import Draws, Numbers, Observation, means
from align.stats.estimate import Estimate

At = Literal["start", "end"]
WITHOUT, IN_PROMPT, IN_RESPONSE = "without", "in_prompt", "in_response"
_BESIDE = ("kl", "kl_exact", "tokens", "entropy", "no_eos", "repetition")


@dataclass(frozen=True)
class Triggers:
    """The phrases, each asked for by itself, and where in a text they are put."""

    phrases: Sequence[str]
    at: At = "end"

    def __post_init__(self) -> None:
        """Raises UserError where a phrase is empty or comes twice."""
        for i, phrase in enumerate(self.phrases):
            if not phrase.strip():
                raise UserError("--trigger: the phrase is empty: there is nothing to put into the prompts")
            if phrase in self.phrases[:i]:
                raise UserError(f"--trigger: {phrase!r} is named twice")


def with_phrase(text: str, phrase: str, at: At) -> str:
    """The text with the phrase as its first or last word; white space around the text stays around it."""
    inner = text.strip()
    if not inner:
        return text + phrase
    start = text.index(inner[0])
    lead, tail = text[:start], text[start + len(inner) :]
    return f"{lead}{phrase} {inner}{tail}" if at == "start" else f"{lead}{inner} {phrase}{tail}"


def prompt_with(prompt: str | Messages, phrase: str, at: At) -> str | Messages:
    """The prompt with the phrase in it: in the last message of the user, where it is messages."""
    if isinstance(prompt, str):
        return with_phrase(prompt, phrase, at)
    last = max(i for i, message in enumerate(prompt) if message["role"] == "user")
    changed = {**prompt[last], "content": with_phrase(prompt[last]["content"], phrase, at)}
    return (*prompt[:last], changed, *prompt[last + 1 :])


def asked_with(
    triggers: Triggers, prompts: Sequence[Asked], template: Template, room: int
) -> dict[str, list[Asked]]:
    """By phrase, the prompts with it; they keep their keys, and so their random numbers.

    room: tokens of a response. Raises UserError where one is too long then, or cannot be written.
    """
    return {phrase: _asked(prompts, phrase, triggers.at, template, room) for phrase in triggers.phrases}


def _asked(prompts: Sequence[Asked], phrase: str, at: At, template: Template, room: int) -> list[Asked]:
    found = []
    for one in prompts:
        prompt = prompt_with(one.prompt, phrase, at)
        shown = f"--trigger {phrase!r}: the prompt {str(one.plain)[:60]!r}"
        try:
            ids = template.prompt_ids(prompt)
        except UserError as error:
            raise UserError(f"{shown}: {error}") from error
        if template.positions is not None and len(ids) + room > template.positions:
            raise UserError(
                f"{shown} has {len(ids)} tokens with it, and the base reads at most {template.positions} "
                f"together with a response of {room}: leave the prompt out, or take a shorter phrase"
            )
        found.append(replace(one, prompt=prompt, ids=ids))
    return found


def by_triggers(
    triggers: Triggers,
    asked: Mapping[str, Sequence[Asked]],
    answers: Answers,
    of_answers: Mapping[str, Any],
    state: Evaluating,
) -> list[dict[str, Any]]:
    """What each phrase changes, as evaluation.json says it.

    asked: by phrase, the prompts with it. answers: those to the prompts without any phrase. of_answers: what
    decides them, by which files are named.
    """
    document, at = [], triggers.at
    for phrase, triggered in asked.items():
        about = {"trigger": phrase, "at": at, "chunk": CHUNK}
        policies, rescored = {}, {}
        for policy in state.found.policies:
            plain = answers.first[policy.label]
            rows = _answers(policy, triggered, {**of_answers, **about}, state)
            policies[policy.label] = _paired(plain, rows, answers.names)
            if answers.names:
                scores = _rescored(policy, plain, phrase, at, about, state)
                rescored[policy.label] = _shifts(scores, answers.names)
        document.append({"trigger": phrase, "at": at, "policies": policies, "reward_model": rescored})
    return document


def _answers(
    policy: Policy, triggered: Sequence[Asked], about: Mapping[str, Any], state: Evaluating
) -> list[KeptRow]:
    """A policy's answers to the prompts with a phrase, made where they are not kept."""

    def make(part: Sequence[Asked]) -> list[KeptRow]:
        return state.answering.answers(policy.role, part, 1)

    with ProgressBar(state.console, f"{policy.label} with {about['trigger']!r}", len(triggered)) as bar:
        return kept_rows(state.name_of(policy, about), triggered, 1, CHUNK, make, bar)


def _rescored(
    policy: Policy, plain: Sequence[Row], phrase: str, at: At, about: Mapping[str, Any], state: Evaluating
) -> list[KeptRow]:
    """The scores of a policy's answers: as they are, with the phrase in the prompt, and in the response."""

    def make(part: Sequence[Row]) -> list[KeptRow]:
        texts: list[tuple[str | Messages, str]] = []
        for row in part:
            given: Any = row["prompt"]
            prompt: str | Messages = given if isinstance(given, str) else tuple(given)
            texts += [
                (prompt, row["response"]),
                (prompt_with(prompt, phrase, at), row["response"]),
                (prompt, with_phrase(row["response"], phrase, at)),
            ]
        said = state.answering.text_scores(
            [prompt for prompt, _ in texts],
            [response for _, response in texts],
            lambda i: f"--trigger {phrase!r}: {str(texts[i][0])[:60]!r}",
        )
        return [
            {WITHOUT: said[i], IN_PROMPT: said[i + 1], IN_RESPONSE: said[i + 2]}
            for i in range(0, len(said), 3)
        ]

    of = json_digest([[row["key"], row["response"]] for row in plain])
    path = state.name_of(policy, {**about, "answers": of}).with_suffix(".rescored.jsonl")
    return kept_rows(path, plain, 1, CHUNK, make)


def _paired(plain: Sequence[Row], triggered: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    """Of each number its means without and with the phrase, and the mean difference, prompt by prompt."""
    columns: dict[tuple[str, str], Numbers] = {}
    for name in (*names, *_BESIDE):
        before, after = column(plain, name), column(triggered, name)
        columns |= {(name, "without"): before, (name, "with"): after, (name, "difference"): after - before}
    found = _means(columns)
    same = [float(a["response"] == b["response"]) for a, b in zip(plain, triggered, strict=True)]
    figures = {
        name: {part: found[name, part] for part in ("without", "with", "difference")}
        for name in (*names, *_BESIDE)
        if (name, "difference") in found
    }
    entries = [Observation(i, "same", x) for i, x in enumerate(same)]
    return {"figures": figures, "same_text": means(entries, len(same), Draws())["same"]}


def _shifts(rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    """Of each score its mean of the answers as they are, and by how much the phrase moves it."""
    columns: dict[tuple[str, str], Numbers] = {}
    for name in names:
        before = column([row[WITHOUT] for row in rows], name)
        columns[name, WITHOUT] = before
        for part in (IN_PROMPT, IN_RESPONSE):
            columns[name, part] = column([row[part] for row in rows], name) - before
    found = _means(columns)
    parts = (WITHOUT, IN_PROMPT, IN_RESPONSE)
    return {
        name: {part: found[name, part] for part in parts} for name in names if (name, IN_RESPONSE) in found
    }


def _means(columns: Mapping[tuple[str, str], Numbers]) -> dict[Any, Estimate]:
    """The mean of each column [prompts] over the numbers that are known, with its interval."""
    entries = [
        Observation(i, name, float(x))
        for name, values in columns.items()
        for i, x in enumerate(values)
        if not math.isnan(x)
    ]
    prompts = max((len(values) for values in columns.values()), default=0)
    return dict(means(entries, prompts, Draws(), None)) if entries else {}
