"""How a command ends when it does not end well: one clear message, an exit code, never a traceback."""

from __future__ import annotations

import errno
import io
import os
import platform
import signal
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import typer

from align import __version__
from align.errors import AlignError, ProcessDied, RecipeError, Terminated, ran_out_of_memory
from align.stage_table import STAGES, Stage
from align.text import printable

GOES_ON = "the same command goes on from the last checkpoint"
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_ACCESS = {errno.EACCES, errno.EPERM}
_LOST_PEER = ("Connection reset by peer", "Connection closed by peer", "remote process exited")  # gloo, NCCL
_NOT_DETERMINISTIC = " does not have a deterministic implementation"  # torch's words
_NO_ANSWER = "Timed out waiting"  # gloo; NCCL ends the process itself


_NO_ROOM = (
    b"error: memory ran out, and there is none left to say where; the same command goes on. If `ulimit -v` "
    b"is set, `ulimit -v unlimited` takes it away: torch and its libraries alone take up to 3 GB of "
    b"addresses\n"
)


@dataclass
class CommandContext:
    """What a command was doing when it failed."""

    stage: Stage | None = None  # None: nothing that could go on
    folder: Path | None = None  # the stage's run folder, where the traceback of a bug goes
    kept: str | None = None  # what to say where the command is interrupted, if not that nothing was changed
    recipe: tuple[Path, Sequence[str]] | None = None  # the file and what --set said, once they were read


@contextmanager
def reported() -> Iterator[CommandContext]:
    """Turns every exception into a message on stderr and `typer.Exit` with the right code."""
    context = CommandContext()
    with _terminable():
        try:
            yield context
        except typer.Exit:
            raise
        except BrokenPipeError:  # `align recipe show … | head`: the reader has seen enough
            _discard_stdout()
            raise typer.Exit(0) from None
        except BaseException as error:
            code = _told(error, context)
            _report_to_launcher(error, code)
            raise typer.Exit(code) from None


def speak_in_any_encoding() -> None:
    """Lets no output end a command: what a console cannot show (ASCII, Latin-1) is written as \\u2026."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(message: str, title: str = "error") -> None:
    """Writes `error: message` to stderr; wrapped on a terminal, and never read as markup."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    lines = printable(message, keep="\n").split("\n")
    if console.is_terminal:
        lines = [
            _wrapped(line, console.width, len(title) + 2 if i == 0 else 0) for i, line in enumerate(lines)
        ]
    console.print(Text.assemble((f"{title}: ", "bold red"), "\n".join(lines)), soft_wrap=True)


def ended(code: int) -> None:
    """Says what a signal's exit code from the launched processes means; the others have told theirs."""
    if code == INTERRUPTED:
        say(GOES_ON, "interrupted")
    elif code == TERMINATED:
        say(GOES_ON, "stopped")
    elif code == 128 + signal.SIGKILL:
        say("a process was killed, most often because memory ran out; " + GOES_ON)


def _told(error: BaseException, context: CommandContext) -> int:
    """As `_tell`; where not even the message finds memory, one that needs none."""
    try:
        return _tell(error, context)
    except Exception as another:
        if not (ran_out_of_memory(error) or ran_out_of_memory(another)):
            raise
        with suppress(OSError):
            os.write(2, _NO_ROOM)
        return 1


def _tell(error: BaseException, context: CommandContext) -> int:
    """Says what happened, once where all processes share it, and returns the exit code."""
    rank = os.environ.get("RANK", "0")
    main = rank == "0"
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        title, code = (
            ("stopped", TERMINATED) if isinstance(error, Terminated) else ("interrupted", INTERRUPTED)
        )
        if main and not _launched():  # the launching process says it once for all
            say(GOES_ON if context.stage else context.kept or "nothing was changed", title)
        return code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    who = "" if main else f"process {rank}: "
    if isinstance(error, AlignError):
        if _speaks(main):
            last = _last_checkpoint(context) if isinstance(error, ProcessDied) else ""
            said = _place(error, context) + str(error) + last
            say(who + said if not _launched() else said)
        return error.exit_code
    if isinstance(error, ModuleNotFoundError) and not (error.name or "align").startswith("align"):
        if _speaks(main):
            say(f"the package {error.name} is not installed; `align doctor` says what is missing")
        return 2
    if ran_out_of_memory(error) and "RANK" in os.environ:
        who = f"process {rank}: "
    if _launched() and not _speaks(main):
        return 1  # most often because the one that has told why is gone
    known = _machine_failure(error, context)
    if known:
        say(who + known)
    else:
        _say_bug(error, context, who)
    return 1


def _place(error: AlignError, context: CommandContext) -> str:
    """`recipes/q.yaml:12: ` where the error is about a value of the recipe, else nothing."""
    if context.recipe is None or not isinstance(error, RecipeError) or not error.key:
        return ""
    from align.recipe.load import place_of

    return f"{place_of(*context.recipe, tuple(error.key.split('.')))}: "


def _machine_failure(error: BaseException, context: CommandContext) -> str | None:
    """A message for what the machine does to programs: full disks, forbidden files, memory that ran out."""
    again = f"; then {GOES_ON}" if context.stage else ""
    number = error.errno if isinstance(error, OSError) else None
    # Of a rename the second name is the one that a person knows: the first was written aside.
    file = (error.filename2 or error.filename) if isinstance(error, OSError) else None
    name = f": {file}" if file else ""
    text = str(error)
    if number in _NO_SPACE or "No space left on device" in text:  # safetensors hides the number
        return f"no space is left on the disk{name}; free some{again}"
    if number == errno.EROFS:  # a disk with an error is turned so by the system, under what is running
        return f"the disk is read-only now{name}; make it writable (dmesg says why it is not){again}"
    if number in _NO_ACCESS:
        return f"no permission{name} ({os.strerror(number or 0)}); give yourself access{again}"
    no_file = number == errno.ENOENT or "No such file" in text
    if no_file and context.folder and not context.folder.is_dir():
        return f"{context.folder} is gone; bring it back (is its disk mounted?){again}"
    if ran_out_of_memory(error):
        free, others = STAGES[context.stage].smaller if context.stage else ("the microbatch's size", "")
        gpu = type(error).__name__ == "OutOfMemoryError"
        notes = [*([text.split(". Of the allocated")[0]] if gpu else []), *getattr(error, "__notes__", ())]
        held = "".join(f"\n{note}" for note in notes)
        if limit := None if gpu else memory_limit():
            again += f". This process may have {limit}: `ulimit -v unlimited` before it takes the limit away"
        what = "the GPU's memory" if gpu else "memory"
        return f"{what} ran out; lower {free} (the result stays the same){others}{again}{held}"
    if _NOT_DETERMINISTIC in text:
        operation = text.split(_NOT_DETERMINISTIC)[0].strip()
        return (
            f"{operation}, which this base needs, has no kernel on a GPU that gives the same bits each time. "
            "Set run.deterministic: false: the run trains as well, and what is done again after an "
            f"interruption may differ in the last digits{again}"
        )
    if _NO_ANSWER in text:
        return (
            "another process of this run did not answer within run.timeout; it hangs, or waits for something "
            f"slow: look at its machine, or raise run.timeout{again}{_last_checkpoint(context)}"
        )
    if any(words in text for words in _LOST_PEER):
        lost = "another process of this run has ended, often because memory ran out"
        return f"{lost}{again}{_last_checkpoint(context)}"
    return None


def memory_limit() -> str | None:
    """What `ulimit -v` allows this process, in GB; None where it sets no limit."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else f"{limit / 1e9:.1f} GB of addresses"


def _last_checkpoint(context: CommandContext) -> str:
    """A line that names it: what was done since is done again."""
    if context.folder is None:
        return ""
    found = {int(path.name[5:]): path for path in context.folder.glob("checkpoints/step-*[0-9]")}
    return f"\nthe last checkpoint is {found[max(found)]}" if found else "\nthere is no checkpoint yet"


def _say_bug(error: BaseException, context: CommandContext, who: str) -> None:
    first = (str(error).strip().splitlines() or [""])[0]
    summary = f"{type(error).__name__}: {first}" if first else type(error).__name__
    trace = "".join(traceback.format_exception(error))
    path = _write_trace(trace, context)
    if path is None:
        sys.stderr.write(trace)
    where = f"\nThe details are in {path}" if path else ""
    goes_on = f"\nCheckpoints are not touched by this: {GOES_ON}." if context.stage else ""
    say(f"{who}this is a bug in align: {summary}{where}{goes_on}")


def _write_trace(trace: str, context: CommandContext) -> Path | None:
    """Writes the traceback into the run folder, or into the temporary folder; None if neither can be."""
    command = " ".join(["align", *sys.argv[1:]])
    python = f"Python {platform.python_version()} on {platform.platform()}"
    stamp = time.strftime("%Y%m%d-%H%M%S")
    runs = (context.folder, context.folder.parent) if context.folder else ()
    for folder in (*runs, Path(tempfile.gettempdir())):
        if not folder.is_dir():
            continue
        path = folder / f"align-crash-{stamp}-{os.getpid()}.txt"
        try:
            path.write_text(f"align {__version__}, {python}\n{command}\n\n{trace}", encoding="utf-8")
        except OSError:
            continue
        return path
    return None


def _launched() -> bool:
    """Whether `align` itself started this process, and so waits for it and speaks for it."""
    return "ALIGN_EXIT_FILE" in os.environ and "RANK" in os.environ


def _speaks(main: bool) -> bool:
    """Whether this process tells why the run ends: the first that knows does.

    Others may have met the same error, or lost the one that has. Where another launcher started them, the
    first process of each machine tells.

    The launcher ends the others as soon as one has failed, so the main process may never come to speak.
    """
    if not _launched():  # what is wrong with another machine's files, only a process there knows
        return main or os.environ.get("LOCAL_RANK") == "0"
    try:
        Path(os.environ["ALIGN_EXIT_FILE"] + ".told").touch(exist_ok=False)
    except FileExistsError:
        time.sleep(0.5)  # let the one that speaks finish: it is ended when this process goes
        return False
    except OSError:
        return main
    return True


def _report_to_launcher(error: BaseException, code: int) -> None:
    """Hands the exit code to the launching process; it knows of signals itself."""
    if _launched() and not isinstance(error, (KeyboardInterrupt, Terminated)):
        from align.processes import launch

        launch.report_exit(code)


@contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM an exception, so that what is open is closed and the person is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _discard_stdout() -> None:
    """Nothing more can be written; without this Python would complain once more while it exits."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _wrapped(line: str, width: int, used: int) -> str:
    """A line broken between words, what follows being indented by two; `used`: columns already taken."""
    indent = " " * (len(line) - len(line.lstrip()))
    wrapped = textwrap.fill(
        line,
        width,
        initial_indent=" " * used,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapped[used:]
