"""`align compare`: from one recipe and the same labels each method is trained and measured, once a seed.

Each run is a variant of the recipe (variants.py) through the stages themselves, so the same line goes on
where it was killed, with the same bits. The recipe is kept as it was at the first start; another is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from align.compare.kept import alone_in
from align.compare.prompts import read_prompts
from align.compare.run import measure
from align.compare.show import show_tables
from align.errors import UserError
from align.evaluation.answers import find_measures
from align.evaluation.reward import plain
from align.methods import budget
from align.methods.best_answers import write_best_answers
from align.methods.budget import Cost, Counting, cost_of
from align.methods.figures import Trained, comparison
from align.methods.variants import (
    ADVANTAGE,
    BEST_OF_N,
    STAGE_OF,
    Starts,
    chosen,
    measured,
    refuse_growing,
    shared,
    starts,
    variant,
)
from align.models.base import find_base
from align.recipe.compare import Method
from align.recipe.load import dump, load_recipe, values
from align.recipe.parts import may_change
from align.recipe.ppo import PPO
from align.recipe.sections import Recipe
from align.report.comparison import comparison_tables
from align.report.page import refresh
from align.run.files import to_json, write_text
from align.run.folder import set_aside
from align.run.lineage import TEMPLATE_KEYS, begun, now
from align.run.progress import say
from align.stage_table import Stage

FOLDER, DOCUMENT = "compare", "compare.json"
# May differ between two calls: which methods there are and what is measured of them. Files of records and
# the base count by content, which the stages compare.
_FREE = ("labeling.", "evaluate.", "compare.methods", "compare.seeds", "data.", "base.name", "base.revision")
Train = Callable[[Stage, Path], None]


@dataclass
class Comparing:
    """What is compared, where it goes, and what has been said."""

    recipe: Recipe
    methods: list[Method]
    train: Train
    console: Console
    allow_seen: bool
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.recipe.run.path.absolute() / FOLDER

    @property
    def yardstick(self) -> Method | None:
        """The method whose operations the others may take; None: each is as long as its section says."""
        learners = [method for method in ADVANTAGE if method in self.methods]
        return learners[0] if learners and self.recipe.compare.budget == "equal" else None

    def note(self, text: str) -> None:
        """Say it once, and write it into the document."""
        if text not in self.notes:
            self.notes.append(text)
            say(self.console, text)


def compare(
    recipe: Recipe, train: Train, restart: bool, allow_seen: bool, console: Console
) -> dict[str, Any]:
    """Train and measure every method with every seed; returns what compare.json says.

    `train` runs a stage of a recipe file. restart: what is there is set aside. allow_seen: also on prompts
    that train. Raises UserError where something of the recipe must be changed, or was since the first start.
    """
    methods, left_out = chosen(recipe)
    refuse_growing(recipe)
    state = Comparing(recipe, methods, train, console, allow_seen)
    if restart and state.folder.exists():
        say(console, f"the old comparison is now {set_aside(state.folder)}")
    _tell(state, left_out)
    with alone_in(state.folder):
        _freeze(state)
        _look_ahead(state)
        trained = [one for seed in recipe.compare.seeds for one in _seed(state, seed)]
        document = plain(comparison(recipe, methods, trained, state.notes)) | {"written_at": now()}
        write_text(state.folder / DOCUMENT, to_json(document))
    show_tables(comparison_tables(document), console)
    refresh(recipe.run.path, lambda text: say(console, text))
    say(console, f"everything is in {state.folder / DOCUMENT}; the runs are beside it")
    return document


def _look_ahead(state: Comparing) -> None:
    """Raise UserError, before anything trains, for what would only end the last step."""
    recipe, seed = state.recipe, state.recipe.compare.seeds[0]
    start = starts(recipe, state.folder, seed)
    for method in state.methods:
        if method in STAGE_OF:
            variant(recipe, method, seed, state.folder, start, None)
    base = find_base(recipe.base)
    template = base.template(recipe.data)
    find_measures(recipe, {"base": base.fingerprint, "template": template.hash})
    read_prompts(recipe, template, state.allow_seen, state.note)


def _tell(state: Comparing, left_out: list[str]) -> None:
    """What will be trained, and what will not."""
    recipe, seeds = state.recipe, state.recipe.compare.seeds
    many = f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else f"seed {seeds[0]}"
    say(state.console, f"compare: {', '.join(state.methods)} from the same labels, with {many}")
    for line in left_out:
        state.note(line)
    if len(seeds) == 1:
        state.note("there is one seed: nothing tells how far another would be, so figures have no interval")
    if recipe.ppo == PPO():
        state.note(
            "the recipe says nothing of ppo: its defaults are what the methods' compute is measured by"
        )
    if recipe.compare.budget == "equal" and state.yardstick is None:
        state.note("no method samples while it trains: each is as long as its own section of the recipe says")


def _freeze(state: Comparing) -> None:
    """Keep the recipe as it is at the start; UserError where runs have begun with another."""
    path = state.folder / "recipe.yaml"
    if path.exists() and any(begun(stage) for stage in state.folder.glob("*-*/*") if stage.is_dir()):
        was, now_is = values(load_recipe(path, of_run=True)), values(state.recipe)
        changed = [
            f"  {key}: was {was.get(key)}, is {now_is.get(key)}"
            for key in sorted({*was, *now_is})
            if was.get(key) != now_is.get(key) and not _is_free(state.recipe, key)
        ]
        if changed:
            raise UserError(
                "\n".join(
                    [
                        f"{state.folder} was started with another recipe:",
                        *changed,
                        "Methods of different recipes are no comparison: put it back, give the run another "
                        "name (run.name), or start anew with --restart, which sets the old folder aside",
                    ]
                )
            )
        return
    write_text(path, dump(state.recipe))


def _is_free(recipe: Recipe, key: str) -> bool:
    section, _, name = key.partition(".")
    if key == "run.seed" or name in TEMPLATE_KEYS:
        return False
    return section == "run" or key.startswith(_FREE) or name in may_change(getattr(recipe, section))


def _seed(state: Comparing, seed: int) -> list[Trained]:
    """Everything with one seed: what is shared, each method, and the figures of all."""
    recipe, folder = state.recipe, state.folder
    start = starts(recipe, folder, seed)
    base = shared(recipe, folder, seed)
    if recipe.ppo.sft is None:
        _train(state, "sft", base, f"shared-{seed}")
    if start.rm is not None and recipe.ppo.rm is None:
        _train(state, "rm", _from_sft(base, start), f"shared-{seed}")
    if "sft-best" in state.methods:
        state.note(write_best_answers(recipe, folder))
    common = Cost() if start.rm is None else cost_of(Path(start.rm) / "rm")
    counting, found = Counting(recipe), _Lengths(state, seed, start, common)
    order = sorted((m for m in state.methods if m != BEST_OF_N), key=lambda m: m != state.yardstick)
    made = {method: found.trained(method, counting) for method in order}
    return _measured(state, seed, start, made, found, counting)


def _from_sft(base: Recipe, start: Starts) -> Recipe:
    """The recipe of the reward model where sft is another run's."""
    if base.ppo.sft is None or base.rm.sft is not None:
        return base
    return base.model_copy(update={"rm": base.rm.model_copy(update={"sft": start.sft})})


def _train(state: Comparing, stage: Stage, recipe: Recipe, name: str) -> Path:
    """Train a stage of a recipe, or see that it has been; its folder."""
    path = state.folder / "recipes" / f"{name}-{stage}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, dump(recipe))
    say(state.console, f"compare: {stage} of {name}")
    state.train(stage, path)
    return recipe.run.path / stage


@dataclass
class _Lengths:
    """One seed's runs: how long each is, by what the yardstick's took."""

    state: Comparing
    seed: int
    start: Starts
    common: Cost  # of the reward model
    allowed: float | None = None  # operations after the SFT policy
    rows: budget.Rows | None = None

    def trained(self, method: Method, counting: Counting) -> tuple[Recipe, Cost]:
        """Train a method; its recipe, and what it took after the SFT policy."""
        recipe = self._recipe(method, counting)
        folder = _train(self.state, STAGE_OF[method], recipe, f"{method}-{self.seed}")
        cost = cost_of(folder)
        if STAGE_OF[method] == "ppo":
            cost += self.common
        if method == self.state.yardstick:
            self.allowed = cost.flops
            if cost.flops is None:
                self.state.note(
                    "operations were not counted, as an earlier version of align trained the reward model: "
                    "each method is as long as its section says"
                )
        if method in ADVANTAGE and self.rows is None:
            self.rows = counting.rows(folder)
        return recipe, cost

    def _recipe(self, method: Method, counting: Counting) -> Recipe:
        state, recipe = self.state, self.state.recipe
        own = variant(recipe, method, self.seed, state.folder, self.start, None)
        if state.yardstick in (None, method) or self.allowed is None or self.rows is None:
            return own
        if method in ADVANTAGE:
            yardstick = variant(recipe, state.yardstick, self.seed, state.folder, self.start, None)
            members = budget.members_of(recipe, self.start)
            count = budget.iterations(counting, yardstick.ppo, own.ppo, self.rows, members)
        else:
            each, records = counting.pair() if method == "dpo" else counting.demonstration(own)
            size = own.dpo.batch_size if method == "dpo" else own.sft.batch_size
            count = budget.steps(self.allowed, each, size, records, recipe.compare.most_epochs)
            what = f"{records} {'pairs' if method == 'dpo' else 'demonstrations'}"
            passes = f"{count * size / records:.1f} passes over {what}"
            state.note(f"{method}, seed {self.seed}: {count} steps, {passes}")
        return variant(recipe, method, self.seed, state.folder, self.start, count)


def _measured(
    state: Comparing,
    seed: int,
    start: Starts,
    made: dict[Method, tuple[Recipe, Cost]],
    lengths: _Lengths,
    counting: Counting,
) -> list[Trained]:
    """The figures of one seed's policies, side by side on the same prompts."""
    places = {m: str(recipe.run.path / STAGE_OF[m]) for m, (recipe, _) in made.items()}
    best = state.recipe.evaluate.best_of
    name = f"best-of-{best}" if BEST_OF_N in state.methods else None
    recipe = measured(state.recipe, seed, state.folder, start, [*places.values()], best + 1 if name else 0)
    say(state.console, f"compare: answers of seed {seed}")
    found = measure(recipe, state.allow_seen, state.console, name, state.recipe.run.path)
    labels: dict[str, str] = {"sft": "sft"}
    labels |= {str(method): place for method, place in places.items()}
    if name:
        labels[BEST_OF_N] = name
    costs: dict[str, Cost] = {BEST_OF_N: lengths.common}
    costs.update({method: cost for method, (_, cost) in made.items()})
    trained = []
    for method, label in labels.items():
        cost = costs.get(method)
        each = None
        if method == BEST_OF_N:
            asked = budget.Rows(*_typical(found.answers.best, found.prompts))
            each = counting.answer(asked, best, budget.members_of(recipe, start))
        trained.append(Trained(method, seed, label, found.document, cost, lengths.allowed, each))
    return trained


def _typical(rows: Any, prompts: Any) -> tuple[int, int]:
    """Tokens of a prompt and of a response, in the mean."""
    return (
        round(sum(len(one.ids) for one in prompts) / len(prompts)),
        round(sum(row["tokens"] for row in rows) / len(rows)),
    )
