"""How exact and how long a pass of adapters on a bfloat16 base is, forward and backward.

    python benchmarks/adapters.py --base FOLDER [--tokens N] [--repeats N] [--seed N]

The base's weights are rounded to bfloat16, the adapters' are not; the reference is the same pass with all of
it in float32. Errors are relative to the reference's norm: of the log probabilities of the response tokens,
and of all adapters' gradients of their weighted sum together. Once through the lean passes, once through
transformers and PEFT. CPU seconds of one thread, the best of several.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from align.models.batch import collate
from align.models.forward import Forward
from align.models.lora import lora_config
from align.models.roles import Roles
from align.recipe.sections import Lora

TEXT = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"  # real text; ids at random are not


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, required=True, help="folder of a Llama-like model")
    parser.add_argument("--tokens", type=int, default=128, help="in each of two rows")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the adapters, and of where the text begins")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| way | precision | log probabilities: error | gradients: error | CPU seconds, best |")
    print("|---|---|---|---|---|")
    for lean in (True, False):
        (exact, slopes), seconds = measured(arguments, torch.float32, lean)
        print(f"| {'lean' if lean else 'PEFT'} | float32 | 0 | 0 | {seconds:.2f} |")
        (found, gradients), seconds = measured(arguments, torch.bfloat16, lean)
        errors = (float((a - b).norm() / b.norm()) for a, b in ((found, exact), (gradients, slopes)))
        told = " | ".join(f"{error:.4f}" for error in errors)
        print(f"| {'lean' if lean else 'PEFT'} | bfloat16 | {told} | {seconds:.2f} |")


def measured(
    arguments: argparse.Namespace, dtype: torch.dtype, lean: bool
) -> tuple[tuple[Tensor, Tensor], float]:
    """Log probabilities and all gradients, flat and in float32, and the seconds of a pass."""
    model = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.bfloat16).to(dtype)
    roles = Roles(model.requires_grad_(False).eval())
    lora = Lora(rank=arguments.rank, alpha=2 * arguments.rank, targets="all-linear")
    torch.manual_seed(arguments.seed)  # PEFT draws A
    roles.add("policy", lora_config(lora, model), trains=True)
    drawn = torch.Generator().manual_seed(arguments.seed)
    with torch.no_grad():
        for name, parameter in roles.parameters_of("policy").items():
            if "lora_B" in name:  # a fresh adapter is 0, and A would have no gradient
                parameter.normal_(std=0.005, generator=drawn)
    forward = Forward(roles)
    assert forward.fused, forward.remarks()
    forward.fused = lean
    tokens, seed = arguments.tokens, arguments.seed
    ids = AutoTokenizer.from_pretrained(arguments.base)(TEXT.read_text(encoding="utf-8"))["input_ids"]
    rows = [ids[i : i + tokens] for i in (seed * tokens, (seed + 5) * tokens)]
    prefix = forward.prefix(collate([(row[: tokens // 2], row[tokens // 2 :]) for row in rows]))
    best = float("inf")
    for _ in range(arguments.repeats):
        roles.zero_grad()
        started = time.process_time()
        logprobs, _, mask = forward.logprobs("policy", prefix, 1.0)
        weights = torch.linspace(-1, 1, mask.numel()).view_as(mask)
        (logprobs * weights).sum().backward()
        best = min(best, time.process_time() - started)
    gradients = torch.cat([p.grad.flatten() for p in roles.parameters_of("policy").values()])
    return (logprobs[mask].detach().float(), gradients.float()), best


if __name__ == "__main__":
    main()
