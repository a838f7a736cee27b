"""align export: plain transformers and PEFT, without our own forward pass, are the judges."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, make_recipe, make_tiny_base, write_jsonl
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from align.cli.app import app
from align.errors import AlignError, MissingStage, UserError
from align.recipe.load import load_recipe
from align.serving import export as module
from align.serving.export import export
from align.stages import sft

PROMPT, RESPONSES = "the film is", [" good and bright", " dull", " old and tired and loud"]


def by_hand(run: Path, base: Path, stage: str = "rm") -> Any:
    """The stage's model as PEFT loads it, and the ids of PROMPT with each response."""
    final = run / stage / "final"
    tokenizer = AutoTokenizer.from_pretrained(final)
    rows = [
        tokenizer(PROMPT).input_ids + tokenizer(r).input_ids + [tokenizer.eos_token_id] for r in RESPONSES
    ]
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(final)).eval(), rows


def scores_by_hand(run: Path, base: Path) -> list[float]:
    model, rows = by_hand(run, base)
    weight = load_file(run / "rm" / "final" / "head.safetensors")["weight"]
    with torch.no_grad():
        hidden = [
            model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[-1] for row in rows
        ]
    return [float(h[0, -1] @ weight) for h in hidden]


def snippet_scores(folder: Path) -> list[float]:
    """What the page's first snippet gives for PROMPT and RESPONSES."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)[0]
    code = code.replace('"runs/quickstart/export/rm"', repr(str(folder)))
    code = re.sub(r"(?m)^prompt = .*$", f"prompt = {PROMPT!r}", code)
    code = re.sub(r"(?m)^responses = .*$", f"responses = {RESPONSES!r}", code)
    space: dict[str, Any] = {"print": lambda *_: None}
    exec(code, space)
    scores: list[float] = space["scores"]
    return scores


def digest(folder: Path) -> str:
    parts = [p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def test_the_page_s_snippet_gives_the_run_s_scores(
    finished_run: Path, tiny_base: Path, tmp_path: Path
) -> None:
    before = digest(tiny_base), digest(finished_run)
    folder = export(finished_run, "rm", tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {"0": "score"}
    assert config["dtype"] == "float32"
    want = scores_by_hand(finished_run, tiny_base)
    assert max(want) - min(want) > 0.01
    assert snippet_scores(folder) == pytest.approx(want, abs=1e-4 * (max(want) - min(want)))
    assert (digest(tiny_base), digest(finished_run)) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_pipeline_gives_the_score_itself(finished_run: Path, tiny_base: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    folder = export(finished_run, "rm", tmp_path / "out")
    texts = [PROMPT + response + "<eos>" for response in RESPONSES]
    found = pipeline("text-classification", model=str(folder), device="cpu")(texts, batch_size=3)
    assert [row["label"] for row in found] == ["score"] * 3
    want = scores_by_hand(finished_run, tiny_base)
    assert [row["score"] for row in found] == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_policy_becomes_a_plain_causal_model(
    finished_run: Path, tiny_base: Path, tmp_path: Path, stage: Any
) -> None:
    folder = export(finished_run, stage, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    theirs, rows = by_hand(finished_run, tiny_base, stage)
    bare = AutoModelForCausalLM.from_pretrained(tiny_base).eval()
    ids = torch.tensor([rows[0]])
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, theirs(ids).logits, atol=1e-4)
        assert not torch.allclose(model(ids).logits, bare(ids).logits, atol=1e-2)
    assert not list(folder.glob("adapter*"))
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<eos>"


def test_bfloat16_is_half_as_large_and_told(
    finished_run: Path, tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, half = (export(finished_run, "rm", tmp_path / d, d) for d in ("float32", "bfloat16"))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert 0.4 < sizes[1] / sizes[0] < 0.6
    assert "LlamaForSequenceClassification, bfloat16" in capsys.readouterr().err
    notes = [json.loads((folder / "align_export.json").read_text())["proof"] for folder in (whole, half)]
    assert notes[0]["largest_difference"] < 1e-4 * notes[0]["standard_deviation"]
    assert notes[1]["largest_difference"] > notes[0]["largest_difference"]
    assert notes[0]["texts"] == "of held-out rankings"
    assert notes[0]["responses"] > 5


def test_probes_are_built_in_texts_where_the_data_are_gone(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("rankings.jsonl", "gone.jsonl"))
    export(run, "rm")
    note = json.loads((run / "export" / "rm" / "align_export.json").read_text())
    assert note["proof"]["texts"].startswith("built-in texts")


def test_an_export_that_scores_differently_is_an_error_and_leaves_nothing(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(*arguments: Any) -> Any:
        model = merged(*arguments)
        model.score.weight.data[0, 0] += 0.01
        return model

    merged = module.merged_reward
    monkeypatch.setattr(module, "merged_reward", spoiled)
    with pytest.raises(AlignError, match="does not give what the run's own model gives"):
        export(finished_run, "rm", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_padding_with_eos_would_be_noticed(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pad_with_eos(tokenizer: Any) -> str:
        tokenizer.pad_token = tokenizer.eos_token
        return str(tokenizer.pad_token)

    monkeypatch.setattr(module, "set_padding", pad_with_eos)
    with pytest.raises(AlignError, match="does not give"):
        export(finished_run, "rm", tmp_path / "out")


def test_a_folder_that_is_not_empty_is_left_alone(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    with pytest.raises(UserError, match="is not empty"):
        export(finished_run, "rm", tmp_path / "mine")
    with pytest.raises(UserError, match="is not a folder"):
        export(finished_run, "rm", tmp_path / "file")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["note.txt"]
    (tmp_path / "empty").mkdir()
    assert (export(finished_run, "rm", tmp_path / "empty") / "model.safetensors").is_file()


def test_a_base_that_was_moved_is_named_and_another_one_refused(
    finished_run: Path, tiny_base: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    assert str(tiny_base) in recipe
    (run / "recipe.yaml").write_text(recipe.replace(str(tiny_base), str(tmp_path / "gone")))
    with pytest.raises(UserError, match="name it with --base"):
        export(run, "rm")
    make_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="another base"):
        export(run, "rm", base=tmp_path / "other")
    moved = shutil.copytree(tiny_base, tmp_path / "moved")
    assert export(run, "rm", base=moved) == run / "export" / "rm"


def test_what_is_no_finished_run_is_told_with_its_exit_code(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "rm")
    with pytest.raises(MissingStage, match="rm has not run in .*: run `align rm"):
        export(run, "rm")
    for folder, says in (
        (tmp_path, "holds no recipe.yaml"),
        (tmp_path / "nowhere", "no such folder"),
        (run / "ppo", "is a stage's folder: name the run's"),
    ):
        with pytest.raises(UserError, match=says):
            export(folder, "rm")
    result = CliRunner().invoke(app, ["export", str(run)])
    assert result.exit_code == 3
    altered = run / "ppo" / "final" / "adapter_config.json"
    altered.write_text(altered.read_text() + " ")
    with pytest.raises(UserError, match="is not what ppo wrote"):
        export(run, "ppo")


def test_the_recipe_of_a_later_command_does_not_change_what_an_earlier_stage_was(
    finished_run: Path, tmp_path: Path
) -> None:
    """recipe.yaml is the last command's: the adapter's own shape is in the stage's manifest."""
    run = shutil.copytree(finished_run, tmp_path / "run")
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(re.sub(r"rank: \d+", "rank: 64", recipe))
    assert export(run, "rm").is_dir()


def _chat_base(folder: Path) -> Path:
    """The tiny base, whose tokenizer ends with <|im_end|> and whose configurations say <|endoftext|>."""
    make_tiny_base(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|im_end|>"]})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.eos_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    model.generation_config.eos_token_id = [model.config.eos_token_id, tokenizer.convert_tokens_to_ids("!")]
    model.save_pretrained(folder)
    return folder


def test_a_policy_stops_where_training_stopped_whatever_the_base_calls_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _chat_base(tmp_path / "base")
    rows = [{"prompt": words, "response": " old"} for words in ("the film", "a plot", "the music", "two")]
    write_jsonl(tmp_path / "one.jsonl", rows)
    (tmp_path / "work").mkdir()
    fields = ["sft.steps=40", f"data.demonstrations.train={tmp_path}/one.jsonl", "data.template=chat"]
    recipe = load_recipe(make_recipe(tmp_path / "work", base), [*fields, "data.demonstrations.held_out=0"])
    sft.run(recipe)
    told = capsys.readouterr()
    assert "sft: responses end with '<|im_end|>' (token 321), the tokenizer's EOS" in told.out
    assert "'<|endoftext|>' (token 320) and '!' (token" in told.out
    assert "which the base's configuration names, ends none" in told.out
    folder = export(recipe.run.path, "sft")
    said = "plain generate() stops where the run's own sampler does: at '<|im_end|>'"
    assert said in capsys.readouterr().err.replace("\n", " ")
    tokenizer, model = (auto.from_pretrained(folder) for auto in (AutoTokenizer, AutoModelForCausalLM))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / name).read_text())["eos_token_id"] == end
    messages = [{"role": "user", "content": "the film"}]
    asked = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**asked, do_sample=False, max_new_tokens=20)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(written) == " old<|im_end|>"
    # As PEFT loads it, with the README's argument; and without: the base's configuration is not ours.
    peft = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base), str(recipe.run.path / "sft" / "final")
    ).eval()
    for given, count in (({"eos_token_id": tokenizer.eos_token_id}, len(written)), ({}, 20)):
        output = peft.generate(**asked, do_sample=False, max_new_tokens=20, **given)
        assert output.shape[1] - asked["input_ids"].shape[1] == count
    # The proof sees an export that would not stop, or too soon.
    monkeypatch.setattr(module, "set_end", lambda model, base: None)
    with pytest.raises(AlignError, match=r"plain generate\(\) on the export does not stop where the run's"):
        export(recipe.run.path, "sft", tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
