"""What moves the weights: Muon the kernels inside towers, AdamW everything else, as one thing with one state.

Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024) makes the update of a matrix
orthogonal: all directions of a kernel are moved alike, where Adam moves most what is loud already. A few thousand steps
on a small set then find what Adam does not find in many more (docs/decisions.md). torch's takes matrices alone, so a
kernel [out,in,...] is handed to it as the matrix [out,in*...]. Its columns have that order however the kernel lies in
memory: gradients that were averaged over workers, and states of another device, lie otherwise. Kernels that do not lie
in that order themselves are copied there and back.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn

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
    ) -> None:
        self._kernels = list(kernels)
        self._matrices = [nn.Parameter(kernel.detach().flatten(1)) for kernel in kernels]
        self.adamw = torch.optim.AdamW(list(others), lr=learning_rate, betas=_ADAM_BETAS, fused=True)
        self.muon: torch.optim.Muon | None = None
        if kernels:
            self.muon = torch.optim.Muon(self._matrices, lr=kernel_learning_rate, weight_decay=kernel_decay)
            self.muon.param_groups[0]["rate_scale"] = kernel_learning_rate / learning_rate

    def set_learning_rate(self, rate: float) -> None:
        """Of all groups, each by its `rate_scale`."""
        for group in self.param_groups:
            group["lr"] = rate * group.get("rate_scale", 1.0)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.adamw.zero_grad()
        for kernel in self._kernels:
            kernel.grad = None

    def step(self) -> None:
        """One update by the gradients that stand in the parameters."""
        self.adamw.step()
        if self.muon is None:
            return
        with torch.no_grad():
            pairs = list(zip(self._kernels, self._matrices, strict=True))
            apart = [(kernel, matrix) for kernel, matrix in pairs if kernel.data_ptr() != matrix.data_ptr()]
            for kernel, matrix in apart:
                matrix.copy_(kernel.flatten(1))
            for kernel, matrix in pairs:
                matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
            self.muon.step()  # type: ignore[no-untyped-call]
            for kernel, matrix in apart:
                kernel.copy_(matrix.view(kernel.shape))

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
        """Of both, AdamW's first; kernels stand in them as matrices."""
        return self.adamw.param_groups + (self.muon.param_groups if self.muon else [])
