"""What a finished stage leaves: a PEFT adapter, and heads beside it."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

ADAPTER = "adapter_model.safetensors"
HEAD = "head.safetensors"


def save_adapter(model: PeftModel, adapter: str, folder: Path) -> None:
    """Write one adapter so that `peft.PeftModel.from_pretrained(base, folder)` loads it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    save_file(
        {name: t.detach().contiguous().cpu() for name, t in tensors.items()},
        folder / ADAPTER,
        metadata={"format": "pt"},
    )
    config = model.peft_config[adapter]
    before = config.inference_mode, config.target_modules
    config.inference_mode = True
    if isinstance(config.target_modules, set):  # its order differs from process to process
        config.target_modules = sorted(config.target_modules)
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode, config.target_modules = before


def save_head(head: nn.Module, folder: Path) -> None:
    """Write a scalar head's weight [D] and bias [] beside its adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().contiguous().cpu() for name, t in head.state_dict().items()}
    save_file(tensors, folder / HEAD)
