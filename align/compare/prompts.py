"""What policies are asked: prompts that no stage has seen; and demonstrations that were held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from align.data.formats.base import T
from align.data.load import load
from align.data.template import Template
from align.data.tokenize import Encodings, encode_demonstrations, encode_prompts
from align.errors import UserError
from align.evaluation.answers import Asked
from align.loop.generate import in_drawn_order
from align.models.batch import Pair
from align.recipe.data import Entry, Source
from align.recipe.sections import Recipe
from align.records import Demonstration, Prompt, Ranking, prompt_key
from align.stages.frame import Setup, source


def read_prompts(
    recipe: Recipe, template: Template, allow_seen: bool, note: Callable[[str], None]
) -> list[Asked]:
    """The prompts, each once, in their file's order; of `count` of them the seed draws which.

    Raises UserError where there are none, or where some train in this recipe (without `allow_seen`).
    """
    cfg, cache = recipe.evaluate, recipe.data.cache_folder
    if cfg.prompts is not None:
        where, skip = "evaluate.prompts", False
        spec = Source(train=[Entry(path=cfg.prompts)], held_out=0.0)
        try:
            records = load(Prompt, spec, "prompts", cache).train
        except UserError as error:  # which takes every file of prompts for that of data.prompts
            raise UserError(str(error).replace("data.prompts", where, 1)) from error
    else:
        where, spec = "data.prompts (held out)", source(recipe, "prompts", "evaluate")
        skip = spec.on_bad_record == "skip"
        records = load(Prompt, spec, "prompts", cache).held_out
    room = recipe.ppo.max_response_tokens
    encoded = encode_prompts(template, records, recipe.ppo.max_prompt_tokens, where, room, cache, skip)
    _note_skipped(encoded, where, note)
    found: dict[str, Asked] = {}
    for record, ids in zip(encoded.records, encoded, strict=True):
        found.setdefault(prompt_key(record.prompt), Asked(record.prompt, prompt_key(record.prompt), ids))
    if not found:
        raise UserError(
            f"{where}: there is no prompt. Hold some out (data.prompts.held_out), or name a file "
            "(evaluate.prompts)"
        )
    if len(found) < len(encoded):
        note(f"{len(encoded) - len(found)} prompts are there twice, and asked once")
    if cfg.count is not None and cfg.count < len(found):
        chosen = set(in_drawn_order(found, recipe.run.seed)[: cfg.count])
        found = {key: one for key, one in found.items() if key in chosen}
    _refuse_seen(recipe, found, where, allow_seen, note)
    return list(found.values())


def _note_skipped(encoded: Encodings[Any], where: str, note: Callable[[str], None]) -> None:
    if encoded.skipped:
        note(f"{where}: {len(encoded.skipped)} records are left out; the first: {encoded.skipped[0]}")


def _refuse_seen(
    recipe: Recipe, found: dict[str, Asked], where: str, allow_seen: bool, note: Callable[[str], None]
) -> None:
    """Raise UserError, or say it, where prompts stand among those that train."""
    for name, seen in seen_in_training(recipe, found).items():
        first = str(seen[0].plain)[:60]
        counts = f"{len(seen)} of {len(found)} prompts"
        told = f"{where}: {counts} also train, in data.{name} (such as {first!r})"
        if not allow_seen:
            raise UserError(
                f"{told}: what was learned by heart would pass for skill. Name other prompts "
                "(evaluate.prompts), or add --allow-seen"
            )
        note(f"{told}, as --allow-seen permits: figures may be too good")


def seen_in_training(recipe: Recipe, found: Mapping[str, Asked]) -> dict[str, list[Asked]]:
    """Those of the prompts, by their keys, that also train in this recipe, by the data's name."""
    mine = {int(key[:16], 16): one for key, one in found.items()}
    training = [_trained(Demonstration, recipe), _trained(Ranking, recipe), _trained(Prompt, recipe)]
    by_name = {
        name: [one for number, one in mine.items() if number in hashes]
        for name, hashes in zip(("demonstrations", "rankings", "prompts"), training, strict=True)
    }
    return {name: seen for name, seen in by_name.items() if seen}


def _trained(kind: type[T], recipe: Recipe) -> set[int]:
    """The hashes of the prompts that train, as `Records.prompts` has them."""
    name = kind.kind
    spec: Source | None = getattr(recipe.data, name)
    return (
        set()
        if spec is None
        else set(load(kind, spec, name, recipe.data.cache_folder).train.prompts.tolist())
    )


def held_out_demonstrations(recipe: Recipe, setup: Setup, note: Callable[[str], None]) -> list[Pair]:
    """Token ids of prompt and response of every demonstration that is held out."""
    spec = recipe.data.demonstrations
    if spec is None:
        note("there is no perplexity: the recipe names no data.demonstrations")
        return []
    cache, skip = recipe.data.cache_folder, spec.on_bad_record == "skip"
    records = load(Demonstration, spec, "demonstrations", cache).held_out
    if not len(records):
        note("there is no perplexity: no demonstrations are held out (data.demonstrations.held_out)")
        return []
    where = "data.demonstrations (held out)"
    encoded = encode_demonstrations(setup.template, records, recipe.sft.max_length, where, cache, skip)
    _note_skipped(encoded, where, note)
    return [(one.prompt, one.responses[0]) for one in encoded]
