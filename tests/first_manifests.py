"""Manifests as the version before the present one wrote them: hashes by flat keys, no version number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.run.files import read_json, to_json


def first_form(manifest: dict[str, Any]) -> dict[str, Any]:
    """The same manifest, as it was written then."""
    old = json.loads(json.dumps(manifest))
    for key in ("version", "resumed_with", "finished_at", "final", "results"):
        if key == "version" or not old[key]:
            del old[key]
    del old["versions"]["align"]
    lineage = {key: old.pop(key) for key in ("base", "template")}
    places = {"base": old.pop("base_name")}
    for parent in old.pop("parents"):
        lineage.update(_keys(parent))
        if parent["run"]:
            places[parent["name"]] = parent["run"]
    return old | {"lineage": lineage, "places": places}


def _keys(parent: dict[str, Any]) -> Iterator[tuple[str, str]]:
    parts = {"adapter": "", "digest": "", "head": "_head", "base": "_base"}
    return ((parent["name"] + end, parent[part]) for part, end in parts.items() if parent[part])


def as_first(run: Path) -> None:
    """Let the stages of a run folder have such manifests."""
    for path in run.glob("*/manifest.json"):
        path.write_text(to_json(first_form(read_json(path))))
