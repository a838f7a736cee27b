"""The reward model: LoRA from the SFT adapter, a scalar head, Bradley-Terry over whole rankings.

What is unusual here: a ranking stays whole, each of its K responses goes through the model once, and
all its comparisons are one term of the loss. Rows of a step are a function of (seed, step), so the
same line again goes on exactly. At the end the scores are centred, saved, loaded on a fresh base and
compared: a reward model that does not come back the same is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from align.data.batches import collate, generator, step_rows
from align.data.load import load
from align.data.tokenize import Encoded, encode_demonstrations, encode_rankings
from align.errors import AlignError, UserError
from align.evaluation.reward import evaluate_pairs, misjudged
from align.models.export import save_adapter, save_head
from align.models.forward import Forward
from align.models.roles import Roles, tensors_of
from align.objectives.bradley_terry import Ranks, batch_loss, has_pair, pair_accuracy
from align.recipe import RM, Recipe
from align.records import Demonstration, Ranking
from align.runtime import distributed
from align.runtime.checkpoint import load_into, load_optimizer, optimizer_tensors
from align.runtime.lineage import parent
from align.runtime.run import StageRun, open_stage
from align.runtime.schedule import learning_rate
from align.stages.setup import Setup, set_up, source

_CENTRING_ROWS = 256  # demonstrations whose mean score becomes 0: its standard error is std/16
_MISJUDGED = 20  # comparisons in samples.jsonl
_PROBES = 16  # rankings scored before saving and after loading
_RELOAD_TOLERANCE = 1e-5  # relative; the same numbers up to the batch's padding

Rows = list[tuple[Encoded, Ranks]]


def run(recipe: Recipe, restart: bool = False) -> None:
    """Train the reward model that the recipe describes, or go on from its newest checkpoint."""
    cfg, setup = recipe.rm, set_up(recipe)
    accel = setup.accel
    sft = parent(recipe, "sft", cfg.sft, setup.lineage)
    split = load(Ranking, source(recipe, "rankings", "rm"), "rankings")
    demonstrations = None
    if recipe.data.demonstrations is not None:
        demonstrations = load(Demonstration, recipe.data.demonstrations, "demonstrations")
    lineage = {**setup.lineage, "sft": sft.adapter_hash}
    data = {"rankings": split.fingerprint}
    if demonstrations is not None:
        data["demonstrations"] = demonstrations.fingerprint
    distributed.check_divisible(cfg.batch_size, "rm.batch_size", accel)
    with open_stage(recipe, "rm", accel, lineage=lineage, data=data, restart=restart) as stage:
        if stage.finished:
            stage.say(f"rm is finished: {stage.final}")
            return
        train = _encode(setup, split.train, cfg.max_length)
        held_out = _encode(setup, split.held_out, cfg.max_length)
        if not any(has_pair(ranks, cfg.ties) for _, ranks in train):
            raise UserError(
                "data.rankings: no training ranking decides any comparison; all responses are tied"
            )
        forward = _model(setup, sft.final, recipe.run.seed)
        steps = cfg.steps or -(-cfg.epochs * len(train) // cfg.batch_size)
        _train(recipe, forward, train, held_out, steps, stage, setup.base.pad_id)
        scores = _held_out_scores(forward, held_out, cfg, accel, setup.base.pad_id)
        results = evaluate_pairs(scores, [ranks for _, ranks in held_out], recipe.run.seed).metrics()
        zero = _as_rankings(demonstrations.train, recipe, setup) if demonstrations else train
        results |= _centre(forward, zero, cfg, setup)
        stage.metrics.append(steps, results)
        _write_misjudged(stage, split.held_out, scores, steps)
        probes = (held_out or train)[:_PROBES]
        before = _scores(forward, probes, cfg.microbatch_size, setup.base.pad_id)

        def write(folder: Path) -> None:
            assert forward.roles.peft is not None
            save_adapter(forward.roles.peft, "reward", folder)
            save_head(forward.roles.heads["reward"], folder)
            setup.base.tokenizer.save_pretrained(str(folder))
            _prove_reload(setup, folder, probes, before, cfg)

        stage.finish(write, results)
        stage.say(_summary(stage, results))


def _train(
    recipe: Recipe, forward: Forward, train: Rows, held_out: Rows, steps: int, stage: StageRun, pad_id: int
) -> None:
    """Optimizer steps from the newest checkpoint on."""
    cfg, seed, accel = recipe.rm, recipe.run.seed, stage.accel
    named = forward.roles.parameters_of("reward")
    # Differences of scores do not know the bias: its gradient is rounding noise, which Adam would blow up.
    named["head.bias"].requires_grad_(cfg.centering_coef > 0)
    optimizer = torch.optim.AdamW(named.values(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay)
    done = 0
    if (found := stage.newest()) is not None:
        load_into(named, found.tensors("reward"), str(found.path))
        load_optimizer(optimizer, found.tensors("optimizer"))
        done = found.step
    with stage.bar("rm", steps, done) as bar:
        for step in range(done, steps):
            rows = [train[i] for i in step_rows(seed, "rm", step, cfg.batch_size, len(train))]
            rate = learning_rate(cfg.learning_rate, step, steps, cfg.warmup, cfg.schedule)
            metrics = _step(forward, optimizer, rows, rate, cfg, accel, pad_id)
            last = step + 1 == steps
            if cfg.evaluate_every and (step + 1) % cfg.evaluate_every == 0 and not last:
                scores = _held_out_scores(forward, held_out, cfg, accel, pad_id)
                metrics |= evaluate_pairs(scores, [ranks for _, ranks in held_out], seed).metrics()
            stage.metrics.append(step + 1, metrics)
            if (step + 1) % cfg.checkpoint_every == 0 or last:
                tensors = {
                    "reward": tensors_of(forward.roles, "reward"),
                    "optimizer": optimizer_tensors(optimizer),
                }
                stage.save(step + 1, tensors, {})
            bar.advance({"loss": metrics["train/loss"], "accuracy": metrics["train/accuracy"]})


def _step(
    forward: Forward,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    rate: float,
    cfg: RM,
    accel: Accelerator,
    pad_id: int,
) -> dict[str, float]:
    """One update from a global batch of rankings; every process takes its share of them."""
    device = forward.roles.base.device
    count = sum(has_pair(ranks, cfg.ties) for _, ranks in rows)
    # loss, correct comparisons, comparisons
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    mine = distributed.share(rows, accel)
    for start in range(0, len(mine), cfg.microbatch_size):
        part = mine[start : start + cfg.microbatch_size]
        scores = _score_rankings(forward, part, pad_id)
        ranks = [r for _, r in part]
        loss = batch_loss(scores, ranks, cfg.ties, cfg.centering_coef, count)
        loss.backward()
        counted = [pair_accuracy(s.detach(), r) for s, r in zip(scores, ranks, strict=True)]
        sums += torch.tensor(
            [float(loss.detach()), sum(c for c, _ in counted), sum(n for _, n in counted)]
        ).to(sums)
    parameters = list(forward.roles.parameters_of("reward").values())
    distributed.sum_gradients(parameters, accel)
    norm = torch.nn.utils.clip_grad_norm_(parameters, cfg.max_grad_norm)
    if not torch.isfinite(norm):
        raise AlignError(
            f"rm: the gradient is {float(norm)}; lower rm.learning_rate. Nothing was changed by this step"
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    loss_sum, correct, total = distributed.total(sums, accel).tolist()
    return {
        "train/loss": loss_sum,
        "train/accuracy": correct / total if total else float("nan"),
        "train/gradient_norm": float(norm),
        "train/learning_rate": rate,
    }


def _score_rankings(forward: Forward, part: Rows, pad_id: int) -> list[Tensor]:
    """A [K] tensor of scores for each ranking; all responses go through the model in one batch."""
    pairs = [(encoded.prompt, response) for encoded, _ in part for response in encoded.responses]
    scores = forward.scores("reward", forward.trunk(collate(pairs, pad_id)))
    return list(scores.split([len(encoded.responses) for encoded, _ in part]))


@torch.no_grad()
def _scores(forward: Forward, rows: Rows, microbatch_size: int, pad_id: int) -> list[Tensor]:
    """Scores of all rankings, on the CPU."""
    found: list[Tensor] = []
    for start in range(0, len(rows), microbatch_size):
        found += [s.cpu() for s in _score_rankings(forward, rows[start : start + microbatch_size], pad_id)]
    return found


def _held_out_scores(
    forward: Forward, held_out: Rows, cfg: RM, accel: Accelerator, pad_id: int
) -> list[Tensor]:
    """A [K] tensor of scores for each held-out ranking; each process scores its share."""
    mine = _scores(forward, distributed.share(held_out, accel), cfg.microbatch_size, pad_id)
    return distributed.gather_lists(mine, accel)


def _write_misjudged(stage: StageRun, held_out: list[Ranking], scores: list[Tensor], step: int) -> None:
    """The held-out comparisons that the scores get most confidently wrong, for people to look at."""
    for row, preferred, other, margin in misjudged(scores, [r.ranks for r in held_out])[:_MISJUDGED]:
        ranking = held_out[row]
        texts = {"preferred": ranking.responses[preferred], "other": ranking.responses[other]}
        stage.samples.append(step, {"prompt": ranking.to_dict()["prompt"], **texts, "margin": margin})


def _centre(forward: Forward, rows: Rows, cfg: RM, setup: Setup) -> dict[str, float]:
    """Shift the head's bias so that demonstrations (without them, the rankings' responses) average 0."""
    head = forward.roles.heads["reward"]
    rows = sorted(rows[:_CENTRING_ROWS], key=lambda row: len(row[0].prompt) + len(row[0].responses[0]))
    scores = torch.cat(_scores(forward, rows, cfg.microbatch_size * 4, setup.base.pad_id))
    mean = float(scores.mean())
    with torch.no_grad():
        head.get_parameter("bias").sub_(mean)
    return {"score/shift": -mean, "score/std": float(scores.std(unbiased=False))}


def _prove_reload(setup: Setup, folder: Path, probes: Rows, before: Sequence[Tensor], cfg: RM) -> None:
    """Load what was saved on a fresh base and score the probes again; AlignError unless nothing changed."""
    fresh = _model(setup, folder, seed=None)
    after = _scores(fresh, probes, cfg.microbatch_size, setup.base.pad_id)
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if not torch.allclose(old, new, rtol=_RELOAD_TOLERANCE, atol=_RELOAD_TOLERANCE):
            raise AlignError(
                f"the saved reward model does not score as the trained one: probe {number} had "
                f"{old.tolist()} and has {new.tolist()} after loading. The last checkpoint is kept"
            )


def _model(setup: Setup, adapter: Path, seed: int | None) -> Forward:
    """A fresh base with the reward role: its head drawn from the seed, or loaded where there is none."""
    roles = Roles(setup.base.load_model(setup.accel.device))
    roles.add("reward", adapter, trains=True)
    roles.add_head("reward", adapter if seed is None else generator(seed, "rm", "head"))
    return Forward(roles)


def _encode(setup: Setup, rankings: list[Ranking], max_length: int) -> Rows:
    encoded = encode_rankings(setup.template, rankings, max_length, "data.rankings")
    return [(e, r.ranks) for e, r in zip(encoded, rankings, strict=True)]


def _as_rankings(demonstrations: list[Demonstration], recipe: Recipe, setup: Setup) -> Rows:
    """Demonstrations as rankings of one."""
    records = demonstrations[:_CENTRING_ROWS]
    encoded = encode_demonstrations(setup.template, records, recipe.sft.max_length, "data.demonstrations")
    return [(e, (1,)) for e in encoded]


def _summary(stage: StageRun, results: dict[str, float]) -> str:
    if not results["eval/comparisons"]:
        return f"rm is finished: {stage.final}; no held-out comparison to measure it on"
    return (
        f"rm is finished: {stage.final}; it agrees with people on {results['eval/accuracy']:.3f} "
        f"(95% {results['eval/accuracy_low']:.3f} to {results['eval/accuracy_high']:.3f}) "
        f"of {results['eval/comparisons']:.0f} held-out comparisons"
    )
