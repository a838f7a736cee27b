"""Rankings of K responses through our reward model step and, as pairs, through TRL's RewardTrainer.

    python benchmarks/reward_model.py --base FOLDER [--k 2 4 9] [--seed N] [--lora-layers N]

Both sides get the same base, token ids, LoRA, learning rate and number of steps, and in each step the
same number of rankings; TRL gets them expanded into their C(K,2) pairs. Both train in float32 on one CPU
thread, without gradient checkpointing, with the same number of sequences in a forward and backward pass
(TRL accumulates gradients over as many passes as its pairs need). Each measurement has a process of
its own. Prints one table; seconds are medians over the steps without the first one.

The rankings are made: film reviews of about 128 tokens, followed by verdicts of about 32 tokens that are
as good as the opinions in them. All K differ, so that K responses give C(K,2) comparisons on both sides.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from align.data.tokenize import Encoded
from align.seeds import step_rows
from align.stats.rankings import Ranks, comparisons

# Rankings a step (so that one pass of ours holds as many sequences as one of TRL's), steps, held out.
PLAN = {2: (4, 24, 128), 4: (2, 16, 48), 9: (1, 8, 16)}
LEARNING_RATE = 1e-3
NEUTRAL = (
    "The story follows {a} who moves to {b} after the war and opens a small shop near the harbour.",
    "It was shot over two summers in {b}, mostly outdoors, with a crew of about forty people.",
    "The first half takes place on a train, and the second in a house by the lake.",
    "{a} is played by an actor who had been seen mainly on stage until then.",
    "The running time is a little under two hours, and the credits are accompanied by a piano.",
    "The script is based on a novel that appeared in the sixties and was set in {b}.",
)
WHO = ("a young doctor", "a retired sailor", "the elder sister", "a teacher", "an engineer", "a violinist")
WHERE = ("Lisbon", "a mountain village", "Chicago", "the north of Italy", "a port town", "Kyoto")
OPINIONS = {
    2: ("it is a masterpiece", "every scene is wonderful", "I loved it deeply", "the acting is superb"),
    1: ("the music is pleasant", "it has some charm", "the ending is rather nice", "the cast is good"),
    -1: ("the middle drags a bit", "some jokes fall flat", "it looks cheap at times", "the plot is thin"),
    -2: ("it is a disaster", "I hated every minute", "the acting is terrible", "the script is an insult"),
}
FILLERS = ("As for the film itself,", "All in all,", "In short,", "To my mind,", "Seen again,")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="folder of a causal language model")
    parser.add_argument("--k", type=int, nargs="+", default=sorted(PLAN), choices=sorted(PLAN))
    parser.add_argument("--side", nargs="+", default=["align", "trl"], choices=["align", "trl"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of the plan's")
    parser.add_argument("--lora-layers", type=int, help="adapt only the last N layers; default: all")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--response-tokens", type=int, default=32)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        torch.set_num_threads(1)
        print(json.dumps({"align": ours, "trl": trl}[arguments.side[0]](arguments, arguments.k[0])))
        return
    rows: dict[tuple[int, str], dict[str, float]] = {}
    for k in arguments.k:
        for side in arguments.side:
            rows[k, side] = _measure(arguments, k, side)
            print(json.dumps({"k": k, "side": side, **rows[k, side]}), file=sys.stderr, flush=True)
    print(table(rows))


def _measure(arguments: argparse.Namespace, k: int, side: str) -> dict[str, float]:
    """One measurement in a process of its own: memory that one left would count for the next."""
    options = ["--base", arguments.base, "--seed", arguments.seed]
    options += ["--prompt-tokens", arguments.prompt_tokens, "--response-tokens", arguments.response_tokens]
    for name in ("steps", "lora_layers"):
        if (value := getattr(arguments, name)) is not None:
            options += [f"--{name.replace('_', '-')}", value]
    command = [sys.executable, __file__, "--measure", "--k", k, "--side", side, *options]
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(rows: dict[tuple[int, str], dict[str, float]]) -> str:
    """The measurements in Markdown, with TRL's CPU seconds divided by ours."""
    lines = [
        "| K | trainer | wall s a ranked prompt | CPU s a ranked prompt | times faster (CPU) "
        "| tokens a ranked prompt | peak MiB | held-out accuracy (95%) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (k, side), row in rows.items():
        slowest = rows.get((k, "trl"), row)["cpu"]
        lines.append(
            f"| {k} | {side} | {row['wall']:.2f} | {row['cpu']:.2f} | {slowest / row['cpu']:.1f} "
            f"| {row['tokens']:.0f} | {row['peak']:.0f} "
            f"| {row['accuracy']:.3f} ({row['low']:.3f}–{row['high']:.3f}) |"
        )
    return "\n".join(lines)


def rankings(
    tokenizer: PreTrainedTokenizerBase, k: int, count: int, seed: str, prompt_tokens: int, tokens: int
) -> list[tuple[Encoded, Ranks]]:
    """Made rankings, strict, a function of the arguments."""
    draw = random.Random(seed)
    eos = tokenizer.eos_token_id

    def ids(text: str, length: int) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])[:length]

    def prompt() -> list[int]:
        text = " ".join(
            draw.choice(NEUTRAL).format(a=draw.choice(WHO), b=draw.choice(WHERE)) for _ in range(12)
        )
        return ids(text, draw.randint(prompt_tokens * 7 // 8, prompt_tokens * 9 // 8))

    def response() -> tuple[int, list[int]]:
        grades = [draw.choice(sorted(OPINIONS)) for _ in range(max(1, tokens // 6))]
        text = f" {draw.choice(FILLERS)} " + ", ".join(draw.choice(OPINIONS[g]) for g in grades)
        return sum(grades), [*ids(f"{text}.", tokens * 5 // 4), eos]

    found: list[tuple[Encoded, Ranks]] = []
    for _ in range(count):
        by_grade: dict[int, list[int]] = {}
        while len(by_grade) < k:
            grade, tokens_of = response()
            by_grade.setdefault(grade, tokens_of)
        grades = list(by_grade)
        draw.shuffle(grades)
        best_first = sorted(grades, reverse=True)
        found.append(
            (Encoded(prompt(), [by_grade[g] for g in grades]), tuple(best_first.index(g) + 1 for g in grades))
        )
    return found


def _data(arguments: argparse.Namespace, k: int) -> tuple[Any, int, int, list[Any], list[Any]]:
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    batch, steps, count = PLAN[k]
    steps = arguments.steps or steps
    sizes = (arguments.prompt_tokens, arguments.response_tokens)
    train = rankings(tokenizer, k, batch * steps, f"train {arguments.seed} {k}", *sizes)
    held_out = rankings(tokenizer, k, count, f"held out {k}", *sizes)
    return tokenizer, batch, steps, train, held_out


def ours(arguments: argparse.Namespace, k: int) -> dict[str, float]:
    """The steps of `align rm`: whole rankings, the prompt once."""
    from align.models.base import find_base
    from align.models.forward import Forward
    from align.models.probes import share_prompts
    from align.models.roles import Roles
    from align.models.scoring import score_rankings
    from align.processes import distributed
    from align.recipe.sections import RM, Base
    from align.stages import rm
    from align.stages.ranking_gradients import gradients
    from align.stages.ranking_rows import RankingRow

    _, batch, steps, train, held_out = _data(arguments, k)
    cfg = RM(microbatch_tokens=10**6)
    base = find_base(Base(name=str(arguments.base), dtype="float32"))
    model = base.load_model(torch.device("cpu"))
    roles = Roles(model)
    torch.manual_seed(arguments.seed)
    roles.add("reward", _lora(arguments, model.config.num_hidden_layers, "CAUSAL_LM"), trains=True)
    roles.add_head("reward", torch.Generator().manual_seed(arguments.seed))
    forward = Forward(roles)
    if reason := share_prompts(forward, "reward", 10**4):
        print(f"a row a response: {reason}", file=sys.stderr)
    named = roles.parameters_of("reward")
    optimizer = torch.optim.AdamW(named.values(), lr=LEARNING_RATE, weight_decay=0.0)
    accel = distributed.accelerator(60)
    tokens = _count_tokens(model)
    clock = Clock()
    for step in range(steps):
        rows = [RankingRow(*train[i]) for i in step_rows(arguments.seed, "rm", step, batch, len(train))]
        (sums,) = gradients(forward, rows, cfg, accel)
        rm.update(forward, optimizer, sums, LEARNING_RATE, cfg, accel)
        clock.tick()
    figures = clock.figures(batch) | {"tokens": tokens() / (steps * batch)}
    rows = [RankingRow(*ranking) for ranking in held_out]
    scores = score_rankings(forward, "reward", [row.encoded for row in rows], 4096)
    return figures | _accuracy(scores, held_out)


def trl(arguments: argparse.Namespace, k: int) -> dict[str, float]:
    """TRL's RewardTrainer on every pair of the same rankings."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    tokenizer, batch, steps, train, held_out = _data(arguments, k)
    pairs = [
        {
            "chosen_ids": encoded.prompt + encoded.responses[i],
            "rejected_ids": encoded.prompt + encoded.responses[j],
        }
        for encoded, ranks in train
        for i, j in comparisons(ranks)
    ]
    model = AutoModelForSequenceClassification.from_pretrained(
        arguments.base, num_labels=1, dtype=torch.float32
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():  # the same start as our head's
        width = model.config.hidden_size
        model.score.weight.normal_(
            std=(width + 1) ** -0.5, generator=torch.Generator().manual_seed(arguments.seed)
        )
    clock = Clock()

    class Ticks(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.tick()

    a_step = len(pairs) // steps
    a_pass = max(n for n in range(1, a_step + 1) if a_step % n == 0 and 2 * n <= batch * k)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=a_pass,
                gradient_accumulation_steps=a_step // a_pass,
                learning_rate=LEARNING_RATE,
                lr_scheduler_type="constant",
                max_grad_norm=1.0,
                max_length=None,
                seed=arguments.seed,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                logging_steps=1000,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(pairs),
            processing_class=tokenizer,
            peft_config=_lora(arguments, model.config.num_hidden_layers, "SEQ_CLS"),
            callbacks=[Ticks()],
        )
        tokens = _count_tokens(trainer.model)
        trainer.train()
    figures = clock.figures(batch) | {"tokens": tokens() / (steps * batch)}
    trainer.model.eval()
    scores = []
    for encoded, _ in held_out:
        rows = [torch.tensor([encoded.prompt + response]) for response in encoded.responses]
        with torch.no_grad():
            scores.append(torch.cat([trainer.model(input_ids=row).logits[:, 0] for row in rows]))
    return figures | _accuracy(scores, held_out)


class Clock:
    """Wall and CPU time at the end of each step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def tick(self) -> None:
        self.wall.append(time.monotonic())
        self.cpu.append(time.process_time())

    def figures(self, batch: int) -> dict[str, float]:
        """Median seconds a ranked prompt over the steps after the first, and the process's peak in MiB."""
        return {
            "wall": statistics.median(b - a for a, b in pairwise(self.wall)) / batch,
            "cpu": statistics.median(b - a for a, b in pairwise(self.cpu)) / batch,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def _count_tokens(model: nn.Module) -> Callable[[], int]:
    """How many tokens have gone through the model since, padding included."""
    seen = [0]

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...], __: torch.Tensor) -> None:
        seen[0] += inputs[0].numel()

    model.get_input_embeddings().register_forward_hook(count)  # type: ignore[operator]
    return lambda: seen[0]


def _lora(arguments: argparse.Namespace, layers: int, task: str) -> Any:
    from peft import LoraConfig

    adapted = None
    if arguments.lora_layers is not None:
        adapted = list(range(layers - arguments.lora_layers, layers))
    return LoraConfig(
        task_type=task, r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], layers_to_transform=adapted
    )


def _accuracy(scores: list[torch.Tensor], held_out: list[tuple[Encoded, Ranks]]) -> dict[str, float]:
    """Share of the held-out comparisons ordered right, with a bootstrap over the prompts."""
    right = []
    for values, (_, ranks) in zip(scores, held_out, strict=True):
        found = comparisons(ranks)
        right.append(sum(float(values[i] > values[j]) for i, j in found) / len(found))
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(right, k=len(right))) for _ in range(2000))
    return {"accuracy": statistics.fmean(right), "low": means[50], "high": means[1949]}


if __name__ == "__main__":
    main()
