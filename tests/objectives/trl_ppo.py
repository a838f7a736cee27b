"""One update of TRL 1.12's own PPOTrainer, its tensors written down: FOLDER (that trl lies in) OUTPUT KL.

A script of its own, because the environment has another TRL. KL: the estimator, k1 or k3.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

sys.path.insert(0, sys.argv[1])
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

# What train() has in these variables when it whitens the advantages, and when it takes an update's means.
ROLLOUT = "scores logprobs ref_logprobs values rewards advantages returns padding_mask padding_mask_p1"
UPDATE = "new_logprobs mb_logprobs mb_advantage vpred mb_values mb_return micro_batch_inds"
UPDATE += " pg_loss vf_loss vf_clipfrac"
seen: dict[str, torch.Tensor] = {}


def spy(name: str, wanted: str, result_is: str) -> None:
    """Copy train()'s variables whenever it calls its function `name`, and what that gives."""
    original = getattr(ppo_trainer, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        caller, result = sys._getframe(1), original(*arguments, **options)
        found = {key: caller.f_locals[key] for key in wanted.split() if key in caller.f_locals}
        if caller.f_code.co_name == "train" and len(found) == len(wanted.split()):
            found[result_is] = result
            seen.update({key: torch.as_tensor(value).detach().clone() for key, value in found.items()})
        return result

    setattr(ppo_trainer, name, wrapped)


def model(kind: Any, seed: int, **more: Any) -> Any:
    torch.manual_seed(seed)
    return kind(
        LlamaConfig(
            vocab_size=12,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
            initializer_range=0.6,
            **more,
        )
    )


def main() -> None:
    spy("masked_whiten", ROLLOUT, "whitened")
    spy("masked_mean", UPDATE, "pg_clipfrac")  # train()'s last mean of an update
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    rows = Dataset.from_list([{"input_ids": [2, 3 + i % 8]} for i in range(16)])
    with tempfile.TemporaryDirectory() as folder:
        trainer = PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                total_episodes=16,
                per_device_train_batch_size=16,
                gradient_accumulation_steps=1,
                num_mini_batches=1,
                num_ppo_epochs=2,
                response_length=6,
                temperature=1.0,
                stop_token="eos",
                missing_eos_penalty=0.5,
                kl_coef=0.2,
                kl_estimator=sys.argv[3],
                gamma=0.9,
                lam=0.8,
                learning_rate=0.05,
                num_sample_generations=0,
                gradient_checkpointing=False,
                use_cpu=True,
                bf16=False,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            processing_class=tokenizer,
            model=model(LlamaForCausalLM, 0),
            ref_model=model(LlamaForCausalLM, 1),
            reward_model=model(LlamaForSequenceClassification, 2, num_labels=1),
            value_model=model(LlamaForSequenceClassification, 3, num_labels=1),
            train_dataset=rows,
            eval_dataset=rows,
        )
        trainer.train()
    save_file({key: value.contiguous() for key, value in seen.items()}, sys.argv[2])


main()
