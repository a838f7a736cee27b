"""Merging: every architecture gives what the unmerged roles gave, read where transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CodeGenConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto import AutoModelForCausalLM

from align.errors import UserError
from align.models.adapters import save_adapter, save_head
from align.models.base import BaseCheckpoint, find_base
from align.models.batch import collate
from align.models.forward import Forward
from align.models.merge import NEW_PAD, check_classifier, merged_policy, merged_reward, set_padding
from align.models.roles import Roles
from align.recipe.sections import Base as BaseSpec

SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "llama": lambda size: LlamaConfig(vocab_size=size, num_key_value_heads=2, **SMALL),
    "qwen2": lambda size: Qwen2Config(vocab_size=size, num_key_value_heads=2, **SMALL),
    "qwen3": lambda size: Qwen3Config(vocab_size=size, num_key_value_heads=2, head_dim=8, **SMALL),
    "gpt2": lambda size: GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": lambda size: GPTNeoXConfig(vocab_size=size, **SMALL),
}
PAIRS = [([5, 6, 7], [8, 9, 1]), ([10], [11, 1]), ([12, 13], [14, 15, 16, 17, 18, 19, 1]), ([20, 21], [22])]


def a_base(tiny_base: Path, folder: Path, kind: str, pad: str | None = "<pad>") -> BaseCheckpoint:
    """A random model of an architecture, with the tiny tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    torch.manual_seed(0)
    config = CONFIGS[kind](len(tokenizer))
    config.initializer_range = 0.2
    config.bos_token_id, config.eos_token_id = None, tokenizer.eos_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.pad_token = pad
    tokenizer.save_pretrained(folder)
    return find_base(BaseSpec(name=str(folder)))


def a_final(base: BaseCheckpoint, folder: Path) -> Forward:
    """An adapter that matters and a reward head, saved as stages save them; returns them unmerged."""
    torch.manual_seed(1)
    roles = Roles(base.load_model(torch.device("cpu")))
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM, r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False
    )
    roles.add("reward", config, trains=True)
    roles.add_head("reward", torch.Generator().manual_seed(2))
    assert roles.peft is not None
    save_adapter(roles.peft, "reward", folder)
    save_head(roles.heads["reward"], folder)
    return Forward(roles)


def expected(forward: Forward) -> torch.Tensor:
    """Each pair's score on its own, without padding."""
    with torch.no_grad():
        rows = [forward.scores("reward", forward.prefix(collate([pair], 0))) for pair in PAIRS]
    return torch.cat(rows)


def plain_scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, side: str) -> torch.Tensor:
    tokenizer.padding_side = side
    batch = tokenizer.pad({"input_ids": [p + r for p, r in PAIRS]}, return_tensors="pt")
    with torch.no_grad():
        return model(**batch).logits[:, 0]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_saved_classifier_scores_padded_batches_as_the_roles_do(
    tiny_base: Path, tmp_path: Path, kind: str
) -> None:
    base = a_base(tiny_base, tmp_path / "base", kind)
    forward = a_final(base, tmp_path / "final")
    set_padding(base.tokenizer)
    merged_reward(base, tmp_path / "final", base.tokenizer).save_pretrained(tmp_path / "out")
    base.tokenizer.save_pretrained(tmp_path / "out")

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    want = expected(forward)
    assert want.std() > 0.1
    got = plain_scores(model, AutoTokenizer.from_pretrained(tmp_path / "out"), "right")
    assert torch.allclose(got, want, atol=1e-4 * float(want.std()))
    # The adapter matters: without it the scores are others.
    bare = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    bare.score.weight.data = model.score.weight.data
    bare.config.pad_token_id = 0
    assert not torch.allclose(plain_scores(bare, base.tokenizer, "right"), want, atol=1e-2)


def test_where_the_padding_stands_does_not_matter(tiny_base: Path, tmp_path: Path) -> None:
    base = a_base(tiny_base, tmp_path / "base", "llama")
    want = expected(a_final(base, tmp_path / "final"))
    set_padding(base.tokenizer)
    model = merged_reward(base, tmp_path / "final", base.tokenizer)
    for side in ("left", "right"):
        assert torch.allclose(plain_scores(model, base.tokenizer, side), want, atol=1e-4 * float(want.std()))


def test_a_base_that_pads_with_eos_gets_another_padding_token(tiny_base: Path, tmp_path: Path) -> None:
    """With pad == eos transformers would read the score one token early; here all but one row end so."""
    base = a_base(tiny_base, tmp_path / "base", "gpt2", pad="<eos>")
    want = expected(a_final(base, tmp_path / "final"))
    rows = merged_policy(base, tmp_path / "final").get_input_embeddings().weight.shape[0]
    chosen = set_padding(base.tokenizer)
    assert chosen == "<pad>"  # a special token that nothing uses: no new one is needed
    model = merged_reward(base, tmp_path / "final", base.tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == rows
    assert torch.allclose(plain_scores(model, base.tokenizer, "right"), want, atol=1e-4 * float(want.std()))
    model.config.pad_token_id = base.tokenizer.eos_token_id
    assert not torch.allclose(plain_scores(model, base.tokenizer, "right"), want, atol=1e-2)


def without_specials(tiny_base: Path, folder: Path) -> PreTrainedTokenizerBase:
    """The tiny tokenizer in which EOS is the only special token, as GPT-2's."""
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["added_tokens"] = [token for token in raw["added_tokens"] if token["content"] == "<eos>"]
    path.write_text(json.dumps(raw))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["pad_token"] = "<eos>"
    config.pop("added_tokens_decoder", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return AutoTokenizer.from_pretrained(folder)


def test_a_base_without_a_spare_token_gets_a_new_one(tiny_base: Path, tmp_path: Path) -> None:
    base = a_base(tiny_base, tmp_path / "base", "gpt2")
    want = expected(a_final(base, tmp_path / "final"))
    tokenizer = without_specials(tiny_base, tmp_path / "tokenizer")
    size = len(tokenizer)
    assert set_padding(tokenizer) == NEW_PAD
    assert tokenizer.pad_token_id == size
    model = merged_reward(base, tmp_path / "final", tokenizer)
    model.save_pretrained(tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert loaded.config.vocab_size == size + 1
    assert torch.allclose(plain_scores(loaded, tokenizer, "right"), want, atol=1e-4 * float(want.std()))


@pytest.mark.parametrize(
    ("specials", "template", "chosen"),
    [
        (["<|im_start|>", "<|fim_pad|>", "<|reserved_2|>"], None, "<|fim_pad|>"),
        (["<|im_start|>", "<|reserved_1|>", "<|reserved_2|>", "<image>"], None, "<|reserved_2|>"),
        (["<|im_start|>", "<repo>", "<empty>"], None, "<empty>"),
        (["<|im_start|>", "<repo>", "<empty>"], "{{ '<empty>' }}{{ '<repo>' }}", "<|im_start|>"),
    ],
)
def test_the_most_obscure_special_token_becomes_padding(
    tiny_base: Path, tmp_path: Path, specials: list[str], template: str | None, chosen: str
) -> None:
    tokenizer = without_specials(tiny_base, tmp_path)
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    tokenizer.chat_template = template
    assert set_padding(tokenizer) == chosen
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_an_architecture_without_a_classifier_is_refused(tmp_path: Path, tiny_base: Path) -> None:
    config, tokenizer = (
        CodeGenConfig(n_embd=32, n_layer=1, n_head=2),
        AutoTokenizer.from_pretrained(tiny_base),
    )
    base = BaseCheckpoint(BaseSpec(name=str(tmp_path)), tmp_path, config, tokenizer, "")
    with pytest.raises(UserError, match="no sequence classifier for codegen models"):
        check_classifier(base)
