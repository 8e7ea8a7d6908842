"""Precision: bfloat16 where there are units for it and nowhere else, and a step in it that is a rounded step."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cmir.network.precision import is_bfloat16, lay_channels_last
from tests.tiny_archives import chip_row, one_step, tiny_settings, tone_row, write_archive

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, False),
    ],
)
def test_a_cpu_uses_bfloat16_where_it_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert is_bfloat16("auto", CPU) is expected
    assert is_bfloat16("auto", CUDA)
    assert not is_bfloat16("fp32", CPU)
    assert is_bfloat16("bf16", CPU)


def test_a_torch_that_cannot_tell_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not is_bfloat16("auto", CPU)


def test_a_step_in_bfloat16_is_the_step_in_float32_but_for_rounding(tmp_path: Path) -> None:
    rows = [*(chip_row(i, modality) for modality in ("pan", "ms", "rgb") for i in range(12)), *map(tone_row, range(12))]
    world = write_archive(tmp_path, rows)
    gradients, losses = [], []
    for precision in ("fp32", "bf16"):
        learner, batch = one_step(tiny_settings(precision=precision), world)
        losses.append(learner.step(batch, step=0, fraction=0.0)["loss"])
        gradients.append(torch.cat([p.grad.flatten() for p in learner.net.parameters() if p.grad is not None]))
        assert gradients[-1].dtype == torch.float32
        assert {p.dtype for p in learner.net.parameters()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert float(torch.cosine_similarity(*gradients, dim=0)) > 0.98


def test_kernels_lie_channels_last_beside_parameters_of_any_rank() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv1d(6, 2, 3), nn.BatchNorm2d(6))
    net.register_parameter("bases", nn.Parameter(torch.zeros(2, 3, 4, 5, 5)))
    before = net[0].weight.detach().clone()
    lay_channels_last(net)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(net[0].weight, before)
    assert net.bases.is_contiguous()
