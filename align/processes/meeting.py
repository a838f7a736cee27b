"""Where the processes of a run meet (MASTER_ADDR, MASTER_PORT), looked at before they wait for each other."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch

from align.errors import UserError

_NOTICE = 10.0  # seconds of waiting after which it is told for what
_GREETING = 30.0  # seconds for process 0 to answer once it listens
_UNKNOWN = 60.0  # seconds for a name to become known: that of a pod that has just started may take some


@contextmanager
def met(timeout: float) -> Iterator[None]:
    """Around what makes a process wait for the others: says where it waits, and why they did not meet.

    timeout: run.timeout, in seconds.

    Raises UserError where MASTER_ADDR, MASTER_PORT, RANK or WORLD_SIZE cannot be right, and where the
    processes did not meet in time.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "MASTER_ADDR" not in os.environ:
        yield
        return
    _check(timeout)
    notice = threading.Timer(_NOTICE, _tell, [timeout])
    notice.daemon = True
    notice.start()
    try:
        _reach(timeout)
        yield
    except (torch.distributed.DistNetworkError, torch.distributed.DistStoreError) as error:
        raise UserError(_not_met(str(error), timeout)) from error
    finally:
        notice.cancel()


def _check(timeout: float) -> None:
    """Raises UserError for what no waiting mends."""
    host, port = os.environ["MASTER_ADDR"], os.environ.get("MASTER_PORT", "")
    if not (port.isdigit() and 0 < int(port) < 2**16):
        raise UserError(f"MASTER_PORT is {port or 'not set'}: it has to be a number from 1 to 65535")
    rank, size = os.environ.get("RANK", ""), os.environ["WORLD_SIZE"]
    if not (rank.isdigit() and int(rank) < int(size)):
        raise UserError(
            f"WORLD_SIZE is {size}, and RANK is {rank or 'not set'}: it has to be a number from 0 to "
            f"{int(size) - 1}, another in each process, as torchrun and accelerate launch set it"
        )
    until = time.monotonic() + min(timeout, _UNKNOWN)
    while True:
        try:
            socket.getaddrinfo(host, int(port))
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() >= until:
                raise UserError(
                    f"the processes meet at {_place()}, and this machine does not know that name ({error}): "
                    "correct it, or give the address of the machine of process 0"
                ) from error
            time.sleep(0.5)


def _reach(timeout: float) -> None:
    """Waits until process 0 listens.

    torch does so too, but prints a stack where it gives up, and waits without end for another program.
    """
    if os.environ["RANK"] == "0":
        return
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    until = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection(address, timeout=min(timeout, 10.0)).close()
            break
        except OSError as error:
            if time.monotonic() >= until:
                raise UserError(_not_met(str(error), timeout)) from error
            time.sleep(0.2)
    greeting = _Greeting(*address)
    greeting.start()
    greeting.join(_GREETING)
    if not greeting.answered:
        raise UserError(
            f"another program, often another run, answers where the processes meet, {_place()}: start "
            "process 0 first, or give this run another port (--master-port of torchrun, main_process_port of "
            "accelerate)"
        )


class _Greeting(threading.Thread):
    """Asks whether a store of torch listens; nothing ends the question where another program does."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(daemon=True)
        self.address, self.answered = (host, port), False

    def run(self) -> None:
        patience = timedelta(seconds=_GREETING)
        with suppress(RuntimeError):
            # torch exports it from a C++ module, of which type checkers know nothing.
            store = torch.distributed.TCPStore  # type: ignore[attr-defined]
            store(*self.address, is_master=False, wait_for_workers=False, timeout=patience)
            self.answered = True


def _tell(timeout: float) -> None:
    """Says, once a machine, for what the process waits."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        who = "the other processes" if os.environ["RANK"] == "0" else "process 0"
        away = "" if os.environ["RANK"] != "0" or _here() else ", which is no address of this machine"
        waits = f"process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} waits for {who} at {_place()}"
        print(f"{waits}{away}, for run.timeout ({timeout:g} s) at the most", file=sys.stderr, flush=True)


def _here() -> bool:
    """Whether MASTER_ADDR is an address of this machine."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
        os.environ["MASTER_ADDR"], 0, type=socket.SOCK_STREAM
    ):
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
            return True
        except OSError:
            continue
    return False


def _place() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} (MASTER_ADDR, MASTER_PORT)"


def _not_met(said: str, timeout: float) -> str:
    """Why the processes did not find each other, and what to do. said: torch's words."""
    if "EADDRINUSE" in said:
        return (
            f"another program, often another run, has the port at which the processes meet, {_place()}: give "
            "this run another one (--master-port of torchrun, main_process_port of accelerate)"
        )
    if "clients joined" in said:
        count = os.environ.get("WORLD_SIZE")
        return (
            f"not all of the {count} processes came to {_place()} within run.timeout ({timeout:g} s): look "
            "at what those on the other machines say, or raise run.timeout"
        )
    return (
        f"the processes meet at {_place()}, and this one did not get there within run.timeout "
        f"({timeout:g} s): see that process 0 runs there, and that this machine may connect "
        f"({said.splitlines()[0][:200]})"
    )
