"""`align serve`: a run's reward model behind an address on this machine.

POST /v1/score answers what a recipe's `url` source of rewards asks, and conversations; POST /get_reward what
OpenRLHF's trainers ask. Scores are those of `align score`, in the same six decimals.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from rich.console import Console

from align.errors import Terminated, UserError
from align.models.batch import Pair
from align.models.forward import Forward
from align.records import Prompt
from align.run.progress import ProgressBar, say
from align.serving.run import Trained, open_run, reward_model
from align.serving.score import scores_of
from align.values import RecordError, whole_characters

MOST_BYTES = 16 * 2**20  # of a request
MOST_TEXTS = 4096
_HOSTS = ["localhost", "127.0.0.1"]
_SHAPES = '{"prompts": […], "responses": […]}, or {"messages": […]}: conversations that end with an answer'


class BadRequest(Exception):
    """What is wrong with a request; `code` is the HTTP status."""

    def __init__(self, message: str, code: int = 400) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class RewardServer:
    """Scores requests with one reward model, one after the other."""

    run: Trained
    forward: Forward
    lock: Lock

    def score(self, body: Any) -> dict[str, Any]:
        """The answer of /v1/score: a score for each response, in their order."""
        prompts, responses, ended = _texts(body)
        pairs = [self._pair(i, *one) for i, one in enumerate(zip(prompts, responses, ended, strict=True))]
        return {"scores": self._scores(pairs), "model": str(self.run.final)}

    def get_reward(self, body: Any) -> dict[str, Any]:
        """The answer of /get_reward: `query` holds prompt and response with their special tokens.

        A query that does not end with EOS is scored as a response that was cut.
        """
        queries = body.get("query") if isinstance(body, dict) else None
        if not isinstance(queries, list) or not all(isinstance(text, str) and text for text in queries):
            raise BadRequest('`query` must be a list of texts, as in {"query": ["prompt and response<eos>"]}')
        _check_count(queries)
        try:
            for i, text in enumerate(queries):
                whole_characters(text, f"query[{i}]")
        except RecordError as error:
            raise BadRequest(str(error)) from error
        tokenizer = self.run.setup.base.tokenizer
        found = tokenizer(queries, add_special_tokens=False, verbose=False)["input_ids"] if queries else []
        pairs: list[Pair] = []
        for i, ids in enumerate(found):
            if not ids:
                raise BadRequest(f"query[{i}] has no tokens")
            pairs.append((list(ids[:1]), list(ids[1:])))
            self._check_length(f"query[{i}]", len(ids))
        scores = self._scores(pairs)
        return {"rewards": scores, "scores": scores, "extra_logs": {}}

    def _pair(self, i: int, prompt: Any, response: Any, ended: bool) -> Pair:
        """The ids of a prompt and a response; BadRequest says which one is wrong, and how.

        A policy may answer nothing, or write this tokenizer's EOS as text: what follows that is no answer.
        """
        template, eos = self.run.setup.template, str(self.run.setup.base.tokenizer.eos_token)
        if not isinstance(response, str):
            raise BadRequest(f"request {i}: the response must be text")
        try:
            ids = template.prompt_ids(Prompt.from_dict({"prompt": prompt}).prompt)
            answer = template.response_ids(whole_characters(response.split(eos)[0], "response"))
        except (RecordError, UserError) as error:
            raise BadRequest(f"request {i}: {error}") from error
        if not ended and len(answer) > 1:
            answer = answer[:-1]
        self._check_length(f"request {i}", len(ids) + len(answer))
        return ids, answer

    def _check_length(self, who: str, length: int) -> None:
        most = self.run.setup.template.positions
        if most is not None and length > most:
            raise BadRequest(f"{who}: {length} tokens, and the base reads at most {most}: shorten it")

    def _scores(self, pairs: Sequence[Pair]) -> list[float]:
        if not pairs:
            return []
        with self.lock, ProgressBar(Console(quiet=True), "score", None) as bar:
            return scores_of(self.forward, [pairs], self.run, bar)[0]


def _texts(body: Any) -> tuple[list[Any], list[Any], list[bool]]:
    """Prompts, responses, and whether each response ended by itself."""
    prompts: Any
    responses: Any
    if not isinstance(body, dict):
        raise BadRequest(f"the body must be a JSON object: {_SHAPES}")
    if "messages" in body:
        prompts, responses = _conversations(body["messages"])
    else:
        prompts, responses = body.get("prompts"), body.get("responses")
        if not isinstance(prompts, list) or not isinstance(responses, list):
            raise BadRequest(f"`prompts` and `responses` must be lists: {_SHAPES}")
        if len(prompts) != len(responses):
            raise BadRequest(f"there are {len(prompts)} prompts and {len(responses)} responses: one for each")
    _check_count(prompts)
    ended = body.get("ended", [True] * len(prompts))
    good = isinstance(ended, list) and len(ended) == len(prompts) and all(isinstance(x, bool) for x in ended)
    if not good:
        raise BadRequest("`ended` must be a list of true and false, one for each response")
    return prompts, responses, ended


def _conversations(found: Any) -> tuple[list[Any], list[Any]]:
    if isinstance(found, list) and found and isinstance(found[0], dict):
        found = [found]  # a single conversation
    if not isinstance(found, list) or not all(isinstance(one, list) for one in found):
        raise BadRequest(f"`messages` must be a conversation, or a list of them: {_SHAPES}")
    for i, one in enumerate(found):
        last = one[-1] if one else None
        if len(one) < 2 or not isinstance(last, dict) or last.get("role") != "assistant":
            raise BadRequest(f"messages[{i}] must end with the assistant's answer, which is scored")
    return [one[:-1] for one in found], [one[-1].get("content") for one in found]


def _check_count(texts: Sequence[Any]) -> None:
    if len(texts) > MOST_TEXTS:
        raise BadRequest(
            f"{len(texts)} texts in one request, and {MOST_TEXTS} is the most: send several", 413
        )


async def _body(request: Any) -> Any:
    """The JSON of a request; BadRequest where it is none, or too large."""
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > MOST_BYTES:
            raise BadRequest(f"the body has more than {MOST_BYTES // 2**20} MiB: send several requests", 413)
    try:
        return json.loads(bytes(raw))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}") from error


def make_app(server: RewardServer, started: Callable[[], None]) -> Any:
    """The web app, which calls `started` when it answers; UserError where its libraries are not installed."""
    try:
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.requests import ClientDisconnect, Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error

    def answered_by(answer: Any) -> Any:
        async def endpoint(request: Request) -> Response:
            try:
                found = await run_in_threadpool(answer, await _body(request))
                return JSONResponse(found)
            except ClientDisconnect:
                return Response(status_code=400)

        return endpoint

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": str(server.run.final)})

    async def refused(request: Request, error: Exception) -> Response:
        code = error.code if isinstance(error, BadRequest) else getattr(error, "status_code", 500)
        told = str(error) if isinstance(error, BadRequest) else getattr(error, "detail", "")
        if code == 404:
            told = "there are POST /v1/score, POST /get_reward and GET /health"
        return JSONResponse({"error": told}, code)

    async def failed(request: Request, error: Exception) -> Response:
        told = f"this is a bug in align: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return JSONResponse({"error": told}, 500)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        started()
        yield

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/v1/score", answered_by(server.score), methods=["POST"]),
            Route("/get_reward", answered_by(server.get_reward), methods=["POST"]),
            Route("/health", health),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS)],
        exception_handlers={BadRequest: refused, HTTPException: refused, Exception: failed},
    )


def serve(
    run: Path, port: int, base: Path | None = None, trusted: bool = False, console: Console | None = None
) -> None:
    """Serve a run's reward model on 127.0.0.1 until interrupted.

    Raises MissingStage where rm has not finished, UserError where the port is taken or the run is no good.
    """
    console = console or Console()
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    listening = _listen(port)
    try:
        trained = open_run(run, "rm", base, trusted)
        server, address = RewardServer(trained, reward_model(trained), Lock()), listening.getsockname()
        # Told once the web server takes signals: before, Ctrl-C would leave its loop half made.
        app = make_app(server, partial(_announce, run, f"http://127.0.0.1:{address[1]}", console))
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # requests are answered, not told
        config = uvicorn.Config(app, log_level="critical", access_log=False, ws="none")
        uvicorn.Server(config).run(sockets=[listening])
    except (KeyboardInterrupt, Terminated):
        say(console, "stopped")
    finally:
        listening.close()


def _announce(run: Path, address: str, console: Console) -> None:
    say(console, f"serving the reward model of {run} at {address} on this machine only")
    say(console, f"a recipe asks it by ppo.rewards: {{url: {address}/v1/score}}")
    say(console, f"OpenRLHF asks it by --reward.remote_url {address}/get_reward; Ctrl-C stops it")


def _listen(port: int) -> socket.socket:
    """A socket on this machine alone, so that a port that is taken is told before the model is loaded."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise UserError(
            f"cannot listen at 127.0.0.1, port {port}: {os.strerror(error.errno or 0)}. Choose another --port"
        ) from error


def _not_installed(error: ModuleNotFoundError) -> UserError:
    return UserError(
        f"align serve needs {error.name}, which is not installed: pip install 'align-rlhf[labeling]'"
    )
