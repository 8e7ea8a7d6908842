"""How fast a training goes: samples a second, the share of the time that it waits for the feed, the GPU's use."""

import importlib.util
import time
from dataclasses import dataclass, field

import torch


@dataclass
class Pace:
    """Adds up steps; time between steps (validation, checkpoints) does not count."""

    device: torch.device
    num_samples: int = 0
    busy_s: float = 0.0
    waited_s: float = 0.0
    _began_s: float = field(default=0.0, init=False)

    def begin(self) -> None:
        """A step begins by waiting for its batch."""
        self._began_s = time.monotonic()

    def have_batch(self) -> None:
        """The batch is there."""
        self.waited_s += time.monotonic() - self._began_s

    def end(self, num_samples: int) -> None:
        """The step is done, of so many samples of all workers."""
        self.busy_s += time.monotonic() - self._began_s
        self.num_samples += num_samples

    @property
    def samples_per_s(self) -> float:
        """Of all workers together."""
        return self.num_samples / max(self.busy_s, 1e-9)

    def figures(self) -> dict[str, float]:
        """`samples_per_s` and `feed_wait_share` 0..1; on CUDA the device's use and most memory as well."""
        figures = {
            "samples_per_s": self.samples_per_s,
            "feed_wait_share": self.waited_s / max(self.busy_s, 1e-9),
        }
        if self.device.type == "cuda":
            figures["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
            if importlib.util.find_spec("pynvml"):
                figures["gpu_use_percent"] = float(torch.cuda.utilization(self.device))
        return figures
