"""align lineage: the stages that a run was made from, and whether their files are still as written."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from align.errors import UserError
from align.run.files import sha256
from align.run.lineage import as_trained, refuse_code
from align.run.manifest import ADAPTER, HEAD, Manifest, ParentRef, read_manifest
from align.stage_table import STAGES, Stage, place_of
from align.text import clean

_SHOWN = 16  # characters of a hash


@dataclass
class StageNode:
    """A stage of a run: its manifest, what is wrong with its files, and which nodes it starts from."""

    stage: Stage
    run: Path
    manifest: Manifest
    wrong: list[str] = field(default_factory=list)
    parents: list[StageNode] = field(default_factory=list)


def show(run: Path, base: Path | None = None, trusted: bool = False) -> int:
    """Print the tree of a run folder; 2 where a hash does not match or something cannot be verified.

    `base`: where the base lies now. trusted: code that comes with a base may run.
    Raises UserError where the folder is no run's.
    """
    nodes = _nodes(run)
    wrong = _bases(nodes, base, trusted)
    for name, faults in wrong.items():
        print(f"base {_text(name)}")
        _print(faults, "")
        members = [node for node in nodes.values() if _base(node) == name]
        for node in members:
            if _last(node) is None:
                _tree(node, members, "")
    count = sum(len(node.wrong) for node in nodes.values()) + sum(map(len, wrong.values()))
    files = sum(len(node.manifest.final) for node in nodes.values())
    print(f"{count} of it could not be verified" if count else f"all {files} files are as they were written")
    return 2 if count else 0


def gather(run: Path) -> list[StageNode]:
    """The stages of a run and those that they start from, these first, with what is wrong with files.

    Raises UserError where the folder is no run's.
    """
    return list(_nodes(run).values())


def _nodes(run: Path) -> dict[tuple[Path, str], StageNode]:
    nodes: dict[tuple[Path, str], StageNode] = {}
    for stage in STAGES:
        if (run / stage / "manifest.json").is_file():
            _gather(stage, run, nodes)
    if not nodes:
        raise UserError(f"{run}: no stage has run there. Name a run's folder, such as runs/quickstart")
    return nodes


def _gather(
    stage: Stage,
    run: Path,
    nodes: dict[tuple[Path, str], StageNode],
    after: tuple[tuple[Path, str], ...] = (),
) -> StageNode:
    """The node of a stage and, before it, those that it starts from; `after`: those that start from it."""
    key = (run.resolve(), stage)
    if key in nodes:
        return nodes[key]
    path = run / stage / "manifest.json"
    manifest = read_manifest(path, "restore it")
    node = StageNode(stage, run, manifest, list(_files(run / stage, manifest)) if manifest.finished else [])
    for ref in manifest.parents:
        earlier, place = ref.stage, Path(ref.run or run)
        if earlier is None:
            continue  # a function, whose code a run does not keep
        on = earlier == stage == "sft" and (place.resolve(), earlier) not in (*after, key)  # sft.start
        if place_of(earlier) >= place_of(stage) and not on:
            node.wrong.append(f"{ref.name}: {stage} does not start from {earlier}, and its manifest says so")
            continue
        if not (place / earlier / "manifest.json").is_file():
            lost = f"{place / earlier} is not there, so {_short(ref.adapter)} is not verified"
            node.wrong.append(f"{ref.name}: {lost}")
            continue
        parent = _gather(earlier, place, nodes, (*after, key))
        node.wrong += _changed(ref, parent.manifest, place / earlier)
        if parent not in node.parents:
            node.parents.append(parent)
    nodes[key] = node
    return node


def _changed(ref: ParentRef, theirs: Manifest, folder: Path) -> Iterator[str]:
    """What a parent's manifest does not say as it was written down."""
    found = [(ref.name, ref.adapter, theirs.final.get(ADAPTER))]
    if ref.stage and STAGES[ref.stage].has_head:
        found.append((f"{ref.name}_head", ref.head, theirs.final.get(HEAD)))
    if ref.base is not None:
        found.append((f"{ref.name}_base", ref.base, theirs.base))
    for name, written, now in found:
        if written is None:
            yield f"{name}: no hash of it was written down, so {folder} is not verified"
        elif written != now:
            yield f"{name} was {written} when this was trained, and {folder} has {now}"


def _files(folder: Path, manifest: Manifest) -> Iterator[str]:
    """What is wrong with the files of final/."""
    final = folder / "final"
    for name, written in manifest.final.items():
        if not (final / name).is_file():
            yield f"final/{name} is missing"
        elif (found := sha256(final / name)) != written:
            yield f"final/{name} is not what was written: its SHA-256 is {found}, and was {written}"
    there = {path.relative_to(final).as_posix() for path in final.rglob("*") if path.is_file()}
    yield from (
        f"final/{name} was not written by {folder.name}" for name in sorted(there - {*manifest.final})
    )


def _bases(
    nodes: dict[tuple[Path, str], StageNode], moved: Path | None, trusted: bool
) -> dict[str, list[str]]:
    """The bases by name and fingerprint, and what is wrong with each."""
    # Imported here: transformers brings torch along, which takes seconds.
    from align.models.base import find_base

    found: dict[str, list[str]] = {}
    for node in nodes.values():
        if _base(node) in found:
            continue
        faults = found.setdefault(_base(node), [])
        try:
            recipe, _ = as_trained(node.run, node.stage, moved, finished=False)
            refuse_code(recipe, node.run, trusted)
            base = find_base(recipe.base)
            template = base.template(recipe.data)
        except UserError as error:
            faults.append(f"it is not verified: {error}. Where it lies elsewhere now, name it with --base")
            continue
        for what, now in (("base", base.fingerprint), ("template", template.hash)):
            if now != (was := node.manifest.shared[what]):
                faults.append(f"its {what} is not the one that was trained on: {now}, and was {was}")
    return found


def _base(node: StageNode) -> str:
    return f"{node.manifest.base_name} {_short(node.manifest.base)}".strip()


def _tree(node: StageNode, members: list[StageNode], indent: str) -> None:
    """Print a node, and under it those that start from it: under the last of its parents each."""
    state = f"finished {node.manifest.finished_at}" if node.manifest.finished else "has not finished"
    print(f"{indent}└─ {node.stage}  {_text(str(node.run))}  {_text(state)}")
    indent += "   "
    manifest = node.manifest
    lines = {
        "command": shlex.join(manifest.command),
        "from": _pairs(pair for ref in manifest.parents for pair in ref.hashes.items()),
        "accepted": ", ".join(
            f"{change.name} {_short(change.was)} became {_short(change.now)} on {change.at}"
            for change in manifest.accepted
        ),
        "data": _pairs(manifest.data.items()),
        "adapter": _short(manifest.final.get(ADAPTER, "")),
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
    }
    for name, text in lines.items():
        if text:
            print(f"{indent}{name:9}{_text(text)}")
    _print(node.wrong, indent)
    for child in members:
        if _last(child) is node:
            _tree(child, members, indent)


def _last(node: StageNode) -> StageNode | None:
    """The latest of the stages on the same base that it starts from."""
    same = [parent for parent in node.parents if _base(parent) == _base(node)]
    return max(same, key=lambda parent: place_of(parent.stage), default=None)


def _pairs(hashes: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in sorted(hashes))


def _short(value: object) -> str:
    return str(value)[:_SHOWN]


def _print(wrong: list[str], indent: str) -> None:
    for line in wrong:
        print(f"{indent}NOT VERIFIED  {_text(line)}")


def _text(text: str) -> str:
    """Manifests may come from strangers, and hold terminal codes."""
    return str(clean(text)).replace("\n", " ")
