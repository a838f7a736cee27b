"""Every base draws the same tokens, whatever it remembers of rows: what it cannot do is found by a probe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_bases import HYBRIDS, tiny_model
from torch import nn

from align.models.roles import Roles
from align.sampling.cache import Reading, Ways, find_ways
from align.sampling.params import Draws, Sampled, SamplingParams
from align.sampling.sampler import Hf

PARAMS = SamplingParams(1.0, 1, 0, max_tokens=8, batch_tokens=1000)
PROMPTS = [[5, 6, 7], [5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15], [16, 17, 18], [16, 17, 18]]
CACHED = {"mamba", "mamba2", "jamba", "falcon_h1", "lfm2", "qwen3_next"}
KEPT = Ways(select=None)
WITHOUT = Ways(cache=None, select=None)


def _roles(name: str) -> Roles:
    """The base alone answers."""
    roles = Roles(tiny_model(name, 64))
    roles.share("policy", "base", trains=False)
    return roles


def _sample(roles: Roles, ways: Ways, rows: list[int] | None = None, eos: int = 1) -> list[Sampled]:
    rows = list(range(len(PROMPTS))) if rows is None else rows
    params = replace(PARAMS, eos_id=eos)
    return Hf(roles, ways).sample([PROMPTS[row] for row in rows], Draws(3, "test", 0, rows), params)


def _uneven(roles: Roles, ways: Ways) -> tuple[int, list[Sampled]]:
    """Responses of uneven length, and the token that ends them."""
    free = _sample(roles, ways)
    eos = max(range(2, 64), key=lambda t: sum(t in one.response[1:6] for one in free))
    found = _sample(roles, ways, eos=eos)
    assert len({len(one.response) for one in found}) > 1
    return eos, found


@pytest.mark.parametrize("name", HYBRIDS)
def test_log_probabilities_are_those_of_whole_rows_and_ended_rows_that_stay_change_nothing(name: str) -> None:
    roles = _roles(name)
    ways = find_ways(roles)
    eos, found = _uneven(roles, ways)
    for one in found:
        ids = torch.tensor([one.prompt + one.response])
        with torch.no_grad():
            own = roles.base(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        own = own[len(one.prompt) - 1 : -1][torch.arange(len(one.response)), torch.tensor(one.response)]
        torch.testing.assert_close(torch.tensor(one.logprobs), own, rtol=1e-4, atol=1e-4)
    if name not in CACHED | {"llama3"}:
        return
    heard: list[int] = []
    draws = Draws(3, "test", 0, list(range(len(PROMPTS))))
    kept = Hf(roles, replace(ways, select=None))
    stayed = kept.sample(PROMPTS, draws, replace(PARAMS, eos_id=eos), heard=heard.append)
    assert [one.response for one in stayed] == [one.response for one in found]
    assert sorted(heard) == sorted(token for one in found for token in one.response)
    for one, other in zip(stayed, found, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_what_the_probe_finds() -> None:
    names = ("llama3", "opt350", "mamba", "lfm2", "rwkv", "recurrent_gemma")
    found = {name: find_ways(_roles(name)) for name in names}
    assert found["llama3"] == found["opt350"] == Ways()
    assert found["mamba"] == Ways("cache_params", "reorder_cache", whole_mask=False)
    assert found["lfm2"] == Ways(select="reorder_cache")
    assert (
        found["rwkv"] == found["recurrent_gemma"] == replace(WITHOUT, pads=False)
    )  # their caches mix rows up
    assert not any(found[name].remarks(name) for name in ("llama3", "opt350", "mamba", "lfm2"))


def test_what_is_slower_is_said() -> None:
    assert [line[:40] for line in Ways(select=None, pads=False).remarks("It")] == [
        "the cache of It cannot drop rows: respon",
        "It reads padding in front of a prompt as",
    ]
    assert "no cache" in WITHOUT.remarks("It")[0]


@pytest.mark.parametrize("ways", [KEPT, WITHOUT, Ways(pads=False), Ways(select="reorder_cache")])
def test_a_llama_draws_the_same_in_every_way(ways: Ways) -> None:
    roles = _roles("llama3")
    eos, found = _uneven(roles, Ways())
    forced = _sample(roles, ways, eos=eos)
    assert [one.response for one in forced] == [one.response for one in found]
    for one, other in zip(forced, found, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_rows_that_padding_would_change_are_read_with_rows_of_their_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batches: list[set[int]] = []
    begin = Reading.__init__

    def noted(self: Reading, roles: Roles, ways: Ways, rows: list[list[int]], pad_id: int) -> None:
        batches.append(set(map(len, rows)))
        begin(self, roles, ways, rows, pad_id)

    monkeypatch.setattr(Reading, "__init__", noted)
    _sample(_roles("llama3"), Ways(pads=False))
    assert sorted(batches, key=max) == [{1}, {2}, {3}, {5}]


def test_a_cache_that_forgets_is_not_used() -> None:
    """A decoder that takes a cache and does not read it would sample from the last token alone."""
    roles = _roles("llama3")

    class Forgets(type(roles.decoder)):
        def forward(self, input_ids, past_key_values=None, **given):  # type: ignore[no-untyped-def]
            return super().forward(input_ids=input_ids, **{**given, "use_cache": False})

    roles.decoder.__class__ = Forgets
    assert isinstance(roles.decoder, nn.Module)
    ways = find_ways(roles)
    assert ways.cache is None
    assert "no cache" in ways.remarks("It")[0]
