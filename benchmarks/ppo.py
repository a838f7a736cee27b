"""One PPO iteration of ours beside trl 1.12's, which was TRL's last PPO.

    python benchmarks/ppo.py --trl-python TRL/bin/python [--base FOLDER] [--batch N] [--lora-layers N]

trl 1.12 wants an environment of its own:

    python -m venv TRL
    TRL/bin/pip install torch==2.13.0
    TRL/bin/pip install trl==1.12.0 peft==0.21.2

Both sides get the same base (without --base a Llama of 10M parameters with random weights, made here),
the same reward model, prompts, lengths, epochs, minibatches and sequences a microbatch, LoRA of rank 8 on
q and v for policy and value, float32, one thread, no gradient checkpointing (TRL's setting for it, on by
default, reaches nothing in its PPO). TRL's own way is to train the whole value model: --trl-value full.
Sides take turns, each turn in a process of its own; figures are medians over all iterations but each turn's
first. Where the machine is shared, look at the CPU seconds; on Linux, `taskset -c 1 python benchmarks/ppo.py
…` keeps both on one core.

The floor is what the algorithm's operations take at the measured rate of a matrix product of the model's
own shape, and for decoding, if that is more, its bytes at the measured memory bandwidth. A
forward-equivalent is one forward pass of the base, with logits, over the same tokens: measured too.
What came of it: docs/performance.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from floor import floor

ROOT = Path(__file__).resolve().parents[1]
LEARNING_RATE = 1e-5
TARGETS = ["q_proj", "v_proj"]
TEXT = (
    "the a film story plot is was and of in with warm funny dull bright old new actor scene family music "
    "first last two friends who about it that moving quiet loud house city train summer night never always"
)


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    if arguments.measure:
        measure = {"align": ours, "trl": trl}[arguments.measure]
        print(json.dumps(measure(arguments, arguments.work)))
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(arguments, work)
        turns: dict[str, list[dict[str, Any]]] = {side: [] for side in arguments.side}
        for _ in range(arguments.turns):
            for side in arguments.side:
                turns[side].append(turn(arguments, work, side, __file__))
                print(json.dumps({"side": side, **turns[side][-1]}), file=sys.stderr, flush=True)
        found = {side: _medians(rows, arguments.batch) for side, rows in turns.items()}
        bound = floor(arguments, work)
    print(table(found, bound))


def parse(
    sides: Sequence[str] = ("align", "trl"), about: str | None = __doc__, trl_value: str = "lora"
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl-python", type=Path, default=Path(sys.executable), help="of an environment")
    parser.add_argument("--base", type=Path, help="folder of a causal language model")
    parser.add_argument("--side", nargs="+", default=sides, choices=sides)
    parser.add_argument("--batch", type=int, default=16, help="responses an iteration")
    parser.add_argument("--minibatches", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--response-tokens", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=3, help="a turn; the first is not counted")
    parser.add_argument("--turns", type=int, default=2, help="of each side")
    parser.add_argument("--lora-layers", type=int, help="adapt only the last N layers; default: all")
    parser.add_argument(
        "--value-model",
        choices=["separate", "shared"],
        default="separate",
        help="of ours: ppo.value_model",
    )
    parser.add_argument("--trl-value", choices=["lora", "full"], default=trl_value)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def prepare(arguments: argparse.Namespace, work: Path) -> None:
    """Base, prompts, an SFT policy and a reward model; both also as plain checkpoints, for TRL."""
    from rich.console import Console

    from align.recipe.load import load_recipe
    from align.serving.export import export
    from align.stages import rm, sft

    base = arguments.base or make_llama(work / "base")
    path = write_recipe(arguments, work, base.resolve())
    recipe = load_recipe(path)
    for stage in (sft, rm):
        stage.run(recipe)
    for name in ("sft", "rm"):
        export(recipe.run.path, name, work / name, console=Console(quiet=True))


def make_llama(folder: Path) -> Path:
    """10.0M parameters: 10 layers of width 256, and 8,192 words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2}
    for word in [*TEXT.split(), *(f"w{i}" for i in range(8192))]:
        if len(vocabulary) < 8192:
            vocabulary.setdefault(word, len(vocabulary))
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=10,
            num_attention_heads=4,
            max_position_embeddings=1024,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_recipe(arguments: argparse.Namespace, work: Path, base: Path) -> Path:
    """A recipe whose sft and rm are two steps long, with its data beside it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    draw, words = random.Random(0), TEXT.split()

    def text(tokens: int) -> str:
        found = draw.choice(words)
        while len(tokenizer(found + " the").input_ids) <= tokens:
            found += " " + draw.choice(words)
        return found

    prompts = list({text(arguments.prompt_tokens) for _ in range(arguments.batch * 4)})
    rows: dict[str, list[dict[str, Any]]] = {
        "demonstrations": [
            {"prompt": p, "response": " " + text(arguments.response_tokens - 1)} for p in prompts
        ],
        "rankings": [
            {"prompt": p, "responses": [" " + text(8), " " + text(6)], "ranks": [1, 2]} for p in prompts
        ],
        "prompts": [{"prompt": p} for p in prompts],
    }
    for name, records in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in records)
        (work / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    minibatch = arguments.batch // arguments.minibatches
    length = arguments.prompt_tokens + arguments.response_tokens
    recipe = {
        "base": {"name": str(base)},
        "run": {"name": "run", "folder": str(work / "runs"), "threads": 1},
        "data": {
            "template": "plain",
            "cache": str(work / "cache"),
            **{name: {"train": f"{name}.jsonl", "held_out": 0.05} for name in rows},
        },
        "lora": {"rank": 8, "alpha": 16, "targets": TARGETS, "layers": arguments.lora_layers},
        "sft": {"steps": 2, "batch_size": minibatch, "max_length": 2 * length},
        "rm": {"steps": 2, "batch_size": 2},
        "ppo": {
            "iterations": arguments.iterations,
            "rollout_batch_size": arguments.batch,
            "minibatch_size": minibatch,
            "microbatch_tokens": minibatch * length,
            "ppo_epochs": arguments.epochs,
            "learning_rate": LEARNING_RATE,
            "max_prompt_tokens": arguments.prompt_tokens,
            "max_response_tokens": arguments.response_tokens,
            "value_init": "reward" if arguments.value_model == "separate" else "policy",
            "value_model": arguments.value_model,
        },
    }
    path = work / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    return path


def ours(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Our iterations, timed from within the stage's own loop."""
    from align.ppo import train as ppo
    from align.recipe.load import load_recipe

    iterations: list[dict[str, float]] = []
    whole = ppo.iterate

    def timed(context: Any, stage: Any, *rest: Any) -> ppo.Iteration:
        wall, cpu = time.perf_counter(), time.process_time()
        found = whole(context, stage, *rest)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        metrics = found.metrics
        parts = {name: metrics[f"seconds/{name}"] for name in ("sample", "judge", "update")}
        parts["other"] = wall - sum(parts.values())
        tokens = metrics["response/length"] * arguments.batch
        iterations.append({"wall": wall, "cpu": cpu, "tokens": tokens, **parts})
        if len(iterations) == arguments.iterations:
            raise _Done(parameters())
        return found

    ppo.__dict__["iterate"] = timed
    overrides = [f"run.name=ppo-{os.getpid()}", f"ppo.sft={work}/runs/run", f"ppo.rm={work}/runs/run"]
    try:
        ppo.run(load_recipe(work / "recipe.yaml", overrides))
    except _Done as done:
        held = done.args[0]
    return _measured(arguments, work, iterations, held)


class _Done(Exception):
    """The last measured iteration is over: the rest of the stage is not measured."""


def trl(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """TRL's iterations, timed between its callbacks."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.experimental.ppo import PPOTrainer, ppo_trainer

    tokenizer = AutoTokenizer.from_pretrained(work / "sft", padding_side="left")
    policy, reward, value, lora = _trl_models(arguments, work)
    rows = [json.loads(line)["prompt"] for line in (work / "prompts.jsonl").open(encoding="utf-8")]
    prompts = Dataset.from_list([{"input_ids": tokenizer(text).input_ids} for text in rows])
    iterations: list[dict[str, float]] = []
    sampling: list[float] = []
    _time_calls(ppo_trainer, "batch_generation", sampling)
    trainer = PPOTrainer(
        args=_trl_arguments(arguments, work),
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=reward,
        value_model=value,
        train_dataset=prompts,
        eval_dataset=prompts.select(range(1)),
        peft_config=lora,
        callbacks=[_timer(arguments, iterations, sampling)],
    )
    with open(os.devnull, "w") as quiet:
        out, sys.stdout = sys.stdout, quiet
        trainer.train()
        sys.stdout = out
    return _measured(arguments, work, iterations, parameters())


def _trl_models(arguments: argparse.Namespace, work: Path) -> tuple[Any, Any, Any, Any]:
    """Policy, reward model and value model of TRL's side, and the LoRA that it puts on the policy."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    policy = AutoModelForCausalLM.from_pretrained(work / "sft", dtype=torch.float32)
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(work / "rm", dtype=torch.float32) for _ in range(2)
    )
    reward.requires_grad_(False)
    layers = policy.config.num_hidden_layers
    adapted = arguments.lora_layers and list(range(layers - arguments.lora_layers, layers))
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS, layers_to_transform=adapted)
    if arguments.trl_value == "lora":
        value.requires_grad_(False)
        inject_adapter_in_model(lora, value)
        value.score.requires_grad_(True)
    return policy, reward, value, lora


def _trl_arguments(arguments: argparse.Namespace, work: Path) -> Any:
    """What the recipe of our side says, in TRL's words."""
    from trl.experimental.ppo import PPOConfig

    return PPOConfig(
        output_dir=str(work / "trl"),
        total_episodes=arguments.batch * arguments.iterations,
        per_device_train_batch_size=arguments.batch // arguments.minibatches,
        gradient_accumulation_steps=arguments.minibatches,
        num_mini_batches=arguments.minibatches,
        local_rollout_forward_batch_size=arguments.batch,
        num_ppo_epochs=arguments.epochs,
        response_length=arguments.response_tokens,
        temperature=1.0,
        stop_token="eos",
        missing_eos_penalty=1.0,
        learning_rate=LEARNING_RATE,
        num_sample_generations=0,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def _timer(arguments: argparse.Namespace, iterations: list[dict[str, float]], sampling: list[float]) -> Any:
    """A callback that adds the figures of each iteration; `sampling`: seconds of its calls, emptied here."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        started = (0.0, 0.0)

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = (time.perf_counter(), time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wall, cpu = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
            tokens = arguments.batch * arguments.response_tokens
            parts = {"sample": sum(sampling), "other": wall - sum(sampling)}
            iterations.append({"wall": wall, "cpu": cpu, "tokens": tokens, **parts})
            sampling.clear()
            self.on_train_begin()

    return Timer()


def _measured(
    arguments: argparse.Namespace, work: Path, iterations: list[dict[str, float]], held: int
) -> dict[str, Any]:
    """What a side reports; `held`: the parameters that it held while it trained."""
    return {
        "iterations": iterations,
        "peak": peak(),
        "parameters": held,
        "forward": _one_forward(arguments, work),
    }


def _time_calls(module: Any, name: str, seconds: list[float]) -> None:
    whole = getattr(module, name)

    def timed(*positional: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = whole(*positional, **named)
        seconds.append(time.perf_counter() - started)
        return result

    setattr(module, name, timed)


@torch.no_grad()
def _one_forward(arguments: argparse.Namespace, work: Path) -> float:
    """CPU seconds of one forward pass with logits over the tokens of an iteration, best of three."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "sft", dtype=torch.float32).eval()
    length = arguments.prompt_tokens + arguments.response_tokens
    ids = torch.randint(3, 500, (arguments.batch, length))
    seconds = []
    for _ in range(3):
        started = time.process_time()
        model(input_ids=ids, use_cache=False)
        seconds.append(time.process_time() - started)
    return min(seconds)


def parameters() -> int:
    """Parameters that this process holds, each storage once."""
    held = {p.data_ptr(): p.numel() for p in gc.get_objects() if type(p) is torch.nn.Parameter}
    return sum(held.values())


def peak() -> float:
    """The largest size of this process so far, or of what torch held on a GPU, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held when it started this process
        (line,) = (row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def turn(arguments: argparse.Namespace, work: Path, side: str, script: str) -> dict[str, Any]:
    """What a process of its own measured of one side."""
    done = subprocess.run(
        command(arguments, work, side, script),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(side),
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def command(arguments: argparse.Namespace, work: Path, side: str, script: str) -> list[str]:
    """A line that measures one side."""
    parts = [arguments.trl_python if side == "trl" else sys.executable, script]
    parts += ["--measure", side, "--work", work, "--trl-value", arguments.trl_value]
    parts += ["--value-model", arguments.value_model]
    for name in ("batch", "minibatches", "epochs", "prompt_tokens", "response_tokens", "iterations"):
        parts += [f"--{name.replace('_', '-')}", getattr(arguments, name)]
    for name in ("base", "lora_layers"):
        if getattr(arguments, name):
            parts += [f"--{name.replace('_', '-')}", getattr(arguments, name)]
    return [str(part) for part in parts]


def environment(side: str) -> dict[str, str]:
    found = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if side == "trl":
        found.pop("PYTHONPATH", None)
    else:
        found["PYTHONPATH"] = str(ROOT)
    return found


def _medians(turns: list[dict[str, Any]], batch: int) -> dict[str, float]:
    rows = [row for turn in turns for row in turn["iterations"][1:]]
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    found["parameters"] = turns[0]["parameters"]
    found["peak"] = max(turn["peak"] for turn in turns)
    found["forward"] = min(turn["forward"] for turn in turns)
    found["responses"], found["rate"] = batch / found["cpu"], found["tokens"] / found["cpu"]
    return found


def table(found: dict[str, dict[str, float]], bound: dict[str, float]) -> str:
    """The measurements in Markdown."""
    lines = [
        "| trainer | wall s | CPU s | sample | judge | update | other | responses/CPU s | tokens/CPU s "
        "| forward-equivalents | parameters held | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for side, row in found.items():
        parts = [f"{row[name]:.2f}" if name in row else "" for name in ("sample", "judge", "update", "other")]
        lines.append(
            f"| {side} | {row['wall']:.2f} | {row['cpu']:.2f} | {' | '.join(parts)} | {row['responses']:.2f} "
            f"| {row['rate']:.0f} | {row['cpu'] / row['forward']:.1f} "
            f"| {row['parameters'] / 1e6:.1f}M | {row['peak']:.0f} |"
        )
    lines.append(
        f"| floor of ours | | {bound['cpu']:.2f} | {bound['sample']:.2f} | {bound['judge']:.2f} "
        f"| {bound['update']:.2f} | | | | | | |"
    )
    lines.append(f"\n{bound['gflops']:.0f} GFLOP/s, {bound['gbytes']:.1f} GB/s on one thread.")
    if "align" in found:
        lines.append(f"Ours takes {found['align']['cpu'] / bound['cpu']:.2f} times the floor (CPU seconds).")
    if {"align", "trl"} <= found.keys():
        times = {kind: found["trl"][kind] / found["align"][kind] for kind in ("cpu", "wall")}
        lines.append(
            f"Responses a second, ours over TRL's: {times['cpu']:.2f} by CPU time, {times['wall']:.2f} by "
            "wall time."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
