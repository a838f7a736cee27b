"""transformers' Trainer with checkpoints that are complete or absent, hold no pickle, and resume exactly.

A checkpoint of ours has the trainable tensors, the optimizer's, the scheduler's numbers and the
trainer's counters. It has no state of random generators: before every forward pass the generators
are seeded from (recipe seed, stage, step, microbatch, process), so dropout is a function of these,
and processes do not draw the same masks. The order of the rows is fixed by the caller's data set
(rows of step 0, of step 1, …, read in sequence), so nothing else is drawn while training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from align.errors import AlignError
from align.plan.speed import Computed, peak_memory, speed
from align.processes.distributed import total
from align.processes.sharding import shared_out
from align.recipe.sections import DPO, SFT, Recipe
from align.run import checkpoint
from align.run.clock import Clock
from align.run.energy import on_this_machine
from align.run.folder import StageRun
from align.run.memory import Held, itemised
from align.run.progress import ProgressBar

A = TypeVar("A", bound=TrainingArguments)


class ResumableTrainer(Trainer):
    """Mixed in before a Trainer class: `class Mine(ResumableTrainer, SFTTrainer)`; start it by `go`.

    `stage` keeps the checkpoints, metrics and bar. `draw(step, microbatch)` gives the seed (below 2**32)
    of what a forward pass draws on this process, `computed(inputs)` what it computes. `metrics` says what of
    the trainer's log goes to metrics.jsonl and by which name, {"loss": "train/loss"}; the first two stand
    beside the bar. `evaluate` is called every `evaluate_every` steps and at the end; what it puts into
    `results` is in the checkpoints too.
    """

    def __init__(
        self,
        *,
        stage: StageRun,
        draw: Callable[[int, int], int],
        computed: Callable[[dict[str, Any]], Computed],
        metrics: Mapping[str, str],
        evaluate_every: int | None,
        **trainer: Any,
    ) -> None:
        self.stage = stage
        self.results: dict[str, float] = {}
        self._draw, self._count, self._metric_names = draw, computed, metrics
        self._computed: list[Computed] = []  # of the step's microbatches
        self._clock, self._part, self._energy = Clock(), Clock(), on_this_machine()
        self._drawn_for, self._microbatch = -1, 0
        self._resumed: checkpoint.Checkpoint | None = None
        self._bar: ProgressBar | None = None
        super().__init__(**trainer)
        for callback in list(self.callback_handler.callbacks):
            if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
                self.remove_callback(callback)
        self.add_callback(_Evaluations(evaluate_every))

    def go(self) -> None:
        """Train from the newest good checkpoint, or from the start, to the last step."""
        self._resumed = self.stage.newest()
        done, path = 0, None
        if self._resumed is not None:
            done, path = self._resumed.step, str(self._resumed.path)
            self.results = self._resumed.document("results")
        steps = self.stage.steps(self.args.max_steps, done)
        with steps as self._bar, itemised(self.stage, self._held):
            self.train(resume_from_checkpoint=path)

    def _held(self) -> list[Held]:
        frozen = [p for p in self.model.parameters() if not p.requires_grad]
        return [Held("base", frozen), Held("adapter", self._trainable().values(), self._adam())]

    def _adam(self) -> torch.optim.Optimizer | None:
        """The optimizer under accelerate's wrapper, once there is one."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """One microbatch forward and backward, after seeding what it draws."""
        step = self.state.global_step
        if self._drawn_for != step:
            self.stage.stop_if_told(step, lambda: self._save_checkpoint(model, None))
            self._drawn_for, self._microbatch = step, 0
            self._part, self._computed = Clock(), []
        with self.stage.unchanged(step, lambda: self._save_checkpoint(model, None)):
            set_seed(self._draw(step, self._microbatch))
            self._microbatch += 1
            self._computed.append(self._count(inputs))
            loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a step's metrics; raises AlignError at a loss or gradient that is not finite."""
        super().log(logs, start_time)  # adds TRL's own metrics to `logs`
        row = {ours: logs[theirs] for theirs, ours in self._metric_names.items() if theirs in logs}
        if not row:
            return
        self.stage.metrics.append(self.state.global_step, row | self._speed())
        for name, value in row.items():
            if not math.isfinite(value):
                raise AlignError(
                    f"{name} is {value} at step {self.state.global_step}, so the training has diverged: "
                    f"lower {self.stage.stage}.learning_rate and start anew with --restart"
                )
        if self._bar is not None:
            self._bar.advance(dict(list(row.items())[:2]))

    def _speed(self) -> dict[str, float]:
        """Seconds, tokens and operations of the step that has been made."""
        seconds, accel = self._part("train"), self.accelerator
        mine = [[one.tokens, one.flops] for one in self._computed]
        sums = torch.tensor(mine, dtype=torch.float64, device=accel.device).sum(0)
        tokens, flops = total(sums, accel).tolist()
        found = speed(Computed(tokens, flops), seconds, accel.num_processes, accel.device)
        found |= self._part.metrics()
        return found | self._clock.other(found) | peak_memory(accel.device) | self._energy()

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's AdamW, its states shared out among the processes where that is asked for."""
        optimizer = super().create_optimizer(model)
        assert isinstance(optimizer, torch.optim.AdamW)
        self.optimizer: torch.optim.Optimizer = shared_out(optimizer, self.accelerator)
        return self.optimizer

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.stage.save(
            self.state.global_step,
            tensors={"adapter": self._trainable(), "optimizer": checkpoint.optimizer_tensors(self.optimizer)},
            documents={
                "scheduler": self.lr_scheduler.state_dict(),
                # The name and form in which Trainer reads it on resuming; its log is in metrics.jsonl.
                "trainer_state": asdict(self.state) | {"log_history": []},
                "results": self.results,
            },
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        found = self._verified(resume_from_checkpoint)
        checkpoint.load_into(self._trainable(), found.tensors("adapter"), str(found.path))

    def _load_optimizer_and_scheduler(self, resume_from_checkpoint: str | None) -> None:
        if resume_from_checkpoint is None:
            return
        found = self._verified(resume_from_checkpoint)
        checkpoint.load_optimizer(self.optimizer, found.tensors("optimizer"))
        self.lr_scheduler.load_state_dict(found.document("scheduler"))
        # The rate belongs to the optimizer's groups, which its tensors do not carry.
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _load_rng_state(self, resume_from_checkpoint: str | None) -> None:
        """Nothing to do: every forward pass seeds what it draws."""

    def _verified(self, path: str) -> checkpoint.Checkpoint:
        if self._resumed is None or str(self._resumed.path) != path:
            raise AlignError(f"{path} has not been verified: checkpoints are resumed by go()")
        return self._resumed

    def _send_telemetry(self) -> None:
        """TRL tells the hub of each run; ours stay on this machine."""


def trl_arguments(
    kind: type[A], recipe: Recipe, cfg: SFT | DPO, stage: StageRun, accel: Accelerator, steps: int, **own: Any
) -> A:
    """The recipe in TRL's words, `kind`; what TRL would do by default and must not is switched off."""
    device = accel.device
    arguments = kind(
        output_dir=str(stage.folder),
        seed=recipe.run.seed % 2**32,  # numpy takes no larger one
        max_steps=steps,
        learning_rate=cfg.learning_rate,
        lr_scheduler_type="constant_with_warmup" if cfg.schedule == "constant" else cfg.schedule,
        warmup_steps=math.ceil(cfg.warmup * steps),
        weight_decay=cfg.weight_decay,
        max_grad_norm=cfg.max_grad_norm,
        gradient_checkpointing=cfg.gradient_checkpointing is True,
        save_steps=cfg.checkpoint_every,
        # The rows are tokenised and in order.
        train_sampling_strategy="sequential",
        max_length=None,
        # Devices and processes as accelerate found them; precision is the base's own.
        use_cpu=device.type == "cpu",
        bf16=False,
        accelerator_config={"use_configured_state": True},
        dataloader_pin_memory=device.type == "cuda",
        eval_strategy="no",  # our callback calls for evaluations
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a run that has diverged
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        skip_memory_metrics=True,
        **own,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs in one process would mean nn.DataParallel
    return arguments


class _Evaluations(TrainerCallback):
    """Calls for an evaluation every so many steps and after the last one."""

    def __init__(self, every: int | None) -> None:
        self._every = every

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        due = self._every is not None and state.global_step % self._every == 0
        control.should_evaluate = due or state.global_step >= state.max_steps
