"""Where training multiplies in bfloat16: on CUDA, and on CPUs with matrix units for it (Intel AMX).

Elsewhere a CPU converts back and forth and is slower than in float32. Weights, their gradients and losses are in
float32 everywhere; what convolutions and matrix products multiply, and on CPUs the norms between them, is rounded.
"""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.distributed as dist

TrainingPrecision = Literal["auto", "fp32", "bf16"]


def is_bfloat16(precision: TrainingPrecision, device: torch.device) -> bool:
    """Whether a training of this precision uses bfloat16 on a device; of several workers, whether all of them can."""
    if precision != "auto":
        return precision == "bf16"
    can = device.type == "cuda" or (device.type == "cpu" and _has_matrix_units())
    if not (dist.is_available() and dist.is_initialized()):
        return can
    all_can = torch.tensor([int(can)], device=device)
    dist.all_reduce(all_can, dist.ReduceOp.MIN)
    return bool(all_can[0])


def _has_matrix_units() -> bool:
    """Whether this machine's CPU multiplies tiles of bfloat16; torch before 2.13 cannot tell, which counts as no."""
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16", False))
