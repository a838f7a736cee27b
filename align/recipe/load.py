"""Recipes on disk: loading, `--set`, where each value came from, and writing them back.

The fields themselves are in `align.recipe.sections`.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from align.errors import UserError
from align.recipe.columns import Columns
from align.recipe.data import LABEL_KEYS, LABELS, Data, Entry, Source
from align.recipe.mistakes import mistakes, recipe_schema
from align.recipe.parts import Keys, OneOrMore, Section, Short, by_new_names, marked, section_in
from align.recipe.sections import SECTIONS, Recipe
from align.recipe.yaml_text import Document, Mistake, Place, read
from align.stage_table import BESIDE, STAGES, Stage

SMALLEST = """\
base: HuggingFaceTB/SmolLM2-135M-Instruct
run:
  name: my-first-run
data:
  demonstrations: demonstrations.jsonl
  rankings: rankings.jsonl
  prompts: prompts.jsonl
"""
SOURCES = tuple(name for name, info in Data.model_fields.items() if section_in(info.annotation) is Source)
SIDES = ("train", "held_out")
OVERRIDE_LINE = 10**9  # overrides are told after the file's lines


def load_recipe(path: Path, overrides: Sequence[str] = (), *, of_run: bool = False) -> Recipe:
    """Reads, overrides (`ppo.kl_coef=0.1`), checks and resolves a recipe.

    The paths under `data`, and `base.name` where it means a folder, become absolute against the recipe's
    folder; ids on the Hub stay. Raises UserError with all mistakes at once, each with its line and key.
    of_run: a run wrote the file; keys and values that have been renamed since are read by their new names.
    """
    recipe, _ = _load(path, overrides, of_run)
    return _resolved(recipe, Path(os.path.abspath(path)).parent)


def read_columns(
    written: str | Mapping[str, Any], where: str = "columns", format: str | None = None
) -> Columns:
    """A mapping of columns that stands outside a recipe, as YAML or as plain values; raises UserError.

    `where`: what messages call it, such as the option that it came by. `format`: what stands beside it.
    """
    document = Document(values=written)
    if isinstance(written, str):
        document = read(written, lambda line, column: Place(where, line))
    if document.mistakes or not isinstance(document.values, Mapping):
        told = document.mistakes[0].message if document.mistakes else "write {prompt: COLUMN, …}"
        raise UserError(f"{where}: {told}")
    entry = {"path": "-", "format": format, "columns": dict(document.values)}
    document.values = {"base": "b", "run": {"name": "r"}, "data": {"rankings": {"train": [entry]}}}
    document.values = _in_full(document, Recipe, document.values)
    try:
        rankings = Recipe.model_validate(document.values).data.rankings
    except ValidationError as error:
        at = "data.rankings.train[0].columns"
        lines = [mistake.message.replace(at, where, 1) for mistake in mistakes(error, document)]
        raise UserError("\n".join(lines)) from None
    assert rankings is not None and rankings.train[0].columns is not None
    return rankings.train[0].columns


def read_names(written: str, where: str) -> list[str]:
    """Names that an option holds, as YAML or with commas between them; raises UserError."""
    text = written if written.lstrip().startswith("[") else f"[{written}]"
    document = read(text, lambda line, column: Place(where, line))
    names = document.values
    if document.mistakes or not isinstance(names, list) or not names:
        raise UserError(f"{where}: write the names with commas between them, as in '[best, middle, worst]'")
    return [str(name) for name in names]


def origins(path: Path, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Where each value of a recipe came from: `recipes/q.yaml:12`, `--set` or `default`, by dotted key."""
    recipe, document = _load(path, overrides)
    found: dict[str, str] = {}
    for key in values(recipe):
        place = document.places.get(tuple(key.split(".")))
        overridden = place is not None and place.line == OVERRIDE_LINE
        found[key] = "--set" if overridden else place.label if place else "default"
    return found


def place_of(path: Path, overrides: Sequence[str], keys: Keys) -> str:
    """Where a recipe says something: `recipes/q.yaml:12`, or `--set a.b=c`."""
    _, document = _load(path, overrides)
    place = document.place(keys)
    return place.label if place else str(path)


def values(recipe: Recipe) -> dict[str, Any]:
    """All values of a recipe by dotted key, with the same keys as `origins`."""
    flat: dict[str, Any] = {}

    def add(section: BaseModel, prefix: str) -> None:
        for name, value in section:
            if isinstance(value, BaseModel):
                add(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = _short(value)

    add(recipe, "")
    return flat


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every value in it; loads back to an equal recipe."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = recipe.model_dump_json().isprintable()  # else escaped: U+0085 breaks YAML's lines
    yaml.width = 4096  # no folded lines: a path stays whole
    text = io.StringIO()
    plain = recipe.model_dump()
    for name in SOURCES:
        source: Source | None = getattr(recipe.data, name)
        if source is not None:
            plain["data"][name] |= {side: _short(getattr(source, side)) for side in SIDES}
    yaml.dump(plain, text)
    return text.getvalue()


def stages_of(recipe: Recipe) -> list[Stage]:
    """What `align run` runs, in order: the stages that have a section in the recipe.

    The reward model is left out where no rankings are named and nothing needs it; dpo takes its place and
    that of ppo, and runs by its own command.
    """
    spared = () if recipe.ppo.needs_rm else ("rm",)  # functions or other runs judge
    mine = [stage for stage in STAGES if getattr(recipe, stage, None) is not None and stage not in BESIDE]
    return [stage for stage in mine if stage not in spared or has_records(recipe, stage)]


def has_records(recipe: Recipe, stage: Stage) -> bool:
    """Whether the recipe names all records that a stage needs."""
    return all(getattr(recipe.data, kind) is not None for kind in STAGES[stage].records)


def _short(value: Any) -> Any:
    """A list of entries as a person would write it: what differs from the defaults, or the path alone."""
    if not (isinstance(value, list) and value and isinstance(value[0], BaseModel)):
        return value
    written = [entry.model_dump(exclude_defaults=True) for entry in value]
    return [entry["path"] if list(entry) == ["path"] else entry for entry in written]


def json_schema() -> dict[str, Any]:
    """JSON Schema of the recipe file, for editors: with the short forms, without the derived defaults."""
    schema = deepcopy(recipe_schema())
    for option in schema["properties"].values():
        if isinstance(option.get("default"), dict):
            option.pop("default")
            option["anyOf"] = [{"$ref": option.pop("$ref")}, {"type": "null"}]  # `sft:` with nothing beneath
    definitions = schema["$defs"]
    _allow_labels(definitions)
    for section in _sections(Recipe):
        full = definitions[section.__name__]
        for key in marked(section, OneOrMore):
            options = full["properties"][key]
            for option in (options, *options.get("anyOf", ())):
                if option.get("type") == "array":
                    several = {k: option.pop(k) for k in ("type", "items", "minItems") if k in option}
                    option["anyOf"] = [several["items"], several]
        for key in marked(section, Short):
            shapes = _texts_and_lists(full["properties"][key], definitions)
            definitions[section.__name__] = {"description": full["description"], "anyOf": [*shapes, full]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _sections(section: type[Section]) -> list[type[Section]]:
    """The sections within a section, each once, those within them first."""
    inner = [part for info in section.model_fields.values() if (part := section_in(info.annotation))]
    return list(dict.fromkeys(found for part in inner for found in (*_sections(part), part)))


def _texts_and_lists(shape: dict[str, Any], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    """Of what a field may be, the texts and lists, which may stand for its section."""
    if "$ref" in shape:
        return _texts_and_lists(definitions[shape["$ref"].rsplit("/", 1)[1]], definitions)
    if "anyOf" in shape:
        return [found for option in shape["anyOf"] for found in _texts_and_lists(option, definitions)]
    plain = {k: part for k, part in shape.items() if k not in ("title", "description")}
    return [plain] if shape.get("type") in ("string", "array") else []


def _allow_labels(definitions: dict[str, Any]) -> None:
    """`labels: …` in place of a path, in an entry or for all of a source."""
    labels = {
        "type": "string",
        "minLength": 1,
        "description": "a labeling database: a file, or postgresql://…",
    }
    for name, needed in (("Entry", "path"), ("Source", "train")):
        section = definitions[name]
        section["properties"]["labels"] = labels
        section["required"] = [key for key in section["required"] if key != needed]
        section["anyOf"] = [{"required": [needed]}, {"required": ["labels"]}]
    for key in LABEL_KEYS[1:]:
        definitions["Source"]["properties"][key] = definitions["Entry"]["properties"][key]


def _load(path: Path, overrides: Sequence[str], of_run: bool = False) -> tuple[Recipe, Document]:
    document = _read_file(path)
    document.values = _in_full(document, Recipe, document.values)
    for name, section in SECTIONS.items() if of_run else ():
        if isinstance(document.values.get(name), dict):
            document.values[name] = by_new_names(section, document.values[name])
    for override in overrides:
        _override(document, override)
        document.values = _in_full(document, Recipe, document.values)
    found = list(document.mistakes)
    recipe = None
    try:
        recipe = Recipe.model_validate(document.values)
    except ValidationError as error:
        found += mistakes(error, document)
    if found or recipe is None:
        raise UserError(_told(found, path))
    return recipe, document


def _told(found: list[Mistake], path: Path) -> str:
    lines = [
        str(mistake._replace(place=Place(str(path), 0)) if mistake.place.label == "the recipe" else mistake)
        for mistake in sorted(found, key=lambda mistake: mistake.place.line)
    ]
    return lines[0] if len(lines) == 1 else "\n".join([f"{len(lines)} mistakes in the recipe", *lines])


def _read_file(path: Path) -> Document:
    """The document of a file with a mapping at its top; UserError where there is none."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{_neighbours(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder; name a recipe file{_neighbours(path / '?')}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None

    def place_of(line: int, column: int | None) -> Place:
        return Place(f"{path}:{line}" if column is None else f"{path}:{line}:{column}", line)

    document = read(text, place_of)
    example = "\n    ".join(["", *SMALLEST.splitlines()])
    if document.values is None and not document.mistakes:
        raise UserError(f"{path}: the recipe is empty; the smallest one that does all three stages:{example}")
    if not isinstance(document.values, dict):
        raise UserError(f"{path}: a recipe is made of `key: value` lines; the smallest one:{example}")
    return document


def _neighbours(path: Path) -> str:
    """The recipes that lie where one was looked for; the likeliest first."""
    try:
        names = sorted(p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml"))
    except OSError:
        return ""
    stems = {Path(name).stem: name for name in names}
    near = get_close_matches(path.stem, stems, 1, 0.6)
    if near:
        return f"; did you mean {path.parent / stems[near[0]]}?"
    return f"; {path.parent.resolve()} holds {', '.join(names[:8])}" if names else ""


def _in_full(document: Document, section: type[Section], value: Any, keys: Keys = ()) -> Any:
    """What stands at `keys`, with short forms written out, so that every value stands under its full path."""
    full, moves = section.in_full(value)
    for written, now in moves:
        _move(document, (*keys, *written), (*keys, *now))
    if not isinstance(full, dict):
        return full
    for key, info in section.model_fields.items():
        part, inner = section_in(info.annotation), (*keys, key)
        if part and isinstance(full.get(key), list) and key in marked(section, OneOrMore):
            full[key] = [_in_full(document, part, one, (*inner, i)) for i, one in enumerate(full[key])]
        elif part and key in full:
            full[key] = _in_full(document, part, full[key], inner)
    return full


def _move(document: Document, keys: Keys, inner: Keys) -> None:
    """Note that what was written at `keys` now also stands deeper, at `inner`."""
    moved = {k: place for k, place in document.places.items() if k[: len(keys)] == keys}
    document.places.update({(*inner, *k[len(keys) :]): place for k, place in moved.items()})


def _override(document: Document, override: str) -> None:
    """Puts `a.b=c` into the document; what cannot be understood becomes one of its mistakes."""
    place = Place(f"--set {override}", OVERRIDE_LINE)
    key, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))

    def refuse(message: str) -> None:
        document.mistakes.append(Mistake(place, message))

    if not equals or not all(keys):
        return refuse("write it as key=value, for example --set ppo.kl_coef=0.1")
    if not text.strip():
        return refuse("no value after '='; write null to unset a value")
    try:
        value = read(text, lambda line, column: place)
    except UserError as error:
        return refuse(str(error).removeprefix(f"{place.label}: "))
    document.mistakes += value.mistakes
    target = document.values
    for depth, name in enumerate(keys[:-1], start=1):
        if target.get(name) is None:
            target[name] = {}
            document.places.setdefault(keys[:depth], place)
        target = target[name]
        if not isinstance(target, dict):
            return refuse(f"{'.'.join(keys[:depth])} has no keys beneath it; set it whole")
    target[keys[-1]] = value.values
    for old in [k for k in document.places if k[: len(keys)] == keys]:
        del document.places[old]
    document.places[keys] = place
    document.places.update({(*keys, *k): place for k in value.places})


def _resolved(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with absolute paths where a path belongs to the recipe, and ~ expanded in all."""
    plain = recipe.model_dump()
    name = os.path.expanduser(plain["base"]["name"])
    if name.startswith((".", "/")) or os.path.isdir(folder / name):
        name = os.path.abspath(folder / name)
    plain["base"]["name"] = name
    for name in SOURCES:
        for side in SIDES:
            entries = getattr(getattr(recipe.data, name), side, None)
            if isinstance(entries, list):
                plain["data"][name][side] = [_absolute(entry, folder) for entry in entries]
    plain["run"]["folder"] = os.path.expanduser(plain["run"]["folder"])
    for key in ("database", "guideline"):
        path = plain["labeling"][key]
        if path and "://" not in path:
            plain["labeling"][key] = os.path.abspath(folder / os.path.expanduser(path))
    evaluate = plain["evaluate"]
    checks, measures = plain["labeling"]["checks"], evaluate["measures"]
    for source in [*(plain["ppo"]["rewards"] or ()), *(checks or ()), *(measures or ())]:
        if source["run"]:
            source["run"] = os.path.expanduser(source["run"])
        if source["function"]:
            source["function"] = _beside(source["function"], folder)
    for section, key in (
        (evaluate, "prompts"),
        (evaluate["judge"], "template"),
        (evaluate["lm_eval"], "folder"),
        (evaluate["safety"], "suffixes"),
        ((evaluate["safety"] or {}).get("judge"), "template"),
    ):
        if section and section[key]:
            section[key] = _below(section[key], folder)
    for section, key in ((evaluate, "reward_bench"), (evaluate["safety"], "files")):
        if section and section[key]:
            section[key] = [_below(path, folder) for path in section[key]]
    if plain["sft"]["start"]:
        plain["sft"]["start"] = os.path.expanduser(plain["sft"]["start"])
    for stage, about in STAGES.items():
        for parent in about.parents if plain.get(stage) else ():
            if plain[stage][parent]:
                plain[stage][parent] = os.path.expanduser(plain[stage][parent])
    return Recipe.model_validate(plain)


def _beside(function: str, folder: Path) -> str:
    """A function of a module that is a file beside the recipe, by that file; others as they are."""
    module, _, name = function.rpartition(":")
    file = folder / (os.path.expanduser(module) if module.endswith(".py") else f"{module}.py")
    return f"{os.path.abspath(file)}:{name}" if file.is_file() else function


def _below(path: str, folder: Path) -> str:
    return os.path.abspath(folder / os.path.expanduser(path))


def _absolute(entry: Entry, folder: Path) -> dict[str, Any]:
    if entry.format == LABELS and "://" in entry.path:
        return entry.model_dump()
    path = folder / os.path.expanduser(entry.path)
    if entry.may_be_hub_id and not os.path.lexists(path):
        return entry.model_dump()
    return {**entry.model_dump(), "path": os.path.abspath(path)}
