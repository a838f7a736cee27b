"""On paper: what an iteration of PPO computes and sends on 8, 64 and 512 GPUs; the tables of docs/scaling.md.

    python benchmarks/scaling.py [--responses 512] [--prompt 512] [--response 512]

Operations by the rule of align/plan/flops.py, bytes by align/plan/traffic.py (which two processes are seen
to send, tests/processes/test_traffic.py), rates by data sheets: an H100 SXM computes 989 TFLOP/s and reads
3.35 TB/s, its NVLink sends 450 GB/s, a 400 Gbit/s network card 50 GB/s. Training is taken to reach 35% of
the first, sampling 40% of the second. Nothing here was measured on GPUs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from align.plan.flops import Work, pass_flops
from align.plan.traffic import of_ppo

RANK, UPDATES, MICROBATCH = 16, 4, 8192  # LoRA's, an iteration's, tokens in a pass
FLOPS, READS, NVLINK, NETWORK = 0.35 * 989e12, 0.4 * 3.35e12, 450e9, 50e9  # a second
IN_A_MACHINE = 8


@dataclass(frozen=True)
class Base:
    """A Llama's or Qwen's sizes."""

    name: str
    width: int
    mlp: int
    layers: int
    heads: int
    groups: int
    vocabulary: int
    head_dim: int = 128

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Of a layer, what goes in and what comes out."""
        q, kv = self.heads * self.head_dim, self.groups * self.head_dim
        attention = [(self.width, q), (self.width, kv), (self.width, kv), (q, self.width)]
        return [*attention, (self.width, self.mlp), (self.width, self.mlp), (self.mlp, self.width)]

    @property
    def layer_weights(self) -> int:
        """Of all layers."""
        return self.layers * sum(a * b for a, b in self.matrices)

    @property
    def adapter(self) -> int:
        """Parameters of an adapter on all linear layers."""
        return self.layers * sum(RANK * (a + b) for a, b in self.matrices)


BASES = [
    Base("8B", 4096, 14336, 32, 32, 8, 128256),
    Base("32B", 5120, 25600, 64, 64, 8, 151936),
    Base("70B", 8192, 28672, 80, 64, 8, 128256),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=512, help="an iteration")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--response", type=int, default=512)
    arguments = parser.parse_args()
    for sharded in (False, True):
        print("\nsharded" if sharded else "\ncopies")
        print("| base | GPUs | sampling, s | training's operations, s | sent by each, GB | sending, s |")
        print("|---|---|---|---|---|---|")
        for base in BASES:
            if sharded or base.name == "8B":
                for gpus in (8, 64, 512):
                    print(row(base, gpus, arguments, sharded))


def row(base: Base, gpus: int, asked: argparse.Namespace, sharded: bool) -> str:
    """An iteration on so many GPUs."""
    rows, length = asked.responses / gpus, asked.prompt + asked.response
    pair = 2 * base.heads * base.head_dim * base.layers
    work = Work(0, base.layer_weights, base.adapter, 0, pair, base.width * base.vocabulary)
    pairs = length * (length + 1) // 2
    scoring = sum(pass_flops(work, length, pairs, read) for read in (asked.response,) * 2 + (0, 0))
    updates = sum(pass_flops(work, length, pairs, read, backward=True) for read in (asked.response, 0))
    computing = max(1.0, rows) * (scoring + updates) / FLOPS
    weights = 2 * (base.layer_weights + base.vocabulary * base.width)  # bytes that each token reads
    cached = 4 * base.layers * base.groups * base.head_dim * (asked.prompt + asked.response / 2)
    sampling = asked.response * (weights + max(1.0, rows) * cached) / READS
    passes = max(1, round(rows * length / MICROBATCH))
    sent = of_ppo(
        2 * base.adapter,
        updates=UPDATES,
        upper=2 * base.layer_weights if sharded else 0,
        passes=passes,
        microbatches=max(1, passes // UPDATES),
    ).sent(gpus)
    if sharded and base.name == "70B":  # whole, it fits on no card: it samples elsewhere
        sent -= 2 * base.layer_weights * (gpus - 1) / gpus
    link = NVLINK if gpus <= IN_A_MACHINE else NETWORK
    shown = "on vLLM" if sharded and base.name != "8B" else f"{sampling:.1f}"
    return f"| {base.name} | {gpus} | {shown} | {computing:,.1f} | {sent / 1e9:,.1f} | {sent / link:,.2f} |"


if __name__ == "__main__":
    main()
