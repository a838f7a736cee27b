"""`align generate`: K responses of a policy to each prompt, into the queue of the labeling app.

What is drawn for a response depends on the seed, the policy, the prompt and the response's number alone, and
prompts that have their task are passed over: a command that was killed goes on, and doubles nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from align.data.load import load
from align.data.tokenize import encode_prompts
from align.errors import MissingStage, UserError
from align.loop.policy import Drawing, OpenPolicy, PolicyStage, check_drawing, check_gap, open_policy
from align.loop.priorities import RewardModels, open_reward_models
from align.loop.queues import Queue, open_queue
from align.recipe import Priority
from align.recipe.sections import Recipe
from align.records import Demonstration, Prompt, prompt_key
from align.run.progress import ProgressBar, say
from align.sampling.params import Draws, Sampled
from align.stages.frame import Setup, source
from align.values import RecordError

_CHUNK = 16  # prompts whose tasks are kept together: what a kill can cost
_TRIES = 3  # times that a response is drawn again in place of one that is there already


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    stage: PolicyStage = "sft"
    k: int = 4
    count: int | None = None  # prompts with a task of this policy, all in all; None: every prompt
    drawing: Drawing = field(default_factory=Drawing)
    priority: Priority | None = None  # None: the recipe's, which needs no reward model to be there yet
    reward_models: Sequence[Path] = ()
    to: Path | None = None
    url: str | None = None
    token_file: Path | None = None


@dataclass
class Done:
    """What came of it."""

    added: int = 0
    known: int = 0  # prompts that had a task of this policy before
    alike: int = 0  # prompts that were passed over: fewer than two different responses
    responses: int = 0
    cut: int = 0  # responses that reached the most tokens there may be

    def told(self, k: int, place: str) -> list[str]:
        """What a person wants to know of it."""
        lines = [f"{self.added} tasks of up to {k} responses added to {place}"]
        if self.known:
            lines.append(f"{self.known} prompts already had a task from this policy")
        if self.alike:
            lines.append(f"{self.alike} prompts were skipped: there were no two different responses")
        if self.cut:
            lines.append(f"{self.cut} of {self.responses} responses were cut at ppo.max_response_tokens")
        return lines


@dataclass(frozen=True)
class _Asked:
    """A prompt, its key and its token ids."""

    prompt: Any
    key: str
    ids: list[int]


def generate(recipe: Recipe, wanted: Wanted, console: Console | None = None) -> Done:
    """Sample and add tasks until `count` prompts have one.

    Raises MissingStage where the policy's stage has not finished, UserError where something does not fit.
    """
    console = console or Console()
    with open_queue(recipe, wanted.to, wanted.url, wanted.token_file) as queue:
        policy = open_policy(recipe, wanted.stage, wanted.drawing)
        with closing(policy.engine):
            reward_models = _reward_models(recipe, wanted, policy, console)
            done = _fill(recipe, wanted, policy, reward_models, queue, console)
    for line in done.told(wanted.k, queue.place):
        say(console, line)
    return done


def _reward_models(recipe: Recipe, wanted: Wanted, policy: OpenPolicy, console: Console) -> RewardModels:
    rule = wanted.priority or recipe.labeling.priority
    try:
        return open_reward_models(recipe, policy, rule, wanted.reward_models)
    except MissingStage:
        if wanted.priority or wanted.reward_models:
            raise
    say(console, f"labeling.priority is {rule}, but rm has not finished: tasks come in their order")
    return open_reward_models(recipe, policy, "none", ())


def _fill(
    recipe: Recipe,
    wanted: Wanted,
    policy: OpenPolicy,
    reward_models: RewardModels,
    queue: Queue,
    console: Console,
) -> Done:
    asked = asked_of(recipe, policy.setup, policy.params.max_tokens, policy.seed)
    known = queue.known(policy.origin)
    todo = [one for one in asked if one.key not in known]
    done = Done(known=len(asked) - len(todo))
    goal = min(len(todo), max(0, len(todo) if wanted.count is None else wanted.count - done.known))
    if not goal:
        return done
    if wanted.drawing.engine == "vllm":
        check_gap(policy, todo[0].ids, recipe.ppo, console)
    with ProgressBar(console, "generate", goal) as bar:
        while todo and done.added < goal:
            size = min(_CHUNK, goal - done.added)
            chunk, todo = todo[:size], todo[size:]
            rows = _tasks(chunk, wanted, policy, reward_models, done)
            if rows:
                queue.add(rows)
            done.added += len(rows)
            for _ in rows:
                bar.advance()
    return done


def asked_of(recipe: Recipe, setup: Setup, room: int, seed: int) -> list[_Asked]:
    """The different prompts of data.prompts, both sides, in an order that more of them leave as it is."""
    spec = source(recipe, "prompts", "generate")
    cache = recipe.data.cache_folder
    split = load(Prompt, spec, "prompts", cache)
    found: dict[str, _Asked] = {}
    for side, where in ((split.train, "data.prompts"), (split.held_out, "data.prompts (held out)")):
        skip = spec.on_bad_record == "skip"
        encoded = encode_prompts(setup.template, side, recipe.ppo.max_prompt_tokens, where, room, cache, skip)
        for record, ids in zip(encoded.records, encoded, strict=True):
            key = prompt_key(record.prompt)
            found.setdefault(key, _Asked(record.to_dict()["prompt"], key, ids))
    return [found[key] for key in in_drawn_order(found, seed)]


def in_drawn_order(keys: Iterable[str], seed: int) -> list[str]:
    """Keys of prompts in an order that the seed draws, and that more keys leave as it is."""
    return sorted(keys, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())


def _tasks(
    chunk: list[_Asked], wanted: Wanted, policy: OpenPolicy, reward_models: RewardModels, done: Done
) -> list[dict[str, Any]]:
    """A task for each prompt that got two different responses at least."""
    answers: dict[str, dict[str, Sampled]] = {one.key: {} for one in chunk}
    number = 0  # of the first response of a try
    for _ in range(1 + _TRIES):
        lacking = [one for one in chunk if len(answers[one.key]) < wanted.k]
        counts = [wanted.k - len(answers[one.key]) for one in lacking]
        rows = [(one, number + i) for one, count in zip(lacking, counts, strict=True) for i in range(count)]
        if not rows:
            break
        draws = Draws(policy.seed, "generate", policy.origin, [(one.key, i) for one, i in rows])
        responses = policy.engine.sample([one.ids for one, _ in rows], draws, policy.params)
        for (one, _), sampled in zip(rows, responses, strict=True):
            text = policy.text(sampled.response)
            if _is_response(text):
                answers[one.key].setdefault(text, sampled)
        number += wanted.k
    enough = [one for one in chunk if len(answers[one.key]) >= 2]
    done.alike += len(chunk) - len(enough)
    priorities = reward_models.priorities([list(answers[one.key].values()) for one in enough])
    tasks = []
    for one, priority in zip(enough, priorities, strict=True):
        texts = answers[one.key]
        cut = [sampled.response[-1] != policy.params.eos_id for sampled in texts.values()]
        done.responses += len(texts)
        done.cut += sum(cut)
        tasks.append(
            {
                "prompt": one.prompt,
                "responses": [{"text": text, "origin": policy.origin} for text in texts],
                "kind": "rank",
                "priority": priority,
                "meta": {"temperature": policy.params.temperature, "seed": policy.seed, "cut": sum(cut)},
            }
        )
    return tasks


def _is_response(text: str) -> bool:
    """Whether a text can be a response at all: it has letters, and none that no text has."""
    try:
        Demonstration.from_dict({"prompt": "any", "response": text})
    except RecordError:
        return False
    return True


def check(recipe: Recipe, wanted: Wanted) -> None:
    """Raises UserError where the options don't go together."""
    check_drawing(wanted.drawing)
    rule = wanted.priority or recipe.labeling.priority
    told = f"--priority {rule}" if wanted.priority else f"labeling.priority: {rule}"
    if wanted.reward_models and rule == "none":
        raise UserError("--reward-model is for --priority margin, gap or disagreement")
    if rule == "disagreement" and not wanted.reward_models and recipe.rm.members == 1:
        raise UserError(
            f"{told} needs several reward models: name each with --reward-model, or train rm with "
            "`members: 4`, say"
        )
    if rule in ("margin", "gap") and len(wanted.reward_models) > 1:
        raise UserError(f"{told} reads one reward model; several are for --priority disagreement")
