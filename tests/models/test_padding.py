"""Rows of other lengths in one batch have the numbers that each has alone, or the base is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bases import HYBRIDS, tiny_model
from transformers import AutoModelForCausalLM

from align.errors import UserError
from align.models.batch import collate
from align.models.forward import Forward, check_padding
from align.models.roles import Roles

PAIRS = [([5, 6, 7], [8, 9, 10, 1]), ([11, 12], [13, 1]), ([20], [21, 22, 23, 24, 25, 26, 1])]


@pytest.mark.parametrize("name", sorted({*HYBRIDS} - {"llama3"}))
def test_scores_and_log_probabilities_are_those_of_one_row_at_a_time(name: str) -> None:
    roles = Roles(tiny_model(name, 64))
    roles.share("reward", "base", trains=False)
    roles.add_head("reward", torch.Generator().manual_seed(0))
    forward = Forward(roles)
    with torch.no_grad():
        prefix = forward.prefix(collate(PAIRS))
        scores, (logprobs, _, _) = forward.scores("reward", prefix), forward.logprobs("reward", prefix, 1.0)
        for row, pair in enumerate(PAIRS):
            alone = forward.prefix(collate([pair]))
            torch.testing.assert_close(forward.scores("reward", alone)[0], scores[row], rtol=1e-4, atol=1e-5)
            own = forward.logprobs("reward", alone, 1.0)[0][0]
            torch.testing.assert_close(own, logprobs[row, : len(own)], rtol=1e-4, atol=1e-5)


def test_a_base_that_sees_the_padding_behind_a_row_is_refused(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    check_padding(model)
    forward = model.base_model.forward

    def sees_all(**inputs: Any) -> Any:
        output = forward(**inputs)
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(1, keepdim=True)
        return output

    monkeypatch.setattr(model.base_model, "forward", sees_all)
    with pytest.raises(UserError, match="padding stands behind it"):
        check_padding(model)


def test_a_base_that_reads_in_both_directions_or_cannot_read_a_mask_is_refused() -> None:
    with pytest.raises(UserError, match="BertLMHeadModel reads a text in both directions"):
        check_padding(tiny_model("bert"))
    with pytest.raises(UserError, match="XLNetLMHeadModel cannot read rows of different lengths with a mask"):
        check_padding(tiny_model("xlnet"))
