"""Attention by blocks of tokens: the mask, the numbers and gradients, what is left out, and when it is used.

On a CPU torch has only a slow backward pass of this attention, and refuses it; tests let it through.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_packed import RANKINGS, gradients, model, one_by_one, scores_of, with_reward
from torch import Tensor
from torch.nn.attention import flex_attention
from transformers import Gemma2Config, Gemma2ForCausalLM

from align.data.tokenize import Encoded
from align.models import block_attention, probes
from align.models.block_attention import BLOCK, LONG, block_mask, sees
from align.models.forward import Forward
from align.models.packed import Packed, pack
from align.models.probes import attend_in_blocks, share_prompts


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(probes, "_WITH_BLOCKS", ("cpu",))


def dense(batch: Packed) -> Tensor:
    """The mask that is added, as booleans [B, 1, L, L]."""
    return batch.inputs(torch.device("cpu"), torch.float32)["attention_mask"] == 0


def long_ranking(prompt: int, response: int, count: int) -> Encoded:
    return Encoded([5] * prompt, [[6] * response for _ in range(count)])


def test_the_mask_is_the_dense_one_bit_for_bit() -> None:
    batch = pack([*RANKINGS, long_ranking(150, 90, 3)]).padded(BLOCK)
    assert batch.input_ids.shape == (4, 512)
    expected = dense(batch)
    found = flex_attention.create_mask(sees(batch.branch), 4, None, 512, 512, "cpu")
    assert torch.equal(found, expected)
    # And what blocks leave out is empty in it, what they take whole is full.
    blocks = block_mask(batch.branch)
    some = expected[:, 0].unfold(1, BLOCK, BLOCK).unfold(2, BLOCK, BLOCK)
    needed = blocks.to_dense()[:, 0].bool()
    assert torch.equal(needed, some.any(-1).any(-1))
    assert not needed.all()


def test_padding_to_blocks_changes_nothing_before_it() -> None:
    batch = pack(RANKINGS)
    padded = batch.padded(BLOCK)
    length = batch.input_ids.shape[1]
    for name in ("input_ids", "positions", "branch"):
        assert torch.equal(getattr(padded, name)[:, :length], getattr(batch, name))
    assert (padded.branch[:, length:] == -1).all()
    assert torch.equal(padded.columns, batch.columns)
    assert padded.padded(BLOCK).input_ids.shape == padded.input_ids.shape


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "neox"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_scores_and_gradients_are_those_of_one_response_at_a_time(
    kind: str, checkpointing: bool, on_cpu: None
) -> None:
    forward = with_reward(model(kind))
    assert share_prompts(forward, "reward", 64) is None
    assert attend_in_blocks(forward, "reward", LONG) is None
    assert forward.savings()["savings/blocks"] == 1
    expected = one_by_one(forward)
    slopes = gradients(forward, expected)
    if checkpointing:
        forward.checkpointed_layers = list(forward.roles.decoder.layers)
    forward.blocks_from = 1
    scores = scores_of(forward, pack(RANKINGS))
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(forward, scores).items():
        torch.testing.assert_close(gradient, slopes[name], rtol=1e-4, atol=1e-4)
    assert forward.roles.decoder.config._attn_implementation == "sdpa"


def test_capped_scores_of_pairs_are_those_of_eager_attention(on_cpu: None) -> None:
    sizes = {"vocab_size": 50, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.4}
    torch.manual_seed(0)
    config = Gemma2Config(**sizes, **heads, attn_logit_softcapping=2.0, sliding_window=512, pad_token_id=0)
    made = Gemma2ForCausalLM(config).requires_grad_(False).eval()
    made.set_attn_implementation("eager")
    forward = with_reward(made)
    batch = pack(RANKINGS)
    expected = scores_of(forward, batch)
    forward.blocks_from = 1
    torch.testing.assert_close(scores_of(forward, batch), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "needed", "of_causal"),
    [
        ((512, 1536, 4), 0.190, 0.373),
        ((512, 682, 9), 0.147, 0.288),
        ((256, 400, 4), 0.293, 0.550),
        ((3328, 416, 8), 0.407, 0.799),
    ],
)
def test_what_is_left_out(lengths: tuple[int, int, int], needed: float, of_causal: float) -> None:
    """Of all pairs of blocks, and of those that causal attention needs; counted once."""
    prompt, response, count = lengths
    batch = pack([long_ranking(prompt, response, count)]).padded(BLOCK)
    blocks = block_mask(batch.branch)
    found = 1 - blocks.sparsity() / 100
    side = batch.input_ids.shape[1] // BLOCK
    assert found == pytest.approx(needed, abs=0.001)
    assert found * 2 * side / (side + 1) == pytest.approx(of_causal, abs=0.001)


def a_forward(**changes: Any) -> Forward:
    forward = with_reward(model("llama", **changes))
    assert share_prompts(forward, "reward", 64) is None
    return forward


def test_on_a_cpu_and_for_short_rankings_nothing_changes_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for longest in (LONG - 1, LONG):
        forward = a_forward()
        assert attend_in_blocks(forward, "reward", longest) is None
        assert forward.blocks_from is None
        assert "savings/blocks" not in forward.savings()
        monkeypatch.setattr(probes, "_WITH_BLOCKS", ("cpu",) if longest == LONG else ("cuda",))


def test_other_numbers_and_kernels_that_fail_are_told_and_left(
    on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Tensor:
        raise NotImplementedError("no compiler\nhere")

    def wrong(query: Tensor, *rest: Any, **named: Any) -> Tensor:
        return flex_attention.flex_attention(query * 1.2, *rest, **named)

    for kernel, message in (
        (fails, "its kernel fails (NotImplementedError: no compiler)"),
        (wrong, "by blocks LlamaForCausalLM gives other numbers"),
    ):
        forward = a_forward()
        monkeypatch.setattr(block_attention, "_kernel", lambda _, kernel=kernel: kernel)
        assert attend_in_blocks(forward, "reward", LONG) == message
        assert forward.blocks_from is None
        assert forward.savings()["savings/blocks"] == 0
        assert forward.remarks() == [
            "in packed rankings attention computes every pair of tokens on LlamaForCausalLM: " + message
        ]
        assert forward.roles.decoder.config._attn_implementation == "sdpa"


def test_eager_attention_stays_as_it_was_asked_for(on_cpu: None) -> None:
    forward = with_reward(model("llama", "eager"))
    assert share_prompts(forward, "reward", 64) is None
    assert attend_in_blocks(forward, "reward", LONG) == "base.attention is eager"
