"""Our mathematics against other people's code, where it is installed; otherwise the test is skipped.

The environment's TRL has the reward trainer. torchtune has PPO's parts, and TRL 1.12 was the last with a
PPO: `make oracles` puts these two into a folder of their own, since their requirements are not ours.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from align.objectives import gae as our_gae
from align.objectives import masked, ppo
from align.objectives.bradley_terry import batch_loss, pair_accuracy

ORACLES = Path(os.environ.get("ALIGN_ORACLES", Path(sys.prefix) / "oracles"))
MASK = torch.arange(6) < torch.tensor([6, 1, 4]).unsqueeze(1)


def random(*seeds: int) -> list[Tensor]:
    return [torch.randn(3, 6, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]


@pytest.fixture
def torchtune(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """torchtune.rlhf without what torchtune itself imports (torchao, its models)."""
    if not (ORACLES / "torchtune" / "rlhf").is_dir():
        pytest.skip(f"torchtune is not in {ORACLES} (make oracles)")
    package = ModuleType("torchtune")
    package.__path__ = [str(ORACLES / "torchtune")]
    data = ModuleType("torchtune.data")
    data.CROSS_ENTROPY_IGNORE_IDX = -100  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchtune", package)
    monkeypatch.setitem(sys.modules, "torchtune.data", data)
    return importlib.import_module("torchtune.rlhf")


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


def test_rewards_advantages_and_losses_are_torchtunes(torchtune: ModuleType) -> None:
    rlhf, losses = torchtune, importlib.import_module("torchtune.rlhf.loss")
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


def test_whitening_is_torchtunes_with_its_flag_turned_round(torchtune: ModuleType) -> None:
    """Its shift_mean=True leaves the mean where it is, against its own docstring."""
    (x,) = random(1)
    x = x + 3
    n = int(MASK.sum())
    larger = (n / (n - 1)) ** 0.5  # it divides by n - 1, we divide by n
    mean = torchtune.masked_mean(x, MASK)
    white = torchtune.whiten(x, MASK, shift_mean=False) * larger
    torch.testing.assert_close(masked.whiten(x, MASK), white.masked_fill(~MASK, 0.0))
    scaled = (torchtune.whiten(x, MASK, shift_mean=True) - mean) * larger + mean
    torch.testing.assert_close(masked.scale_to_unit_variance(x, MASK), scaled.masked_fill(~MASK, 0.0))
    centred = x - mean
    torch.testing.assert_close(masked.masked_var(x, MASK, True), torchtune.masked_var(centred, MASK))


# TRL's last PPO, run as it is: one rollout and two updates of a small model.


@pytest.fixture(scope="module", params=["k1", "k3"])
def trls_update(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trl:
    if not (ORACLES / "trl" / "experimental" / "ppo").is_dir():
        pytest.skip(f"TRL 1.12 is not in {ORACLES} (make oracles)")
    output = tmp_path_factory.mktemp("trl") / "seen.safetensors"
    script = Path(__file__).with_name("trl_ppo.py")
    done = subprocess.run(
        [sys.executable, script, ORACLES, output, request.param],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Trl(request.param, load_file(output))


@dataclass(frozen=True)
class Trl:
    estimator: Literal["k1", "k3"]
    seen: dict[str, Tensor]

    def masks(self) -> tuple[Tensor, Tensor]:
        """Its response tokens, and the same with the token after EOS, where it puts score and last value."""
        return ~self.seen["padding_mask"], ~self.seen["padding_mask_p1"]


def test_trls_rollout_has_our_rewards_advantages_and_whitening(trls_update: Trl) -> None:
    seen, (mask, longer) = trls_update.seen, trls_update.masks()
    assert not torch.equal(mask, longer), "no response ended by itself"
    # at the token after EOS both of its log probabilities are 1: it costs nothing
    logprobs = (seen["logprobs"], seen["ref_logprobs"])
    rewards = ppo.token_rewards(seen["scores"], *logprobs, longer, 0.2, trls_update.estimator)
    torch.testing.assert_close(rewards, seen["rewards"])
    assert (seen["logprobs"] - seen["ref_logprobs"]).abs().max() > 0.5

    advantages, returns = our_gae.gae(rewards, seen["values"], longer, 0.9, 0.8)
    torch.testing.assert_close(advantages, seen["advantages"])
    torch.testing.assert_close(returns, seen["returns"])

    n = int(mask.sum())
    white = masked.whiten(advantages, mask) * ((n - 1) / n) ** 0.5  # it divides by n - 1, we divide by n
    torch.testing.assert_close(white, seen["whitened"].masked_fill(~mask, 0.0), rtol=1e-4, atol=1e-5)


def test_trls_losses_are_ours(trls_update: Trl) -> None:
    seen = trls_update.seen
    mask, longer = (m[seen["micro_batch_inds"]] for m in trls_update.masks())
    count = int(mask.sum())
    old, new = seen["mb_logprobs"], seen["new_logprobs"]
    loss, stats = ppo.policy_loss(new, old, seen["mb_advantage"], mask, 0.2, count)
    torch.testing.assert_close(loss, seen["pg_loss"])
    torch.testing.assert_close(stats.clip_fraction_sum / count, seen["pg_clipfrac"])
    assert 0.1 < float(seen["pg_clipfrac"]) < 0.9

    count = int(longer.sum())
    values, old_values, returns = seen["vpred"], seen["mb_values"], seen["mb_return"]
    loss, value_stats = ppo.value_loss(values, old_values, returns, longer, 0.2, count)
    torch.testing.assert_close(loss, seen["vf_loss"])
    torch.testing.assert_close(value_stats.clip_fraction_sum / count, seen["vf_clipfrac"])
    assert 0.1 < float(seen["vf_clipfrac"]) < 0.9
