"""What one of our PPO iterations cannot be faster than on this machine, for benchmarks/ppo.py."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch


@torch.no_grad()
def floor(arguments: argparse.Namespace, work: Path) -> dict[str, float]:
    """Seconds that the operations and bytes of one of our iterations need on this machine, by part."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(work / "sft", dtype=torch.float32)
    config, head = model.config, model.get_output_embeddings().weight
    blocks = [p for layer in model.model.layers for p in layer.parameters() if p.dim() == 2]
    trunk = sum(p.numel() for p in blocks)
    adapted = (arguments.lora_layers or config.num_hidden_layers) / config.num_hidden_layers
    length = arguments.prompt_tokens + arguments.response_tokens
    tokens, written = arguments.batch * length, arguments.batch * arguments.response_tokens
    rate, bandwidth = _matrix_rate(max(blocks, key=lambda p: p.numel()), tokens), _bandwidth()
    # Two operations a weight; attention over half the length on average, two products.
    one = 2 * trunk + 2 * config.num_hidden_layers * config.hidden_size * length
    logits = 2 * head.numel()
    # The last layer's queries, output and MLP are needed only where its result is read.
    attention = model.model.layers[-1].self_attn
    spared = 2 * (trunk // config.num_hidden_layers - 2 * attention.k_proj.weight.numel())
    prefill = arguments.batch * (arguments.prompt_tokens * (one - spared) + spared) / rate
    step = max(
        arguments.batch * (one + logits) / rate,
        4 * (trunk + head.numel()) / bandwidth,
    )
    lower, upper = one * (1 - adapted), one * adapted
    unread = (tokens - written) * spared
    # Policy, reference and reward, and the value where it does not read the policy's pass.
    roles, trained = (4, 2) if arguments.value_model == "separate" else (3, 1)
    judged = tokens * (lower + roles * upper) - roles * unread + written * 2 * logits
    # Forward, and backward to the inputs alone: the base is frozen.
    updated = arguments.epochs * (2 * trained * (tokens * upper - unread) + written * 2 * logits)
    parts = {
        "sample": prefill + arguments.response_tokens * step,
        "judge": judged / rate,
        "update": updated / rate,
    }
    return {"cpu": sum(parts.values()), **parts, "gflops": rate / 1e9, "gbytes": bandwidth / 1e9}


def _matrix_rate(weight: torch.Tensor, tokens: int) -> float:
    """Operations a second of a product with one of the model's own matrices, best of several."""
    x = torch.randn(tokens, weight.shape[1])
    best = 0.0
    for _ in range(20):
        started = time.process_time()
        for _ in range(5):
            torch.nn.functional.linear(x, weight)
        best = max(best, 5 * 2 * tokens * weight.numel() / (time.process_time() - started))
    return best


def _bandwidth() -> float:
    """Bytes a second of reading a matrix that no cache holds."""
    matrix, vector = torch.ones(8192, 8192), torch.ones(8192)
    seconds = []
    for _ in range(5):
        started = time.process_time()
        torch.mv(matrix, vector)
        seconds.append(time.process_time() - started)
    return 4 * matrix.numel() / min(seconds)
