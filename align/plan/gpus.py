"""Graphics cards by name: memory, rates of arithmetic and of reading, from their makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass

from align.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One card. Rates are the data sheet's, without sparsity."""

    name: str
    memory: int  # bytes, as the driver shows them
    flops: float  # bfloat16 operations a second, with sums in float32
    bandwidth: float  # bytes of memory read a second
    source: str  # the data sheet, or who said it


def _gpu(name: str, mib: int, teraflops: float, gigabytes: float, source: str) -> Gpu:
    return Gpu(name, mib * 2**20, teraflops * 1e12, gigabytes * 1e9, source)


# Memory is what nvidia-smi calls the card's total; sheets round it. Rates are those without sparsity: where a
# sheet gives only the one with it, half of that.
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("a10-24", 23028, 125, 600, "NVIDIA A10 Tensor Core GPU data sheet"),
        _gpu("a100-40", 40960, 312, 1555, "NVIDIA A100 Tensor Core GPU data sheet (SXM4 40 GB)"),
        _gpu("a100-80", 81920, 312, 2039, "NVIDIA A100 Tensor Core GPU data sheet (SXM4 80 GB)"),
        _gpu("a6000-48", 49140, 154.8, 768, "NVIDIA Ampere GA102 GPU architecture whitepaper (RTX A6000)"),
        _gpu("b200-180", 183359, 2250, 8000, "NVIDIA DGX B200 data sheet, an eighth of the system"),
        _gpu("h100-80", 81559, 989.4, 3350, "NVIDIA H100 Tensor Core GPU data sheet (SXM5)"),
        _gpu("h100-pcie-80", 81559, 756, 2000, "NVIDIA H100 Tensor Core GPU data sheet (PCIe)"),
        _gpu("h200-141", 143771, 989.4, 4800, "NVIDIA H200 Tensor Core GPU data sheet (SXM5)"),
        _gpu("l4-24", 23034, 121, 300, "NVIDIA L4 Tensor Core GPU data sheet"),
        _gpu("l40s-48", 46068, 362, 864, "NVIDIA L40S GPU data sheet"),
        _gpu("rtx3090-24", 24576, 71, 936, "NVIDIA Ampere GA102 GPU architecture whitepaper (RTX 3090)"),
        _gpu("rtx4090-24", 24564, 165.2, 1008, "NVIDIA Ada GPU architecture whitepaper (RTX 4090)"),
        _gpu("rtx5090-32", 32607, 209.5, 1792, "NVIDIA RTX Blackwell GPU architecture whitepaper (RTX 5090)"),
    )
}
_GIVEN = ("mem", "tflops", "bandwidth")


def find_gpu(text: str) -> Gpu:
    """A card by its name, or by its numbers: `mem=48,tflops=181,bandwidth=864` (GiB, 1e12/s, GB/s).

    Raises UserError for a name that is not known, which lists the known ones, and for numbers that are none.
    """
    if "=" in text:
        return _by_numbers(text)
    found = GPUS.get(text.strip().lower())
    if found is None:
        raise UserError(
            f"--gpu {text}: known are {', '.join(GPUS)}. For another card give its numbers: "
            "--gpu mem=48,tflops=181,bandwidth=864 (memory in GiB, 1e12 dense bfloat16 operations "
            "a second, GB of memory read a second)"
        )
    return found


def _by_numbers(text: str) -> Gpu:
    given: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        if key.strip() not in _GIVEN or not 0 < number < 1e7:
            raise UserError(
                f"--gpu {text}: {part.strip() or 'nothing'} is not understood; write numbers above 0 for "
                "mem (GiB), tflops and bandwidth (GB/s), as in mem=48,tflops=181,bandwidth=864"
            )
        given[key.strip()] = number
    if missing := [key for key in _GIVEN if key not in given]:
        raise UserError(f"--gpu {text}: {missing[0]} is missing; write mem=48,tflops=181,bandwidth=864")
    return Gpu(
        text, round(given["mem"] * GIB), given["tflops"] * 1e12, given["bandwidth"] * 1e9, "the command line"
    )


def like(device: str) -> Gpu | None:
    """The card that a driver's name means, as `NVIDIA H100 80GB HBM3`; None where it is not in the table."""
    words = device.lower().replace("-", " ").replace("geforce rtx ", "rtx").replace("rtx ", "rtx").split()
    for gpu in sorted(GPUS.values(), key=lambda gpu: -len(gpu.name)):
        *parts, size = gpu.name.split("-")
        stands = all(any(word == part for word in words) for part in parts)
        sized = f"{size}gb" in words or sum(other.startswith(parts[0] + "-") for other in GPUS) == 1
        if stands and sized:
            return gpu
    return None
