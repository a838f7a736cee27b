"""Sampling with transformers' continuous batching: requests of any length share a paged cache, and a
finished one makes room for the next.

The library draws from torch's global generator, so that a response would depend on all the others of
its batch. Here a processor of the logits draws instead, by each row's own numbers as in `hf`, and notes
the log probabilities. It runs in Python between the passes, so passes are neither captured as CUDA
graphs nor overlapped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState

from align.errors import AlignError, UserError
from align.models.probe_ids import probe_ids
from align.models.roles import Roles
from align.run.hub import first_line
from align.sampling.cache import REFUSALS
from align.sampling.params import Draws, Sampled, SamplingParams
from align.sampling.sampler import draw, uniforms

_PAGE = 16  # tokens of a page: responses are short beside the library's default of 256
_GAP, _COARSE_GAP = 1e-3, 0.5  # nats a token that the probe may be off, in float32 and below
_PASS = 2048  # tokens of a forward pass: without flash attention its mask is as wide as the whole cache


@dataclass(frozen=True)
class Paged:
    """The roles themselves sample, through the library's scheduler and cache: nothing to hand over."""

    roles: Roles

    def update(self) -> None:
        """The roles are the policy."""

    def sample(
        self,
        prompts: list[list[int]],
        draws: Draws,
        params: SamplingParams,
        role: str = "policy",
        heard: Callable[[int], object] | None = None,
    ) -> list[Sampled]:
        """As the protocol says; `heard` is called from a thread. AlignError where the library fails."""
        if not prompts:
            return []
        self.roles.activate(role)
        drawing = _Drawing(uniforms(draws, params.max_tokens), params, heard)
        manager = self._manager(max(map(len, prompts)), len(prompts), drawing, params)
        manager.start()
        try:
            for row, prompt in enumerate(prompts):
                manager.add_request(prompt, request_id=str(row), row=row)
            responses = _collect(manager, len(prompts))
        finally:
            manager.stop(block=True)
            manager.destroy()
        return [Sampled(p, responses[i], drawing.logprobs[i]) for i, p in enumerate(prompts)]

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Nothing is held between calls."""

    def _manager(
        self, longest: int, requests: int, drawing: _Drawing, params: SamplingParams
    ) -> ContinuousBatchingManager:
        tokens = max(params.batch_tokens, longest + params.max_tokens)
        manager: ContinuousBatchingManager = self.roles.base.init_continuous_batching(
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=params.max_tokens,
                eos_token_id=params.eos_id,
                pad_token_id=params.pad_id,
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=_PAGE,
                num_blocks=math.ceil(tokens / _PAGE),
                max_batch_tokens=min(_PASS, tokens),
                max_requests_per_batch=min(requests, _PASS, tokens),
                use_async_batching=False,
                use_cuda_graph=False,
                auto_switch_to_flash=False,  # base.attention says which attention
            ),
        )
        manager.logit_processor = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([drawing]))
        manager.logit_processor.tensors_required = 1
        return manager


@torch.no_grad()
def check_paged(roles: Roles) -> None:
    """Refuse a base that the library cannot read in pages, or reads otherwise than the base itself does."""
    name = type(roles.base).__name__
    rows = [part.tolist() for part in probe_ids(roles.base, 8).split([5, 3])]
    params = SamplingParams(1.0, eos_id=-1, pad_id=0, max_tokens=2, batch_tokens=64)
    try:
        for one in Paged(roles).sample(rows, Draws(0, "probe", 0, [0, 1]), params, roles.active or ""):
            ids = torch.tensor([one.prompt + one.response], device=roles.base.device)
            logits = roles.base(input_ids=ids, use_cache=False).logits[0, len(one.prompt) - 1 : -1]
            own = logits.float().log_softmax(-1).gather(1, ids[0, len(one.prompt) :, None])[:, 0].cpu()
            gap = float((own - torch.tensor(one.logprobs)).abs().max())
            if gap > (_GAP if roles.base.dtype == torch.float32 else _COARSE_GAP):
                raise ValueError(f"its log probabilities are {gap:.2g} from the base's own")
    except (AlignError, *REFUSALS) as error:
        raise UserError(
            f"engine paged cannot sample from {name} ({first_line(error)}): use engine hf"
        ) from error


class _Drawing(ContinuousBatchingLogitsProcessor):
    """Draws each request's next token by its row of `draws`, and leaves that token alone possible."""

    supported_kwargs = {"row": int}
    ignored_kwargs = ()

    def __init__(self, draws: Tensor, params: SamplingParams, heard: Callable[[int], object] | None) -> None:
        self.logprobs: list[list[float]] = [[] for _ in draws]
        self._draws, self._params, self._heard = draws, params, heard
        self._rows: list[int] = []  # of the pass that is prepared, in the order of its logits

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """The arguments of places that no request has."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: list[FutureRequestState]) -> Tensor:
        """Notes which rows the coming logits are of."""
        self._rows = [request.state.logit_processor_kwargs["row"] for request in requests_with_new_token]
        return torch.tensor(self._rows, dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        steps = [len(self.logprobs[row]) for row in self._rows]
        u = self._draws[self._rows, steps].to(scores.device)
        tokens, logprobs = draw(scores, u, torch.tensor(steps), self._params)
        for row, token, logprob in zip(self._rows, tokens.tolist(), logprobs.tolist(), strict=True):
            self.logprobs[row].append(logprob)
            if self._heard is not None:
                self._heard(token)
        return torch.zeros_like(scores).scatter_(1, tokens[:, None], 1.0)


def _collect(manager: ContinuousBatchingManager, count: int) -> dict[int, list[int]]:
    """The responses by row. The library drops what fails with a line in its log; here it is told."""
    responses: dict[int, list[int]] = {}
    while len(responses) < count:
        output = manager.get_result(timeout=1)
        if output is None:
            if manager.is_running():
                continue
            error = manager.background_thread_status.fatal_error
            raise AlignError(f"engine paged stopped while sampling: {error}; engine `hf` needs no pages")
        if output.error is not None:
            raise AlignError(f"engine paged could not sample: {output.error}; engine `hf` needs no pages")
        responses[int(output.request_id)] = list(output.generated_tokens)
    return responses
