"""A GPU that torch cannot use is told, and which operations a GPU may run in the three stages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from align.cli.failures import CommandContext, _machine_failure
from align.errors import UserError
from align.ppo import train as ppo
from align.processes.determinism import choose_kernels, lenient
from align.processes.hardware import check_gpu, memory_limit, unusable
from align.recipe.load import load_recipe
from align.stages import rm, sft

VERSION = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  525.60.13  Wed Nov 30 06:39:21 UTC 2022\nGCC version: 12"
)


def a_torch(cuda: str | None, usable: bool = False) -> Any:
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(is_available=lambda: usable),
    )


def machine(root: Path, *devices: str, driver: str = VERSION) -> Path:
    (root / "dev").mkdir()
    for name in devices:
        (root / "dev" / name).touch()
    if driver:
        (root / "proc/driver/nvidia").mkdir(parents=True)
        (root / "proc/driver/nvidia/version").write_text(driver)
    return root


def test_a_driver_that_is_too_old_is_an_error_with_both_versions(tmp_path: Path) -> None:
    root = machine(tmp_path, "nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm")
    with pytest.raises(UserError) as told:
        check_gpu({}, root, a_torch("13.0"))
    for part in ("nvidia0, nvidia1;", "525.60.13", "CUDA 13.0", "CUDA_VISIBLE_DEVICES="):
        assert part in str(told.value)


def test_a_torch_without_cuda_beside_a_gpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"built without CUDA.*get-started"):
        check_gpu({}, machine(tmp_path, "nvidia0", driver=""), a_torch(None))


@pytest.mark.parametrize(
    "environ", [{"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "-1"}, {"ACCELERATE_USE_CPU": "true"}]
)
def test_who_asks_for_the_cpu_gets_it(environ: dict[str, str], tmp_path: Path) -> None:
    check_gpu(environ, machine(tmp_path, "nvidia0"), a_torch("13.0"))


def test_machines_that_are_well_are_left_alone(tmp_path: Path) -> None:
    for number, (devices, found) in enumerate(
        [(["nvidia0"], a_torch("13.0", usable=True)), ([], a_torch("13.0")), (["nvidiactl"], a_torch(None))]
    ):
        root = tmp_path / str(number)
        root.mkdir()
        assert unusable(machine(root, *devices), found) is None
        check_gpu({}, root, found)


def test_a_run_does_not_begin_on_the_cpu_of_a_gpu_machine(
    tiny_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("align.processes.hardware.unusable", lambda *_: "this machine has NVIDIA devices …")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    recipe = tiny_recipe()
    with pytest.raises(UserError, match="NVIDIA devices"):
        sft.run(load_recipe(recipe))
    assert not (recipe.parent / "runs").exists()


# Determinism

# What torch says raises, by the names of its documentation: the operations of its dispatcher that do.
RAISES = {
    "torch.nn.AvgPool3d": ["avg_pool3d_backward"],
    "torch.nn.AdaptiveAvgPool2d": ["_adaptive_avg_pool2d_backward"],
    "torch.nn.AdaptiveAvgPool3d": ["_adaptive_avg_pool3d_backward"],
    "torch.nn.AdaptiveMaxPool2d": ["adaptive_max_pool2d_backward"],
    "torch.nn.FractionalMaxPool2d": ["fractional_max_pool2d_backward"],
    "torch.nn.FractionalMaxPool3d": ["fractional_max_pool3d_backward"],
    "torch.nn.MaxUnpool1d": ["max_unpool2d"],
    "torch.nn.MaxUnpool2d": ["max_unpool2d"],
    "torch.nn.MaxUnpool3d": ["max_unpool3d"],
    "torch.nn.functional.interpolate": ["upsample_", "_upsample_"],
    "torch.nn.ReflectionPad1d": ["reflection_pad1d_backward"],
    "torch.nn.ReflectionPad2d": ["reflection_pad2d_backward"],
    "torch.nn.ReflectionPad3d": ["reflection_pad3d_backward"],
    "torch.nn.NLLLoss": ["nll_loss2d_"],  # with one target a row torch has a deterministic kernel
    "torch.nn.CTCLoss": ["_ctc_loss_backward", "ctc_loss_backward"],
    "torch.nn.EmbeddingBag": ["_embedding_bag_dense_backward"],
    "torch.Tensor.put_": ["put_", "put"],
    "torch.histc": ["histc"],
    "torch.bincount": ["bincount"],
    "torch.median": ["median", "nanmedian"],
    "torch.nn.functional.grid_sample": ["grid_sampler_"],
    "torch.cumsum": ["cumsum"],
    "torch.Tensor.scatter_reduce": ["scatter_reduce"],
    "torch.Tensor.resize_": ["quantized_resize"],
}


def raises(name: str, given: tuple[Any, ...]) -> bool:
    if name in ("cumsum", "cumsum_"):
        return bool(given[0].is_floating_point())
    return any(name == start or (start.endswith("_") and name.startswith(start)) for start in FLAT)


FLAT = [name for names in RAISES.values() for name in names]


class Watch(TorchDispatchMode):
    """Every operation that runs, and whether it may be one without a deterministic kernel there."""

    def __init__(self) -> None:
        super().__init__()
        self.strict: set[str] = set()
        self.lenient: set[str] = set()
        self.unasked: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        free = torch.is_deterministic_algorithms_warn_only_enabled()
        if not torch.are_deterministic_algorithms_enabled():
            self.unasked.add(name)
        elif raises(name, args):
            (self.lenient if free else self.strict).add(name)
        return func(*args, **(kwargs or {}))


def test_the_table_above_is_torch_s_own_list() -> None:
    said = torch.use_deterministic_algorithms.__doc__ or ""
    part = said[said.index("will throw a\n    :class:`RuntimeError` when ``mode=True``") :]
    part = part[: part.index("In addition")]
    named = re.findall(r"\* :(?:class|func):`([\w.]+)`", part)
    assert set(named) - {"torch.kthvalue"} == set(RAISES)


def test_no_stage_needs_an_operation_without_a_deterministic_kernel(tiny_recipe: Callable[..., Path]) -> None:
    recipe = tiny_recipe(sft={"steps": 2}, rm={"steps": 2}, ppo={"iterations": 1})
    for stage in (sft, rm, ppo):
        loaded = load_recipe(recipe)
        choose_kernels(loaded.run.deterministic)
        with Watch() as seen:
            stage.run(loaded)
        assert seen.strict == set()
        assert seen.unasked == ({"index_copy_"} if stage is ppo else set())
        assert seen.lenient == ({"cumsum"} if stage is ppo else set())


def test_strict_is_what_the_stages_are_and_false_is_free() -> None:
    try:
        choose_kernels(True)
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        with lenient():
            assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        choose_kernels(False)
        with lenient():
            assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        choose_kernels(True)


def test_torch_s_refusal_names_the_choice() -> None:
    error = RuntimeError("histc_cuda does not have a deterministic implementation, but you set …")
    told = _machine_failure(error, CommandContext()) or ""
    assert told.startswith("histc_cuda, which this base needs")
    assert "run.deterministic: false" in told


@pytest.mark.parametrize(
    ("groups", "limits", "least"),
    [
        ("4:memory:/slurm/job_7/step_0", {"memory/slurm/job_7/memory.limit_in_bytes": 5000}, 5000),
        (
            "0::/system.slice/job.scope",
            {"system.slice/job.scope/memory.max": 7000, "system.slice/memory.max": 6},
            6,
        ),
        ("0::/", {"memory.max": 8000}, 8000),  # a container's own view
        ("4:memory:/\n0::/", {"memory/memory.limit_in_bytes": 9223372036854771712}, None),
        ("0::/a", {"a/memory.max": "max"}, None),
        ("3:cpuset:/a\n", {"a/memory.max": 1}, None),
        ("0::/../../other", {}, None),
    ],
)
def test_the_limit_of_a_job_is_found_wherever_its_group_lies(
    tmp_path: Path, groups: str, limits: dict[str, object], least: int | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    for name, value in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    assert memory_limit(tmp_path) == least
    assert memory_limit(tmp_path / "nowhere") is None
