"""Our mathematics against other people's code, where it is installed; otherwise the test is skipped.

TRL >= 1.13 has the reward trainer, TRL 1.12 had a PPO, torchtune has PPO's parts.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from align.objectives import gae as our_gae
from align.objectives import masked, ppo
from align.objectives.bradley_terry import batch_loss, pair_accuracy

MASK = torch.arange(6) < torch.tensor([6, 1, 4]).unsqueeze(1)


def random(*seeds: int) -> list[Tensor]:
    return [torch.randn(3, 6, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]


def reward_trainer(folder: Path, rows: list[dict[str, Any]], centering_coef: float) -> Any:
    """TRL's own trainer on a tiny random Llama with a scalar head."""
    trl = pytest.importorskip("trl", reason="TRL is not installed")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "a": 2}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=32,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_labels=1,
            pad_token_id=0,
            initializer_range=0.5,
        )
    )
    args = trl.RewardConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        center_rewards_coefficient=centering_coef or None,
    )
    return trl.RewardTrainer(
        model=model, args=args, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer
    )


@pytest.mark.parametrize("margins", [None, [0.5, 0.0, 2.0]])
@pytest.mark.parametrize("centering_coef", [0.0, 0.3])
def test_pairs_cost_what_trls_reward_trainer_says(
    tmp_path: Path, centering_coef: float, margins: list[float] | None
) -> None:
    rows: list[dict[str, Any]] = [
        {"chosen_ids": [5, 6, 7, 1], "rejected_ids": [5, 8, 1]},
        {"chosen_ids": [9, 1], "rejected_ids": [9, 10, 11, 12, 1]},
        {"chosen_ids": [13, 14, 1], "rejected_ids": [13, 15, 1]},
    ]
    for row, margin in zip(rows, margins or [], strict=False):
        row["margin"] = margin
    trainer = reward_trainer(tmp_path, rows, centering_coef)
    model, batch = trainer.model, trainer.data_collator(rows)
    theirs = trainer.compute_loss(model, dict(batch))
    their_gradient = torch.autograd.grad(theirs, list(model.parameters()))

    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1)
    pairs = [torch.stack([logits[i], logits[i + 3]]) for i in range(3)]
    ours = batch_loss(pairs, [[1, 2]] * 3, centering_coef=centering_coef, margins=margins)
    our_gradient = torch.autograd.grad(ours, list(model.parameters()))

    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_gradient, their_gradient)
    accuracy = sum(pair_accuracy(pair, [1, 2])[0] for pair in pairs) / 3
    assert trainer._metrics["train"]["accuracy"] == pytest.approx([accuracy])


def test_masked_moments_and_whitening_are_those_of_trls_last_ppo() -> None:
    theirs = pytest.importorskip(
        "trl.experimental.ppo.ppo_trainer", reason="only TRL 1.12 and its neighbours have a PPO"
    )
    (x,) = random(1)
    for unbiased in (True, False):
        torch.testing.assert_close(masked.masked_var(x, MASK, unbiased), theirs.masked_var(x, MASK, unbiased))
    torch.testing.assert_close(masked.masked_mean(x, MASK), theirs.masked_mean(x, MASK))
    # theirs divides by n - 1, ours by n
    n = int(MASK.sum())
    larger = (n / (n - 1)) ** 0.5
    white = theirs.masked_whiten(x, MASK) * larger
    torch.testing.assert_close(masked.whiten(x, MASK), white.masked_fill(~MASK, 0.0))
    mean = theirs.masked_mean(x, MASK)
    scaled = (theirs.masked_whiten(x, MASK, shift_mean=False) - mean) * larger + mean
    torch.testing.assert_close(masked.scale_to_unit_variance(x, MASK), scaled.masked_fill(~MASK, 0.0))


def test_rewards_advantages_and_losses_are_torchtunes() -> None:
    rlhf = pytest.importorskip("torchtune.rlhf", reason="torchtune is not installed")
    losses = pytest.importorskip("torchtune.rlhf.loss", reason="torchtune is not installed")
    logprobs, old_logprobs, ref_logprobs, values, old_values = random(1, 2, 3, 4, 5)
    scores = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    last = MASK.sum(1) - 1

    rewards, _, _ = rlhf.get_rewards_ppo(scores, old_logprobs, ref_logprobs, 0.1, last)
    rewards = rewards.masked_fill(~MASK, 0.0)
    ours = ppo.token_rewards(scores, old_logprobs, ref_logprobs, MASK, 0.1)
    torch.testing.assert_close(ours, rewards)

    # its returns are those of the unwhitened advantages; it wants zeros at padding to begin with
    _, returns = rlhf.estimate_advantages(old_values * MASK, rewards, 0.9, 0.8, MASK)
    advantages, our_returns = our_gae.gae(rewards, old_values, MASK, 0.9, 0.8)
    torch.testing.assert_close(our_returns, returns.masked_fill(~MASK, 0.0))

    _, policy, value, _, clip_fraction = losses.PPOLoss(epsilon=0.2, value_clip_range=0.3)(
        old_logprobs, logprobs, advantages, old_values, values, returns, MASK, MASK
    )
    count = int(MASK.sum())
    our_policy, stats = ppo.policy_loss(logprobs, old_logprobs, advantages, MASK, 0.2, count)
    our_value, _ = ppo.value_loss(values, old_values, returns, MASK, 0.3, count)
    torch.testing.assert_close(our_policy, policy)
    torch.testing.assert_close(our_value, value)
    torch.testing.assert_close(stats.clip_fraction_sum / count, clip_fraction)
