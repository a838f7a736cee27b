"""`align iterate`: what can be done without people is done, then it says what they have to do.

A round is rankings of one policy's responses, a reward model, and PPO. Before sft, and before a round trains,
its recipe is written with the labels as they are (`until`): the same line goes on with exactly these.

    runs/mine/labeling.db       what people did
    runs/mine/sft/              the policy of round 1, and where every round's rm and ppo start
    runs/mine/iterate/*.yaml    sft.yaml, round-1.yaml, …: what trains, as it began
    runs/mine/round-1/          rm and ppo of round 1; its policy is asked in round 2
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console

from align.data.load import load
from align.errors import UserError
from align.loop.generate import Wanted, generate, in_drawn_order
from align.loop.policy import Drawing, PolicyStage, origin_of
from align.loop.queues import labeling_package
from align.recipe import Priority
from align.recipe.data import LABELS, Entry, Source
from align.recipe.load import dump, load_recipe
from align.recipe.sections import Recipe
from align.records import Prompt, RecordKind, prompt_key
from align.run.files import write_text
from align.run.manifest import ADAPTER, Manifest, read_manifest
from align.run.progress import say
from align.stage_table import STAGES, Stage
from align.stages.frame import source

What = Literal["ask", "wait for demonstrations", "sft", "sample", "wait for rankings", "rm", "ppo", "stuck"]


@dataclass(frozen=True)
class Goal:
    """What a round needs of people, and how its tasks are sampled."""

    rankings: int = 100
    demonstrations: int = 50
    k: int = 4
    drawing: Drawing = field(default_factory=Drawing)


@dataclass(frozen=True)
class RoundState:
    """What there is; counted in tasks."""

    sft: bool = False  # finished
    sft_begun: bool = False  # its labels are chosen
    people_demonstrate: bool = True  # demonstrations are read from the labeling database
    demonstrations: int = 0
    open_demonstrations: int = 0
    begun: bool = False  # the round's labels are chosen
    rm: bool = False  # finished
    rankings: int = 0  # of the round's policy
    open_rankings: int = 0
    prompts_left: bool = True


@dataclass(frozen=True)
class Step:
    """What to do next; `count`: how many tasks to add, or how many answers are missing."""

    what: What
    count: int = 0


def next_step(state: RoundState, goal: Goal) -> Step:
    """The one thing that comes next: people's part as long as something is missing, then training."""
    if not state.sft:
        if not state.people_demonstrate or state.sft_begun:
            return Step("sft")
        missing = goal.demonstrations - state.demonstrations
        waiting = state.open_demonstrations
        return _from_people(missing, waiting, state, "ask", "wait for demonstrations", "sft")
    if not state.begun:
        missing = goal.rankings - state.rankings
        return _from_people(missing, state.open_rankings, state, "sample", "wait for rankings", "rm")
    return Step("ppo" if state.rm else "rm")


def _from_people(missing: int, waiting: int, state: RoundState, add: What, wait: What, then: What) -> Step:
    if missing <= 0:
        return Step(then)
    if missing > waiting and state.prompts_left:
        return Step(add, missing - waiting)
    return Step(wait, missing) if waiting else Step("stuck", missing)


def iterate(
    recipe: Recipe, path: str, goal: Goal, train: Callable[[Stage, Path], None], console: Console
) -> None:
    """Go on until people have to do something. `train` runs a stage of a recipe file; `path` is for messages.

    Raises UserError where the recipe leaves no room for rounds, or prompts have run out.
    """
    loop = _Loop(_checked(recipe), goal, console)
    prompts_left = True
    while True:
        number, state = loop.look()
        step = next_step(replace(state, prompts_left=prompts_left), goal)
        if step.what in ("ask", "sample"):
            prompts_left = (loop.ask if step.what == "ask" else loop.sample)(step.count, number)
        elif step.what == "sft":
            with loop.frozen("sft", "sft", loop.recipe) as frozen:
                train("sft", frozen)
        elif step.what in ("rm", "ppo"):
            stage: Stage = "rm" if step.what == "rm" else "ppo"
            with loop.frozen(f"round-{number}", f"round-{number}/{stage}", loop.of_round(number)) as frozen:
                train(stage, frozen)
        else:
            break
    if step.what == "stuck":
        raise UserError(
            f"{step.count} more are needed, but every prompt of data.prompts has a task: add prompts, or "
            "lower --rankings or --demonstrations"
        )
    kind = "demonstrations" if step.what == "wait for demonstrations" else "rankings"
    have = state.demonstrations if kind == "demonstrations" else state.rankings
    say(
        console,
        f"round {number} is waiting for people: {have} of {have + step.count} {kind} are there. "
        f"Run `align label {path}`, then this command again",
    )


class _Loop:
    """A run's rounds: what there is of them, and what can be done."""

    def __init__(self, recipe: Recipe, goal: Goal, console: Console) -> None:
        self.recipe, self.goal, self.console = recipe, goal, console
        self.folder = recipe.run.path.absolute()

    def look(self) -> tuple[int, RoundState]:
        """The number of the round that is not finished, and the state."""
        number = 1
        while _finished(self.folder / f"round-{number}" / "ppo"):
            number += 1
        sft = _finished(self.folder / "sft")
        found = self._progress(self._policy(number)[3] if sft else None)
        state = RoundState(
            sft=sft is not None,
            sft_begun=self._frozen("sft").exists(),
            people_demonstrate=_of_labels(self.recipe, "demonstrations") != [],
            demonstrations=found.demonstrations,
            open_demonstrations=found.open_demonstrations,
            begun=self._frozen(f"round-{number}").exists(),
            rm=_finished(self.folder / f"round-{number}" / "rm") is not None,
            rankings=found.rankings,
            open_rankings=found.open_rankings,
        )
        return number, state

    def ask(self, count: int, number: int) -> bool:
        """Add prompts as tasks to demonstrate; whether there may be more."""
        recipe = self.recipe
        split = load(Prompt, source(recipe, "prompts", "iterate"), "prompts", recipe.data.cache_folder)
        prompts = {prompt_key(p.prompt): p.to_dict() for side in (split.train, split.held_out) for p in side}
        rows = [prompts[key] | {"kind": "demonstrate"} for key in in_drawn_order(prompts, recipe.run.seed)]
        from labeling.store.items import add_items

        with self._config() as config, config.store.write() as session:
            added = 0
            for row in rows:
                added += len(add_items(session, [row], config.settings.overlap).ids)
                if added == count:
                    break
        say(self.console, f"{added} prompts are waiting for people to answer them")
        return added == count

    def sample(self, count: int, number: int) -> bool:
        """Sample tasks of the round's policy; whether there may be more."""
        recipe, stage, priority, origin = self._policy(number)
        before = self._progress(origin).tasks
        wanted = Wanted(stage, self.goal.k, before + count, self.goal.drawing, priority)
        return generate(recipe, wanted, self.console).added == count

    def of_round(self, number: int) -> Recipe:
        """The recipe of a round: its own run, from the one SFT policy."""
        recipe = self.recipe
        run = recipe.run.model_copy(update={"folder": str(self.folder), "name": f"round-{number}"})
        start = {"sft": str(self.folder)}
        rm, ppo = recipe.rm.model_copy(update=start), recipe.ppo.model_copy(update=start)
        return recipe.model_copy(update={"run": run, "rm": rm, "ppo": ppo})

    @contextmanager
    def frozen(self, name: str, stage: str, recipe: Recipe) -> Iterator[Path]:
        """The recipe file of this name; at first it is written, with the labels that there are now.

        Where the stage is refused before it has done anything, the file goes again: what the person then
        changes has to count.
        """
        path = self._frozen(name)
        if not path.exists():
            until = self._progress(None).last_label
            data = recipe.data.model_copy(
                update={
                    kind: _until(found, until)
                    for kind in ("demonstrations", "rankings")
                    if (found := getattr(recipe.data, kind)) is not None
                }
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, dump(recipe.model_copy(update={"data": data})))
            say(self.console, f"{path} is the recipe that trains now, with the labels up to number {until}")
        else:  # an earlier version may have written it
            write_text(path, dump(load_recipe(path, of_run=True)))
        try:
            yield path
        except (UserError, typer.Exit) as error:
            if error.exit_code == UserError.exit_code and not any(self.folder.glob(f"{stage}/checkpoints/*")):
                path.unlink()
            raise

    def _frozen(self, name: str) -> Path:
        return self.folder / "iterate" / f"{name}.yaml"

    def _policy(self, number: int) -> tuple[Recipe, PolicyStage, Priority, str]:
        """Who is asked in a round: its run's recipe, stage, what people do first, and its origin."""
        if number == 1:
            recipe, folder = self.recipe, self.folder
            return recipe, "sft", "none", origin_of(recipe.run.name, "sft", _digest(folder / "sft"))
        name = f"round-{number - 1}"
        recipe = load_recipe(self._frozen(name), of_run=True)
        # Prompts may have been added since, and tasks are for the queue as it is now.
        now = {"data": self.recipe.data, "labeling": self.recipe.labeling}
        origin = origin_of(name, "ppo", _digest(self.folder / name / "ppo"))
        return recipe.model_copy(update=now), "ppo", self.recipe.labeling.priority, origin

    @contextmanager
    def _config(self) -> Iterator[Any]:
        config = labeling_package("labeling.serve").make_config(self.recipe)
        try:
            yield config
        finally:
            config.store.close()

    def _progress(self, origin: str | None) -> Any:
        with self._config() as config, config.store.read() as session:
            from labeling.store.progress import progress
            from labeling.store.records import Filters

            written, ranked = (
                Filters(**next((entry.label_filters for entry in _of_labels(self.recipe, kind)), {}))
                for kind in ("demonstrations", "rankings")
            )
            return progress(session, written, ranked, origin)


def _finished(folder: Path) -> Manifest | None:
    """The manifest of a stage that has finished."""
    path = folder / "manifest.json"
    manifest = read_manifest(path, "restore it") if path.exists() else None
    return manifest if manifest and manifest.finished else None


def _digest(folder: Path) -> str:
    return read_manifest(folder / "manifest.json", "restore it").final[ADAPTER]


def _checked(recipe: Recipe) -> Recipe:
    """The recipe with its database named, and read where no other source is; raises UserError."""
    given = [
        f"{stage}.{parent}"
        for stage, about in STAGES.items()
        for parent in about.parents
        if getattr(getattr(recipe, stage, None), parent, None)
    ]
    if given:
        raise UserError(f"iterate trains every stage itself: leave out {', '.join(given)}")
    if recipe.labeling.priority == "disagreement" and recipe.rm.members == 1:
        raise UserError(
            "labeling.priority: disagreement needs several reward models, and a round's has one member: say "
            "rm.members: 4, or priority none, margin or gap"
        )
    database = labeling_package("labeling.serve").database_of(recipe)
    if "://" not in database:
        database = os.path.abspath(database)
    own = Source(train=[Entry(path=database, format=LABELS)])
    data = recipe.data.model_copy(
        update={kind: own for kind in ("demonstrations", "rankings") if getattr(recipe.data, kind) is None}
    )
    labeling = recipe.labeling.model_copy(update={"database": database})
    recipe = recipe.model_copy(update={"data": data, "labeling": labeling})
    if any(entry.format == LABELS for entry in source(recipe, "prompts", "iterate").entries):
        raise UserError("data.prompts: tasks are made from prompts, so prompts cannot be read from labels")
    for kind in ("demonstrations", "rankings"):
        if any(entry.until is not None for entry in _of_labels(recipe, kind)):
            raise UserError(f"data.{kind}: leave out until; iterate chooses the labels of each round itself")
        labels = {entry.path for entry in _of_labels(recipe, kind)}
        if labels - {database} or kind == "rankings" and not labels:
            raise UserError(
                f"data.{kind} does not read the labels of {database}, where people's answers go: "
                f"say `{kind}: {{labels: {database}}}`, or leave it out"
            )
    return recipe


def _of_labels(recipe: Recipe, kind: RecordKind) -> list[Entry]:
    """The entries of a kind of records that are a labeling database."""
    return [entry for entry in source(recipe, kind, "iterate").entries if entry.format == LABELS]


def _until(found: Source, label: int) -> Source:
    """The source with its labels as they were when this one was the last."""

    def fixed(entry: Entry) -> Entry:
        return entry.model_copy(update={"until": label}) if entry.format == LABELS else entry

    held_out = found.held_out
    update = {"train": [fixed(entry) for entry in found.train]}
    if isinstance(held_out, list):
        update["held_out"] = [fixed(entry) for entry in held_out]
    return found.model_copy(update=update)
