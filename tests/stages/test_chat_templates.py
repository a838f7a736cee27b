"""A recipe's chat template through check, stages, resuming, lineage and export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chat_templates
import pytest
from conftest import align, make_recipe, write_jsonl
from sentencepiece_like import metaspace
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from align.check.result import Report
from align.check.run import check
from align.errors import UserError
from align.loop.policy import Drawing, open_partner
from align.recipe.load import load_recipe
from align.run.lineage import as_trained
from align.serving.export import export
from align.stages import sft

OFF = {"enable_thinking": False}


def thinking_base(tiny_base: Path, folder: Path, template: Any = chat_templates.QWEN3) -> Path:
    """The tiny base with this chat template."""
    shutil.copytree(tiny_base, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    return folder


def recipe_of(tmp_path: Path, base: Path, **data: Any) -> Path:
    return make_recipe(tmp_path, base, data={"template": "chat", **data}, ppo={"max_prompt_tokens": 128})


def codes(report: Report) -> dict[str, str]:
    return {finding.code: finding.message for finding in report.findings}


def test_what_the_recipe_gives_is_trained_resumed_and_exported(tmp_path: Path, tiny_base: Path) -> None:
    base = thinking_base(tiny_base, tmp_path / "base")
    recipe = recipe_of(tmp_path, base, chat_template_kwargs=OFF)
    first = align("sft", recipe, "--set", "sft.steps=2")
    assert first.returncode == 0, first.stderr
    assert 'the chat template is given {"enable_thinking": false} everywhere' in first.stdout + first.stderr
    assert "the generation prompt has a thought that is closed" in first.stdout + first.stderr
    run = tmp_path / "runs" / "tiny"
    manifest = json.loads((run / "sft" / "manifest.json").read_text())
    assert manifest["recipe"]["data"]["chat_template_kwargs"] == OFF

    changed = align("sft", recipe, "--set", "sft.steps=2", "--set", "data.chat_template_kwargs=null")
    assert changed.returncode == 2
    on = "data.chat_template_kwargs={enable_thinking: true}"
    changed = align("sft", recipe, "--set", "sft.steps=2", "--set", on)
    assert changed.returncode == 2
    assert "data.chat_template_kwargs.enable_thinking: was false, is true" in changed.stderr
    later = align("rm", recipe, "--set", "sft.steps=2", "--set", on)
    assert later.returncode == 2
    assert "another data.chat_template_kwargs: {'enable_thinking': False}" in later.stderr

    trained, _ = as_trained(run, "sft")
    assert trained.data.chat_template_kwargs == OFF
    partner = open_partner(run, "sft", Drawing(max_tokens=3))
    text = partner.policy.setup.template.prompt_text(partner.policy.setup.template.prompt_ids("Hi"))
    assert text.endswith("<think>\n\n</think>\n\n")

    folder = export(run, "sft", tmp_path / "out")
    note = json.loads((folder / "align_export.json").read_text())
    assert (note["chat_template_kwargs"], note["template_name"]) == (OFF, None)
    for place in (folder, run / "sft" / "final"):
        asked = AutoTokenizer.from_pretrained(place).apply_chat_template(
            [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
        )
        assert asked == text


def test_other_kwargs_are_tokenised_anew(tmp_path: Path, tiny_base: Path) -> None:
    base = thinking_base(tiny_base, tmp_path / "base")
    lengths, kept = [], []
    for kwargs in ({}, OFF, {}):
        report = check(load_recipe(recipe_of(tmp_path, base, chat_template_kwargs=kwargs)), "r.yaml")
        lengths.append([part.lengths.prompt.max for part in report.sets if part.lengths])
        kept.append(len(list((tmp_path / "cache" / "tokens").glob("*.arrow"))))
    assert lengths[0] == lengths[2]
    assert lengths[0] != lengths[1]
    assert kept[0] < kept[1] == kept[2]


def test_check_says_what_a_stage_says(tmp_path: Path, tiny_base: Path) -> None:
    base = thinking_base(tiny_base, tmp_path / "base", chat_templates.R1)
    found = codes(check(load_recipe(recipe_of(tmp_path, base)), "r.yaml"))
    assert found["chat_template"].startswith("the generation prompt opens a thought ('<think>\\n')")
    assert "(" in found["answer_does_not_follow"]
    assert "right behind the generation prompt ('<|Assistant|><think>\\n')" in found["answer_does_not_follow"]
    assert "all of it" not in found
    assert "reasoning_never_ends" in found


@pytest.mark.parametrize(
    ("template", "data", "says"),
    [
        (
            chat_templates.QWEN3,
            {"chat_template_kwargs": {"enable_thinkin": False}},
            "Is `enable_thinking` meant?",
        ),
        (chat_templates.QWEN3, {"template_name": "rag"}, "one chat template, without a name"),
        ({"default": "a", "rag": "b"}, {"template_name": "rga"}, "'rga'; it has default, rag"),
        ({"one": "a", "two": "b"}, {}, "has the chat templates one, two, and none is called 'default'"),
    ],
)
def test_what_a_base_does_not_have_is_an_error_of_the_check(
    tmp_path: Path, tiny_base: Path, template: Any, data: dict[str, Any], says: str
) -> None:
    base = thinking_base(tiny_base, tmp_path / "base", template)
    recipe = recipe_of(tmp_path, base, **data)
    report = check(load_recipe(recipe), "r.yaml")
    assert report.exit_code == 2
    assert says in codes(report)["template"]
    with pytest.raises(UserError) as caught:
        sft.run(load_recipe(recipe))
    assert says in str(caught.value)
    assert not (tmp_path / "runs" / "tiny" / "sft").exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"template": "plain", "chat_template_kwargs": OFF}, "chat_template_kwargs is for `template: chat`"),
        ({"template": "plain", "template_name": "rag"}, "template_name is for `template: chat`"),
        (
            {"chat_template_kwargs": {"enable_thinking": "off"}},
            'enable_thinking: got the text "off", which a chat template takes for true; write false',
        ),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize: this is align's own"),
    ],
)
def test_what_a_recipe_cannot_say_is_refused(tmp_path: Path, tiny_base: Path, data: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(recipe_of(tmp_path, tiny_base, **data))
    assert says in str(caught.value)


def test_a_value_that_json_does_not_have_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    with pytest.raises(UserError, match="as JSON has them"):
        load_recipe(recipe_of(tmp_path, tiny_base), ["data.chat_template_kwargs={x: .inf}"])


def llama_like(tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_a_base_whose_texts_begin_with_a_space_goes_through_the_stages(tmp_path: Path, template: str) -> None:
    """Llama 2's kind: what is trained is the text, and what is sampled is told as it is."""
    from align.ppo import train as ppo
    from align.stages import rm

    base = llama_like(metaspace(chat=chat_templates.LLAMA2), tmp_path / "base")
    recipe = load_recipe(
        make_recipe(
            tmp_path,
            base,
            data={"template": template},
            ppo={"iterations": 1, "max_prompt_tokens": 64, "samples_every": 1},
            sft={"steps": 2},
            rm={"steps": 2},
        )
    )
    report = check(recipe, "r.yaml")
    assert report.exit_code == 0
    assert not {"not_verbatim", "straddles"} & codes(report).keys()
    for stage in (sft, rm, ppo):
        stage.run(recipe)
    folder = export(recipe.run.path, "ppo", tmp_path / "out")
    note = json.loads((folder / "align_export.json").read_text())
    assert note["written_around_a_response"] == ([" ", " "] if template == "chat" else ["", ""])


def test_texts_that_a_tokenizer_changes_are_counted_with_the_first(
    tmp_path: Path, tiny_recipe: Callable[..., Path]
) -> None:
    from sentencepiece_like import unigram

    base = llama_like(unigram(lossy=True), tmp_path / "base")
    rows = [{"prompt": f"the film {i}", "response": " warm" if i else " a\nb"} for i in range(4)]
    recipe = tiny_recipe()
    write_jsonl(tmp_path / "demonstrations.jsonl", rows)
    document = json.loads(recipe.read_text())
    document["base"]["name"] = str(base)
    document["data"] = {
        "template": "plain",
        "demonstrations": {"train": "demonstrations.jsonl", "held_out": 0.0},
    }
    recipe.write_text(json.dumps(document))
    report = check(load_recipe(recipe), "r.yaml")
    (finding,) = [one for one in report.findings if one.code == "not_verbatim"]
    assert finding.severity == "warning"
    assert finding.message.startswith("1 text has tokens that are not its bytes")
    assert "' a\\nb' becomes ' a b'" in finding.message
    assert "demonstrations.jsonl:1" in finding.examples[0]


def test_responses_that_a_token_straddles_are_counted_with_the_first(tmp_path: Path, tiny_base: Path) -> None:
    base = thinking_base(tiny_base, tmp_path / "base", chat_templates.ZEPHYR)
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["ĊĊ"] = len(vocabulary)
    tokenizer["model"]["merges"].append(["Ċ", "Ċ"])
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"vocab_size": 400}))
    recipe = recipe_of(tmp_path, base, rankings=None, prompts=None)
    rows = [{"prompt": "Hi", "response": "\n\nYes"}, {"prompt": "Ho", "response": "No"}]
    write_jsonl(tmp_path / "demonstrations.jsonl", rows)
    report = check(load_recipe(recipe, ["data.demonstrations.held_out=0.0"]), "r.yaml")
    (finding,) = [one for one in report.findings if one.code == "straddles"]
    assert finding.message.startswith("1 response has a first token that the chat template's own text has")
    assert "('\\n\\nYes')" in finding.message
