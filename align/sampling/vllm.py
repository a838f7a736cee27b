"""Sampling by a vLLM server: prompts go as token ids, tokens and their log probabilities come back.

A role's adapter is handed over as a LoRA request, by a folder that both machines see. vLLM stands in
an environment of its own, because it pins transformers below what this package needs. Written against
the server of vLLM 0.33.0; not yet seen on a GPU.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from align.errors import AlignError, UserError
from align.models.adapters import save_adapter
from align.models.roles import Roles
from align.run.hub import first_line
from align.sampling.params import Draws, Sampled, SamplingParams

_SECONDS = 600.0  # that a request may take; the server queues what it cannot run at once
_REQUESTS = 256  # under way at a time, from one process
_IDLE = 2.0  # seconds that a connection is kept unused: the server closes it after 5
_GOOD = "What is done is kept, and the same command goes on from it"


class Vllm:
    """A vLLM server, which knows each role as an adapter, the policy by a new name after each update.

    The adapters lie in `folder`, which is this process's own. Raises UserError where no server answers.
    """

    def __init__(self, roles: Roles, url: str, folder: Path) -> None:
        self._roles, self._folder = roles, folder
        self._url = url.rstrip("/").removesuffix("/v1")
        self._names: dict[str, str] = {}  # what the server calls a role's adapter
        limits = httpx2.Limits(
            max_connections=_REQUESTS, max_keepalive_connections=_REQUESTS, keepalive_expiry=_IDLE
        )
        try:
            self._http = httpx2.Client(base_url=self._url, timeout=_SECONDS, limits=limits)
            self._http.get("/health", timeout=30).raise_for_status()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise UserError(
                f"engine vllm: no vLLM server answers at {self._url} ({first_line(error)}). Start one in an "
                "environment of its own; docs/ppo.md, “Engines”, has the command"
            ) from error
        for left in sorted(folder.glob("align-*")):  # of a run that was killed
            self._forget(left.name)
        shutil.rmtree(folder, ignore_errors=True)

    def update(self) -> None:
        """Hand over the policy. A new name, so that nothing cached of an older one is used."""
        before = self._names.get("policy")
        self._load("policy")
        if before:
            self._forget(before)

    def sample(
        self,
        prompts: list[list[int]],
        draws: Draws,
        params: SamplingParams,
        role: str = "policy",
        heard: Callable[[int], object] | None = None,
    ) -> list[Sampled]:
        """As the protocol says; `heard` is told the tokens when the response is there.

        Another role than the policy is handed over when it samples for the first time. Raises AlignError
        where the server refuses, or answers what cannot be trained on.
        """
        if not prompts:
            return []
        seeds = [own.initial_seed() for own in draws.generators()]
        respond = partial(self._respond, self._model(role), params)
        with ThreadPoolExecutor(min(len(prompts), _REQUESTS)) as pool:
            sampled = list(pool.map(respond, prompts, seeds))
        if heard is not None:
            for token in sampled[0].response:
                heard(token)
        return sampled

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Let the server forget the adapters, and remove them from the disk."""
        for name in self._names.values():
            self._forget(name)
        self._names.clear()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._http.close()

    def _model(self, role: str) -> str:
        """What the server calls a role: its adapter, or the base where the role has none."""
        if self._roles.peft is None or self._roles.adapter_of(role) not in self._roles.peft.peft_config:
            return self._base()
        return self._names.get(role) or self._load(role)

    def _base(self) -> str:
        """What the server calls the model that it was started with."""
        answer = self._ask("GET", "/v1/models")
        try:
            return str(next(model["id"] for model in answer.json()["data"] if not model.get("parent")))
        except (ValueError, TypeError, KeyError, StopIteration) as error:
            raise AlignError(f"engine vllm: {self._url}/v1/models names no base ({error!r})") from error

    def _load(self, role: str) -> str:
        """Hand over a role's adapter as it is now; its new name."""
        assert self._roles.peft is not None
        name = f"align-{uuid.uuid4().hex[:12]}"
        path = (self._folder / name).resolve()
        save_adapter(self._roles.peft, self._roles.adapter_of(role), path)
        try:
            self._ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)})
        except AlignError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        self._names[role] = name
        return name

    def _forget(self, name: str) -> None:
        with suppress(AlignError):  # the server may have been started anew, or be gone
            self._ask("POST", "/v1/unload_lora_adapter", {"lora_name": name})
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _respond(self, model: str, params: SamplingParams, prompt: list[int], seed: int) -> Sampled:
        """Every field is named: what is not, a server takes from the model's generation_config.json."""
        asked = {
            "model": model,
            "prompt": prompt,
            "seed": seed,
            "max_tokens": params.max_tokens,
            "min_tokens": params.min_tokens,
            "temperature": params.temperature,
            "top_p": 1.0 if params.top_p is None else params.top_p,
            "top_k": params.top_k or 0,  # 0: all tokens
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": True,  # the tokenizer's and generation_config's; ours is the one stop token
            "stop_token_ids": [params.eos_id],
            "logprobs": 0,  # of the token that was drawn, and of no others
            "return_token_ids": True,
        }
        answer = self._ask("POST", "/v1/completions", asked)
        try:
            (choice,) = answer.json()["choices"]
            ids = [int(token) for token in choice["token_ids"]]
            logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"]]
        except (ValueError, TypeError, KeyError) as error:
            raise AlignError(
                f"engine vllm: {self._url} answered without token ids or log probabilities ({error!r}): is "
                f"it vLLM 0.33 or newer? {_GOOD}"
            ) from error
        if len(ids) != len(logprobs) or not (ids[-1:] == [params.eos_id] or len(ids) == params.max_tokens):
            raise AlignError(
                f"engine vllm: {self._url} gave {len(ids)} tokens with {len(logprobs)} log probabilities "
                f"({choice.get('finish_reason')}) that end neither with EOS nor after {params.max_tokens} "
                f"tokens: its --max-model-len may be too small. {_GOOD}"
            )
        return Sampled(prompt, ids, logprobs)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        """The server's answer; AlignError with what it said where it is not a good one."""
        try:
            answer = self._http.request(method, path, json=body)
        except httpx2.HTTPError as error:
            why = first_line(error)
            raise AlignError(f"engine vllm: {self._url}{path} failed: {why}. {_GOOD}") from error
        if answer.is_success:
            return answer
        hint = ""
        if path.endswith("lora_adapter") and answer.status_code == 404:
            hint = " Was it started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora?"
        said = " ".join(answer.text.split())[:300]
        raise AlignError(
            f"engine vllm: {self._url}{path} answered {answer.status_code}: {said}.{hint} {_GOOD}"
        )
