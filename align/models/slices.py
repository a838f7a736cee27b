"""Reading a part of a base's weights: the model is cut before it has any, and each process reads its slices.

transformers builds a model without numbers (torch's meta device), hands it to `maybe_distribute_model`, and
reads the files then. Of a parameter that is a DTensor by that time it reads this process's slice alone,
converted as the whole would be, and says as ever what is missing or has another shape. What transformers does
in that place by itself (its `DistributedConfig`) would shard embeddings and the output layer, too, which
passes here use outside the model's own forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import Chunk, Concatenate, MergeModulelist, WeightConverter
from transformers.distributed.configuration_utils import DistributedConfig

from align.errors import AlignError

Cut = Callable[[PreTrainedModel], object]


class NotInSlices(Exception):
    """The files hold this base's layers in a form of which no slice is a slice of the layers."""


@contextmanager
def before_reading(cut: Cut | None) -> Iterator[dict[str, Any]]:
    """What to give from_pretrained inside, for a model that is cut before its weights are read.

    Raises AlignError where this transformers has not called the cut.
    """
    if cut is None:
        yield {}
        return
    done = []

    def distribute(cls: type, model: PreTrainedModel, *_: Any) -> PreTrainedModel:
        model.requires_grad_(False)
        cut(model)
        done.append(model)
        del model.config.distributed_config  # nothing that a configuration's file should say
        return model

    PreTrainedModel.maybe_distribute_model = classmethod(distribute)
    try:
        yield {"distributed_config": DistributedConfig(tp_size=1, fsdp_size=1)}  # nothing but the call
    finally:
        del PreTrainedModel.maybe_distribute_model  # its parent's shows again
    if not done:
        raise AlignError(
            "this transformers reads whole models only, and the base is to be sharded: install one that "
            "`pip install align` would choose, or use distributed_type MULTI_GPU"
        )


def check_slices(model: PreTrainedModel, layers: nn.ModuleList, processes: int) -> None:
    """Raise NotInSlices unless what each process reads of the layers is its part of them.

    Parts are cut along the first dimension, so a conversion may not mix it: an expert of its own in the file
    is one along that dimension, and goes to one process; a matrix that the model has in three pieces is cut
    in other places. A process must not go without any expert.
    """
    converters = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightConverter)]
    for converter in converters:
        if not all(map(_keeps_parts, converter.operations)):
            raise NotInSlices
    if converters and any(len(p.chunk(processes)) < processes for p in layers.parameters() if p.ndim > 2):
        raise NotInSlices


def _keeps_parts(operation: object) -> bool:
    if isinstance(operation, MergeModulelist):
        return operation.dim == 0
    return isinstance(operation, Concatenate | Chunk) and operation.dim > 0
