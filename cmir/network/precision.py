"""Where training multiplies in bfloat16: on CUDA, and on CPUs with units for it (Intel's AMX, or AVX-512's, AMD's too).

Elsewhere a CPU converts back and forth and is slower than in float32. Weights, their gradients and losses are in
float32 everywhere; what convolutions and matrix products multiply, and on CPUs the norms between them, is rounded.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

TrainingPrecision = Literal["auto", "fp32", "bf16"]


def is_bfloat16(precision: TrainingPrecision, device: torch.device) -> bool:
    """Whether a training of this precision uses bfloat16 on a device; of several workers, whether all of them can."""
    if precision != "auto":
        return precision == "bf16"
    can = device.type == "cuda" or (device.type == "cpu" and _has_bfloat16_units())
    if not (dist.is_available() and dist.is_initialized()):
        return can
    all_can = torch.tensor([int(can)], device=device)
    dist.all_reduce(all_can, dist.ReduceOp.MIN)
    return bool(all_can[0])


def lay_channels_last(net: nn.Module) -> None:
    """Have the kernels of two-dimensional convolutions lie in memory as CUDA's matrix units read them.

    `net.to(memory_format=...)` refuses a network with a parameter of five dimensions, as stems have.
    """
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def _has_bfloat16_units() -> bool:
    """Whether this machine's CPU multiplies bfloat16 itself; torch before 2.13 cannot tell, which counts as no."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
