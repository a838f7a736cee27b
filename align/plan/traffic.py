"""What the processes of a run send each other in a step, in bytes: gradients, optimizer, sharded layers.

Everything else that they tell each other (metrics, lengths, scores) is a few kilobytes. Gradients are
float32, whatever the base's precision. A collective of B bytes among n processes costs each of them about
2 (n - 1) / n B to send where it sums (a ring, Patarasuk & Yuan 2009), and (n - 1) / n B where it gathers.
"""

from __future__ import annotations

from dataclasses import dataclass

_FLOAT32 = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes of a step's collectives, as each process gets their results."""

    gradients: int  # summed
    optimizer: int  # parameters that their owners send, where the optimizers' states are shared out
    layers: int  # a sharded base's, put together

    def sent(self, processes: int) -> float:
        """Bytes that one of so many processes sends."""
        share = (processes - 1) / processes
        return share * (2 * self.gradients + self.optimizer + self.layers)


def of_step(trained: int, lower: int = 0, upper: int = 0, microbatches: int = 1) -> Traffic:
    """A step of sft or rm.

    trained: parameters of the adapter and head; lower, upper: bytes of the layers below all adapters and of
    the others, where they are sharded; microbatches: passes of one process. A layer is put together forward,
    and again backward where a gradient goes through it.
    """
    sent = _FLOAT32 * trained if upper else 0
    return Traffic(_FLOAT32 * trained, sent, (lower + 2 * upper) * microbatches)


def of_ppo(
    trained: int,
    updates: int,
    lower: int = 0,
    upper: int = 0,
    roles: int = 4,
    passes: int = 1,
    microbatches: int = 1,
) -> Traffic:
    """An iteration of ppo with a policy and a value model of `trained` parameters together.

    updates: of each, an iteration; roles: that score; passes: of one process to score its responses;
    microbatches: of one update. All layers are put together once to sample.
    """
    sent = _FLOAT32 * trained * updates
    layers = 0
    if upper:
        trains = 2  # policy and value model, one after the other
        layers = (
            lower + upper + passes * (lower + roles * upper) + updates * microbatches * trains * 2 * upper
        )
    return Traffic(sent, sent if upper else 0, layers)
