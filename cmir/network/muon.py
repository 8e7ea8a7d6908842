"""Muon: kernels move by the orthogonal matrix nearest to their momentum, all directions of a kernel alike.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024: momentum 0.95 with Nesterov's look
ahead, five Newton-Schulz steps of a quintic. torch.optim.Muon does the same one kernel after another, in bfloat16
everywhere and on every worker, which on a CPU without units for bfloat16 takes three quarters of a training step. Here
kernels of one shape go together, workers divide the kernels among themselves, and where bfloat16 is slow the polynomial
is taken of the small Gram matrix, in float32.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

_QUINTIC: Final = (3.4445, -4.7750, 2.0315)  # a s + b s^3 + c s^5 of a singular value s, steep at zero
_NUM_ROUNDS: Final = 5
_MOMENTUM: Final = 0.95
_LEAST_NORM: Final = 1e-7


class Muon(torch.optim.Optimizer):
    """Moves kernels f32[out,in,...], each seen as the matrix [out,in*...] however it lies in memory.

    A kernel of more rows than columns moves by the square root of their ratio farther. `in_bfloat16`: where that is the
    fastest way to multiply matrices (CUDA, CPUs with matrix units).
    """

    def __init__(
        self, kernels: Iterable[nn.Parameter], *, lr: float, weight_decay: float, in_bfloat16: bool = False
    ) -> None:
        super().__init__(kernels, {"lr": lr, "weight_decay": weight_decay})
        self._in_bfloat16 = in_bfloat16

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; kernels without a gradient stay. Workers must hold equal gradients of the same kernels."""
        assert closure is None, "a closure is not called"
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            updates = orthogonalised([self._looked_ahead(kernel) for kernel in kernels], in_bfloat16=self._in_bfloat16)
            for kernel, update in zip(kernels, updates, strict=True):
                rows, columns = update.shape
                kernel.mul_(1.0 - group["lr"] * group["weight_decay"])
                kernel.add_(update.view(kernel.shape), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _looked_ahead(self, kernel: Tensor) -> Tensor:
        """The gradient's momentum as a matrix, a step of it ahead."""
        assert kernel.grad is not None
        gradient = kernel.grad.flatten(1)
        state: dict[str, Any] = self.state[kernel]
        if not state:
            state["momentum"] = torch.zeros_like(gradient, memory_format=torch.contiguous_format)
        momentum: Tensor = state["momentum"].lerp_(gradient, 1.0 - _MOMENTUM)
        return gradient.lerp(momentum, _MOMENTUM)


def orthogonalised(matrices: Sequence[Tensor], *, in_bfloat16: bool = False) -> list[Tensor]:
    """For each matrix f32[m,n] about the orthogonal one nearest to it: singular values between 0.5 and 1.5, about.

    Several workers do a part each and share the results, so all of them must call it with the same matrices.
    """
    num_workers = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if num_workers == 1 or not matrices:
        return _orthogonalised_here(matrices, in_bfloat16)
    flat = matrices[0].new_zeros(sum(matrix.numel() for matrix in matrices))
    results = [part.view(matrix.shape) for part, matrix in zip(_parts(flat, matrices), matrices, strict=True)]
    mine = shares([_cost(matrix) for matrix in matrices], num_workers)[dist.get_rank()]
    for index, result in zip(mine, _orthogonalised_here([matrices[i] for i in mine], in_bfloat16), strict=True):
        results[index].copy_(result)
    dist.all_reduce(flat)  # zeros but for one worker's, so the sum is exact
    return results


def shares(costs: Sequence[float], num_workers: int) -> list[list[int]]:
    """Numbers of items for each worker, their costs about equal: dearest first, each to whom has least so far.

    >>> shares([5.0, 1.0, 4.0, 3.0], 2)
    [[0, 1], [2, 3]]
    """
    given: list[list[int]] = [[] for _ in range(num_workers)]
    totals = [0.0] * num_workers
    for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
        least = totals.index(min(totals))
        given[least].append(item)
        totals[least] += costs[item]
    return [sorted(items) for items in given]


def _orthogonalised_here(matrices: Sequence[Tensor], in_bfloat16: bool) -> list[Tensor]:
    """In this process, matrices of one shape together."""
    by_shape: dict[torch.Size, list[int]] = {}
    for index, matrix in enumerate(matrices):
        by_shape.setdefault(matrix.shape, []).append(index)
    results: dict[int, Tensor] = {}
    for (rows, columns), indices in by_shape.items():
        stacked_NMK = torch.stack([matrices[index] for index in indices])
        wide_NMK = stacked_NMK if rows <= columns else stacked_NMK.mT
        wide_NMK = wide_NMK / wide_NMK.norm(dim=(1, 2), keepdim=True).clamp(min=_LEAST_NORM)
        wide_NMK = _by_turns(wide_NMK) if in_bfloat16 else _by_gram(wide_NMK)
        results |= zip(indices, wide_NMK if rows <= columns else wide_NMK.mT, strict=True)
    return [results[index].contiguous() for index in range(len(matrices))]


def _by_turns(x_NMK: Tensor) -> Tensor:
    """X <- a X + (b G + c G G) X with G = X X', five times, in bfloat16."""
    a, b, c = _QUINTIC
    with torch.autocast(x_NMK.device.type, enabled=False):
        turned = x_NMK.bfloat16()
        for _ in range(_NUM_ROUNDS):
            gram = turned @ turned.mT
            turned = torch.baddbmm(turned, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), turned, beta=a)
        return turned.float()


def _by_gram(x_NMK: Tensor) -> Tensor:
    """The same polynomial: all its factors are polynomials of the first G, so X is multiplied once, at the end.

    For the widest kernels here (192 x 1,728) that is two fifths of the multiplications. Squaring loses singular values
    below 3e-4 of the largest, which five rounds do not bring to 1 in any case.
    """
    a, b, c = _QUINTIC
    with torch.autocast(x_NMK.device.type, enabled=False):
        gram_NMM = x_NMK @ x_NMK.mT
        product_NMM: Tensor | None = None
        for number in range(_NUM_ROUNDS):
            factor_NMM = torch.baddbmm(gram_NMM, gram_NMM, gram_NMM, beta=b, alpha=c)
            factor_NMM.diagonal(dim1=1, dim2=2).add_(a)
            product_NMM = factor_NMM if product_NMM is None else factor_NMM @ product_NMM
            if number < _NUM_ROUNDS - 1:
                gram_NMM = factor_NMM @ gram_NMM @ factor_NMM
        assert product_NMM is not None
        return product_NMM @ x_NMK


def _cost(matrix: Tensor) -> float:
    small, large = sorted(matrix.shape)
    return float(small * small * (large + 8 * small))


def _parts(flat: Tensor, like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return torch.split(flat, [matrix.numel() for matrix in like])
