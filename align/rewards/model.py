"""A reward model of our own as a source of rewards."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from align.data.template import Template
from align.data.tokenize import opening
from align.errors import UserError
from align.messages import Messages
from align.models.base import BaseCheckpoint
from align.models.forward import Forward
from align.models.scoring import score_pairs
from align.rewards.external import Texts


@dataclass(frozen=True)
class OwnModel:
    """A reward model with its own base: text is laid out by its template and cut by its tokenizer."""

    who: str
    base: BaseCheckpoint
    template: Template
    forward: Forward
    microbatch_tokens: int

    def scores(self, texts: Texts) -> Tensor:
        """Scores [B]; UserError where its template or its base refuses a text."""
        pairs = [
            self._encoded(prompt, response, ended)
            for prompt, response, ended in zip(texts.prompts, texts.responses, texts.ended, strict=True)
        ]
        return score_pairs(self.forward, "reward", pairs, self.microbatch_tokens)

    def _encoded(self, prompt: str | Messages, response: str, ended: bool) -> tuple[list[int], list[int]]:
        try:
            ids = self.template.prompt_ids(prompt)
            # The policy may write what is an end for this tokenizer only: the rest was not meant for it.
            answer = self.template.response_ids(response.split(str(self.base.tokenizer.eos_token))[0])
        except UserError as error:
            raise UserError(f"{self.who} cannot read {opening(prompt)}: {error}") from error
        if not ended and len(answer) > 1:
            answer.pop()
        length, most = len(ids) + len(answer), self.template.positions
        if most is not None and length > most:
            raise UserError(
                f"{self.who} reads at most {most} tokens, and {opening(prompt)} with its response has "
                f"{length}: lower ppo.max_prompt_tokens or ppo.max_response_tokens"
            )
        return ids, answer
