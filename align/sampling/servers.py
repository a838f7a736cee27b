"""vLLM servers: what one is asked, and which of several is asked next where one is gone.

Routes, fields and refusals are those of vLLM 0.32 and 0.33.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event, Lock
from typing import Any, TypeVar

import httpx2

from align.errors import AlignError, UserError
from align.run.at_once import as_they_come
from align.run.hub import first_line

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes for --max-lora-rank
# Seconds between looks for a server, where none is left: ten minutes, in which a large base is started anew.
WAITS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, *[60.0] * 9)
KEPT = "What is done is kept, and the same command goes on from it"
_SECONDS = 600.0  # that a request may take; the server queues what it cannot run at once
_GREETING = 15.0  # that a question may take which needs no model
_GLANCE = 5.0  # the same, where a person waits for the command to begin
_PROOF = 20.0  # that one token may take of a server that was gone
_SILENCE = 60.0  # without a response, after which a person is told that they are waited for
_REQUESTS = 256  # under way at a time, from one process to one server
_IDLE = 2.0  # seconds that a connection is kept unused: the server closes it after 5
_NO_PROXY: dict[str, None] = {"http://": None, "https://": None}  # a server is on the trainer's own network

Row = TypeVar("Row")
Answer = TypeVar("Answer")


class Gone(Exception):
    """A server does not answer, or is broken: another one may be asked the same."""

    def __init__(self, why: str, code: int | None = None) -> None:
        super().__init__(why)
        self.code = code  # of an answer, if there was one


class Refused(AlignError):
    """A server understood, and said no: another one would too."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Adapter:
    """What a server is told of an adapter."""

    name: str
    path: str  # of its folder, the same for the server as here
    rank: int


class Server:
    """One vLLM server. Its methods raise Gone where it does not answer, AlignError where it refuses."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self.base = ""  # what it calls the model that it was started with
        self.lost: str | None = None  # why it is not asked at present
        limits = httpx2.Limits(
            max_connections=_REQUESTS, max_keepalive_connections=_REQUESTS, keepalive_expiry=_IDLE
        )
        try:
            self._http = httpx2.Client(base_url=self.url, timeout=_SECONDS, limits=limits, mounts=_NO_PROXY)
        except httpx2.InvalidURL as error:
            raise UserError(f"engine vllm: {url} is no address ({first_line(error)})") from error

    def meet(self) -> None:
        """Whether it is there, awake, and has the base of before; UserError where it is something else.

        One that was gone has to give a token too: HTTP still answers where the engine behind it hangs.
        """
        base = self.greet(_GREETING)
        if self.base and base != self.base:
            raise UserError(
                f"engine vllm: {self.url} was started anew with another base: it has {base}, and before it "
                f"had {self.base}. Start it with that one. {KEPT}"
            )
        self.base = base
        if self.asleep():
            self.wake()
        if self.lost is not None:
            plain = {"seed": 0, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
            one = {"model": base, "prompt": [0], "max_tokens": 1, **plain}
            with suppress(Refused):  # which is an answer
                self._ask("POST", "/v1/completions", one, _PROOF)

    def greet(self, seconds: float) -> str:
        """The base that it has; nothing changes in it. UserError where it is something else."""
        try:
            self._ask("GET", "/health", seconds=seconds)
            return self._model(seconds)
        except Refused as error:
            key = ". It wants a key, and align sends none" if error.code in (401, 403) else ""
            raise UserError(
                f"{str(error).removesuffix(f'. {KEPT}')}{key}. Is it a vLLM server? "
                f"docs/vllm.md says how one is started. {KEPT}"
            ) from error

    def check_adapters(self, seconds: float) -> None:
        """Raises UserError where it was started so that it takes none. None is named, and none changes."""
        try:
            self._ask("POST", "/v1/load_lora_adapter", {"lora_name": "", "lora_path": ""}, seconds)
        except Refused as error:
            if error.code == 404:
                raise self._no_adapters() from error

    def load(self, adapter: Adapter) -> None:
        """Hand an adapter over; nothing happens where it is there already."""
        try:
            self._ask("POST", "/v1/load_lora_adapter", {"lora_name": adapter.name, "lora_path": adapter.path})
        except Refused as error:
            if "already been loaded" not in str(error):
                raise self._why_not(adapter, str(error), error.code) from error
        except Gone as error:
            if error.code != 500:  # a gateway's 502, 503 and 504 are of a server that is gone
                raise
            self._ask("GET", "/health", seconds=_GREETING)  # a server that lives says no by a 500 too
            raise self._why_not(adapter, f"engine vllm: {self.url}{error}", error.code) from error

    def unload(self, name: str) -> None:
        """Take an adapter away; a server that does not know it, or is gone, is no worse."""
        with suppress(AlignError, Gone):
            self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, _GREETING)

    def complete(self, body: dict[str, Any]) -> Any:
        """What it answers to a request for tokens, as JSON."""
        try:
            answer = self._ask("POST", "/v1/completions", body)
        except Refused as error:
            if error.code == 404:  # started anew, and nobody has handed the adapter over again
                raise Gone(
                    f"it does not know {body['model']}: it was started anew, or spreads requests over "
                    "several HTTP processes, which takes --api-server-count 1"
                ) from error
            raise
        try:
            return answer.json()
        except ValueError as error:
            raise Gone(f"/v1/completions answered {_begin(answer)!r}, which is no JSON") from error

    def asleep(self) -> bool | None:
        """None where it cannot say, which is where it cannot be put to sleep."""
        try:
            return bool(self._ask("GET", "/is_sleeping", seconds=_GREETING).json()["is_sleeping"])
        except (Refused, ValueError, TypeError, KeyError):
            return None

    def check_sleep(self) -> None:
        """Raises UserError where it was not started so that it can sleep."""
        how = "start it with VLLM_SERVER_DEV_MODE=1 and --enable-sleep-mode, or take ppo.engine_sleep out"
        if self.asleep() is None:
            raise UserError(f"engine vllm: {self.url} has no /sleep and /wake_up: {how}")
        try:
            told = self._ask("GET", "/server_info?config_format=json", seconds=_GREETING).json()
            able = told["vllm_config"]["model_config"]["enable_sleep_mode"]
        except (Refused, ValueError, TypeError, KeyError):
            return  # of a version that tells it elsewhere
        if able is False:
            raise UserError(f"engine vllm: {self.url} would keep its memory while it sleeps: {how}")

    def sleep(self) -> None:
        """Give the card's memory back: the weights wait in the machine's memory, the cache is dropped."""
        self._ask("POST", "/sleep?level=1")

    def wake(self) -> None:
        """Take the memory again."""
        self._ask("POST", "/wake_up")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _model(self, seconds: float) -> str:
        answer = self._ask("GET", "/v1/models", seconds=seconds)
        try:
            return str(next(model["id"] for model in answer.json()["data"] if not model.get("parent")))
        except (ValueError, TypeError, KeyError, StopIteration) as error:
            said = f"/v1/models answered {_begin(answer)!r}, which names no base"
            if self.base and isinstance(error, ValueError):  # it did name one before: half of an answer
                raise Gone(said) from error
            raise Refused(f"engine vllm: {self.url}{said}") from error

    def _why_not(self, adapter: Adapter, said: str, code: int) -> AlignError:
        """Why an adapter was not taken, and what to do."""
        if "max_lora_rank" in said:
            fit = next((rank for rank in RANKS if rank >= adapter.rank), RANKS[-1])
            return UserError(
                f"engine vllm: {self.url} takes adapters of a lower rank than lora.rank ({adapter.rank}): "
                f"start it with --max-lora-rank {fit}. {KEPT}"
            )
        if "No adapter found" in said:
            return UserError(
                f"engine vllm: {self.url} does not see {adapter.path}: server and trainer need the run "
                f"folder under one path, on a disk that both have. {KEPT}"
            )
        if code == 404:
            return self._no_adapters()
        return AlignError(f"{said.removesuffix(f'. {KEPT}')}. {KEPT}")

    def _no_adapters(self) -> UserError:
        return UserError(
            f"engine vllm: {self.url} takes no adapters: start it with --enable-lora and with "
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment. {KEPT}"
        )

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float | None = None
    ) -> httpx2.Response:
        """A good answer, within so many seconds."""
        seconds = seconds or _SECONDS
        try:
            answer = self._http.request(method, path, json=body, timeout=seconds)
        except httpx2.TimeoutException as error:
            raise Gone(f"{path} was not answered within {seconds:g} seconds") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise Gone(first_line(error)) from error
        if answer.is_success:
            return answer
        said = f"{path} answered {answer.status_code}: {' '.join(answer.text.split())[:300]}"
        if answer.status_code >= 500:
            raise Gone(said, answer.status_code)
        raise Refused(f"engine vllm: {self.url}{said}. {KEPT}", answer.status_code)


def check_there(urls: Sequence[str]) -> list[str]:
    """What is to be said of servers that do not answer within seconds, where others do.

    Before they are needed: nothing changes in them, and what they have is not looked at. Raises UserError
    where none answers, or one takes no adapters.
    """
    said, gone = [], 0
    for server in map(Server, urls):
        try:
            server.greet(_GLANCE)
            server.check_adapters(_GLANCE)
        except Gone as error:
            gone += 1
            said.append(_nobody(server, error))
        except UserError as error:
            said.append(str(error).removesuffix(f". {KEPT}"))
        finally:
            server.close()
    if gone == len(urls) or len(said) > gone:
        raise UserError("\n".join(said))
    return said


def _nobody(server: Server, why: Gone) -> str:
    return (
        f"engine vllm: no vLLM server answers at {server.url} ({why}). Start one in an environment of its "
        "own; docs/vllm.md has the command"
    )


def _begin(answer: httpx2.Response) -> str:
    """An answer's beginning, on one line."""
    return " ".join(answer.text.split())[:80]


class Servers:
    """Servers that have the same base: any of them may answer a row, as its seed is its own.

    One that is gone, or was not there at the start, is left out, and gets all adapters when it is back.
    `tell` is told of both. Raises UserError where none is there at the start.
    """

    def __init__(self, urls: Sequence[str], tell: Callable[[str], None]) -> None:
        self.all = [Server(url) for url in urls]
        self.adapters: dict[str, Adapter] = {}  # in use, by role
        self._tell, self._lock, self._told_silence = tell, Lock(), False
        gone = []
        for server in self.all:
            try:
                server.meet()
            except Gone as error:
                server.lost = str(error)
                gone.append(_nobody(server, error))
        if not self.present:
            raise UserError("\n".join(gone))
        for one in gone:
            tell(f"warning: {one}. The others go on")

    @property
    def present(self) -> list[Server]:
        """Those that answer, as far as is known."""
        return [server for server in self.all if server.lost is None]

    @property
    def lost(self) -> dict[str, str]:
        """Why those that are gone are, by their addresses; another process's view can be taken over."""
        return {server.url: server.lost for server in self.all if server.lost is not None}

    @lost.setter
    def lost(self, why: dict[str, str]) -> None:
        for server in self.all:
            server.lost = why.get(server.url)

    def each(self, do: Callable[[Server], object]) -> None:
        """Do something with each that is present. Raises AlignError where none is left, as `answers` does."""
        for wait in (0.0, *WAITS):
            self._need_one(wait)
            for server in self.present:
                try:
                    do(server)
                except Gone as error:
                    self._lose(server, error)
            if self.present:
                return
        raise self._none_left()

    def answers(
        self, rows: Sequence[Row], answer: Callable[[Server, Row], Answer], first: int = 0
    ) -> list[Answer]:
        """An answer to each row, in their order. Neighbours, which often share a prompt, share a server.

        first: which server the first row goes to, so that processes begin with different ones. Rows of a
        server that is gone go to the others; where there is no other, servers are looked for, three minutes
        long. Raises AlignError after that.
        """
        found: dict[int, Answer] = {}
        for wait in (0.0, *WAITS):
            self._need_one(wait)
            todo = [i for i in range(len(rows)) if i not in found]
            if self.present:
                found |= self._round(todo, rows, answer, first)
            if len(found) == len(rows):
                return [found[i] for i in range(len(rows))]
        raise self._none_left()

    def look_again(self) -> None:
        """Greet those that were gone; one that is back gets the adapters in use.

        One that came back as another server stays out. Where there is no other one, its AlignError is raised.
        """
        for server in self.all:
            if server.lost is None:
                continue
            try:
                server.meet()
                for adapter in self.adapters.values():
                    server.load(adapter)
            except Gone as error:
                server.lost = str(error)
            except AlignError as error:
                if not self.present:
                    raise
                if server.lost != str(error):
                    self._tell(f"warning: {error}")
                server.lost = str(error)
            else:
                server.lost = None
                self._tell(f"engine vllm: {server.url} is back")

    def close(self) -> None:
        """Close the connections."""
        for server in self.all:
            server.close()

    def _round(
        self, todo: list[int], rows: Sequence[Row], answer: Callable[[Server, Row], Answer], first: int
    ) -> dict[int, Answer]:
        """Answers of the servers that are present; rows of one that goes are left out."""
        present, over = self.present, Event()

        def one(place: int) -> tuple[int, Answer] | None:
            server = present[(place * len(present) // len(todo) + first) % len(present)]
            if server.lost is not None:
                return None
            try:
                return todo[place], answer(server, rows[todo[place]])
            except Gone as error:
                if not over.is_set():  # what still hangs when all is over is told to nobody
                    self._lose(server, error)
                return None

        patience = None if self._told_silence else _SILENCE
        most = _REQUESTS * len(present)
        try:
            asked = as_they_come(range(len(todo)), one, most, self._tell_silence, patience)
            return dict(pair for _, pair in asked if pair is not None)
        finally:
            over.set()

    def _tell_silence(self) -> None:
        self._told_silence = True
        self._tell(
            f"engine vllm: no response from {', '.join(server.url for server in self.present)} for "
            f"{_SILENCE:g} seconds; each may take {_SECONDS:g}, then it is asked for again"
        )

    def _need_one(self, wait: float) -> None:
        """Where no server is present, wait so many seconds and look for one."""
        if not self.present:
            time.sleep(wait)
            self.look_again()

    def _lose(self, server: Server, why: Gone) -> None:
        with self._lock:  # many requests fail at once, and it is told once
            known, server.lost = server.lost, str(why)
        if known is None:
            others = "the others go on" if self.present else "it is looked for ten minutes long"
            self._tell(f"warning: engine vllm: {server.url} is gone ({why}); {others}")

    def _none_left(self) -> AlignError:
        why = "; ".join(f"{url} ({said})" for url, said in self.lost.items())
        return AlignError(
            f"engine vllm: no server answers any more, and none came back within ten minutes: {why}. Start "
            f"one with the same base and options (docs/vllm.md). {KEPT}"
        )
