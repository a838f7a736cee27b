"""Takes tiny bases of many architectures through every command, and writes docs/bases.md.

    python benchmarks/bases.py                  all of them, and the page
    python benchmarks/bases.py qwen3_moe mamba  these; the page keeps what the last run found of the others

Each base is a random model with small shapes (tests/tiny_bases.py), so this shows that an architecture goes
through, not how well it learns. A cell is `works`, or the base is refused by `align check` and `align sft`,
which then writes nothing. Anything else is a fault of align's: it is printed, and the exit code is 1.

Every command is a fork of this process, which has imported the libraries once: it starts with nothing of the
command before, and one that crashes, hangs or is killed takes no other with it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "400", "NO_COLOR": "1"}

# Below the path and the environment that they need:
from conftest import make_recipe, make_tiny_base, write_jsonl  # noqa: E402
from tiny_bases import CONFIGS, TITLES, make_base  # noqa: E402

from align.cli.app import _quiet_libraries, app  # noqa: E402
from align.stage_table import STAGES  # noqa: E402

CELLS = ("check", "sft", "rm", "ppo", "resume", "score", "export", "chat")
WORKS, REFUSED, NOT_RUN = "works", "refused", "not run"
PAGE = ROOT / "docs" / "bases.md"
KEPT = ROOT / ".cache" / "bases.json"
BEGIN, END = "<!-- make bases: begin -->", "<!-- make bases: end -->"
LONGEST = 16  # tokens of a response
# Where a run is killed: in the second step of each stage.
KILLS = {
    "sft": ("align.stages.trainer:ResumableTrainer.training_step", 5),
    "rm": ("align.stages.ranking_gradients:scores_above", 3),
    "ppo": ("align.ppo.update:policy_loss", 3),
}
SECTIONS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "alpha": 32, "targets": "all-linear", "layers": None},
    "sft": {"steps": 12, "batch_size": 8, "learning_rate": 2e-2, "checkpoint_every": 4},
    "rm": {"steps": 3, "batch_size": 2, "learning_rate": 1e-2, "checkpoint_every": 1},
    "ppo": {
        "iterations": 2,
        "rollout_batch_size": 8,
        "responses_per_prompt": 2,
        "minibatch_size": 4,
        "microbatch_tokens": 256,
        "learning_rate": 1e-3,
        "max_prompt_tokens": 32,
        "max_response_tokens": LONGEST,
        "checkpoint_every": 1,
    },
}
# With fewer layers that an adapter can have, it takes longer to learn where an answer ends.
LATER = {"mamba": {"sft": SECTIONS["sft"] | {"steps": 24}}}


class Fault(Exception):
    """What a cell found instead of what it should have."""


@dataclass
class Row:
    """What became of one base."""

    name: str
    model: str = ""
    cells: dict[str, str] = field(default_factory=dict)  # works, refused, or what went wrong
    reason: str = ""  # of a refusal
    seconds: float = 0.0

    @property
    def faults(self) -> dict[str, str]:
        """Cells that are neither."""
        return {cell: what for cell, what in self.cells.items() if what not in (WORKS, REFUSED, NOT_RUN)}


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code (negative: a signal's), and what it wrote."""

    code: int
    out: str
    err: str


def forked(work: Callable[[], int], folder: Path, given: str = "", seconds: int = 900) -> Done:
    """Run a function in a fork of this process, with streams of its own; `given` is its stdin."""
    streams = [folder / name for name in ("stdin", "stdout", "stderr")]
    streams[0].write_text(given)
    pid = os.fork()
    if not pid:
        code = 70
        try:
            for number, path in enumerate(streams):
                mode = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(path, mode), number)
            sys.stdin = os.fdopen(0, "r", encoding="utf-8")
            sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8") for n in (1, 2))
            signal.alarm(seconds)  # a hang is a fault, too
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return Done(os.waitstatus_to_exitcode(status), *(p.read_text(errors="replace") for p in streams[1:]))


def align(
    *arguments: str | Path, folder: Path, given: str = "", killed: tuple[str, int] | None = None
) -> Done:
    """`align ARGUMENTS`; killed: at the n-th call of a function, as from outside."""

    def command() -> int:
        if killed:
            _kill_at(*killed)
        return int(app([*map(str, arguments)], standalone_mode=False, prog_name="align") or 0)

    return forked(command, folder, given)


def _kill_at(where: str, count: int) -> None:
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *parts, last = path.split(".")
    for part in parts:
        owner = getattr(owner, part)
    original, calls = getattr(owner, last), 0

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)

    setattr(owner, last, counted)


@dataclass(frozen=True)
class Trial:
    """One base, its recipe, and a folder for both."""

    folder: Path
    recipe: Path

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "runs" / "tiny"

    def do(self, *arguments: str | Path, given: str = "") -> Done:
        """A command that has to end well."""
        done = align(*arguments, folder=self.folder, given=given)
        if done.code:
            raise Fault(f"align {arguments[0]} ended with code {done.code}: {_last(done)}")
        return done

    def check(self) -> None:
        """Nothing to say of the base."""
        self.do("check", self.recipe)

    def stage(self, stage: str) -> None:
        """It trains."""
        self.do(stage, self.recipe)

    def ppo(self) -> None:
        """It trains on responses of uneven length, sampled as the trainer computes them."""
        self.stage("ppo")
        rows = [json.loads(line) for line in (self.run / "ppo" / "metrics.jsonl").open()]
        gap = max(row["engine/logprob_gap"] for row in rows if "engine/logprob_gap" in row)
        if not gap < 1e-3:
            raise Fault(f"what is sampled and what is trained differ by {gap:.2g} nats a token")
        if not any(1 < row.get("response/length", 0) < LONGEST for row in rows):
            raise Fault("all responses had the same length: the trial shows nothing")

    def resume(self) -> None:
        """Each stage is killed, goes on, and ends with the same bits."""
        again = Trial(self.folder / "again", self.folder / "again" / "recipe.yaml")
        again.folder.mkdir()
        text = self.recipe.read_text().replace(str(self.run.parent), str(again.run.parent))
        again.recipe.write_text(text)
        for path in self.folder.glob("*.jsonl"):
            shutil.copy(path, again.folder)
        for stage, killed in KILLS.items():
            done = align(stage, again.recipe, folder=again.folder, killed=killed)
            if done.code != -signal.SIGKILL:
                raise Fault(f"{stage} was to be killed, and ended with code {done.code}: {_last(done)}")
            again.stage(stage)
            if _digest(again.run / stage / "final") != _digest(self.run / stage / "final"):
                raise Fault(f"{stage} that was killed and went on has another result")

    def score(self) -> None:
        """Every response gets a finite score."""
        done = self.do("score", self.run, self.folder / "rankings.jsonl")
        rows = [json.loads(line) for line in done.out.splitlines()]
        scores = [score for row in rows for score in row["scores"]]
        if not scores or not all(map(math.isfinite, scores)):
            raise Fault(f"{len(scores)} scores, not all of them finite")

    def export(self) -> None:
        """Plain transformers loads the exported policy, writes the same tokens, and stops where it stops.

        (A response that never ends shows no stop; `align export` itself has dictated one to generate().)
        """
        out = self.folder / "exported"
        self.do("export", self.run, "--stage", "ppo", "--to", out)
        said = self._apart("_said", self.run)
        written = self._apart("_written", out, json.dumps([prompt for prompt, _ in said]))
        for (_, ours), theirs in zip(said, written, strict=True):
            if ours != theirs:
                raise Fault(f"align writes {ours}, plain generate() on the export {theirs}")

    def _apart(self, name: str, place: Path, given: str = "") -> Any:
        def work() -> int:
            print(json.dumps(globals()[name](place)), flush=True)
            return 0

        done = forked(work, self.folder, given)
        if done.code:
            raise Fault(f"plain transformers, code {done.code}: {_last(done)}")
        return json.loads(done.out.splitlines()[-1])

    def chat(self) -> None:
        """A line from a pipe is answered."""
        done = self.do("chat", self.run, given="the film is\n")
        if not done.out.endswith("\n"):  # of an answer that may be empty
            raise Fault("no answer")


def _said(run: Path) -> list[tuple[list[int], list[int]]]:
    """What align's policy writes where each token is the likeliest, and the prompts."""
    from align.loop.policy import Drawing, open_partner
    from align.sampling.params import Draws

    policy = open_partner(run, "ppo", Drawing(top_k=1, max_tokens=2 * LONGEST)).policy
    texts = ("the film is", "a dull plot was", "what and", "the the music")
    prompts = [policy.setup.template.prompt_ids(text) for text in texts]
    draws = Draws(0, "bases", 0, list(range(len(prompts))))
    return [(one.prompt, one.response) for one in policy.engine.sample(prompts, draws, policy.params)]


def _written(folder: Path) -> list[list[int]]:
    """What the export writes by plain generate(), prompts from stdin; nothing of align is used."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    plain = AutoConfig.from_pretrained(folder)
    composite = plain.get_text_config() is not plain
    auto = AutoModelForImageTextToText if composite else AutoModelForCausalLM
    model = auto.from_pretrained(folder).eval()
    found = []
    for prompt in json.load(sys.stdin):
        ids = torch.tensor([prompt])
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        row = model.generate(**given, do_sample=False, max_new_tokens=2 * LONGEST)[0]
        found.append(row[len(prompt) :].tolist())
    return found


def _tell(text: str) -> None:
    print(f" {text}", end="", flush=True)


def trial(name: str, config: Any, tokenizer: Path, folder: Path, tell: Callable[[str], None]) -> Row:
    """All cells of one base, the first fault ending those that need it."""
    began = time.monotonic()
    make_base(config, tokenizer, folder / "base", head_std=0.5)
    row = Row(name, json.loads((folder / "base" / "config.json").read_text())["architectures"][0])
    made = Trial(folder, make_recipe(folder, folder / "base", **(SECTIONS | LATER.get(name, {}))))
    _short(folder)
    cells: dict[str, Callable[[], None]] = {
        "check": made.check,
        "sft": lambda: made.stage("sft"),
        "rm": lambda: made.stage("rm"),
        "ppo": made.ppo,
        "resume": made.resume,
        "score": made.score,
        "export": made.export,
        "chat": made.chat,
    }
    needs = {"rm": "sft", "ppo": "rm", "resume": "ppo", "score": "rm", "export": "ppo", "chat": "ppo"}
    for cell, go in cells.items():
        if needs.get(cell) in row.faults:
            row.cells[cell] = f"not tried: {needs[cell]} failed"
            continue
        try:
            go()
            row.cells[cell] = WORKS
        except Fault as fault:
            row.cells[cell] = str(fault)
            if cell == "check" and (reason := _refusal(made)):
                row.cells, row.reason = dict.fromkeys(CELLS, REFUSED), reason
                break
        tell(cell if row.cells[cell] == WORKS else f"{cell} FAILS")
    row.seconds = time.monotonic() - began
    return row


def _refusal(made: Trial) -> str:
    """Why `align check` refuses the base, if it does with code 2 and sft does so too, writing nothing."""
    checked = align("check", made.recipe, folder=made.folder)
    shutil.rmtree(made.folder / "runs", ignore_errors=True)  # check.json
    tried = align("sft", made.recipe, folder=made.folder)
    if checked.code != 2 or tried.code != 2 or made.run.exists():
        return ""
    told = next((line for line in tried.err.splitlines() if line.startswith("error: ")), "")
    reason = told.removeprefix("error: ").replace(str(made.folder / "base"), made.folder.name)
    return reason if told.removeprefix("error: ")[:60] in checked.out.replace("\n", " ") else ""


def _short(folder: Path) -> None:
    """Demonstrations so short that four steps teach to end a response."""
    openings = [json.loads(line)["prompt"] for line in (folder / "prompts.jsonl").open()]
    answers = (" old", " dull", " and two", " loud")
    rows = [{"prompt": p, "response": answers[i % 4]} for i, p in enumerate(openings)]
    write_jsonl(folder / "demonstrations.jsonl", rows)


def _digest(final: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(final.glob("*.safetensors"))}


def _last(done: Done) -> str:
    lines = [line.strip() for line in (done.out + "\n" + done.err).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error")]
    return " ".join((told or lines or ["nothing was said"])[-1].split())[:600]


def main(names: Sequence[str] | None = None) -> int:
    """Run, print and write the page; 1 where a cell is a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CONFIGS)}")
    wanted = parser.parse_args(names).names
    if unknown := set(wanted) - set(CONFIGS):
        parser.error(f"no such base: {', '.join(sorted(unknown))}")
    rows = run_all({name: CONFIGS[name]() for name in wanted or CONFIGS}, keep=_keep)
    kept = _kept()
    known = [kept.get(name, Row(name, cells=dict.fromkeys(CELLS, NOT_RUN))) for name in CONFIGS]
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), known), encoding="utf-8")
    print(f"written: {PAGE}")
    faults = [f"{row.name} ({', '.join(row.faults)})" for row in rows if row.faults]
    if faults:
        print(f"neither works nor refused by check: {', '.join(faults)}", file=sys.stderr)
    return int(bool(faults))


def _kept() -> dict[str, Row]:
    """What was found of each base since the libraries changed last."""
    found = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    rows = found["rows"] if found.get("versions") == _versions() else {}
    return {name: Row(**row) for name, row in rows.items()}


def _keep(row: Row) -> None:
    rows = {name: asdict(one) for name, one in (_kept() | {row.name: row}).items()}
    KEPT.parent.mkdir(exist_ok=True)
    KEPT.write_text(json.dumps({"versions": _versions(), "rows": rows}))


def _versions() -> str:
    libraries = ("transformers", "torch", "trl", "peft", "accelerate")
    python = ".".join(map(str, sys.version_info[:3]))
    return ", ".join(f"{name} {version(name)}" for name in libraries) + f" and Python {python}"


def with_table(page: str, rows: Sequence[Row]) -> str:
    """The page with this table between its two marks; the rest of it is people's."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} has not the two marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{_table(rows)}\n{END}{after}"


def _table(rows: Sequence[Row]) -> str:
    minutes = sum(row.seconds for row in rows) / 60
    lines = [
        f"Made by `make bases` with {_versions()}: {len(rows)} bases in {minutes:.0f} minutes.",
        "",
        f"| base | its name here | transformers' class | {' | '.join(CELLS)} |",
        f"|{'---|' * (len(CELLS) + 3)}",
    ]
    for row in rows:
        cells = [what if what in (WORKS, REFUSED, NOT_RUN) else "**fails**" for what in row.cells.values()]
        if row.reason:
            cells = [REFUSED, *["–"] * (len(CELLS) - 1)]
        lines.append(f"| {TITLES[row.name]} | `{row.name}` | {row.model} | {' | '.join(cells)} |")
    lines += ["", "Refused, and why:", ""]
    lines += [f"- {TITLES[row.name]}: {row.reason}" for row in rows if row.reason]
    for row in rows:
        lines += [f"- **{TITLES[row.name]}, {cell} fails**: {what}" for cell, what in row.faults.items()]
    return "\n".join(lines)


def run_all(configs: dict[str, Any], keep: Callable[[Row], object] = lambda row: None) -> list[Row]:
    """A row for each configuration, told and kept as it comes."""
    _quiet_libraries()
    for stage in STAGES.values():
        importlib.import_module(stage.module)
    for module in ("align.check.run", "align.loop.policy", "align.serving.export", "align.serving.score"):
        importlib.import_module(module)
    rows = []
    with tempfile.TemporaryDirectory(prefix="bases-") as place:
        make_tiny_base(Path(place) / "tokenizer")
        for number, (name, config) in enumerate(configs.items(), 1):
            folder = Path(place) / name
            print(f"[{number}/{len(configs)}] {name}:", end="", flush=True)
            try:
                row = trial(name, config, Path(place) / "tokenizer", folder, _tell)
            except Exception as error:
                row = Row(name, config.model_type, {"check": f"{type(error).__name__}: {error}"})
            told = f" refused: {row.reason}" if row.reason else ""
            print(f"{told} ({row.seconds:.0f} s)", flush=True)
            for cell, what in row.faults.items():
                print(f"    {cell}: {what}", flush=True)
            rows.append(row)
            keep(row)
            shutil.rmtree(folder, ignore_errors=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
