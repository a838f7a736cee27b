"""What may be read in slices, and what is said of a base that cannot be loaded, read in slices or whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_bases import CONFIGS
from transformers import PreTrainedModel
from transformers.core_model_loading import Chunk, Concatenate, WeightConverter

from align.errors import AlignError, UserError
from align.models import slices
from align.models.base import find_base
from align.models.text_part import auto_class, text_decoder
from align.recipe.sections import Base

CPU = torch.device("cpu")


def _without_numbers(name: str) -> tuple[PreTrainedModel, Any]:
    with torch.device("meta"):
        model = auto_class(CONFIGS[name]()).from_config(CONFIGS[name]())
    return model, text_decoder(model).layers


def test_a_conversion_that_mixes_rows_is_not_read_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the rows of q, k and v in one matrix is q and half of k, not half of each."""
    model, layers = _without_numbers("llama3")
    slices.check_slices(model, layers, 2)
    for operation, fits in ((Chunk(dim=1), True), (Chunk(dim=0), False), (Concatenate(dim=0), False)):
        converter = WeightConverter(
            "qkv", "q" if isinstance(operation, Concatenate) else ["q", "k"], [operation]
        )
        monkeypatch.setattr(slices, "get_model_conversion_mapping", lambda model, one=converter: [one])
        if fits:
            slices.check_slices(model, layers, 2)
            continue
        with pytest.raises(slices.NotInSlices):
            slices.check_slices(model, layers, 2)


def test_experts_are_read_in_slices_where_each_process_gets_one() -> None:
    model, layers = _without_numbers("mixtral")
    count = model.config.num_local_experts
    slices.check_slices(model, layers, count)
    with pytest.raises(slices.NotInSlices):
        slices.check_slices(model, layers, count + 1)


def test_a_cut_that_is_never_made_is_an_error() -> None:
    with (
        pytest.raises(AlignError, match="reads whole models only"),
        slices.before_reading(lambda model: None),
    ):
        pass


def _lacks_a_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, {"format": "pt"})


def _is_of_another_model(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 128}))


def _is_cut_off(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("cut", [None, lambda model: None], ids=["whole", "slices"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_lacks_a_weight, "1 of its model's weights, such as model.layers.1.mlp.up_proj.weight, are in none"),
        (_is_of_another_model, "its config.json is that of another model"),
        (_is_cut_off, "cannot be loaded"),
    ],
)
def test_what_is_wrong_with_a_base_is_said(
    tiny_base: Path, tmp_path: Path, damage: Callable[[Path], None], said: str, cut: slices.Cut | None
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    damage(folder)
    with pytest.raises(UserError, match=said):
        find_base(Base(name=str(folder))).load_model(CPU, cut)
