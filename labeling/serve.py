"""What `align label` does: open the database, print the way in, serve."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from rich.console import Console

from align.data.formats import Format
from align.errors import Terminated, UserError
from align.recipe.sections import Recipe
from align.records import RecordKind
from labeling.companion import Companion
from labeling.figures.show import show
from labeling.language import languages
from labeling.store.engine import Store
from labeling.store.people import admin_for_link, end_links, has_admin_account, new_token
from labeling.store.records import read_records
from labeling.store.suggestions import label_the_rest
from labeling.web.app import make_app
from labeling.web.checks import Checking
from labeling.web.config import Config
from labeling.web.connections import CONNECTIONS, patient
from labeling.web.news import News

LINK_LASTS = timedelta(hours=1)
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def database_of(recipe: Recipe) -> str:
    """Where the labels of a recipe's run are: its `labeling.database`, or a file in the run folder."""
    return recipe.labeling.database or str(recipe.run.path / "labeling.db")


def make_config(recipe: Recipe, hosts: tuple[str, ...] = LOOPBACK, secure: bool = False) -> Config:
    """Open the database; raises UserError where it or the guideline can't be read, or a language is none."""
    if recipe.labeling.language not in ("auto", *languages()):
        known = ", ".join(sorted(languages()))
        raise UserError(f"labeling.language: {recipe.labeling.language} is not there: name {known} or auto")
    store = Store(database_of(recipe))
    config = Config(store, recipe.labeling, store.secret(), recipe.run.name, secure=secure, hosts=hosts)
    config = replace(config, run=str(recipe.run.path))
    if (
        problem := config.guideline_problem()
    ):  # told at the start; while the app serves, the last version holds
        raise UserError(problem)
    with store.write() as session:
        config.guideline(session)  # a version: what holds where the file goes before anybody has worked
    if recipe.labeling.suggestions == "machine":
        with store.write() as session:
            label_the_rest(session)
    return config


def import_tasks(
    recipe: Recipe, path: Path, labels: bool, form: Format | None = None, ignore: Sequence[str] = ()
) -> None:
    """Add the tasks of a file, with `labels` also what people ranked in it, and say how many.

    `form` reads its rows, less the columns to `ignore`; without it they are ours, or in a known format.
    """
    from labeling.store.imports import import_file

    config = make_config(recipe)
    with closing(config.store) as store:
        added = import_file(
            store,
            path,
            config.settings.overlap,
            labels=labels,
            form=form,
            ignore=ignore,
            progress=_told_now_and_then(),
        )
    print(added)


def _told_now_and_then(every: float = 2.0) -> Callable[[int, int], None]:
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= every:
            last = time.monotonic()
            print(f"{done:,} of {total:,} rows", file=sys.stderr, flush=True)

    return tell


def records_of(recipe: Recipe, kind: RecordKind) -> list[dict[str, Any]]:
    """The training records of the recipe's database; raises UserError where there is none yet."""
    return read_records(_database_there(recipe), kind, {})


def back_up(recipe: Recipe, to: Path) -> int:
    """Copy the recipe's database into a new file, also while the app runs on it; the bytes of the copy."""
    from labeling.store.backup import back_up

    return back_up(_database_there(recipe), to)


def table_of(kind: RecordKind, rows: Sequence[Mapping[str, Any]]) -> str:
    """Training records as CSV, for a spreadsheet."""
    from labeling.store import sheets

    return "".join(sheets.lines(sheets.COLUMNS[kind], map(sheets.record_cells, rows)))


def _database_there(recipe: Recipe) -> str:
    address = database_of(recipe)
    if "://" not in address and not Path(address).expanduser().is_file():
        raise UserError(f"{address}: no such labeling database: `align label` makes it")
    return address


def print_figures(recipe: Recipe) -> None:
    """Print the figures of the labels so far; raises UserError where there is no database yet."""
    from labeling.figures import compute  # numeric libraries, which serving spares

    address = _database_there(recipe)
    with closing(Store(address)) as store, store.read() as session:
        show(compute.figures(session), Console())


def serve(recipe: Recipe, host: str, port: int, url: str | None, chat: Sequence[Path] = ()) -> None:
    """Serve until interrupted. `url`: the address that people see, where a proxy stands before the app.

    `chat`: the run whose policy people may talk to, or two, whose policies they compare; RUN or RUN/STAGE.
    """
    address = url.rstrip("/") if url else None
    if address and not address.startswith(("http://", "https://")):
        raise UserError(f"--url {url}: it starts with http:// or https://")
    to_network = address is not None or not _is_loopback(host)
    talks = _chat_command(chat) if chat else None  # wrong ones are told before anything is printed or made
    config = make_config(
        recipe, ("*",) if to_network else LOOPBACK, secure=bool(address and address.startswith("https://"))
    )
    listening = _listen(host, port)
    if talks is not None:
        config = replace(config, companion=Companion(talks, len(chat)))
    address = address or f"http://{_reached_at(host)}:{listening.getsockname()[1]}"
    config = replace(config, address=address)
    print(f"labels are kept in {config.store.shown}")
    print(f"serving {address} {'to the network' if to_network else 'on this machine only'}")
    if to_network and not address.startswith("https://"):
        print("passwords are sent unencrypted: put an https proxy in front, and name it with --url https://…")
    print(_way_in(config, address, to_network), flush=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    app = make_app(config)
    server = _Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            proxy_headers=bool(url),
            http=patient(None if url else CONNECTIONS),
            ws="none",
        )
    )
    server.on_exit = partial(_let_go, app.state.news, config.companion, app.state.checking)
    try:
        server.run(sockets=[listening])
    except (KeyboardInterrupt, Terminated):  # the ways to end it
        print("\nstopped; everything people did is kept")
    finally:
        app.state.uploads.close()
        app.state.checking.close()
        if config.companion is not None:
            config.companion.close()
        config.store.close()


def _chat_command(runs: Sequence[Path]) -> list[str]:
    """What talks for one run or two; raises UserError where there are more, or one is no run's folder."""
    if len(runs) > 2:
        raise UserError(f"--chat is given {len(runs)} times: people talk to one policy, or compare two")
    command = [sys.executable, "-m", "align", "chat"]
    options: tuple[tuple[list[str], str], ...] = (([], "--stage"), (["--beside"], "--beside-stage"))
    for path, (before, stage_option) in zip(runs, options, strict=False):
        run, stage = (path.parent, path.name) if path.name in ("sft", "ppo") else (path, None)
        if not (run / "recipe.yaml").is_file():
            raise UserError(f"--chat {path}: that is not a run's folder, or nothing has run there yet")
        command += [*before, str(run), *([stage_option, stage] if stage else [])]
    return [*command, "--json"]


def _let_go(news: News, companion: Companion | None, checking: Checking) -> None:
    """Answer everybody who waits for something, for the app ends."""
    news.close()
    checking.close()
    if companion is not None:
        companion.let_go()


class _Server(uvicorn.Server):
    """When told to stop, it first answers the requests that wait for news."""

    on_exit: Callable[[], None]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """uvicorn's own, after who waits was let go."""
        self.on_exit()
        super().handle_exit(sig, frame)


def _way_in(config: Config, address: str, to_network: bool) -> str:
    """What the admin does to come in, with a link that works once where one is needed.

    On this machine alone the link is enough. From a network it only makes the first account with a password;
    links that were printed before end.
    """
    with config.store.write() as session:
        if not to_network:
            admin = admin_for_link(session)
            secret = new_token(session, "signin", person=admin, lasts=LINK_LASTS)
            return f"sign in as {admin.name} (works once, within the hour): {address}/signin/{secret}"
        end_links(session)
        if has_admin_account(session):
            return f"sign in with your name and password: {address}/signin"
        secret = new_token(session, "first", role="admin", lasts=LINK_LASTS)
        return f"create the first admin's account (works once, within the hour): {address}/join/{secret}"


def _reached_at(host: str) -> str:
    """The name or number by which others reach this machine, as it stands in an address."""
    if host in ("0.0.0.0", "::"):
        family, anywhere = (
            (socket.AF_INET, "192.0.2.1") if host == "0.0.0.0" else (socket.AF_INET6, "2001:db8::1")
        )
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as way:
                way.connect((anywhere, 9))  # sends nothing: asks which of this machine's addresses would
                host = way.getsockname()[0]
        except OSError:
            host = socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port that is taken is told before anything is printed.

    Whoever follows the printed link before the app is ready waits for it, instead of being refused.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen()
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}, port {port}: {error.strerror}. "
            f"Choose another {'--host' if isinstance(error, socket.gaierror) else '--port'}."
        ) from error
    return listening
