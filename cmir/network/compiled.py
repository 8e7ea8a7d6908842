"""The image trunk as compiled code, of which there is one version for every shape that it meets.

So chips are counted up to a multiple of 16 with empty ones, which are dropped again: a training then meets one shape
for each size of its chips, instead of one for every number of them. The trunk normalises within a chip, so the others
come out as they would alone.
"""

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from cmir.network.model import SharedSpaceNet

_CHIPS: Final = 16
_MAX_SHAPES: Final = 32


def compile_trunk(net: SharedSpaceNet, backend: str = "inductor") -> None:
    """Have `encode_images` of this network run compiled code. Copies made of it before do not.

    Where the compiler fails (Triton without a C compiler), the trunk runs as it is, with torch's own warning.
    """
    if net.image_tower is None:
        return
    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.cache_size_limit = max(_MAX_SHAPES, torch._dynamo.config.cache_size_limit)
    compiled = torch.compile(net.image_tower.features, backend=backend, dynamic=False)
    net.image_tower.features = counted_up(compiled)  # type: ignore[method-assign, assignment]


def counted_up(features: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same function of f32[B,C,H,W], that only ever sees multiples of 16 chips."""

    def run(stemmed: Tensor) -> Tensor:
        missing = -len(stemmed) % _CHIPS
        padded = F.pad(stemmed, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else stemmed
        return features(padded.contiguous(memory_format=torch.channels_last))[: len(stemmed)]

    return run
