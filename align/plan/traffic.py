"""What the processes of a run send each other in a step, in bytes: gradients, optimizer, sharded layers.

Everything else that they tell each other (metrics, lengths, scores) is a few kilobytes. Gradients are
float32, whatever the base's precision. A collective of B bytes among n processes costs each of them about
2 (n - 1) / n B to send where it sums (a ring, Patarasuk & Yuan 2009), and (n - 1) / n B where it gathers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from align.plan.memory import Question, StageMemory
from align.plan.shares import batch_of

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
    trains: int = 2,
    samples: bool = True,
) -> Traffic:
    """An iteration of ppo with a policy and a value model of `trained` parameters together.

    updates: of each, an iteration; roles: that score; passes: of one process to score its responses;
    microbatches: of one update; trains: policy and value model, one after the other, or the policy alone.
    All layers are put together once to sample, where a server does not.
    """
    sent = _FLOAT32 * trained * updates
    layers = 0
    if upper:
        layers = (
            samples * (lower + upper)
            + passes * (lower + roles * upper)
            + updates * microbatches * trains * 2 * upper
        )
    return Traffic(sent, sent if upper else 0, layers)


def planned(asked: Question, found: StageMemory) -> Traffic | None:
    """What a step sends (of ppo an iteration) among the processes of a plan; None where there is but one."""
    machine, recipe, stage = asked.machine, asked.recipe, found.stage
    if machine.processes == 1:
        return None
    trained = sum(part.size for part in found.held if part.what == "gradients") // _FLOAT32
    weights, layers = asked.base.weights(asked.dtype), asked.base.layers
    adapted = min(recipe.lora.layers or layers, layers)
    upper = weights.layers * adapted // layers if machine.shards else 0
    lower = weights.layers - upper if machine.shards else 0
    mine = asked.share(batch_of(recipe, stage))
    if stage in ("sft", "dpo"):
        cfg = recipe.sft if stage == "sft" else recipe.dpo
        sent = of_step(trained, lower, upper, -(-mine // min(cfg.microbatch_size or mine, mine)))
    elif stage == "rm":
        tokens = mine * round(asked.lengths.rm.mean)
        sent = of_step(trained, lower, upper, -(-tokens // recipe.rm.microbatch_tokens))
    else:
        sent = _of_ppo(asked, found, trained, lower, upper)
    return replace(sent, optimizer=sent.gradients) if machine.sharded == "states" else sent


def _of_ppo(asked: Question, found: StageMemory, trained: int, lower: int, upper: int) -> Traffic:
    cfg, rows = asked.recipe.ppo, asked.lengths.ppo
    each = max(1, cfg.microbatch_tokens // (rows.prompt + rows.response))
    roles = {part.who for part in found.held if part.what == "adapter"}
    return of_ppo(
        trained,
        updates=cfg.ppo_epochs * -(-cfg.rollout_batch_size // cfg.minibatch_size),
        lower=lower,
        upper=upper,
        roles=len(roles),
        passes=-(-asked.share(cfg.rollout_batch_size) // each),
        microbatches=-(-asked.share(cfg.minibatch_size) // each),
        trains=sum(part.what == "gradients" and part.who in roles for part in found.held),
        samples=cfg.engine != "vllm",
    )
