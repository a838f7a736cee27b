"""`align label` as a process: what it prints, who comes in over the network, how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")
httpx2 = pytest.importorskip("httpx2")

from sqlalchemy import text  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from align.cli.app import app  # noqa: E402
from align.errors import UserError  # noqa: E402
from labeling.serve import _chat_command, _listen, _reached_at, _way_in  # noqa: E402
from labeling.store.engine import Store  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "long enough password"


class Served:
    """A server's process, and what it printed until it was ready."""

    def __init__(self, folder: Path, *options: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        (folder / "r.yaml").write_text("base: none\nrun: {name: demo}\n")
        command = [sys.executable, "-m", "align", "label", "r.yaml", "--port", "0", *options]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.said = ""
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line
            if re.search(r"/(signin|join)\b", line):
                break
        port = re.search(r"serving http://[^ ]*:(\d+) ", self.said)
        assert port, self.said
        self.address = f"http://127.0.0.1:{port[1]}"

    def stop(self) -> str:
        """Ctrl-C; what was said after it."""
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=30)[0]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def begin(*options: str) -> Served:
        started.append(Served(tmp_path, *options))
        return started[-1]

    yield begin
    for one in started:
        one.process.kill()
        one.process.wait()


def test_whoever_comes_before_the_app_is_ready_is_not_refused() -> None:
    with _listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname(), 5):
        pass


def test_a_network_gets_accounts_only(start: Callable[..., Served]) -> None:
    first = start("--host", "0.0.0.0")
    assert "to the network" in first.said and "https" in first.said and "0.0.0.0" not in first.said
    assert "/signin/" not in first.said
    link = re.search(r"within the hour\): http://[^/]+(/join/\S+)", first.said)
    assert link
    form = {"name": "root", "password": PASSWORD}
    with httpx2.Client(base_url=first.address, headers={"Accept": "text/html"}) as guest:
        for path in ("/", "/work", "/tasks", "/people"):
            assert guest.get(path).headers["location"] == "/signin"
        assert guest.get(link[1]).status_code == 200
        assert guest.post(f"/signin/{link[1].split('/')[-1]}").status_code == 410, "it is no sign-in"
        assert guest.post(link[1], data={"name": "root", "password": ""}).status_code == 409
        assert guest.get("/people").status_code == 303
        assert guest.post(link[1], data=form).status_code == 303
        assert guest.get("/people").status_code == 200
    with httpx2.Client(base_url=first.address) as other:
        assert other.post(link[1], data={"name": "mal", "password": PASSWORD}).status_code == 410
    first.stop()
    again = start("--host", "0.0.0.0")
    assert re.search(r"sign in with your name and password: http://[^/]+/signin\n", again.said)
    assert "/join/" not in again.said
    with httpx2.Client(base_url=again.address) as root:
        assert root.post("/signin", data=form).status_code == 303


def test_a_guideline_to_begin_with_is_printed() -> None:
    result = CliRunner().invoke(app, ["label", "guideline"])
    assert result.exit_code == 0 and result.output == (ROOT / "labeling" / "guideline.md").read_text()
    for heading in ("Helpful", "Truthful", "Harmless", "When these conflict", "Examples"):
        assert f"\n## {heading}\n" in result.output


@pytest.mark.parametrize(
    ("option", "now"),
    [
        ("--import=t.jsonl", "label import RECIPE FILE"),
        ("--with-labels", "label import RECIPE FILE --with-labels"),
        ("--figures", "label figures RECIPE"),
        ("--guideline-template", "label guideline"),
    ],
)
def test_an_option_that_has_become_a_command_names_it(tmp_path: Path, option: str, now: str) -> None:
    (tmp_path / "r.yaml").write_text("base: none\nrun: {name: demo}\n")
    for arguments in ([str(tmp_path / "r.yaml"), option], [option, str(tmp_path / "r.yaml")]):
        result = CliRunner().invoke(app, ["label", *arguments])
        assert result.exit_code == 2
        assert result.output == f"error: {option} is a command of its own now: `align {now}`\n"


def test_a_mistyped_command_is_not_taken_for_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["label", "exprot", "r.yaml", "rankings"])
    assert result.exit_code == 2 and "No such command 'exprot'" in result.output
    result = CliRunner().invoke(app, ["label", "r.yaml"])
    assert result.exit_code == 2 and "r.yaml: no such file" in result.output


def test_what_people_made_is_exported(site: Any, tmp_path: Path) -> None:
    site.add({"prompt": "p", "kind": "demonstrate"})
    client = site.signed_in("ann")
    assert site.answer(client, {"text": "wörds"}).status_code == 200
    recipe = tmp_path / "r.yaml"
    database = site.config.store.engine.url.database
    recipe.write_text(f"base: none\nrun: {{name: demo}}\nlabeling: {{database: {database}}}\n")
    printed = CliRunner().invoke(app, ["label", "export", str(recipe), "demonstrations"])
    assert printed.exit_code == 0, printed.output
    assert [json.loads(line) for line in printed.output.splitlines()] == site.records("demonstrations")
    assert "wörds" in printed.output
    to = tmp_path / "rankings.jsonl"
    told = CliRunner().invoke(app, ["label", "export", str(recipe), "rankings", "--to", str(to)])
    assert told.output == f"0 rankings are in {to}\n" and to.read_text() == ""


def test_a_newer_database_is_left_alone(site: Any) -> None:
    path = str(site.config.store.engine.url.database)
    with site.config.store.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    before = Path(path).read_bytes()
    with pytest.raises(UserError, match="was made by a newer align .* 9999"):
        Store(path)
    assert Path(path).read_bytes() == before


def test_wrong_starts_are_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"base: none\nrun: {{name: demo, folder: {tmp_path / 'runs'}}}\n")
    (tmp_path / "file").write_text("")

    def said(*options: str, command: Sequence[str] = ()) -> str:
        result = CliRunner().invoke(app, ["label", *command, str(tmp_path / "r.yaml"), *options])
        assert result.exit_code == 2 and result.exception is not None, result.output
        return " ".join(result.output.split())

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "Address already in use. Choose another --port" in said("--port", port)
    assert "Choose another --host" in said("--host", "no such host", "--port", "0")
    assert "starts with http" in said("--url", "example.org")
    assert "cannot be made" in said("--set", f"labeling.database={tmp_path}/file/labels.db")
    away = said("--set", "labeling.database=postgresql://u:secret@127.0.0.1:1/x")
    assert "cannot be opened" in away and "secret" not in away
    assert "No such file" in said("--set", "labeling.guideline=nothing.md")
    assert "is a folder" in said(str(tmp_path), command=["import"])
    assert "no such file" in said(str(tmp_path / "nothing"), command=["import"])
    assert "no such labeling database" in said(
        "rankings", "--set", f"labeling.database={tmp_path}/none.db", command=["export"]
    )
    assert "--chat" in said("--chat", str(tmp_path / "no-run"))
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("")
    runs = [str(tmp_path / name) for name in ("one", "two", "three")]
    assert "no-run: that is not a run" in said("--chat", runs[0], "--chat", str(tmp_path / "no-run"))
    assert "given 3 times" in said(*(part for run in runs for part in ("--chat", run)))


def test_links_made_before_end_when_the_app_opens_to_the_network(site: Any) -> None:
    def links(to_network: bool) -> str:
        return _way_in(site.config, "http://a", to_network).split("http://a")[1]

    local, client = links(False), site.client()
    one, two = links(True), links(True)
    assert client.post(local).status_code == client.post(local).status_code == 410
    given = {"name": "root", "password": PASSWORD}
    assert client.post(one, data=given).status_code == 410, "the newest counts"
    assert client.post(two, data=given).status_code == 303
    assert links(True) == "/signin"
    assert site.client().post(links(False)).status_code == 303, "who sits at the machine needs no password"


def test_others_are_told_an_address_that_they_can_reach() -> None:
    assert _reached_at("0.0.0.0") not in ("0.0.0.0", "") and _reached_at("::") not in ("::", "[::]")
    assert _reached_at("192.168.1.5") == "192.168.1.5" and _reached_at("fe80::1") == "[fe80::1]"


def test_on_this_machine_the_link_is_enough_and_ctrl_c_ends_it_also_while_somebody_waits(
    start: Callable[..., Served],
) -> None:
    served = start()
    link = re.search(r"as admin \(works once, within the hour\): http://[^/]+(/signin/\S+)", served.said)
    assert link and "on this machine only" in served.said and "https" not in served.said
    with httpx2.Client(base_url=served.address) as admin:
        assert admin.post(link[1]).status_code == 303
        token = admin.get("/session").json()["csrf"]
        page = admin.post("/people/invite", data={"role": "machine", "name": "bot", "csrf": token}).text
    bearer = "Bearer " + page.split('class="secret">')[1].split("<")[0]
    program = (
        "import httpx2, sys\n"
        "print(httpx2.get(sys.argv[1] + '/api/v1/labels?wait=60', headers={'Authorization': sys.argv[2]},"
        " timeout=90).status_code)"
    )
    command = [sys.executable, "-c", program, served.address, bearer]
    waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(2.5)
    assert waiting.poll() is None
    begun = time.monotonic()
    assert served.stop() == "\nstopped; everything people did is kept\n" and served.process.returncode == 0
    assert time.monotonic() - begun < 15
    assert waiting.communicate(timeout=30)[0].strip() == "200"


def test_two_runs_or_stages_talk_on_one_base(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    command = _chat_command([tmp_path / "sft", tmp_path])
    assert command[3:] == ["chat", str(tmp_path), "--stage", "sft", "--beside", str(tmp_path), "--json"]
    assert _chat_command([tmp_path])[3:] == ["chat", str(tmp_path), "--json"]
