"""How fast a training goes: samples a second, the share of the time that it waits for the feed, the GPU's use.

NVML's use of a GPU is the share of its last sample period, up to a second, in which a kernel ran. It is read in steps,
at most once in two seconds, and averaged: read after the training it would be that of a moment at rest.
"""

import importlib.util
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch

log = logging.getLogger("cmir")

READ_EVERY_S: Final = 2.0
GpuUse = Callable[[], float]


@dataclass
class Pace:
    """Adds up steps; time between steps (validation, checkpoints) does not count.

    `gpu_use` is what reads the GPU's use, 0..100, where there is one that tells (see gpu_use_of).
    """

    device: torch.device
    gpu_use: GpuUse | None = None
    num_samples: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0
    num_reads: int = 0
    gpu_use_sum: float = 0.0
    _began_s: float = field(default=0.0, init=False)
    _read_s: float = field(default=float("-inf"), init=False)

    def begin(self) -> None:
        """A step begins by waiting for its batch."""
        self._began_s = time.monotonic()

    def have_batch(self) -> None:
        """The batch is there."""
        self.waited_s += time.monotonic() - self._began_s

    def end(self, num_samples: int) -> None:
        """The step is done, of so many samples of all workers."""
        now_s = time.monotonic()
        self.busy_s += now_s - self._began_s
        self.num_samples += num_samples
        if self.gpu_use is not None and now_s - self._read_s >= READ_EVERY_S:
            self._read_s = now_s
            self.gpu_use_sum += self.gpu_use()
            self.num_reads += 1

    @property
    def samples_per_s(self) -> float:
        """Of all workers together."""
        return self.num_samples / max(self.busy_s, 1e-9)

    def figures(self) -> dict[str, float]:
        """`samples_per_s` and `feed_wait_share` 0..1; on CUDA the device's mean use and most memory as well."""
        figures = {
            "samples_per_s": self.samples_per_s,
            "feed_wait_share": self.waited_s / max(self.busy_s, 1e-9),
        }
        if self.device.type == "cuda":
            figures["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        if self.num_reads:
            figures["gpu_use_percent"] = self.gpu_use_sum / self.num_reads
        return figures


def gpu_use_of(device: torch.device) -> GpuUse | None:
    """What reads how many percent of the time a CUDA device was at work; None for others, without pynvml (`pip install
    'cmir[gpu]'`) and where the driver does not tell, as of a part of a GPU."""
    if device.type != "cuda" or not importlib.util.find_spec("pynvml"):
        return None
    import pynvml

    def read() -> float:
        return float(torch.cuda.utilization(device))

    try:
        read()
    except pynvml.NVMLError as error:
        log.warning("the use of the GPU is not told: %s", error)
        return None
    return read
