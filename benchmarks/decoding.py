"""What sampling costs: seconds a rollout, kernels a token, and the gap between sampling and training.

    python benchmarks/decoding.py --base FOLDER [--dtype float32] [--rows 16] [--prompt 32] [--tokens 48]
        [--repeat 3] [--adapter 0.003]

One policy (rank 16 on all linear layers, B drawn with the standard deviation `--adapter`) samples the same
rows in each way, by turns: transformers' decoder, the lean decoder, the lean one with merged adapters, and
on a GPU these two with CUDA graphs. Prompts are pieces of a text, from `--prompt` tokens to twice as many;
nothing ends early.

Kernels are what reaches torch's dispatcher, views left out; RMSNorm, one on a GPU, is six on a CPU. The
gap is the mean distance of the sampler's log probabilities from those of the training pass, nats a token.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.models.batch import collate
from align.models.forward import Forward
from align.models.probe_ids import TEXT
from align.models.roles import Roles
from align.sampling.lean import Lean, captured
from align.sampling.params import Draws, Sampled, SamplingParams
from align.sampling.sampler import Hf

VIEWS = ("view", "t", "transpose", "slice", "select", "unsqueeze", "expand", "split", "alias", "detach")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="float32")
    for name, default in (("rows", 16), ("prompt", 32), ("tokens", 48), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--adapter", type=float, default=0.003)
    given = parser.parse_args()
    roles = policy(given.base, getattr(torch, given.dtype), given.adapter)
    lengths = [given.prompt + given.prompt * row // given.rows for row in range(given.rows)]
    text = AutoTokenizer.from_pretrained(given.base)(TEXT)["input_ids"]
    text *= 2 + (given.rows + 2 * given.prompt) // len(text)
    prompts = [text[row : row + length] for row, length in enumerate(lengths)]
    params = SamplingParams(1.0, -1, 0, max_tokens=given.tokens, batch_tokens=10**9)
    engines = ways(roles)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    sampled = {}
    for turn in range(given.repeat + 1):
        for name, engine in engines.items():
            begun = time.perf_counter(), time.process_time()
            sampled[name] = sample(engine, prompts, params)
            if turn:  # the first one warms up
                spent[name].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    print("| decoder | wall s | CPU s | kernels a token | gap | rows with the same tokens |")
    print("|---|---|---|---|---|---|")
    forward = Forward(roles)
    for name, engine in engines.items():
        wall, cpu = (statistics.median(x) for x in zip(*spent[name], strict=True))
        same = sum(
            a.response == b.response for a, b in zip(sampled[name], sampled["transformers"], strict=True)
        )
        print(
            f"| {name} | {wall:.2f} | {cpu:.2f} | {kernels(engine, prompts, params):.0f} "
            f"| {gap(forward, sampled[name]):.2g} | {same} of {given.rows} |"
        )


def policy(base: str, dtype: torch.dtype, std: float) -> Roles:
    """The base on the GPU, if there is one, under one adapter in float32."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype).to(device).eval().requires_grad_(False)
    roles = Roles(model)
    torch.manual_seed(0)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    roles.add("policy", config, trains=True)
    for name, parameter in roles.parameters_of("policy").items():
        parameter.data = parameter.data.float()
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    roles.prove_logits()
    return roles


def ways(roles: Roles) -> dict[str, Hf]:
    """An engine for each way."""
    found = {
        "transformers": Hf(roles),
        "lean": Hf(roles, lean=Lean(False)),
        "lean, merged": Hf(roles, lean=Lean(True)),
    }
    if roles.base.device.type == "cuda":
        found |= {
            f"{name}, graphs": replace(engine, lean=replace(engine.lean, capture=captured))
            for name, engine in found.items()
            if engine.lean
        }
    return found


def sample(engine: Hf, prompts: list[list[int]], params: SamplingParams) -> list[Sampled]:
    """The same random numbers each time."""
    found = engine.sample(prompts, Draws(0, "benchmark", 0, range(len(prompts))), params)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found


class Counted(TorchDispatchMode):
    """How many kernels ran."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.kernels += func._schema.name.removeprefix("aten::") not in (*VIEWS, "_unsafe_view")
        return func(*args, **(kwargs or {}))


def kernels(engine: Hf, prompts: list[list[int]], params: SamplingParams) -> float:
    """Of one decoding step, as the difference of two lengths, without graphs."""
    plain = replace(engine, lean=engine.lean and replace(engine.lean, capture=None), every=8)
    counts = []
    for tokens in (8, 16):
        with Counted() as counted:
            sample(plain, prompts[:2], replace(params, max_tokens=tokens))
        counts.append(counted.kernels)
    return (counts[1] - counts[0]) / 8


@torch.no_grad()
def gap(forward: Forward, sampled: list[Sampled]) -> float:
    """Nats a token, the mean over all."""
    far = []
    for one in sampled:
        prefix = forward.prefix(collate([(one.prompt, one.response)], 0))
        own, _, _ = forward.logprobs("policy", prefix, 1.0)
        far.append((own[0].cpu() - torch.tensor(one.logprobs)).abs())
    return float(torch.cat(far).mean())


if __name__ == "__main__":
    main()
