"""What travels with a reward model's head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.errors import UserError
from align.models.adapters import read_score_std, save_score


def test_the_spread_comes_back(tmp_path: Path) -> None:
    save_score({"std": 1.25, "temperature": None}, tmp_path)
    assert read_score_std(tmp_path) == 1.25
    assert json.loads((tmp_path / "score.json").read_text())["temperature"] is None


@pytest.mark.parametrize(
    "content", [None, "{", "{}", '{"std": null}', '{"std": 0.0}', '{"std": "wide"}', "[]"]
)
def test_without_a_spread_the_message_says_what_to_do(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "score.json").write_text(content)
    with pytest.raises(UserError, match=r"score\.json.*ppo\.scale_scores: false"):
        read_score_std(tmp_path)
