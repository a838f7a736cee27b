"""A base in four bits: what is asked of transformers, what is refused, and a run on a CPU where it can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from align.errors import UserError
from align.models import base as bases
from align.models.base import find_base
from align.ppo import train as ppo
from align.ppo.roles import prepare
from align.processes import sharding
from align.recipe.load import load_recipe
from align.recipe.sections import Base
from align.run.folder import open_stage
from align.serving.export import export
from align.stages import rm, sft
from align.stages.frame import set_up

CPU = torch.device("cpu")


def spec(folder: Path, **fields: Any) -> Base:
    return Base(name=str(folder), quantize="4bit", **fields)


def test_transformers_is_asked_for_qloras_four_bits(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def load(folder: Path, **options: Any) -> Any:
        asked.append(options)
        raise ValueError("enough")

    monkeypatch.setattr(bases.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    for one in (spec(tiny_base, dtype="bfloat16"), Base(name=str(tiny_base))):
        with pytest.raises(UserError, match="enough"):
            find_base(one).load_model(CPU)
    quantized, whole = asked
    config = quantized["quantization_config"]
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    assert config.bnb_4bit_use_double_quant and config.bnb_4bit_compute_dtype == torch.bfloat16
    assert quantized["device_map"] == {"": CPU}
    assert "quantization_config" not in whole and whole["device_map"] == {"": CPU}


def test_without_bitsandbytes_it_is_refused(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"base\.quantize: .*`pip install bitsandbytes`"):
        find_base(spec(tiny_base)).load_model(CPU)


def test_it_is_not_sharded(tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    setup = set_up(load_recipe(tiny_recipe(), ["base.quantize=4bit"]))
    monkeypatch.setattr(sharding, "shard_group", lambda accel: accel)
    with pytest.raises(UserError, match=r"base\.quantize: a base in four bits is not sharded"):
        setup.load_model()


def test_it_is_another_base_than_the_whole_one(finished_run: Path, tmp_path: Path) -> None:
    recipe = finished_run.parents[1] / "recipe.yaml"
    fields = ["base.quantize=4bit", f"ppo.sft={finished_run}", f"ppo.rm={finished_run}"]
    with pytest.raises(UserError, match=r"trained with another base: (\w+), and this recipe has \1\+4bit"):
        ppo.run(load_recipe(recipe, [*fields, f"run.folder={tmp_path}"]))
    shutil.copytree(finished_run.parents[1], tmp_path / "there")
    with pytest.raises(UserError, match=r'base\.quantize: was null, is "4bit"'):
        sft.run(
            load_recipe(tmp_path / "there" / "recipe.yaml", [*fields, f"run.folder={tmp_path}/there/runs"])
        )


def test_a_run_trains_adapters_on_four_bits_and_nothing_else(tiny_recipe: Callable[..., Path]) -> None:
    pytest.importorskip("bitsandbytes")
    path = tiny_recipe()
    recipe = load_recipe(path, ["base.quantize=4bit", "sft.steps=2", "rm.steps=2", "ppo.iterations=2"])
    sft.run(recipe)
    rm.run(recipe)  # which proves that what it saved scores the same on a base quantized anew
    run = recipe.run.path
    adapter = load_file(run / "sft" / "final" / "adapter_model.safetensors")
    assert {t.dtype for t in adapter.values()} == {torch.float32}
    assert any(not torch.equal(t, t.bfloat16().float()) for t in adapter.values())

    setup = set_up(recipe)
    context = prepare(recipe, setup, run / "sft" / "final", run / "rm" / "final")
    roles, named = context.forward.roles, dict(context.forward.roles.named_parameters())
    assert sum(p.dtype == torch.uint8 for p in named.values()) == 4 * 7  # four layers' matrices
    before = {name: p.detach().clone() for name, p in named.items()}
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        metrics = ppo.iterate(context, stage, [[5, 6, 7], [8, 9]], 0).metrics
    changed = {name for name, p in named.items() if not torch.equal(p, before[name])}
    own = {id(p) for role in ("policy", "value") for p in roles.parameters_of(role).values()}
    assert changed == {name for name, p in named.items() if id(p) in own}
    assert metrics["kl/reference"] == 0.0 and metrics["engine/logprob_gap"] < 1e-4

    ppo.run(recipe, restart=True)
    assert json.loads((run / "ppo" / "manifest.json").read_text())["base"].endswith("+4bit")
    said = Console(file=StringIO(), width=500)
    export(run, "ppo", console=said)
    assert "the base's whole weights" in said.file.getvalue()  # type: ignore[attr-defined]
