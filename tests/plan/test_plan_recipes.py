"""`align plan` on recipes of every kind: what it counts, what it says that it leaves out, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from typer.testing import CliRunner, Result

from align.cli.app import app

SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 2048,
}
LENGTHS: dict[str, Any] = {
    "sft": {"max_length": 64},
    "rm": {"max_length": 64, "microbatch_tokens": 512},
    "ppo": {"max_prompt_tokens": 32, "max_response_tokens": 32, "microbatch_tokens": 512},
}
DATA = {"demonstrations": "d.jsonl", "rankings": "r.jsonl", "prompts": "p.jsonl"}


def planned(folder: Path, *arguments: object, config: Any = SMALL, **sections: Any) -> Result:
    """`align plan` on a base of which the configuration alone is there."""
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "config.json").write_text(json.dumps(config))
    written = {"base": {"name": str(folder / "base")}, "run": {"name": "r"}, "data": DATA, **LENGTHS}
    for name, fields in sections.items():
        written[name] = fields if name == "data" else {**written.get(name, {}), **fields}
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(written))
    named = [] if "--gpu" in arguments else ["--gpu", "l4-24"]
    return CliRunner().invoke(app, ["plan", str(path), *named, *map(str, arguments)])


def document(folder: Path, *arguments: object, **more: Any) -> Any:
    done = planned(folder, "--json", *arguments, **more)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def size(stage: Any, who: str, what: str) -> int:
    return sum(part["size"] for part in stage["held"] if part["who"] == who and part["what"].startswith(what))


# How many GPUs


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (1000, "sft.batch_size is 16, which 1000 processes cannot share evenly: make it a multiple of 1000"),
        (3, "sft.batch_size is 16, which 3 processes cannot share evenly: make it a multiple of 3"),
        (0, "greater than or equal to 1"),
        (-1, "greater than or equal to 1"),
    ],
)
def test_a_count_of_gpus_that_no_stage_would_start_on_is_refused(
    count: int, said: str, tmp_path: Path
) -> None:
    done = planned(tmp_path, "--gpus", count)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


def test_any_count_that_shares_the_batches_is_planned(tmp_path: Path) -> None:
    batches = {
        "sft": {"batch_size": 6},
        "rm": {"batch_size": 3},
        "ppo": {"rollout_batch_size": 96, "minibatch_size": 48},
    }
    assert document(tmp_path, "--gpus", 3, **batches)["machine"]["processes"] == 3


def test_an_uneven_microbatch_is_refused_as_in_the_stage(tmp_path: Path) -> None:
    done = planned(tmp_path, "--gpus", 4, sft={"microbatch_size": 3})
    assert done.exit_code == 2 and "does not divide the 4 demonstrations" in done.stderr


# Bases


BERT = {
    "model_type": "bert",
    "architectures": ["BertForMaskedLM"],
    "hidden_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "vocab_size": 300,
}
T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 64, "num_layers": 2}


@pytest.mark.parametrize(
    ("config", "said"), [(BERT, "reads a text in both directions"), (T5, "is an encoder-decoder (t5)")]
)
def test_a_base_that_is_no_causal_language_model_is_refused_as_by_align_check(
    config: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Before anything else: not for its positions, though there are too few of them too."""
    done = planned(tmp_path, config=config, sft={"max_length": 1024})
    assert done.exit_code == 2
    assert said in done.stderr and "causal language model" in done.stderr
    assert done.stderr.count("error:") == 1 and isinstance(done.exception, SystemExit)


def test_a_state_space_base_is_planned_and_the_plan_says_how(tmp_path: Path) -> None:
    config = {
        "model_type": "mamba",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "state_size": 4,
        "vocab_size": 300,
    }
    found = document(tmp_path, config=config, lora={"rank": 4})
    assert set(found["stages"]) == {"sft", "rm", "ppo"}
    assert any("layers of mamba are not all attention" in note for note in found["notes"])


MIXTRAL = {**SMALL, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}


def test_four_bits_leave_experts_whole_and_the_plan_says_so(tmp_path: Path) -> None:
    """bitsandbytes changes linear layers; experts are one tensor a layer, which nothing changes."""
    whole = document(tmp_path, config=MIXTRAL)
    four = document(tmp_path, config=MIXTRAL, base={"quantize": "4bit"})
    assert not any("are experts" in note for note in whole["notes"])
    assert any("are experts" in note and "stay in bfloat16" in note for note in four["notes"])
    experts = 4 * 8 * 3 * 64 * 128 * 2  # layers, experts, matrices, in bfloat16
    assert experts < size(four["stages"]["sft"], "base", "weights") < 1.1 * experts
    matrix = 64 * 64 * 2  # the largest in four bits, which is whole while it multiplies
    passes = [[p["size"] for p in each["stages"]["rm"]["passes"]] for each in (whole, four)]
    assert [b - a for a, b in zip(*passes, strict=True)] == [matrix]


# Rankings


def rankings(folder: Path, responses: int, count: int = 5) -> Path:
    rows = [
        {
            "prompt": f"{n}?",
            "responses": [f"{n} {k}" for k in range(responses)],
            "ranks": [*range(1, responses), None],  # the last is not ranked
        }
        for n in range(count)
    ]
    path = folder / "rankings.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_rankings_have_as_many_responses_as_their_file_says(tmp_path: Path) -> None:
    def of(responses: int) -> Any:
        return document(tmp_path, data={**DATA, "rankings": str(rankings(tmp_path, responses))})

    nine, two = of(10), of(3)
    assert any("rm: 9 responses a ranking, and 9 at the most" in note for note in nine["notes"])
    assert "(32 + 9 x 32)" in nine["stages"]["rm"]["passes"][0]["what"]
    assert "5 x (32 + 2 x 32)" in two["stages"]["rm"]["passes"][0]["what"]
    tokens = [32 * (1 + responses) for responses in (9, 2)]
    flops = [each["stages"]["rm"]["time"]["flops"] for each in (nine, two)]
    assert tokens[0] / tokens[1] < flops[0] / flops[1] < 1.5 * tokens[0] / tokens[1]  # and attention


def test_where_rankings_cannot_be_read_the_plan_says_what_is_assumed(tmp_path: Path) -> None:
    for source in ("nobody/rankings", "r.jsonl"):
        found = document(tmp_path, data={**DATA, "rankings": source})
        (note,) = [note for note in found["notes"] if note.startswith("rm:")]
        assert "4 responses a ranking, and 16 at the most, are assumed" in note and source in note


# Sections that are there or not, and what is elsewhere


def test_sections_that_a_recipe_leaves_out_have_their_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(LENGTHS, "rm")
    monkeypatch.delitem(LENGTHS, "ppo")
    found = document(tmp_path, data={"demonstrations": "d.jsonl"})["stages"]
    assert found["sft"]["passes"][0]["what"] == "16 x 64 tokens"
    assert "(512 + 7 x 512) tokens" in found["rm"]["passes"][0]["what"]
    assert any("(512 + 256) tokens" in part["what"] for part in found["ppo"]["passes"])


def test_rewards_from_elsewhere_have_no_adapter_and_are_named(tmp_path: Path) -> None:
    others = {"rewards": [{"url": "http://localhost:1/score"}, {"function": "mine:own"}]}
    more = {"value_init": "policy", "engine": "vllm", "engine_url": "http://localhost:2"}
    found = document(tmp_path, ppo={**others, **more})
    ppo = found["stages"]["ppo"]
    assert {p["who"] for p in ppo["held"] if p["what"] == "adapter"} == {"policy", "value", "reference"}
    assert not any(p["who"] == "sampling" for p in ppo["passes"])
    assert any("functions and services of ppo.rewards" in note for note in found["notes"])
    assert any("vLLM server's" in note for note in found["notes"])
    assert any("paged" in note for note in document(tmp_path, ppo={"engine": "paged"})["notes"])


def test_embeddings_that_train_are_counted(tmp_path: Path) -> None:
    found = document(tmp_path, lora={"modules_to_save": ["embed_tokens", "lm_head"]})
    words = 2 * 300 * 64 * 4
    sft = found["stages"]["sft"]
    assert size(sft, "policy", "embeddings that train") == words
    assert size(sft, "policy", "gradients") == words + size(sft, "policy", "adapter")


@pytest.mark.parametrize("name", ["fsdp2", "zero3", "zero2", "ddp"])
def test_what_an_accelerate_configuration_shares_out(name: str, tmp_path: Path) -> None:
    """Layers by FSDP2 and ZeRO-3; embeddings, output layer and adapters are whole on each of eight."""
    config = ROOT / "recipes" / "accelerate" / f"{name}.yaml"
    alone = document(tmp_path)["stages"]["rm"]
    found = document(tmp_path, "--accelerate-config", config)["stages"]["rm"]
    layer = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64)  # bytes in bfloat16
    words = 2 * (2 * 300 * 64 + 64)
    if name in ("fsdp2", "zero3"):
        assert size(found, "base", "layers, a part of 8") == 4 * layer // 8
        assert size(found, "base", "embeddings and output layer") == words
        assert size(found, "base", "two layers put together") == 2 * layer
    else:
        assert size(found, "base", "weights") == 4 * layer + words
    parts = 1 if name == "ddp" else 8
    assert size(found, "reward", "optimizer") == size(alone, "reward", "optimizer") // parts
    assert size(found, "reward", "adapter") == size(alone, "reward", "adapter")


# What is sent


def test_what_gpus_send_each_other_is_in_the_plan(tmp_path: Path) -> None:
    """Gradients in float32 by a ring, 2 (n - 1) / n of them; with FSDP2 also parameters and layers."""
    assert document(tmp_path)["stages"]["sft"]["sent"] == 0
    copies = document(tmp_path, "--gpus", 4)["stages"]["sft"]
    gradients = size(copies, "policy", "gradients")
    assert copies["sent"] == 2 * 3 / 4 * gradients
    config = ROOT / "recipes" / "accelerate" / "fsdp2.yaml"
    shards = document(tmp_path, "--gpus", 4, "--accelerate-config", config, sft={"microbatch_size": 2})
    layers = 4 * 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64)
    # Two microbatches of two demonstrations, in each all layers twice: forward and backward.
    sent = 3 / 4 * (2 * gradients + gradients + 2 * 2 * layers)
    assert shards["stages"]["sft"]["sent"] == pytest.approx(sent)
    assert "by each process in each step" in planned(tmp_path, "--gpus", 4).output
