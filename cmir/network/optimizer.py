"""What moves the weights: Muon the kernels inside towers, AdamW everything else, as one thing with one state.

Muon makes the update of a kernel orthogonal: all directions are moved alike, where Adam moves most what is loud
already. A few thousand steps on a small set then find what Adam does not find in many more (docs/decisions.md).
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn

from cmir.network.muon import Muon

_ADAM_BETAS: Final = (0.9, 0.98)  # a shorter memory of squares than 0.999 suits runs of a few thousand steps


class KernelOptimizer:
    """Muon over `kernels`, AdamW over the parameter groups `others`; steps and states of both at once.

    A group's `rate_scale` is what part of the learning rate it has, 1 where it has none.
    """

    def __init__(
        self,
        kernels: Sequence[nn.Parameter],
        others: Sequence[dict[str, Any]],
        *,
        learning_rate: float,
        kernel_learning_rate: float,
        kernel_decay: float,
        in_bfloat16: bool = False,
    ) -> None:
        self.adamw = torch.optim.AdamW(list(others), lr=learning_rate, betas=_ADAM_BETAS, fused=True)
        self.muon: Muon | None = None
        if kernels:
            self.muon = Muon(kernels, lr=kernel_learning_rate, weight_decay=kernel_decay, in_bfloat16=in_bfloat16)
            self.muon.param_groups[0]["rate_scale"] = kernel_learning_rate / learning_rate

    def set_learning_rate(self, rate: float) -> None:
        """Of all groups, each by its `rate_scale`."""
        for group in self.param_groups:
            group["lr"] = rate * group.get("rate_scale", 1.0)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self._both:
            optimizer.zero_grad()

    def step(self) -> None:
        """One update by the gradients that stand in the parameters."""
        for optimizer in self._both:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"adamw": self.adamw.state_dict(), "muon": self.muon.state_dict() if self.muon else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the state of an optimizer of the same parameters."""
        self.adamw.load_state_dict(state["adamw"])
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of both, AdamW's first."""
        return [group for optimizer in self._both for group in optimizer.param_groups]

    @property
    def _both(self) -> tuple[torch.optim.Optimizer, ...]:
        return (self.adamw, self.muon) if self.muon is not None else (self.adamw,)
