"""What `make gpu` needs beside torch and transformers, carried to a machine that reaches no package index.

python benchmarks/gpu/wheels.py --python 3.12     downloads it into wheels/, for Linux on x86-64
python benchmarks/gpu/wheels.py --install         installs what this Python lacks, from wheels/ alone
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "wheels"
# Large, and on every GPU machine already, in builds that fit its driver; with what they need themselves.
THERE = {"torch", "transformers"}
TESTS = ("pytest", "hypothesis")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default="3.12", help="of the machine that they are for")
    parser.add_argument("--install", action="store_true")
    arguments = parser.parse_args()
    install() if arguments.install else download(arguments.python)


def requirements() -> list[str]:
    """What pyproject.toml asks for, without what is there already, and what tests need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*(one for one in project["dependencies"] if Requirement(one).name not in THERE), *TESTS]


def download(python: str) -> None:
    """Wheels of the versions that are installed here, which are the tested ones, without torch's."""
    asked = ["--python-version", python, "--only-binary", ":all:"]
    for tag in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "any"):
        asked += ["--platform", tag]
    pip(["download", "--quiet", "--dest", str(WHEELS), "--no-deps", *asked, *closure(requirements())])
    size = sum(path.stat().st_size for path in WHEELS.iterdir()) / 2**20
    print(f"{len(list(WHEELS.iterdir()))} packages, {size:.0f} MiB, in {WHEELS}")


def closure(wanted: list[str]) -> list[str]:
    """The packages and all that they need, as name==version of this environment, but for what is there."""
    found: dict[str, str] = {}
    left = [Requirement(one) for one in wanted]
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        if name in THERE | found.keys() or (one.marker and not one.marker.evaluate({"extra": ""})):
            continue
        found[name] = version(name)
        left += [Requirement(need) for need in requires(name) or ()]
    return [f"{name}=={number}" for name, number in sorted(found.items())]


def install() -> None:
    """What this Python lacks, from the folder; says what of torch and transformers it goes with."""
    for name in sorted(THERE):
        try:
            print(f"{name} {version(name)} is there")
        except PackageNotFoundError:
            sys.exit(f"error: this Python has no {name}, which `make gpu` takes from the machine: install it")
    pip(["install", "--no-index", "--find-links", str(WHEELS), *requirements()])


def pip(arguments: list[str]) -> None:
    """Run pip, and end as it ends."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    if code := subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()
