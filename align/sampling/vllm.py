"""Sampling by vLLM servers: prompts go as token ids, tokens and their log probabilities come back.

A role's adapter is handed over as a LoRA request, by a folder that all machines see: the main process writes
it and loads it into every server, and all processes sample with it. Not yet seen on a GPU.
"""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from align.errors import AlignError, UserError
from align.models.adapters import save_adapter
from align.models.roles import Roles
from align.run.folder import share_object
from align.sampling.params import Draws, Sampled, SamplingParams
from align.sampling.servers import KEPT, Adapter, Server, Servers


class Vllm:
    """vLLM servers, which know each role as an adapter, the policy by a new name after each update.

    folder: where the main process keeps the adapters. sleep: the servers give their card's memory back
    between calls. Raises UserError where a server does not answer, or cannot sleep.
    """

    def __init__(
        self,
        roles: Roles,
        urls: Sequence[str],
        folder: Path,
        accel: Accelerator,
        tell: Callable[[str], None],
        sleep: bool = False,
    ) -> None:
        self._roles, self._folder, self._accel = roles, folder, accel
        self._main = accel.is_main_process
        self._sleep, self._awake = sleep, True
        self._servers = Servers(urls, tell if self._main else lambda _: None)
        if sleep:
            self._servers.each(Server.check_sleep)
        if self._main:
            for left in sorted(folder.glob("align-*")):  # of a run that was killed
                self._forget(left.name)
            shutil.rmtree(folder, ignore_errors=True)

    def update(self) -> None:
        """Hand over the policy. A new name, so that nothing cached of an older one is used."""
        self._accel.wait_for_everyone()  # nobody samples any more with the one before
        self._wake()
        before = self._servers.adapters.get("policy")
        self._hand_over("policy")
        if before and self._main:
            self._forget(before.name)

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
        where a server refuses, or answers what cannot be trained on, and where none is left.
        """
        self._wake()
        if self._has_adapter(role) and role not in self._servers.adapters:
            self._hand_over(role)
        seeds = [own.initial_seed() for own in draws.generators()]
        vocabulary = self._roles.base.get_input_embeddings().weight.shape[0]
        respond = partial(_respond, role, self._servers.adapters, params, vocabulary)
        rows = list(zip(prompts, seeds, strict=True))
        sampled = self._servers.answers(rows, respond, self._accel.process_index) if rows else []
        self._rest()
        if heard is not None:
            for token in sampled[0].response:
                heard(token)
        return sampled

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Let the servers forget the adapters, and remove them from the disk. Sleeping servers sleep on."""
        if self._main:
            for adapter in self._servers.adapters.values():
                self._forget(adapter.name)
            shutil.rmtree(self._folder, ignore_errors=True)
        self._servers.adapters.clear()
        self._servers.close()

    def _has_adapter(self, role: str) -> bool:
        """Without one it is the base that answers."""
        return self._roles.peft is not None and self._roles.adapter_of(role) in self._roles.peft.peft_config

    def _hand_over(self, role: str) -> None:
        """The role's adapter as it is now, by the main process, for all of them."""
        failure = self._load(role) if self._main else None
        told = (failure, self._servers.adapters.get(role), self._servers.lost)
        failure, adapter, self._servers.lost = share_object(told, self._accel)
        if failure is not None:
            raise failure
        self._servers.adapters[role] = adapter

    def _load(self, role: str) -> AlignError | None:
        """Write a role's adapter and load it into every server; why not, where one refuses it."""
        assert self._roles.peft is not None
        name = f"align-{uuid.uuid4().hex[:12]}"
        adapter, path = self._roles.adapter_of(role), (self._folder / name).resolve()
        save_adapter(self._roles.peft, adapter, path)
        before = self._servers.adapters.get(role)
        self._servers.adapters[role] = told = Adapter(
            name, str(path), self._roles.peft.peft_config[adapter].r
        )
        try:
            self._servers.look_again()
            self._servers.each(lambda server: server.load(told))
        except AlignError as error:
            self._forget(name)
            self._servers.adapters.pop(role)
            if before:
                self._servers.adapters[role] = before
            return error
        return None

    def _forget(self, name: str) -> None:
        for server in self._servers.present:
            server.unload(name)
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _wake(self) -> None:
        """Before anything is asked of servers that sleep while others use their cards."""
        if self._sleep and not self._awake:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what this process keeps for later is what a server needs now
            self._all_do(Server.wake)
        self._awake = True

    def _rest(self) -> None:
        """When all processes have sampled."""
        if self._sleep:
            self._all_do(Server.sleep)
            self._awake = False

    def _all_do(self, what: Callable[[Server], None]) -> None:
        """By the main process, when all have come here; the others wait until it is done."""
        self._accel.wait_for_everyone()
        failure: AlignError | None = None
        if self._main:
            try:
                self._servers.each(what)
            except AlignError as error:
                failure = error
        failure, self._servers.lost = share_object((failure, self._servers.lost), self._accel)
        if failure is not None:
            raise failure


def _respond(
    role: str,
    adapters: dict[str, Adapter],
    params: SamplingParams,
    vocabulary: int,
    server: Server,
    row: tuple[list[int], int],
) -> Sampled:
    """Every field is named: what is not, a server takes from the model's generation_config.json."""
    prompt, seed = row
    asked = {
        "model": adapters[role].name if role in adapters else server.base,
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
    answer: Any = server.complete(asked)
    try:
        (choice,) = answer["choices"]
        ids = [int(token) for token in choice["token_ids"]]
        given = choice["logprobs"]["token_logprobs"]
        logprobs = [float("nan" if value is None else value) for value in given]  # JSON has no NaN
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"engine vllm: {server.url} answered without token ids or log probabilities ({error!r}): is "
            f"it vLLM 0.32 or newer? {KEPT}"
        ) from error
    if len(ids) != len(logprobs) or not (ids[-1:] == [params.eos_id] or len(ids) == params.max_tokens):
        raise AlignError(
            f"engine vllm: {server.url} gave {len(ids)} tokens with {len(logprobs)} log probabilities "
            f"({choice.get('finish_reason')}) that end neither with EOS nor after {params.max_tokens} "
            f"tokens: its --max-model-len may be too small. {KEPT}"
        )
    if not all(map(math.isfinite, logprobs)):
        raise AlignError(
            f"engine vllm: {server.url} gave a log probability that is not finite: its numbers overflow, "
            f"as in --dtype float16, or the policy is broken. {KEPT}"
        )
    if not all(0 <= token < vocabulary for token in ids):
        raise UserError(
            f"engine vllm: {server.url} gave a token that this base does not have: start it on the "
            f"recipe's base, it has {server.base}. {KEPT}"
        )
    return Sampled(prompt, ids, logprobs)
