"""README.md and docs/ say what is true: commands run, snippets work, the tree is the repository's."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from conftest import ROOT, align, make_recipe

from align.cli.app import app
from align.recipe.load import load_recipe
from align.recipe.parts import MayChange, marked
from align.recipe.sections import SECTIONS
from align.run import checkpoint

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
BASE, RUN = ".cache/quickstart/base", "runs/quickstart"  # as the snippets name them
CHEAP = ("--help", "doctor", "recipe")


def blocks(page: Path, kind: str) -> list[str]:
    """The fenced blocks of one language."""
    return [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language == kind]


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's bash blocks, as words without comments."""
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def align_arguments(words: list[str]) -> list[str] | None:
    """What a command hands to align, by its own name or through a launcher; None where it starts no align."""
    if words[0] == "align":
        return words[1:]
    at = [i for i, pair in enumerate(zip(words, words[1:], strict=False)) if pair == ("-m", "align")]
    return words[at[0] + 2 :] if at else None


def of_all_pages(kind: str) -> list[Any]:
    return [
        pytest.param(page, text, id=f"{page.name}-{i}")
        for page in PAGES
        for i, text in enumerate(blocks(page, kind))
    ]


# Commands


@pytest.mark.parametrize(
    "arguments",
    [a for words in commands(README) if (a := align_arguments(words)) and a[0] in CHEAP],
    ids=lambda a: " ".join(a),
)
def test_cheap_commands_run(arguments: list[str]) -> None:
    done = align(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readme_has_what_is_tested_here() -> None:
    """The tests above and below do see its commands and its recipe."""
    assert [text for text in blocks(README, "yaml") if text.startswith("base:")]
    first = [arguments[0] for words in commands(README) if (arguments := align_arguments(words))]
    assert {*CHEAP, "sft", "rm", "ppo"} <= set(first)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_align_command_has_arguments_that_align_knows(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for words in commands(page):
        arguments = align_arguments(words)
        if arguments is None or arguments[0].startswith("-"):
            continue
        command, rest = group.commands[arguments[0]], arguments[1:]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(command.name, rest)  # parses, runs nothing; raises where something is unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_make_target_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = {w for words in commands(page) if words[0] == "make" for w in words[1:] if "=" not in w}
    named |= set(re.findall(r"`make ([a-z-]+)[^`]*`", text))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named <= targets
    if page == README:
        assert {"quickstart", "test"} <= named


# Recipes, snippets, links


@pytest.mark.parametrize(
    ("page", "text"), [p for p in of_all_pages("yaml") if p.values[1].startswith("base:")]
)
def test_whole_recipes_load(page: Path, text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_recipe(path).base.name


@pytest.mark.parametrize(("page", "text"), of_all_pages("python"))
def test_python_snippets_compile(page: Path, text: str) -> None:
    compile(text, str(page), "exec")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", FENCE.sub("", page.read_text(encoding="utf-8")))
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# The tree


def tree() -> dict[str, str]:
    """The comment of each path in the README's tree."""
    (text,) = (block for block in blocks(README, "") if block.startswith(".\n"))
    found: dict[str, str] = {}
    above: list[str] = []
    for line in text.splitlines()[1:]:
        match = re.fullmatch(r"((?:│   |    )*)[├└]── (\S+)\s*(.*)", line)
        assert match, f"not a line of a tree: {line}"
        above = [*above[: len(match[1]) // 4], match[2].rstrip("/")]
        found["/".join(above)] = match[3]
    return found


def repository() -> list[str]:
    """All files that git has or would take; skips where this is no git checkout."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout: the repository's files are not known")
    return [name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_every_path_in_the_tree_exists_and_has_a_comment() -> None:
    for path, comment in tree().items():
        assert (ROOT / path).exists(), path
        assert comment, path


def test_the_tree_has_every_top_level_entry_and_every_module() -> None:
    files = repository()
    wanted = {name.split("/")[0] for name in files}
    wanted |= {
        n for n in files if n.startswith("align/") and n.endswith(".py") and not n.endswith("/__init__.py")
    }
    wanted |= {n for n in files if n.startswith(("docs/", "recipes/"))}
    assert sorted(wanted - tree().keys()) == []


# What stages write, against one tiny run of all three


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A finished run folder; its recipe lies two folders above."""
    folder = tmp_path_factory.mktemp("readme")
    done = align("run", make_recipe(folder, tiny_base))
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "tiny"


def snippet(page: Path, base: Path, run: Path) -> str:
    """The page's Python snippet, with this base and run instead of the quick start's."""
    (text,) = blocks(page, "python")
    assert BASE in text and RUN in text
    return text.replace(BASE, str(base)).replace(RUN, str(run))


def python(text: str, folder: Path) -> str:
    """What a snippet prints in a process of its own, which does not find our package."""
    blocked = "import sys; sys.modules['align'] = None\n"  # importing it would fail
    done = subprocess.run(
        [sys.executable, "-c", blocked + text],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_plain_peft_samples_from_the_result(run: Path, tiny_base: Path, tmp_path: Path) -> None:
    printed = python(snippet(README, tiny_base, run), tmp_path)
    (prompt,) = re.findall(r'tokenizer\("([^"]+)"', snippet(README, tiny_base, run))
    assert printed.startswith(prompt)
    assert len(printed.strip()) > len(prompt)


def test_the_reward_snippet_gives_aligns_own_score(run: Path, tiny_base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from align.models.batch import collate
    from align.models.forward import Forward
    from align.models.roles import Roles

    final = run / "rm" / "final"
    tokenizer = AutoTokenizer.from_pretrained(final)
    roles = Roles(AutoModelForCausalLM.from_pretrained(tiny_base).requires_grad_(False))
    roles.add("reward", final, trains=False)
    roles.add_head("reward", final)
    prompt, response = (
        tokenizer(t).input_ids for t in ("The story of the two", " friends is warm and honest.")
    )
    forward = Forward(roles)
    with torch.no_grad():
        prefix = forward.prefix(collate([(prompt, [*response, tokenizer.eos_token_id])], 0))
        (ours,) = forward.scores("reward", prefix).tolist()
    printed = python(snippet(ROOT / "docs" / "metrics.md", tiny_base, run), tmp_path)
    assert float(printed) == pytest.approx(ours, rel=1e-4)


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_the_metrics_page_has_every_metric_and_no_other(run: Path, stage: str) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {stage}\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    said = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    rows = [
        json.loads(line) for line in (run / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    found = {name for row in rows for name in row} - {"step"}
    meters = {name for name in found if name.startswith("energy/")}  # which ones is the machine's matter
    assert meters
    assert sorted(said) == sorted(found - meters | {"energy/cpu_estimated"})


def test_the_metrics_page_has_the_files_and_keys_that_are_there(run: Path) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    words = set(re.findall(r"[\w.-]+", page))
    keys = set(re.findall(r"`(\w+)`", page))
    for stage in ("sft", "rm", "ppo"):
        folder = run / stage
        assert {p.name for p in folder.iterdir()} <= words
        assert {p.name for p in (folder / "final").rglob("*.safetensors")} <= words
        assert json.loads((folder / "manifest.json").read_text(encoding="utf-8")).keys() - {"stage"} <= keys
    for name in ("samples.jsonl", "held_out.jsonl"):
        row = json.loads((run / "ppo" / name).read_text(encoding="utf-8").splitlines()[0])
        assert {key.replace("policy_", "reference_") for key in row} <= keys


def test_the_resume_pages_refusal_is_the_real_one(run: Path) -> None:
    page = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^    (error: \S+ was started with .*?)\n\n", page, re.DOTALL | re.MULTILINE)
    done = align("ppo", run.parents[1] / "recipe.yaml", "--set", "ppo.kl_coef=0.1")
    assert done.returncode == 2
    real = done.stderr.replace(str(run), "runs/mine").splitlines()
    assert [line.strip() for line in shown.splitlines()] == [line.strip() for line in real]


def test_the_resume_page_names_the_harmless_keys() -> None:
    page = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"<!-- harmless -->(.*?)<!-- /harmless -->", page, re.DOTALL)
    may = {f"{name}.{key}" for name, section in SECTIONS.items() for key in marked(section, MayChange)}
    assert set(re.findall(r"`([\w.]+)`", said)) == may


def test_the_resume_pages_damaged_checkpoint_is_told_like_that(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    path = checkpoint.save(tmp_path, 120, {"policy": {}}, {}, keep=1)
    file = path / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:4])
    told: list[str] = []
    assert checkpoint.newest(tmp_path, told.append) is None
    (shown,) = re.findall(r"^    (checkpoint .*)$", page, re.MULTILINE)
    (real,) = told

    def without_numbers(text: str) -> str:
        return re.sub(r"\d+ bytes, not \d+", "", text)

    assert without_numbers(shown) == without_numbers(real.replace(str(tmp_path), "runs/mine/ppo/checkpoints"))


# The whole thing, as a newcomer has it


@pytest.mark.slow
def test_a_fresh_copy_runs_the_quick_start_shortened_and_the_readmes_snippet(tmp_path: Path) -> None:
    copy = tmp_path / "align"
    for name in repository():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy / name)
    short = ("sft.steps=2", "rm.steps=2", "ppo.iterations=1", "ppo.max_response_tokens=4")
    flags = " ".join(f"--set {override}" for override in short)
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "HF_HUB_OFFLINE")  # what a newcomer's shell does not have
    done = subprocess.run(
        ["make", "quickstart", f"PYTHON={sys.executable}", f"ALIGN_FLAGS={flags}"],
        cwd=copy,
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "after SFT" in done.stdout and "after PPO" in done.stdout
    for path in ("sft/final", "rm/final", "ppo/final", "ppo/held_out.jsonl"):
        assert (copy / RUN / path).exists(), path
    (text,) = blocks(README, "python")
    printed = subprocess.run(
        [copy / ".venv" / "bin" / "python", "-c", text],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.startswith("The story of the two")
