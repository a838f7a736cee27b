"""Connections that send nothing, or too slowly, are closed, and one address has only so many."""

from __future__ import annotations

import asyncio
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

from labeling.web.security import network_of

CONNECTIONS = 256  # of one address: an office of thirty with six each
HEAD_WITHIN = 15.0  # seconds for a request's head; `labeling.web.gate` looks after the body


def patient(each: int | None, head_within: float = HEAD_WITHIN) -> type[H11Protocol]:
    """uvicorn's own protocol, which waits for a request's head without end, with an end.

    each: connections of one address; None where they all come from a proxy, which counts for itself.
    """
    of_address: Counter[str] = Counter()

    class Patient(H11Protocol):
        _head: asyncio.TimerHandle | None = None

        # uvicorn's own signature, which is narrower than asyncio's.
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = network_of(self.client[0] if self.client else "?")
            of_address[self._address] += 1
            if each is not None and of_address[self._address] > each:
                transport.abort()
            else:
                self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            of_address[self._address] -= 1
            if not of_address[self._address]:
                del of_address[self._address]
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            else:  # a head in parts does not start the time anew
                self._wait_for_head()

        def _wait_for_head(self) -> None:
            if self._head is None:
                self._head = self.loop.call_later(head_within, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Patient
