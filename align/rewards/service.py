"""Services that answer JSON: how they are reached, and what may pass is tried again. One place for all."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx2

from align.errors import AlignError

TRIES = 3
PAUSE = 1.0  # seconds before the second try; each further pause is four times as long
_LONGEST_PAUSE = 60.0  # that a service may ask for
_MOST_BYTES = 2**26
_BUSY = (408, 429)
# http_proxy, which clusters set, is not for this machine itself
_NO_PROXY: dict[str, None] = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}


def client(timeout: float, headers: Mapping[str, str] | None = None) -> httpx2.Client:
    """Connections to a service of JSON; this machine's own are reached without a proxy."""
    own = {"Content-Type": "application/json", "Accept": "application/json"} | dict(headers or {})
    return httpx2.Client(timeout=timeout, headers=own, follow_redirects=True, mounts=_NO_PROXY)


@dataclass(frozen=True)
class Reply:
    """A service's answer; `refused`: it says no, and will again."""

    code: int
    reason: str
    content: bytes

    @property
    def refused(self) -> bool:
        """Whether it is an error that does not pass."""
        return not 200 <= self.code < 300

    @property
    def start(self) -> str:
        """The beginning of what it said, in one line."""
        return " ".join(self.content[:300].decode(errors="replace").split())


def post(http: httpx2.Client, url: str, body: str, who: str, timeout: str, goes_on: str) -> Reply:
    """The service's answer; what may pass (no connection, too slow, busy, 5xx) is tried again.

    who: what messages call it; timeout: the seconds that it has and the key that says so; goes_on: what is
    not lost. Raises AlignError where it fails each time.
    """
    pause = 0.0
    for attempt in range(TRIES):
        time.sleep(pause)
        pause = PAUSE * 4**attempt
        try:
            with http.stream("POST", url, content=body.encode()) as reply:
                found = Reply(
                    reply.status_code, reply.reason_phrase, next(reply.iter_bytes(_MOST_BYTES), b"")
                )
                asked = reply.headers.get("Retry-After", "")
            if found.code < 500 and found.code not in _BUSY:
                return found
            wrong = f"answered {found.code} ({found.reason})"
            pause = max(pause, min(float(asked), _LONGEST_PAUSE) if asked.isdecimal() else 0.0)  # or a date
        except httpx2.TimeoutException:
            wrong = f"did not answer within {timeout}"
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, ImportError) as error:
            wrong = f"cannot be reached: {str(error).rpartition('] ')[2] or type(error).__name__}"
    raise AlignError(f"{who} {wrong}, {TRIES} times. {goes_on}")
