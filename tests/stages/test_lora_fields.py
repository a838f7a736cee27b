"""`use_dora` and `modules_to_save` from stage to stage: what each starts from, scores, says and exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import align, make_recipe, make_tiny_base, write_jsonl
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from align.check.run import check
from align.errors import UserError
from align.loop.policy import Drawing, open_partner
from align.models.batch import collate
from align.ppo import train as ppo
from align.ppo.roles import prepare
from align.recipe.load import load_recipe
from align.recipe.sections import Lora, Recipe
from align.serving.export import export
from align.serving.run import open_run, reward_model
from align.stages import rm, sft
from align.stages.frame import set_up

NEW = "<rated>"
WAYS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True, "targets": r".*\.(q|v)_proj"},
    "saved": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


def base_with_a_new_token(folder: Path) -> Path:
    """The tiny base as a person gives it one token more."""
    make_tiny_base(folder)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [NEW]})
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=list(WAYS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe of a run whose three stages have finished."""
    folder = tmp_path_factory.mktemp(request.param)
    base = base_with_a_new_token(folder / "base")
    path = make_recipe(
        folder,
        base,
        lora=WAYS[request.param],
        sft={"steps": 20, "evaluate_every": 10},
        ppo={"iterations": 2, "evaluate_every": 1, "temperature": 1.0},
    )
    rows = [json.loads(line) for line in (folder / "demonstrations.jsonl").open()]
    write_jsonl(
        folder / "demonstrations.jsonl", [{**row, "response": f"{NEW}{row['response']}"} for row in rows]
    )
    recipe = load_recipe(path)
    for stage in (sft, rm, ppo):
        stage.run(recipe)
    return recipe


def plain(recipe: Recipe, stage: str) -> PeftModel:
    """A stage's adapter on the base, by plain PEFT."""
    base = AutoModelForCausalLM.from_pretrained(recipe.base.name)
    return PeftModel.from_pretrained(base, str(recipe.run.path / stage / "final")).eval()


def whole(recipe: Recipe, stage: str) -> dict[str, Tensor]:
    tensors = load_file(recipe.run.path / stage / "final" / "adapter_model.safetensors")
    return {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}


def lora(recipe: Recipe, stage: str) -> dict[str, Tensor]:
    tensors = load_file(recipe.run.path / stage / "final" / "adapter_model.safetensors")
    return {name: tensor for name, tensor in tensors.items() if ".lora_" in name}


@torch.no_grad()
def logprobs(model: torch.nn.Module, prompt: list[int], response: list[int]) -> Tensor:
    logits = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    return logits[len(prompt) - 1 : -1].gather(1, torch.tensor(response)[:, None])[:, 0]


def test_every_stage_trains_its_own_and_keeps_the_rows_of_sft(run: Recipe) -> None:
    stages = [lora(run, stage) for stage in ("sft", "rm", "ppo")]
    for one, other in zip(stages[:2], stages[1:], strict=True):
        assert one.keys() == other.keys()
        assert all(not torch.equal(one[name], other[name]) for name in one)
    rows = whole(run, "sft")
    assert bool(rows) == bool(run.lora.modules_to_save)
    for stage in ("rm", "ppo"):
        again = whole(run, stage)
        assert rows.keys() == again.keys() and all(torch.equal(rows[name], again[name]) for name in rows)
    if rows:
        new = len(AutoTokenizer.from_pretrained(run.base.name)) - 1
        old = AutoModelForCausalLM.from_pretrained(run.base.name).get_input_embeddings().weight
        table = rows["base_model.model.model.embed_tokens.weight"]
        assert float((table[new] - old[new]).abs().max()) > 0.05


@torch.no_grad()
def test_ppo_starts_at_the_sft_policy_of_plain_peft_and_is_held_to_it(run: Recipe) -> None:
    sft_final, rm_final = (run.run.path / stage / "final" for stage in ("sft", "rm"))
    context = prepare(run, set_up(run), sft_final, rm_final)
    ids = ([20, 21, 22], [23, 24, 25, 1])
    prefix = context.forward.prefix(collate([ids]))
    expected = logprobs(plain(run, "sft"), *ids)
    for role in ("policy", "reference"):
        found, _, _ = context.forward.logprobs(role, prefix, 1.0)
        assert torch.allclose(found[0], expected, atol=1e-5)
    turns = [json.loads(line) for line in (run.run.path / "ppo" / "metrics.jsonl").open()]
    gaps = [turn["engine/logprob_gap"] for turn in turns if "engine/logprob_gap" in turn]
    assert len(gaps) == 2 and max(gaps) < 1e-5
    assert turns[0]["kl/reference"] == pytest.approx(0, abs=1e-6)


@torch.no_grad()
def test_scores_are_those_of_plain_peft_with_the_head(run: Recipe) -> None:
    forward = reward_model(open_run(run.run.path, "rm"))
    ids = ([20, 21, 22], [23, 24, 25, 1])
    found = forward.scores("reward", forward.prefix(collate([ids])))
    states = plain(run, "rm")(torch.tensor([[*ids[0], *ids[1]]]), output_hidden_states=True).hidden_states
    weight = load_file(run.run.path / "rm" / "final" / "head.safetensors")["weight"]
    assert float(found[0]) == pytest.approx(float(states[-1][0, -1] @ weight), abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("stage", ["sft", "rm", "ppo"])
def test_an_export_is_a_plain_checkpoint(stage: Any, run: Recipe, tmp_path: Path) -> None:
    folder = export(run.run.path, stage, tmp_path / "out")
    ids = torch.tensor([[20, 21, 22, 23, 24, 25, 1]])
    if stage == "rm":
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        forward = reward_model(open_run(run.run.path, "rm"))
        own = forward.scores("reward", forward.prefix(collate([([20, 21, 22], [23, 24, 25, 1])])))
        assert torch.allclose(model(ids).logits[0], own, atol=1e-4)
        return
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert torch.allclose(model(ids).logits, plain(run, stage)(ids).logits, atol=1e-4)
    assert model.generate(ids[:, :3], max_new_tokens=4).shape[1] > 3


def test_it_answers(run: Recipe) -> None:
    for stage in ("sft", "ppo"):
        partner = open_partner(run.run.path, stage, Drawing(seed=1))
        assert isinstance(partner.answer([{"role": "user", "content": "the film is"}], 0), str)


def test_a_later_stage_has_the_same_fields(run: Recipe) -> None:
    changed = run.model_copy(
        update={"lora": Lora(**{**run.lora.model_dump(), "use_dora": not run.lora.use_dora})}
    )
    with pytest.raises(UserError, match=r"was trained with lora.use_dora (True|False) \(here (True|False)\)"):
        rm.run(changed.model_copy(update={"run": run.run}), restart=True)


def test_what_the_base_does_not_have_is_one_sentence_before_anything_is_written(
    tiny_base: Path, tmp_path: Path
) -> None:
    path = make_recipe(tmp_path, tiny_base, lora={"targets": r"model\.layer\.\d+\.q_proj"})
    for command in ("check", "sft"):
        done = align(command, path)
        assert done.returncode == 2, done.stdout + done.stderr
        said = " ".join((done.stdout + done.stderr).split())
        assert (
            r"lora.targets: the pattern model\.layer\.\d+\.q_proj matches no linear layer's whole path"
            in said
        )
    assert not (tmp_path / "runs" / "tiny" / "sft").exists()


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        ({"targets": ["q_projj"]}, "lora.targets: the base has no linear layer named q_projj"),
        ({"modules_to_save": ["wte"]}, "lora.modules_to_save: wte is neither"),
        ({"targets": ".*lm_head|.*q_proj"}, "matches the output layer (lm_head)"),
        ({"layers": 9}, "lora.layers is 9, and the base has 4 layers"),
    ],
)
def test_the_check_knows_the_bases_layers(
    lora: dict[str, Any], told: str, tiny_base: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(make_recipe(tmp_path, tiny_base, lora=lora))
    errors = [finding for finding in check(recipe, "r.yaml").findings if finding.severity == "error"]
    assert len(errors) == 1 and told in errors[0].message


def test_a_token_without_a_row_is_found_at_the_start_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tiny_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.add_tokens([NEW])
    tokenizer.save_pretrained(tmp_path / "base")
    rows = len(tokenizer) - 1
    path = make_recipe(tmp_path, tmp_path / "base")
    told = (
        f"the tokenizer has a token beyond the base's {rows} rows of embeddings, such as '{NEW}' (token "
        f"{rows}): a text that needs one is refused. A base gets rows for its tokens by transformers' "
        "resize_token_embeddings; saved with its tokenizer, it learns them in sft by lora.modules_to_save"
    )
    found = {finding.code: finding for finding in check(load_recipe(path), "r.yaml").findings}
    assert found["tokens_without_rows"].message == told
    sft.run(load_recipe(path, ["sft.steps=1"]))
    assert f"sft: {told}" in " ".join(capsys.readouterr().out.split())
    rows_with_it = [{"prompt": f"the film {i}", "response": f" is {NEW}"} for i in range(20)]
    write_jsonl(tmp_path / "demonstrations.jsonl", rows_with_it)
    recipe = load_recipe(path)
    report = check(recipe, "r.yaml")
    assert report.exit_code == 2 and f"'{NEW}' is token {rows}" in str(report.wrong_records)
    with pytest.raises(UserError, match=f"'{NEW}' is token {rows}, and the base has embeddings for {rows}"):
        sft.run(recipe, restart=True)


def test_a_vllm_server_is_not_asked_by_the_command_line_either(run: Recipe) -> None:
    with pytest.raises(UserError, match="engine vllm takes plain LoRA alone, and this run has lora"):
        open_partner(run.run.path, "sft", Drawing(engine="vllm", engine_url=["http://localhost:1"]))


@pytest.mark.parametrize("key", ["use_dora", "modules_to_save"])
def test_four_bits_and_a_vllm_server_take_plain_lora_alone(key: str, tiny_base: Path, tmp_path: Path) -> None:
    lora = {key: True if key == "use_dora" else ["lm_head"]}
    vllm = {"engine": "vllm", "engine_url": "http://localhost:1"}
    path = make_recipe(tmp_path, tiny_base, lora=lora, ppo=vllm)
    with pytest.raises(UserError, match=f"lora.{key}: a vLLM server takes plain LoRA alone"):
        load_recipe(path)
    with pytest.raises(UserError, match=f"lora.{key} does not go with base.quantize"):
        load_recipe(path, ["ppo.engine=hf", "ppo.engine_url=null", "base.quantize=4bit"])
