"""Four roles, one base: what a PPO iteration holds in memory."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from align.ppo import train as ppo
from align.ppo.roles import prepare
from align.recipe.load import load_recipe
from align.run.folder import open_stage
from align.stages.frame import set_up

ROLES = ("policy", "reference", "reward", "value")


def _held() -> dict[int, int]:
    """Bytes of every tensor that is alive, each storage once."""
    gc.collect()
    found: dict[int, int] = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.layout is torch.strided:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return found


@pytest.mark.filterwarnings("ignore")  # gc meets deprecated things
def test_four_roles_hold_one_copy_of_the_base(finished_run: Path, tmp_path: Path) -> None:
    overrides = [f"run.folder={tmp_path}", f"ppo.sft={finished_run}", f"ppo.rm={finished_run}"]
    recipe = load_recipe(finished_run / "recipe.yaml", overrides)
    setup = set_up(recipe)
    before = _held()
    context = prepare(recipe, setup, finished_run / "sft" / "final", finished_run / "rm" / "final")
    with open_stage(recipe, "ppo", setup.accel, lineage={}, data={}, restart=False) as stage:
        ppo.iterate(context, stage, [[5, 6, 7], [8, 9]], 0)
    roles = context.forward.roles
    own = {role: sum(p.numel() for p in roles.parameters_of(role).values()) for role in ROLES}
    config = roles.base.config
    kv = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    layer = (
        2 * config.hidden_size * (config.hidden_size + kv) + 3 * config.hidden_size * config.intermediate_size
    )
    base = config.vocab_size * config.hidden_size + config.num_hidden_layers * (
        layer + 2 * config.hidden_size
    )
    base += config.hidden_size  # the last norm
    assert sum(p.numel() for p in roles.parameters()) == base + sum(own.values())

    alive = sum(size for at, size in _held().items() if at not in before)
    state = 2 * (own["policy"] + own["value"])  # Adam's two moments of what trains, and of nothing else
    expected = 4 * (base + sum(own.values()) + state)
    assert expected <= alive < expected + 0.25 * 4 * base
