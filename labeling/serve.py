"""`align label`: open the database, print the way in, serve."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType

import uvicorn
from sqlalchemy import make_url

from align.errors import UserError
from align.recipe import Recipe
from labeling.store.engine import Store
from labeling.store.people import admin_for_link, new_token
from labeling.store.suggestions import label_the_rest
from labeling.web.app import make_app
from labeling.web.config import Config
from labeling.web.manage import import_lines

LINK_LASTS = timedelta(hours=1)
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def database_of(recipe: Recipe) -> str:
    """Where the labels of a recipe's run are: its `labeling.database`, or a file in the run folder."""
    return recipe.labeling.database or str(recipe.run.path / "labeling.db")


def make_config(recipe: Recipe, hosts: tuple[str, ...] = LOOPBACK, secure: bool = False) -> Config:
    """Open the database; raises UserError where it or the guideline can't be read."""
    store = Store(database_of(recipe))
    config = Config(store, recipe.labeling, store.secret(), recipe.run.name, secure, hosts)
    config.guideline()
    return config


def import_file(recipe: Recipe, path: Path) -> None:
    """Add the tasks of a JSON Lines file and say how many."""
    config = make_config(recipe)
    try:
        with path.open("rb") as stream:
            added = import_lines(config, stream, None)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    finally:
        config.store.close()
    print(f"{len(added.ids)} tasks added" + (f", {added.known} were there before" if added.known else ""))


def serve(recipe: Recipe, host: str, port: int, url: str | None) -> None:
    """Serve until interrupted. `url`: the address that people see, where a proxy stands before the app."""
    address = url.rstrip("/") if url else None
    if address and not address.startswith(("http://", "https://")):
        raise UserError(f"--url {url}: it starts with http:// or https://")
    local = _is_loopback(host)
    hosts = ("*",) if not local or address else LOOPBACK
    config = make_config(recipe, hosts, secure=bool(address and address.startswith("https://")))
    if recipe.labeling.suggestions == "machine":
        with config.store.write() as session:
            label_the_rest(session)
    listening = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = address or f"http://{shown}:{listening.getsockname()[1]}"
    with config.store.write() as session:
        admin = admin_for_link(session)
        link = f"{address}/signin/{new_token(session, 'signin', person=admin, lasts=LINK_LASTS)}"
    print(f"labels are kept in {make_url_shown(config)}")
    print(f"serving {address}" + ("" if local else " to the network: use https (--url) in front of it"))
    print(f"sign in as {admin.name}, once and within the hour: {link}", flush=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    app = make_app(config)
    server = _Server(uvicorn.Config(app, log_level="warning", access_log=False, proxy_headers=bool(url)))
    server.on_exit = app.state.news.close
    try:
        server.run(sockets=[listening])
    finally:
        config.store.close()


class _Server(uvicorn.Server):
    """Told to stop, it first lets those go who wait for news."""

    on_exit: Callable[[], None]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.on_exit()
        super().handle_exit(sig, frame)


def make_url_shown(config: Config) -> str:
    url = config.store.engine.url
    return (
        url.database or "" if config.store.is_sqlite else make_url(url).render_as_string(hide_password=True)
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port that is taken is told before anything is printed."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}, port {port}: {error.strerror}. Choose another --port."
        ) from error
    return listening
