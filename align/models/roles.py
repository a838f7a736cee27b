"""One base, several roles: each role is a LoRA adapter on it, some with a scalar head.

PEFT's `set_adapter` freezes every other adapter, so a second one would silently stop training; here
each activation restores the flags of *all* roles. A role's forward and backward pass belong together,
before the next role is activated.

PEFT finds an adapter's parameters by its name among the parts of theirs, so an adapter must not be called
as a module of the base is: RWKV has `value`s, which PEFT would leave out when it saves the policy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from align.errors import AlignError, UserError, ran_out_of_memory
from align.models.adapter_products import multiply_in_input_dtype
from align.models.adapters import apart, parameters_of, read_adapter
from align.models.ensemble import Ensemble
from align.models.heads import LENGTH_BIAS, ScalarHead
from align.models.logits import LastStep, last_step, said_step
from align.models.saved_modules import mark, same, take_over
from align.models.text_part import output_width, text_decoder
from align.processes import sharding
from align.processes.distributed import highest, more_elsewhere
from align.run.checkpoint import load_into, read_tensors
from align.run.hub import first_line
from align.run.manifest import HEAD
from align.run.memory import Held, size


@dataclass(frozen=True)
class Room:
    """Bytes that a base takes whole with what is beside it, at most, and those of the smallest device."""

    needed: int
    memory: int

    @property
    def enough(self) -> bool:
        """A quarter stays free, for the cache of keys and values and for logits."""
        return self.needed <= self.memory * 3 // 4


class Roles(nn.Module):
    """A frozen base with one adapter a role; `add` gives roles, `activate` chooses the one that passes use.

    `shard_group`: the processes that the base is sharded among. Each pass of one is then a pass of all.
    """

    def __init__(self, model: PreTrainedModel, shard_group: Accelerator | None = None) -> None:
        super().__init__()
        self.base = model
        self.shard_group = shard_group
        self.heads = nn.ModuleDict()
        self.peft: PeftModel | None = None
        self._modules_named = {part for name, _ in model.named_modules() for part in name.split(".")}
        self._trains: dict[str, bool] = {}
        self._shared: dict[str, str] = {}  # a role without an adapter of its own -> whose it reads
        self._adapters: dict[str, dict[str, nn.Parameter]] = {}
        self._lora_layers: list[LoraLayer] = []
        self._active: str | None = None
        self._gathered = False  # whether a sharded base is whole at the moment
        self._last_step: LastStep | None = None
        self.ensembles: dict[str, Ensemble] = {}  # of reward models with several members, by their role
        self._saved_modules: list[str] = []  # modules of the base that are as sft trained them

    def add(self, role: str, source: Path | LoraConfig, trains: bool) -> None:
        """Add a role whose adapter is loaded from a folder, or is new (a LoraConfig).

        Embeddings and an output layer that come with it take the place of the base's own, for all roles.
        Raises AlignError where a folder's adapter does not fit its configuration, or this base; UserError
        where it was trained with other embeddings than those of a role that is here.
        """
        config, tensors = read_adapter(source) if isinstance(source, Path) else (source, {})
        saved, whole = apart(tensors)
        if isinstance(source, Path):
            self._share_saved(source, config.modules_to_save or [], whole)
            config.modules_to_save, config.ensure_weight_tying = None, False
        config.inference_mode = False
        config.lora_dropout = 0.0  # sft alone has dropout; ratios need the same network twice
        adapter = self.adapter_of(role)
        try:
            if self.peft is None:
                self.peft = PeftModel(self.base, config, adapter_name=adapter)
            else:
                self.peft.add_adapter(adapter, config)
            result = set_peft_model_state_dict(self.peft, saved, adapter_name=adapter) if saved else None
        except (ValueError, RuntimeError) as error:  # no such layers; other shapes
            if not isinstance(source, Path) or ran_out_of_memory(error):
                raise
            raise AlignError(f"{source} does not fit this base: {first_line(error)}") from error
        if result:
            own = [
                key for key in result.missing_keys if re.search(rf"\.lora_\w+\.{re.escape(adapter)}\.", key)
            ]
            if misfits := [*result.unexpected_keys, *own]:
                raise AlignError(f"{source} does not fit this base: {', '.join(misfits[:3])}")
        mark(self.peft, adapter, self._saved_modules)
        multiply_in_input_dtype(self.base)
        self._trains[role] = trains
        self._adapters[role] = parameters_of(self.base, adapter)
        self._lora_layers = [module for module in self.base.modules() if isinstance(module, LoraLayer)]
        self.eval()
        self._active = None
        self.activate(role)

    def _share_saved(self, source: Path, paths: list[str], tensors: dict[str, Tensor]) -> None:
        """Put in the base's place what an adapter saves whole, or see that it is there already."""
        if not self._adapters:
            take_over(self.base, paths, tensors, source)
            self._saved_modules = paths
        elif paths != self._saved_modules or not same(self.base, paths, tensors):
            raise UserError(
                f"{source} was trained with other embeddings or another output layer (lora.modules_to_save) "
                "than the SFT policy, and all roles share one base: train it anew from this run's sft"
            )

    def share(self, role: str, other: str, trains: bool) -> None:
        """Add a role that reads another's adapter and has nothing of its own but a head, which may train."""
        self._trains[role] = trains
        self._adapters[role] = {}
        self._shared[role] = other

    def adapter_of(self, role: str) -> str:
        """What PEFT calls the adapter that a role reads, its own or the one it shares."""
        owner = self.owner_of(role)
        return owner if owner not in self._modules_named else f"{owner}_role"

    def owner_of(self, role: str) -> str:
        """The role whose adapter a role reads: itself, or the one it shares."""
        return self._shared.get(role, role)

    def add_head(
        self, role: str, source: Path | torch.Generator, bias: bool = False, std: float | None = None
    ) -> None:
        """Give a role a scalar head, loaded from a folder or drawn from a generator (`std`: ScalarHead's).

        A bias that the folder's head does not have starts at 0.
        """
        drawn = source if isinstance(source, torch.Generator) else torch.Generator()
        head = ScalarHead(self.width, drawn, bias, std)
        if isinstance(source, Path):
            saved = read_tensors(source / HEAD)
            curve = [saved.pop(name) for name in LENGTH_BIAS if name in saved]
            if curve and not bias:  # a value, which is said before a response is written, has no length
                head.debias(*curve)
            if bias:
                saved = {"bias": torch.zeros(()), **saved}
            load_into(dict(head.named_parameters()), saved, str(source / HEAD))
        head.requires_grad_(self._trains[role])
        self.heads[role] = head.to(self.base.device)

    def activate(self, role: str) -> None:
        """Use this role's adapter from now on, and restore every role's requires_grad."""
        if role == self._active:
            return
        for layer in self._lora_layers:
            layer.set_adapter(self.adapter_of(role))
        for name, trains in self._trains.items():
            for parameter in self._adapters[name].values():
                parameter.requires_grad_(trains)
        self._active = role

    def parameters_of(self, role: str) -> dict[str, nn.Parameter]:
        """A role's own parameters, adapter and head, by name."""
        named = dict(self._adapters[role])
        if role in self.heads:
            named |= {f"head.{name}": p for name, p in self.heads[role].named_parameters()}
        return named

    def held(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> list[Held]:
        """The base and each role, for a message about memory."""
        own = {role: list(self.parameters_of(role).values()) for role in self._trains}
        theirs = {id(p) for parameters in own.values() for p in parameters}
        base = Held("base", [p for p in self.base.parameters() if id(p) not in theirs])
        return [base, *(Held(role, p, optimizers.get(role)) for role, p in own.items())]

    @property
    def names(self) -> list[str]:
        """Of all roles."""
        return list(self._trains)

    @property
    def active(self) -> str | None:
        """The active role."""
        return self._active

    def more_elsewhere(self, passes: int) -> int:
        """How many more passes than the coming ones of this process some other is about to make.

        With a sharded base a pass of one process waits for all, so who has fewer must idle; else it is 0.
        A sharded base must have run once, as Forward lets it.
        """
        if self.sharers is None:
            return 0
        for module in self.base.modules():
            if isinstance(module, FSDPModule):
                module.reset_iter_state()  # it counts passes until a backward pass, and there may be none
        return more_elsewhere(passes, self.sharers)

    @property
    def sharers(self) -> Accelerator | None:
        """The processes whose passes are one; None where this one's wait for nobody."""
        return None if self._gathered else self.shard_group

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, a sharded base is whole on every process, where it fits: passes wait for nobody then.

        All processes of the shard group enter it together.
        """
        if self.sharers is None or not self.room.enough:
            yield
            return
        with sharding.gathered(self._layers):
            self._gathered = True
            try:
                yield
            finally:
                self._gathered = False

    @cached_property
    def room(self) -> Room:
        """Whether a sharded base fits into each process's memory whole, beside its parts and the roles.

        The processes of the shard group find it out together, from sizes that do not change.
        """
        assert self.shard_group is not None
        held = size(chain(self.base.parameters(), self.heads.parameters()))
        needed = highest(sharding.whole_size(self._layers) + held, self.shard_group)
        return Room(needed, -highest(-sharding.device_memory(self.shard_group), self.shard_group))

    @property
    def _layers(self) -> list[nn.Module]:
        layers: Any = self.decoder.layers
        return list(layers)

    @torch.no_grad()
    def idle(self) -> None:
        """A pass through all layers, its result unused, because another process makes one."""
        self.decoder(input_ids=torch.ones(1, 1, dtype=torch.int64, device=self.base.device), use_cache=False)

    def prove_logits(self, proof: bool = True) -> None:
        """Learn what the base does with its logits at last, by passes that every process of a shard group
        makes; raises UserError where it is not known. Without proof, what its configuration says is taken."""
        if self._last_step is None:
            config = self.base.config.get_text_config()
            self._last_step = last_step(self.base, self.decoder) if proof else said_step(config)

    @property
    def last_step(self) -> LastStep:
        """What the base does with its output layer's result; `prove_logits` came before."""
        assert self._last_step is not None
        return self._last_step

    @property
    def decoder(self) -> nn.Module:
        """The base without its output layer."""
        return text_decoder(self.base)

    @property
    def width(self) -> int:
        """Numbers in a last hidden state, as the output layer reads it; some bases end narrower."""
        return output_width(self.base)

    @property
    def lowest_adapted_layer(self) -> int:
        """No role changes anything below this layer."""
        found = [
            int(match[1])
            for name, module in self.base.named_modules()
            if isinstance(module, LoraLayer) and (match := re.search(r"\.(\d+)\.", name))
        ]
        return min(found, default=0)


def tensors_of(roles: Roles, role: str) -> dict[str, Tensor]:
    """A role's parameters as tensors to save."""
    return {name: p.detach() for name, p in roles.parameters_of(role).items()}
