"""What is wrong with a recipe, in plain words: pydantic's errors as lines that say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import ValidationError

from align.recipe.parts import RUN_NAME, Keys, Was, by_new_names, marked
from align.recipe.sections import PATTERN, SECTIONS, Recipe
from align.recipe.yaml_text import Document, Mistake, Place
from align.text import dotted


def _by_their_names(ours: dict[str, str]) -> dict[str, str]:
    """From our key to other names, set apart by spaces: each of those names to our key."""
    return {theirs: key for key, names in ours.items() for theirs in names.split()}


# Names that other trainers use for our keys.
OTHER_NAMES = _by_their_names(
    {
        "base.name": "model model_name model_name_or_path",
        "base.dtype": "torch_dtype",
        "base.attention": "attn_implementation",
        "run.folder": "output_dir",
        "run.name": "run_name",
        "lora.rank": "r lora_r lora_rank",
        "lora.alpha": "lora_alpha",
        "lora.use_rslora": "rslora",
        "lora.use_dora": "dora",
        "lora.dropout": "lora_dropout",
        "lora.targets": "target_modules",
        "learning_rate": "lr",
        "schedule": "lr_scheduler_type",
        "warmup": "warmup_ratio",
        "epochs": "num_train_epochs",
        "steps": "max_steps",
        "max_length": "max_seq_length",
        "evaluate_every": "eval_steps",
        "checkpoint_every": "save_steps",
        "microbatch_size": "per_device_train_batch_size",
        "ppo.max_response_tokens": "max_new_tokens response_length",
        "ppo.ppo_epochs": "num_ppo_epochs",
        "ppo.clip_range": "cliprange",
        "ppo.value_clip_range": "cliprange_value",
        "ppo.gae_lambda": "lam",
    }
)

# The same for the keys of an entry of `train` or `held_out`.
ENTRY_NAMES = _by_their_names(
    {
        "path": "file files data_files dataset dataset_name name url",
        "subset": "config config_name",
        "columns": "mapping column_mapping",
        "weight": "ratio probability",
        "format": "type",
    }
)
# Keys of one stage that another stage calls otherwise: (section, key) -> its names there.
STAGE_NAMES = {
    ("rm", "microbatch_size"): "microbatch_tokens",
    ("ppo", "microbatch_size"): "microbatch_tokens",
    ("ppo", "batch_size"): "rollout_batch_size or minibatch_size",
}
ENTRY = "#/$defs/Entry"

YES, NO = ("true", "yes", "on", "y"), ("false", "no", "off", "n")


def mistakes(error: ValidationError, document: Document) -> list[Mistake]:
    """Every error of a validation, once each, in the words of a recipe."""
    found: dict[Keys, Mistake] = {}
    for detail in error.errors(include_url=False):
        keys = _keys(detail["loc"], document.values)
        # A union reports each of its members: the deepest one (an item of the list) says most.
        found = {k: m for k, m in found.items() if keys[: len(k)] != k}
        if any(k[: len(keys)] == keys and k != keys for k in found):
            continue
        place = document.place(keys) or Place("the recipe", 0)
        if detail["type"] == "extra_forbidden":
            message = _renamed(keys, detail["input"]) or _unknown(keys)
        elif detail["type"] == "missing":
            message = _missing(keys)
        elif detail["type"] == "value_error":
            message = str(detail["ctx"]["error"])
            place = _named_place(keys, message, document) or place
        else:
            value = _value_at(document.values, keys, detail["input"])
            message = _wrong(schema_at(keys), value)
        name = f"{dotted(keys)}: " if keys else ""
        found[keys] = Mistake(place, name + message)
    return list(found.values())


@cache
def recipe_schema() -> dict[str, Any]:
    """pydantic's JSON Schema of a recipe."""
    return Recipe.model_json_schema()


def schema_at(keys: Keys) -> dict[str, Any] | None:
    """The schema of the value at a path, with references followed; None where there is no such key."""
    schema: dict[str, Any] | None = recipe_schema()
    for key in keys:
        if schema is None:
            return None
        options = [schema, *schema.get("anyOf", ())]
        if isinstance(key, int):
            found = [option["items"] for option in options if "items" in option]
        else:
            found = [p[key] for option in options if key in (p := properties(option))]
            found += [any_key for option in options if (any_key := _any_key(option))]
        schema = found[0] if found else None
    return schema


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The keys of a section (a reference, or a section that may be null); empty for other values."""
    for option in [schema, *schema.get("anyOf", ())]:
        if "$ref" in option:
            option = recipe_schema()["$defs"][option["$ref"].rsplit("/", 1)[1]]
        if "properties" in option:
            return dict(option["properties"])
    return {}


def _any_key(schema: dict[str, Any]) -> dict[str, Any]:
    """What stands behind each key where the keys are free (`columns`); empty elsewhere."""
    found = schema.get("additionalProperties")
    return found if isinstance(found, dict) else {}


def leaves(keys: Keys = ()) -> Iterator[Keys]:
    """The paths of all values that a recipe can have, in the order in which they are declared."""
    for key in properties(schema_at(keys) or {}):
        path = (*keys, key)
        if properties(schema_at(path) or {}):
            yield from leaves(path)
        else:
            yield path


def expected(schema: dict[str, Any]) -> str:
    """What a value may be: "a whole number above 0 or null"."""
    if "anyOf" in schema:
        kinds = {option.get("type") for option in schema["anyOf"] if "const" not in option}
        if {"string", "boolean"} <= kinds:
            return "a value or a list of them" + (" or null" if "null" in kinds else "")
        words = list(dict.fromkeys(expected(option) for option in schema["anyOf"]))
        return _listed(words)
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if properties(schema):
        section = "a section (indented `key: value` lines)"
        if schema.get("$ref") == ENTRY:
            return "a path, or a section with one (`path: …`)"
        return f"a path, {section}" if schema.get("$ref", "").endswith("/Source") else section
    kind = schema.get("type")
    if kind == "string":
        if schema.get("pattern") == RUN_NAME:
            return "a name of letters, digits, '.', '_' and '-' that starts with a letter or digit"
        if schema.get("pattern") == PATTERN:
            return "a pattern of whole paths"
        return "text that is not empty" if schema.get("minLength") else "text"
    if kind == "array" and schema["items"].get("$ref") == ENTRY:
        return "a path or a list of them"
    if kind == "array" and "$ref" in schema["items"]:
        return "a list of sections (`- key: value` lines)"
    if kind == "array":
        return "a list of texts"
    if kind == "object" and schema.get("additionalProperties") is True:
        return "a section of any keys and values"
    if kind == "object":
        return "a section of columns"
    if kind in ("integer", "number"):
        return ("a whole number" if kind == "integer" else "a number") + _range(schema)
    return {"boolean": "true or false", "null": "null"}.get(str(kind), "another value")


def _range(schema: dict[str, Any]) -> str:
    """The limits of a number, as ` of at least 1` or ` above 0 and below 1`."""
    limits = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    words = [f"{word} {schema[key]:g}" for key, word in limits.items() if schema.get(key) is not None]
    if {"minimum", "maximum"} <= schema.keys():
        return f" from {schema['minimum']:g} to {schema['maximum']:g}"
    joined = " and ".join(words)
    return f" of {joined}" if joined.startswith("at ") else f" {joined}" if joined else ""


def shown(value: Any) -> str:
    """A value as a person would name it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return f"the text {text if len(text) <= 60 else text[:56] + '…' + text[-1]}"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, dict):
        return "a section"
    return str(value)


def _wrong(schema: dict[str, Any] | None, value: Any) -> str:
    if schema is None:
        return f"got {shown(value)}, which has no meaning here"
    wanted = expected(schema)
    if value == []:
        wanted = "a list with something in it" if "list of" in wanted else wanted
    return f"expected {wanted}; got {shown(value)}{_hint(wanted, value)}"


def _hint(wanted: str, value: Any) -> str:
    """What to write instead, where that can be guessed."""
    if isinstance(value, str):
        if "true or false" in wanted and value.lower() in YES + NO:
            return f"; write {'true' if value.lower() in YES else 'false'}"
        if "number" in wanted and re.fullmatch(r"[-+]?\d[\d_]*([.]\d*)?([eE][-+]?\d+)?", value):
            return "; write it without quotes"
        if "number" in wanted and re.fullmatch(r"[-+]?\d+,\d+", value):
            return f"; write {value.replace(',', '.')}"
        if near := get_close_matches(value.lower(), re.findall(r"\b[a-z]+-[a-z]+\b", wanted), 1, 0.85):
            return f"; write {near[0]}"  # all_linear
        if wanted.startswith("a list of texts") and re.fullmatch(r"\w+", value):
            return f"; write [{value}]"
        if wanted.startswith("one of "):
            words = re.split(r",? or |, ", wanted.removeprefix("one of "))
            near = get_close_matches(value.lower(), words, 1)
            return f"; did you mean {near[0]}?" if near else ""
    elif isinstance(value, float) and "whole number" in wanted and value.is_integer() and value > 0:
        return f"; write {int(value)}"
    elif isinstance(value, (int, float)) and wanted.startswith(("text", "a name of")):
        return "; put it in quotes"
    return ""


def _renamed(keys: Keys, value: Any) -> str | None:
    """What a key is called now that had another name in an earlier version."""
    section = SECTIONS.get(str(keys[0]))
    if section is None or len(keys) != 2:
        return None
    for key, was in marked(section, Was).items():
        if was.key == keys[-1]:
            new = by_new_names(section, {was.key: value})[key]
            say = f"; write `{key}: {new}`" if new != value else ""
            return f"this key is now called {dotted((*keys[:-1], key))}{say}"
    return None


def _unknown(keys: Keys) -> str:
    """What was probably meant: a key like it here, the same key elsewhere, another trainer's name."""
    here, key = keys[:-1], str(keys[-1])
    own = list(properties(schema_at(here) or {}))
    if "path" in own and key in ENTRY_NAMES:
        return f"unknown key; here it is called {ENTRY_NAMES[key]}"
    if stage_name := STAGE_NAMES.get((dotted(here), key)):
        return f"unknown key; here it is called {stage_name}"
    if "train" in own and key in recipe_schema()["$defs"]["Entry"]["properties"]:
        return f"unknown key; it belongs to an entry, as in `train: {{path: FILE, {key}: …}}`"
    near = get_close_matches(key.lower(), own, 1)
    paths = [path for path in leaves() if path[:-1] != here]
    elsewhere = [dotted(path) for path in paths if path[-1] == key]
    other = OTHER_NAMES.get(key)
    if other:
        tail = other.rsplit(".", 1)[-1]
        if tail in own:
            return f"unknown key; here it is called {tail}"
        full = [dotted(path) for path in leaves() if dotted(path) == other or path[-1] == other]
        return f"unknown key; here it is called {_listed(full)}"
    if near:
        sections = [path.rsplit(".", 1)[0] for path in elsewhere]
        also = f" ({key} is a key of {_listed(sections, 'and')})" if elsewhere else ""
        return f"unknown key; did you mean {near[0]}?{also}"
    if elsewhere:
        return f"unknown key; did you mean {_listed(elsewhere)}?"
    far = list(dict.fromkeys(get_close_matches(key.lower(), [str(path[-1]) for path in paths], 1, 0.8)))
    if far:
        return f"unknown key; did you mean {_listed([dotted(p) for p in paths if p[-1] == far[0]])}?"
    where = f"{dotted(here)} has" if here else "a recipe has"
    return f"unknown key; {where} {', '.join(own)}" if own else "unknown key"


def _missing(keys: Keys) -> str:
    if keys in (("base",), ("base", "name")):
        return "missing; name the model: a folder, or an id on the Hugging Face hub"
    if keys in (("run",), ("run", "name")):
        return "missing; name the run, for example\n    run:\n      name: my-first-run"
    if keys[-1] == "path":
        return "missing; name a file, a folder, or a data set's id on the Hub"
    return f"missing; give {expected(schema_at(keys) or {})}"


def _keys(loc: tuple[int | str, ...], values: Any) -> Keys:
    """pydantic's location without the names of union members, which are no keys of a recipe."""
    keys: Keys = ()
    for part in loc:
        schema = schema_at(keys) or {}
        free = any(_any_key(option) for option in (schema, *schema.get("anyOf", ())))
        if isinstance(part, int) or not keys or free or properties(schema):
            keys = (*keys, part)
    return keys


def _value_at(values: Any, keys: Keys, otherwise: Any) -> Any:
    for key in keys:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return otherwise
    return values


def _named_place(keys: Keys, message: str, document: Document) -> Place | None:
    """Where one of the fields that a message names was written; the last place that can be blamed."""
    names = [tuple(name.split(".")) for name in re.findall(r"\w+(?:\.\w+)*", message)]
    places = [document.places[path] for name in names if (path := (*keys, *name)) in document.places]
    return max(places, key=lambda place: place.line, default=None)


def _listed(words: list[str], last: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
