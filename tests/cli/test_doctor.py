"""`align doctor`: what counts as whole, and the line that mends what is not."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from align.cli import doctor


def installed(**versions: str) -> Callable[[str], str]:
    """A stand-in for what asks the environment for a version."""

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    return version


@pytest.mark.parametrize(
    ("found", "good"), [("2.13.0+cpu", True), ("2.14.0", True), ("2.12.1", False), ("3.0", False)]
)
def test_versions_are_compared_as_pip_does(found: str, good: bool) -> None:
    result = doctor.check(Requirement("torch>=2.13,<3"), installed(torch=found))
    assert (result.found, result.good) == (found, good)


def test_what_is_missing_is_not_good() -> None:
    assert doctor.check(Requirement("gguf>=0.19"), installed()) == doctor.Check("gguf", ">=0.19", None, False)


def test_an_extra_names_what_is_missing_and_the_line_that_adds_it() -> None:
    lines = [Requirement("gguf>=0.19"), Requirement("hypothesis>=6"), Requirement("ruff>=0.17")]
    version = installed(hypothesis="5.1", ruff="0.17.5")
    line = doctor.extra("quickstart", [doctor.check(r, version) for r in lines])
    assert line.text.startswith("missing gguf, hypothesis 5.1 (wants >=6): ")
    assert "pip install" in line.text
    assert "[quickstart]" in line.text


def test_requirements_are_those_of_pyproject_on_this_machine(tmp_path: Path) -> None:
    source = tmp_path / "pyproject.toml"
    source.write_text(
        '[project]\nname = "align-rlhf"\n'
        'dependencies = ["torch>=2.13", "colorama; sys_platform == \'nowhere\'"]\n'
        "[project.optional-dependencies]\n"
        'all = ["align-rlhf[quickstart]", "ruff"]\nquickstart = ["gguf"]\n'
    )
    found = {name: [r.name for r in rs] for name, rs in doctor.requirements(source).items()}
    assert found == {"": ["torch"], "all": ["ruff"], "quickstart": ["gguf"]}


def test_an_installed_package_asks_for_the_same_as_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "align_rlhf-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: align-rlhf\nVersion: 0.1\nProvides-Extra: quickstart\n"
        "Requires-Dist: torch>=2.13\nRequires-Dist: gguf; extra == 'quickstart'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {name: [r.name for r in rs] for name, rs in doctor.requirements(tmp_path / "no.toml").items()}
    assert found == {"": ["torch"], "quickstart": ["gguf"]}
    assert doctor.install("quickstart", tmp_path / "no.toml").endswith("pip install 'align-rlhf[quickstart]'")


@pytest.mark.parametrize(
    ("wanted", "code", "says"),
    [("rich", 0, "Ready"), ("rich>=999", 2, "align wants >=999"), ("no-such-library", 2, "missing")],
)
def test_the_exit_code_says_whether_the_core_is_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wanted: str, code: int, says: str
) -> None:
    extras = {"more": [Requirement("no-such-library")]}
    monkeypatch.setattr(doctor, "requirements", lambda: {"": [Requirement(wanted)], **extras})
    assert doctor.main() == code
    assert says in capsys.readouterr().out


def test_doctor_works_without_torch() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None  # what importing it then raises is ModuleNotFoundError\n"
        "sys.argv = ['align', 'doctor']\n"
        "from align.cli.app import main; main()\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert "torch is not installed" in done.stdout
    assert done.stderr == ""
    assert done.returncode in (0, 2)
