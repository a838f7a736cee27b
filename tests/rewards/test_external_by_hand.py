"""Sources of rewards, by hand, without a model: pauses, texts, places of scores, weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import torch

from align.data.tokenize import Encodings
from align.errors import AlignError, UserError
from align.records import Prompt
from align.rewards import external, rewards, service
from align.rewards.external import Service, Texts
from align.rewards.model import OwnModel
from align.rewards.rewards import Rewards, RewardSource, load_rewards, texts_of
from align.sampling.params import Sampled

CPU = torch.device("cpu")
ONE = Texts(["a"], ["b"], [True])


@pytest.mark.parametrize(
    ("wrong", "pauses"),
    [
        (httpx2.ConnectError("down"), [1, 4]),
        (httpx2.ReadTimeout("slow"), [1, 4]),
        (httpx2.RemoteProtocolError("gone"), [1, 4]),
        (500, [1, 4]),
        (429, [1, 4]),
        (408, [1, 4]),
        (499, []),
    ],
)
def test_what_may_pass_is_tried_again_after_a_second_and_four(
    monkeypatch: pytest.MonkeyPatch, wrong: Exception | int, pauses: list[float]
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert set(request.extensions["timeout"].values()) == {5}
        if isinstance(wrong, Exception):
            raise wrong
        return httpx2.Response(wrong)

    slept: list[float] = []
    client = partial(httpx2.Client, transport=httpx2.MockTransport(answer))
    monkeypatch.setattr(service.httpx2, "Client", client)
    monkeypatch.setattr(service.time, "sleep", slept.append)
    with pytest.raises(AlignError):
        Service("http://x", 5).scores(ONE)
    assert slept == [0, *pauses]


class _Letters:
    """A template whose ids are letters' numbers, and 0 for the end."""

    positions = 6

    def prompt_ids(self, prompt: str) -> list[int]:
        return [*map(ord, prompt)]

    def response_ids(self, text: str) -> list[int]:
        return [*map(ord, text), 0]


def own_model(seen: list[list[int]]) -> OwnModel:
    """A model of another base that scores a row by its tokens and its prompt's length."""

    def scores(role: str, batch: Any) -> torch.Tensor:
        seen.extend(row[:n].tolist() for row, n in zip(batch.input_ids, batch.lengths, strict=True))
        return 10.0 * batch.lengths + batch.prompt_lengths

    base: Any = SimpleNamespace(pad_id=1, tokenizer=SimpleNamespace(eos_token="#"))
    roles = SimpleNamespace(more_elsewhere=lambda own: 0)
    forward: Any = SimpleNamespace(roles=roles, prefix=lambda batch: batch, scores=scores)
    return OwnModel("the judge", base, _Letters(), forward, 6)  # type: ignore[arg-type]


def test_a_model_of_another_base_reads_what_was_written_and_scores_stay_in_their_rows() -> None:
    """EOS where the response ended by itself, or is empty; what follows the model's own EOS is not read."""
    seen: list[list[int]] = []
    texts = Texts(
        ["a", "bb", "c", "d", "ee"], ["xyz", "x", "", "x#y", "yzz"], [True, False, False, True, True]
    )
    rows = ["axyz\0", "bbx", "c\0", "dx\0", "eeyzz\0"]
    found = own_model(seen).scores(texts).tolist()
    assert found == [10 * len(row) + len(p) for row, p in zip(rows, texts.prompts, strict=True)]
    assert sorted(map(bytes, seen)) == sorted(row.encode() for row in rows)
    with pytest.raises(UserError, match="the judge reads at most 6 tokens, and 'eee' .* has 7"):
        own_model([]).scores(Texts(["eee"], ["yzz"], [True]))


def test_another_base_than_the_one_it_was_trained_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = SimpleNamespace(fingerprint="new", template=lambda kind: SimpleNamespace(hash="same"))
    monkeypatch.setattr(rewards, "find_base", lambda spec: there)
    recipe: Any = SimpleNamespace(base=None, data=SimpleNamespace(template="plain"))
    trained_on = {"base": "old", "template": "same"}
    source = RewardSource("judge", 1.0, foreign=recipe, final=Path("final"), trained_on=trained_on)
    with pytest.raises(UserError, match="model judge was trained with another base than the one there now"):
        rewards._own_model(source, CPU)


def test_texts_are_of_the_rows_that_were_asked() -> None:
    prompts: Any = Encodings.__new__(Encodings)
    prompts.records = [Prompt("zero"), Prompt("one"), Prompt("two")]
    names = {5: "good", 9: "<eos>"}

    def text(ids: list[int]) -> str:
        return " ".join(names[i] for i in ids if i != 9)

    template: Any = SimpleNamespace(text=text, eos_id=9)
    judged = Rewards(["f"], [1.0], {}, {"f": lambda texts: torch.zeros(2)}, {})
    sampled = [Sampled([1], [5, 9], []), Sampled([2], [5, 5], [])]
    found = texts_of(judged, sampled, prompts, [2, 0], template)
    assert found == Texts(["two", "zero"], ["good", "good good"], [True, False])
    assert (
        texts_of(Rewards(["m"], [1.0], {"m": "reward"}, {}, {}), sampled, prompts, [2, 0], template) is None
    )


def test_a_function_that_cannot_be_called_with_both_is_refused_before_anything_runs(tmp_path: Path) -> None:
    lines = ["def one(prompts): ...", "def named(prompts, *, responses): ...", "from operator import eq"]
    lines += ["def right(prompts, responses, seen=[]): ...", "any_number = lambda *given: ..."]
    (tmp_path / "judge.py").write_text("\n".join(lines))
    for name in ("right", "any_number", "eq"):
        assert callable(external.load_function(f"{tmp_path}/judge.py:{name}"))
    for name in ("one", "named"):
        with pytest.raises(
            UserError, match=rf":{name}\(prompts.*cannot be called with prompts and responses"
        ):
            external.load_function(f"{tmp_path}/judge.py:{name}")


def test_a_source_alone_has_its_weight_too() -> None:
    given = {"a": torch.tensor([1.0, -2.0])}
    assert Rewards(["a"], [0.5], {}, {}, {}).all(given, None, CPU).scores.tolist() == [0.5, -1.0]
    assert Rewards(["a"], [1.0], {}, {}, {}).all(given, None, CPU).scores.tolist() == [1.0, -2.0]


def test_a_spread_is_divided_by_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, what the whole score is divided by; of several, what each reward model's is."""
    monkeypatch.setattr(rewards, "read_score_std", lambda final: 4.0 if final.name == "first" else 2.0)
    added: list[tuple[str, str]] = []
    roles: Any = SimpleNamespace(
        add=lambda role, folder, trains: added.append((role, folder.name)), add_head=lambda *_: None
    )
    first, second = (RewardSource(n, 0.5, adapter=Path(n), final=Path(n)) for n in ("first", "second"))
    rule = RewardSource("rule", 1.0, scorer=lambda texts: torch.zeros(1))
    alone, spread = load_rewards([first], roles, CPU, scale=True)
    assert (dict(alone.score_stds), spread) == ({}, 4.0)
    added.clear()
    several, spread = load_rewards([first, rule, second], roles, CPU, scale=True)
    assert (dict(several.score_stds), spread) == ({"first": 4.0, "second": 2.0}, 1.0)
    assert added == [("reward", "first"), ("reward1", "second")]
    assert several.roles == {"first": "reward", "second": "reward1"}
    given = {"first": torch.tensor([8.0]), "second": torch.tensor([6.0])}
    assert several.all({**given, "rule": torch.tensor([3.0])}, None, CPU).scores.tolist() == [5.5]
    assert load_rewards([first], roles, CPU, scale=False)[1] == 1.0
