"""`align plan`, and stages that are refused before they load anything, as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from typer.testing import CliRunner, Result

from align.cli.app import app
from align.errors import UserError
from align.models.base import BaseCheckpoint
from align.plan import guard, machine
from align.plan.advice import advise
from align.plan.base import plan_base
from align.plan.gpus import GPUS, find_gpu, like
from align.plan.machine import available, of_gpu
from align.plan.memory import Question, stage_memory
from align.plan.stage import stage_plan
from align.recipe.load import load_recipe
from align.recipe.sections import Base
from align.stages import sft

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
QWEN3 = {
    **LLAMA,
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 128,
    "vocab_size": 151936,
}
BASES: dict[str, dict[str, Any]] = {
    "llama-8b": LLAMA,
    "llama-70b": {
        **LLAMA,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
    "qwen3-8b": {**QWEN3, "intermediate_size": 12288, "num_hidden_layers": 36},
    "qwen3-32b": {
        **QWEN3,
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
    },
    "smollm2-135m": {
        **LLAMA,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
}


def recipe_on(folder: Path, base: str, **sections: Any) -> Path:
    """A recipe whose base is a folder with a config.json and nothing else; its data do not exist."""
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text(json.dumps(BASES[base]))
    data = {"demonstrations": "d.jsonl", "rankings": "r.jsonl", "prompts": "p.jsonl"}
    written = {"base": str(folder / "base"), "run": {"name": "r"}, "data": data, **sections}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(written))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_base_that_is_a_configuration_alone_is_planned(tmp_path: Path) -> None:
    done = run("plan", recipe_on(tmp_path, "llama-8b", sft={"microbatch_size": 2}), "--gpu", "h100-80")
    assert done.exit_code == 0, done.output
    for words in ("weights, bfloat16", "15.0 GiB", "sft", "rm", "ppo", "989.4 TFLOP/s, of which 35%", "peak"):
        assert words in done.output


@pytest.mark.parametrize("base", ["qwen3-8b", "qwen3-32b", "llama-70b"])
def test_json_says_the_same_in_bytes_and_what_to_change(base: str, tmp_path: Path) -> None:
    """What does not fit has advice, in order of cost; the sums are those of their parts."""
    path = recipe_on(tmp_path, base, ppo={"advantage": "rloo", "responses_per_prompt": 4})
    done = run("plan", path, "--gpu", "h100-80", "--json", "--set", "sft.gradient_checkpointing=false")
    assert done.exit_code == 2, done.output
    stages = json.loads(done.output)["stages"]
    for found in stages.values():
        held, passes = (sum(p["size"] for p in found[key]) for key in ("held", "passes"))
        largest = max(part["size"] for part in found["passes"])
        assert found["peak"] == held + largest + found["margin"] < held + passes + found["margin"] + 1
        assert found["fits"] == (found["peak"] <= found["memory"])
        assert bool(found["advice"]) != found["fits"]
    changes = [one["change"] for one in stages["sft"]["advice"]]
    first = {"qwen3-8b": "sft.microbatch_size: 4", "qwen3-32b": "sft.microbatch_size: 1"}
    assert changes[0] == first.get(base, "base.quantize: 4bit")
    if base == "qwen3-32b":
        assert "sft.gradient_checkpointing: true" in changes


def test_cards_that_are_there_share_the_base_before_it_is_rounded(tmp_path: Path) -> None:
    path = recipe_on(tmp_path, "llama-70b")
    asked = load_recipe(path, ["sft.microbatch_size=1"])
    question = Question(
        asked, guard.plan_base(asked.base), guard.limits(asked), of_gpu(find_gpu("h100-80"), 8)
    )
    found = stage_plan(question, "sft")
    (advice,) = advise(question, found)
    assert advice.change == "--gpus 8 --accelerate-config recipes/accelerate/fsdp2.yaml"
    assert advice.fits and advice.saves == found.memory.peak - advice.peak
    assert found.memory.checkpointing  # auto


def test_a_card_that_is_not_known_is_an_error_that_lists_the_known_ones(tmp_path: Path) -> None:
    done = run("plan", recipe_on(tmp_path, "llama-8b"), "--gpu", "h900")
    assert done.exit_code == 2
    assert all(name in done.stderr for name in GPUS)
    assert "mem=48,tflops=181,bandwidth=864" in done.stderr


@pytest.mark.parametrize("text", ["mem=0,tflops=1,bandwidth=1", "mem=1,tflops=2", "mem=x", "mem=1,size=2"])
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="mem=48"):
        find_gpu(text)


def test_a_card_by_its_numbers_and_by_its_drivers_name() -> None:
    gpu = find_gpu("mem=48,tflops=181,bandwidth=864")
    assert (gpu.memory, gpu.flops, gpu.bandwidth) == (48 * 2**30, 181e12, 864e9)
    for device, name in {
        "NVIDIA H100 80GB HBM3": "h100-80",
        "NVIDIA A100-SXM4-40GB": "a100-40",
        "NVIDIA A100-SXM4-80GB": "a100-80",
        "NVIDIA GeForce RTX 4090": "rtx4090-24",
        "NVIDIA L40S": "l40s-48",
        "NVIDIA L4": "l4-24",
    }.items():
        found = like(device)
        assert found is not None and found.name == name
    assert like("Tesla T4") is None


def test_the_quick_start_fits_a_small_card(tmp_path: Path) -> None:
    recipe_on(tmp_path, "smollm2-135m")
    base = f"base.name={tmp_path / 'base'}"
    done = run("plan", ROOT / "recipes" / "quickstart.yaml", "--gpu", "l4-24", "--set", base)
    assert done.exit_code == 0, done.output
    assert "20 of them" in done.output and "50 of them" in done.output


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model_type": "llama", ', "no JSON"),
        ("", "no JSON"),
        (json.dumps({**LLAMA, "hidden_size": "4096"}), "hidden_size"),
        (json.dumps({**LLAMA, "num_attention_heads": 0}), "cannot be read"),
        (json.dumps({**LLAMA, "num_hidden_layers": 0}), "cannot be counted"),
        (json.dumps({"model_type": "foo", "auto_map": {"AutoConfig": "foo.Foo"}}), "trust_remote_code: true"),
    ],
)
def test_a_configuration_that_is_broken_is_named_and_no_bug(config: str, said: str, tmp_path: Path) -> None:
    path = recipe_on(tmp_path, "llama-8b")
    (tmp_path / "base" / "config.json").write_text(config)
    done = run("plan", path, "--gpu", "h100-80")
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert str(tmp_path / "base") in done.stderr and "bug" not in done.stderr and "hub" not in done.stderr


EXPERTS = {
    **{
        key: LLAMA[key]
        for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "dtype")
    },
    **{"hidden_size": 2048, "intermediate_size": 6144, "vocab_size": 32000, "max_position_embeddings": 8192},
}
ODD: dict[str, dict[str, Any]] = {
    "mixtral": {**EXPERTS, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen3-moe": {
        **EXPERTS,
        "model_type": "qwen3_moe",
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "head_dim": 128,
    },
}


@pytest.mark.parametrize("base", ODD)
def test_bases_with_experts_are_planned(base: str, tmp_path: Path) -> None:
    path = recipe_on(tmp_path, "llama-8b", sft={"max_length": 64}, rm={"max_length": 64})
    (tmp_path / "base" / "config.json").write_text(json.dumps(ODD[base]))
    done = run("plan", path, "--gpu", "h200-141", "--set", "ppo.max_response_tokens=64")
    assert done.exit_code == 0, done.output
    assert done.output.count("peak ") == 3


@pytest.mark.parametrize(
    ("config", "attends"),
    [
        (LLAMA, True),
        ({"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2}, False),
        ({"model_type": "qwen3_next", "num_hidden_layers": 4}, False),
        ({"model_type": "gemma3_text", "num_hidden_layers": 6}, True),
    ],
)
def test_rankings_share_a_prompt_behind_attention_alone(
    config: dict[str, Any], attends: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert plan_base(Base(name=str(tmp_path))).attends is attends


def test_more_layers_than_the_base_has_are_refused_as_in_a_stage(tmp_path: Path) -> None:
    done = run("plan", recipe_on(tmp_path, "llama-8b", lora={"layers": 99}), "--gpu", "h100-80")
    assert done.exit_code == 2 and "99" in done.stderr and "32 layers" in done.stderr


def test_a_base_without_a_configuration_is_an_error(tmp_path: Path) -> None:
    path = recipe_on(tmp_path, "llama-8b")
    (tmp_path / "base" / "config.json").unlink()
    done = run("plan", path, "--gpu", "l4-24")
    assert done.exit_code == 2 and "config.json" in done.stderr


@pytest.mark.parametrize(("value", "more"), [("maybe", ""), ("yes", "; write true")])
def test_a_field_that_may_be_auto_says_so(value: str, more: str, tmp_path: Path) -> None:
    path = recipe_on(tmp_path, "llama-8b", rm={"gradient_checkpointing": value})
    done = run("recipe", "show", path)
    assert done.exit_code == 2
    said = f'rm.gradient_checkpointing: expected true or false or auto; got the text "{value}"{more}'
    assert said in done.stderr.replace("\n", " ")


# Stages


def no_loading(*_: object, **__: object) -> None:
    raise AssertionError("the base is loaded")


def test_a_stage_that_cannot_fit_is_refused_before_it_loads(
    tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_recipe(sft={"steps": 1})
    monkeypatch.setattr(guard, "available", lambda: 100_000)
    with monkeypatch.context() as patch:
        patch.setattr(BaseCheckpoint, "load_model", no_loading)
        done = run("sft", path)
        assert done.exit_code == 2, done.output
        for words in ("sft does not fit", "are missing", "sft.microbatch_size: 1", "--anyway"):
            assert words in done.stderr
    done = run("sft", path, "--anyway")
    assert done.exit_code == 0, done.output
    assert (load_recipe(path).run.path / "sft" / "final").is_dir()


def test_a_run_is_refused_before_its_first_stage(
    tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ppo holds more adapters than sft: here sft would fit and ppo never."""
    path = tiny_recipe(lora={"rank": 16, "alpha": 16, "layers": None, "targets": "all-linear"})
    recipe = load_recipe(path)
    asked = Question(recipe, guard.plan_base(recipe.base), guard.limits(recipe), of_gpu(find_gpu("l4-24")))
    held = {stage: stage_memory(asked, stage, True).static for stage in ("sft", "ppo")}
    weights = asked.base.weights(asked.dtype).total
    monkeypatch.setattr(guard, "available", lambda: (held["sft"] + held["ppo"]) // 2 - weights)
    monkeypatch.setattr(BaseCheckpoint, "load_model", no_loading)
    done = run("run", path)
    assert done.exit_code == 2, done.output
    assert "ppo does not fit" in done.stderr
    assert not recipe.run.path.exists()


def test_what_obviously_fits_is_not_counted(
    tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "available", lambda: 2**34)
    monkeypatch.setattr(guard, "stage_plan", no_loading)
    sft.run(load_recipe(tiny_recipe(sft={"steps": 1})))


@pytest.mark.parametrize("said", ["auto", False])
def test_checkpointing_is_on_by_itself_where_it_has_to_be(
    said: object, tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tiny_recipe(
        sft={"steps": 1, "batch_size": 8, "gradient_checkpointing": said},
        lora={"rank": 2, "alpha": 2, "layers": None},
    )
    recipe = load_recipe(path)
    monkeypatch.setattr(machine, "_PROCESS", 0)
    monkeypatch.setattr(guard, "_OBVIOUS", 0.0)
    seen: list[int] = []
    monkeypatch.setattr(
        guard, "advise", lambda *_: seen.append(1) or []
    )  # nothing is refused, so nobody is advised
    peaks: dict[bool, int] = {}

    def remember(asked: Question, stage: Any, checkpointing: bool) -> Any:
        found = stage_memory(asked, stage, checkpointing)
        peaks[checkpointing] = found.peak
        return found

    monkeypatch.setattr(guard, "available", lambda: 2**40)
    monkeypatch.setattr("align.plan.stage.stage_memory", remember)
    config = guard.plan_base(recipe.base).config
    accel = guard.distributed.accelerator(60)
    lengths = guard.limits(recipe)
    told: list[str] = []

    def settle(room: int) -> bool:
        monkeypatch.setattr(guard, "available", lambda: room)
        found = guard.settled(recipe, "sft", config, accel, lengths, told.append)
        return found.sft.gradient_checkpointing is True

    assert settle(2**40) is False and all("counting what it needs" in line for line in told)
    with_it = stage_memory(
        Question(recipe, guard.plan_base(recipe.base), lengths, guard.here(accel.device, 1).machine),
        "sft",
        True,
    ).peak
    room = (peaks[False] + with_it) // 2
    assert settle(room) is (said == "auto")
    words = "gradient checkpointing is on" if said == "auto" else "memory may run out"
    assert any(words in line for line in told)
    assert not seen


def test_memory_of_a_control_group_is_the_limit(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert available(tmp_path) == 2**62  # nothing is said
    write("proc/meminfo", "MemTotal: 99 kB\nMemAvailable: 3000 kB\nSwapFree: 1000 kB\n")
    assert available(tmp_path) == 4000 * 1024
    write("proc/self/cgroup", "0::/\n")
    write("sys/fs/cgroup/memory.max", "max\n")
    assert available(tmp_path) == 4000 * 1024
    write("sys/fs/cgroup/memory.max", "2048000\n")
    write("sys/fs/cgroup/memory.stat", "anon 48000\nfile 2000000\n")
    assert available(tmp_path) == 2_000_000
    write("proc/self/cgroup", "0::/system.slice/job.scope\n")  # the parent is the narrower one
    write("sys/fs/cgroup/system.slice/job.scope/memory.max", "1900000\n")
    write("sys/fs/cgroup/system.slice/job.scope/memory.stat", "anon 10\nshmem 90\n")
    assert available(tmp_path) == 1_899_900
    write("sys/fs/cgroup/system.slice/memory.max", "1500000\n")
    write("sys/fs/cgroup/system.slice/memory.stat", "anon 500000\n")
    assert available(tmp_path) == 1_000_000
    write("proc/self/cgroup", "4:memory:/slurm/job_7\n3:cpuset:/\n")
    write("sys/fs/cgroup/memory/slurm/job_7/memory.limit_in_bytes", "900000\n")
    write("sys/fs/cgroup/memory/slurm/job_7/memory.stat", "rss 1\ntotal_rss 200000\n")
    assert available(tmp_path) == 700_000


def test_accelerate_configurations_say_what_is_shared_out() -> None:
    folder = ROOT / "recipes" / "accelerate"
    found = {path.stem: machine.configured(path) for path in folder.glob("*.yaml")}
    assert found["fsdp2"] == (8, "fsdp2")
    assert found["zero3"] == (8, "zero3")
    assert found["zero2"] == (8, "states")
    assert found["ddp"] == (8, None)


def test_configurations_are_read_as_the_launcher_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "accelerate.yaml"
    text = "compute_environment: LOCAL_MACHINE\nnum_machines: 1\nnum_processes: 2\nuse_cpu: false\n"
    path.write_text(text + "mixed_precision: 'no'\ndistributed_type: NO\n")  # false, for YAML
    assert machine.configured(path) == (2, None)
    path.write_text(text + "mixed_precision: bf16\ndistributed_type: MULTI_GPU\n")
    with pytest.raises(UserError, match="mixed_precision bf16"):
        machine.configured(path)


def test_a_refusal_comes_before_its_advice_and_before_the_data(
    tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the base's weights alone; files in float32 are read as bfloat16, so that their pages are copied."""
    recipe = load_recipe(tiny_recipe(sft={"steps": 1}), ["base.dtype=bfloat16"])
    monkeypatch.setattr(guard, "available", lambda: 10_000)
    seen: list[str] = []

    def advised(*_: object) -> list[Any]:
        seen.append(capsys.readouterr().out)
        return []

    monkeypatch.setattr(guard, "advise", advised)
    monkeypatch.setattr("align.stages.frame.load", no_loading)
    with pytest.raises(UserError, match="sft does not fit"):
        sft.run(recipe)
    assert "sft does not fit: it needs at least" in seen[0]
    with pytest.raises(AssertionError):  # goes on to the data
        sft.run(recipe, anyway=True)
    assert len(seen) == 1


def test_a_limit_that_no_row_can_reach_is_counted_as_the_base_s(tmp_path: Path) -> None:
    """As in the stages, which leave longer records out or refuse them."""
    path = recipe_on(tmp_path, "smollm2-135m", ppo={"max_response_tokens": 64})
    config = json.loads((tmp_path / "base" / "config.json").read_text()) | {"max_position_embeddings": 256}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    done = run("plan", path, "--gpu", "h100-80")
    words = " ".join(done.output.split())
    assert done.exit_code == 0, done.output
    assert "sft.max_length allows 1,024 tokens, and the base reads at most 256" in words
    assert "x 256 tokens" in words
    done = run("plan", path, "--gpu", "h100-80", "--set", "ppo.max_response_tokens=256")
    assert done.exit_code == 2 and "ppo.max_response_tokens is 256" in " ".join(done.stderr.split())
