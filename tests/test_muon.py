"""Muon: as torch's, but for the precision; alike for every layout, number format and number of workers."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from cmir.network.muon import Muon, orthogonalised, shares

SHAPES = ((12, 40), (12, 40), (40, 12), (16, 16), (3, 90))


def matrices(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def in_double(matrix: torch.Tensor) -> torch.Tensor:
    """The quintic round by round, as it is written."""
    x = matrix.double() if matrix.shape[0] <= matrix.shape[1] else matrix.double().T
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def test_the_quintic_of_the_gram_matrix_is_that_of_the_matrix() -> None:
    for given, result in zip(matrices(), orthogonalised(matrices()), strict=True):
        torch.testing.assert_close(result.double(), in_double(given), atol=1e-4, rtol=1e-4)
        values = torch.linalg.svdvals(result)
        assert 0.5 < float(values.min()) <= float(values.max()) < 1.5


def test_nearly_flat_matrices_stay_right() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = torch.randn(64, 4, generator=generator), torch.randn(4, 300, generator=generator)
    flat = left @ right + 1e-4 * torch.randn(64, 300, generator=generator)
    exact = in_double(flat)
    assert float((orthogonalised([flat])[0] - exact).norm() / exact.norm()) < 1e-3


def test_bfloat16_is_near_and_nothing_is_divided_by_zero() -> None:
    for rough, fine in zip(orthogonalised(matrices(), in_bfloat16=True), orthogonalised(matrices()), strict=True):
        assert rough.dtype == torch.float32
        assert float((rough - fine).norm() / fine.norm()) < 0.05
    assert torch.equal(orthogonalised([torch.zeros(4, 6)])[0], torch.zeros(4, 6))
    assert orthogonalised([]) == []


def test_it_moves_as_the_one_of_torch() -> None:
    ours, theirs = ([nn.Parameter(matrix) for matrix in matrices()] for _ in range(2))
    optimizers = [
        Muon(ours, lr=0.05, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.05, weight_decay=0.1),
    ]
    for step in range(4):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            for parameter, gradient in zip(parameters, matrices(seed=9 + step), strict=True):
                parameter.grad = gradient
            optimizer.step()
    for one, other, start in zip(ours, theirs, matrices(), strict=True):
        apart, moved = (one - other).detach().norm(), (other - start).detach().norm()
        assert float(apart / moved) < 0.03, "torch's multiplies in bfloat16"


def test_work_is_divided_about_equally() -> None:
    given = shares([9.0, 1.0, 1.0, 1.0, 5.0, 3.0], 3)
    assert sorted(item for items in given for item in items) == list(range(6))
    assert given[0] == [0]
    assert shares([1.0], 2) == [[0], []]


def test_two_workers_come_to_what_one_does(tmp_path: Path) -> None:
    mp.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    for rank in (0, 1):
        together = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for one, other in zip(orthogonalised(matrices()), together, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(orthogonalised(matrices()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
