"""A base that is sharded: each process reads its part of the files, and no whole copy lies in any memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ranks import FSDP2, ZERO3, Ranks, needs_deepspeed
from tiny_bases import make_base
from transformers import LlamaConfig, MixtralConfig, Qwen3Config

MIB = 2**20
KINDS = {"FSDP2": FSDP2, "ZeRO-3": ZERO3}
kinds = pytest.mark.parametrize("kind", ["FSDP2", pytest.param("ZeRO-3", marks=needs_deepspeed)])


def _asked(group: Ranks, *call: object, **environment: str) -> list[Any]:
    ended = group.run("call", *map(str, call), **environment)
    assert ended.codes == [0, 0], ended.output
    return [json.loads(output.splitlines()[-1]) for output in ended.output]


@pytest.fixture(scope="module")
def bases(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Tied and untied, with rows that two processes cannot share evenly, and experts that lie apart."""
    folder = tmp_path_factory.mktemp("bases")
    small = {
        "hidden_size": 25,
        "intermediate_size": 45,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "head_dim": 6,
    }
    own = {
        "untied": Qwen3Config(**small, tie_word_embeddings=False),
        "tied": Qwen3Config(**small, tie_word_embeddings=True),
        "experts": MixtralConfig(
            **{**small, "hidden_size": 32, "intermediate_size": 48}, num_local_experts=3
        ),
    }
    made = [make_base(config, tiny_base, folder / name) for name, config in own.items()]
    names = ("llama3", "gemma2", "gemma3", "phi3", "gpt_neox", "gpt_oss", "qwen3_next")
    return [*made, *(make_base(name, tiny_base, folder / name) for name in names)]


def test_the_parts_that_processes_read_make_the_whole(group: Ranks, bases: list[Path]) -> None:
    for found in _asked(group, "big_base_probes:read", *bases, **FSDP2):
        assert len(found) == len(bases) + 1  # the first in two precisions
        for name, told in found.items():
            assert told == {
                "same": True,
                "parts": True,
                "frozen": True,
                "runs": True,
                "tied": True,
                "config": True,
            }, name


@kinds
def test_every_process_refuses_another_model_s_configuration(
    group: Ranks, tiny_base: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 128}))
    for said in _asked(group, "big_base_probes:refuse", folder, **KINDS[kind]):
        assert said.endswith("cannot be loaded: its config.json is that of another model")


@pytest.fixture(scope="module")
def large(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """196 MiB of float32 in layers, which are 98 MiB in bfloat16, and embeddings of 1.2 MiB."""
    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=4,
        num_attention_heads=16,
        tie_word_embeddings=True,
    )
    return make_base(config, tiny_base, tmp_path_factory.mktemp("large"))


@kinds
def test_a_process_needs_memory_for_its_part_alone(group: Ranks, large: Path, kind: str) -> None:
    """Two processes: each half of the layers, the embeddings, and room for one layer and a few MiB."""
    for found in _asked(group, "big_base_probes:load", large, "slices", **KINDS[kind]):
        half, layer = found["layers"] // 2, found["layers"] // 4
        assert found["layers"] == pytest.approx(98 * MIB, rel=0.01)
        room = 8 * MIB + (layer if kind == "ZeRO-3" else 0)  # which is put together for DeepSpeed
        assert half <= found["peak"] < half + found["embeddings"] + room


def test_where_no_slices_can_be_read_processes_read_the_whole_in_turn(group: Ranks, large: Path) -> None:
    ended = group.run("call", "big_base_probes:load", str(large), "whole", **FSDP2)
    assert ended.codes == [0, 0], ended.output
    for output in ended.output:
        assert json.loads(output.splitlines()[-1])["peak"] >= 98 * MIB
    assert [output.count("each process in turn reads all of it") for output in ended.output] == [1, 0]


@kinds
def test_sampling_puts_a_base_together_once(group: Ranks, tiny_base: Path, kind: str) -> None:
    """Not once a token, where it fits; where it does not, that is said. The tokens are the whole base's."""
    for found in _asked(group, "big_base_probes:sample", tiny_base, **KINDS[kind]):
        few, many = found["fits"]["messages"]
        assert few == many + 2  # the first time, processes compare their memories
        assert many == found["layers"] * (1 if kind == "FSDP2" else 9)  # by layers, or by their weights
        few, many = found["does not fit"]["messages"]
        assert many > few + 9 * found["layers"]
        (remark,) = found["fits"]["remark"]
        assert "put together to sample" in remark
        (remark,) = found["does not fit"]["remark"]
        assert "for each token" in remark and "engine: vllm" in remark
        for how in ("fits", "does not fit"):
            assert found[how]["parts again"] and found[how]["trains"]
