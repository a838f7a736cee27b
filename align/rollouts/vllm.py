"""Sampling by a vLLM server: prompts go as token ids, tokens and their log probabilities come back.

The policy's adapter is handed over as a LoRA request, by a folder that both machines see. vLLM stands in
an environment of its own, because it pins transformers below what this package needs. Written against
the server of vLLM 0.33.0; not yet seen on a GPU.
"""

from __future__ import annotations

import http.client
import json
import shutil
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from align.errors import AlignError, UserError
from align.models.export import save_adapter
from align.models.roles import Roles
from align.rollouts.engine import Terms
from align.rollouts.params import Sampled
from align.seeds import generator

_SECONDS = 600.0  # that a request may take; the server queues what it cannot run at once
_REQUESTS = 256  # under way at a time, from one process
_GOOD = "The last checkpoint is good, and the same command goes on from it"


class Vllm:
    """A vLLM server, which knows the policy as an adapter with a new name for each iteration.

    The adapter lies in `folder`, which is this process's own. Raises UserError where no server answers.
    """

    def __init__(self, roles: Roles, terms: Terms, seed: int, url: str, folder: Path) -> None:
        self._roles, self._terms, self._seed = roles, terms, seed
        self._url, self._folder = url.rstrip("/").removesuffix("/v1"), folder
        self._adapter: str | None = None
        try:
            with urllib.request.urlopen(f"{self._url}/health", timeout=30):
                pass
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise UserError(
                f"ppo.engine_url: no vLLM server answers at {self._url} ({error}). Start one in an "
                "environment of its own; docs/ppo.md, “Engines”, has the command"
            ) from error
        for left in sorted(folder.glob("align-*")):  # of a run that was killed
            self._forget(left.name)
        shutil.rmtree(folder, ignore_errors=True)

    def update(self) -> None:
        """Hand over the policy. A new name, so that nothing cached of an older one is used."""
        before, name = self._adapter, f"align-{uuid.uuid4().hex[:12]}"
        assert self._roles.peft is not None
        save_adapter(self._roles.peft, "policy", self._folder / name)
        try:
            path = str((self._folder / name).resolve())
            self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        except AlignError:
            shutil.rmtree(self._folder / name, ignore_errors=True)
            raise
        self._adapter = name
        if before:
            self._forget(before)

    def sample(self, prompts: list[list[int]], rows: list[int], iteration: int) -> list[Sampled]:
        seeds = [generator(self._seed, "ppo", iteration, row).initial_seed() for row in rows]
        with ThreadPoolExecutor(min(len(prompts), _REQUESTS)) as pool:
            return list(pool.map(self._respond, prompts, seeds))

    def close(self) -> None:
        if self._adapter:
            self._forget(self._adapter)
        self._adapter = None

    def _forget(self, name: str) -> None:
        with suppress(AlignError):  # the server may have been started anew, or be gone
            self._post("/v1/unload_lora_adapter", {"lora_name": name})
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _respond(self, prompt: list[int], seed: int) -> Sampled:
        """Every term is named: what is not, a server takes from the model's generation_config.json."""
        terms = self._terms
        asked = {
            "model": self._adapter,
            "prompt": prompt,
            "seed": seed,
            "max_tokens": terms.max_tokens,
            "min_tokens": terms.min_tokens,
            "temperature": terms.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": True,  # the tokenizer's and generation_config's; ours is the one stop token
            "stop_token_ids": [terms.eos_id],
            "logprobs": 0,  # of the token that was drawn, and of no others
            "return_token_ids": True,
        }
        answer = self._post("/v1/completions", asked)
        try:
            (choice,) = json.loads(answer)["choices"]
            ids = [int(token) for token in choice["token_ids"]]
            logprobs = [float(value) for value in choice["logprobs"]["token_logprobs"]]
        except (ValueError, TypeError, KeyError) as error:
            raise AlignError(
                f"ppo.engine: {self._url} answered without token ids or log probabilities ({error!r}): is it "
                f"vLLM 0.33 or newer? {_GOOD}"
            ) from error
        if len(ids) != len(logprobs) or not (ids[-1:] == [terms.eos_id] or len(ids) == terms.max_tokens):
            raise AlignError(
                f"ppo.engine: {self._url} gave {len(ids)} tokens with {len(logprobs)} log probabilities that "
                f"end neither with EOS nor at ppo.max_response_tokens ({choice.get('finish_reason')}): its "
                f"--max-model-len may be too small. {_GOOD}"
            )
        return Sampled(prompt, ids, logprobs)

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        """The server's answer; AlignError with what it said of itself."""
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            with error:
                said = " ".join(error.read(2000).decode(errors="replace").split())[:300]
            hint = ""
            if path.endswith("lora_adapter") and error.code == 404:
                hint = " Was it started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and --enable-lora?"
            raise AlignError(
                f"ppo.engine: {self._url}{path} answered {error.code}: {said}.{hint} {_GOOD}"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise AlignError(f"ppo.engine: {self._url}{path} failed: {error}. {_GOOD}") from error
