"""What costs the app much and who sends it little: broken requests, floods, files of terabytes."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the `labeling` extra")

from labeling_app import Site  # noqa: E402

from labeling.store.engine import Store  # noqa: E402
from labeling.web.markdown import safe_html  # noqa: E402

HTML = {"Accept": "text/html"}
MIB = 2**20


def uploaded(admin: Any, name: str, data: bytes) -> str:
    """What the page says once the file was added or refused."""
    found = admin.post("/tasks", files={"file": (name, data)}, headers=HTML)
    deadline = time.monotonic() + 60
    while found.status_code == 303 or "Adding the tasks" in found.text:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        found = admin.get("/tasks", headers=HTML)
    return str(found.text)


def blank_lines(count: int) -> bytes:
    return b"\n" * count


def one_line(count: int) -> bytes:
    return b'{"prompt": "' + b"x" * count


@pytest.mark.parametrize("inside", [blank_lines, one_line])
def test_a_small_file_that_unpacks_to_much_more_is_refused(
    make_site: Callable[..., Site], inside: Callable[[int], bytes]
) -> None:
    admin = make_site(upload_limit=1).signed_in("eve", "admin")
    said = uploaded(admin, "tasks.jsonl.gz", gzip.compress(inside(9 * MIB)))
    assert "over 8 MiB when it is unpacked" in said and "labeling.upload_limit" in said
    good = b"\n".join(json.dumps({"prompt": f"p{i} " + "x" * 20_000}).encode() for i in range(200))
    assert "200 tasks added" in uploaded(admin, "tasks.jsonl.gz", gzip.compress(good))


def test_a_text_that_parquet_holds_once_and_means_often_is_refused(make_site: Callable[..., Site]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    packed = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["x" * 100_000] * 100}), packed, compression="zstd")
    assert len(packed.getvalue()) < MIB / 4
    admin = make_site(upload_limit=1).signed_in("eve", "admin")
    assert "over 8 MiB when it is unpacked" in uploaded(admin, "tasks.parquet", packed.getvalue())


def test_requests_that_break_off_fill_no_log(
    site: Site, served: Callable[[Site], str], caplog: pytest.LogCaptureFixture
) -> None:
    place = served(site).removeprefix("http://")
    host, port = place.split(":")
    head = f"POST /signin HTTP/1.1\r\nHost: {place}\r\nContent-Length: 500\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\n\r\nname="
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head.encode())
                time.sleep(0.3)
        time.sleep(0.5)
    assert caplog.records == []


def test_requests_behind_one_too_many_are_thrown_away(make_site: Callable[..., Site]) -> None:
    client = make_site().signed_in("ann")
    gate = client.app.middleware_stack
    while not hasattr(gate, "_open"):
        gate = gate.app
    gate.limits = type(gate.limits)(MIB, of_session=0)
    refused = client.get("/")
    assert refused.status_code == 503 and refused.headers["connection"] == "close"


@pytest.mark.skipif(os.name != "posix", reason="files have no such modes")
def test_only_the_owner_reads_a_new_database(tmp_path: Any) -> None:
    path = tmp_path / "labeling.db"
    store = Store(str(path))
    with store.write():
        files = list(tmp_path.iterdir())
        assert len(files) == 3 and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    store.close()
    path.chmod(0o640)  # a team's own choice stays
    Store(str(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("place", ["http:people", "https:people", "http:/people", "HTTP:people", "/people"])
def test_a_link_without_a_server_leads_nowhere(place: str) -> None:
    assert "href" not in safe_html(f"[x]({place})")
