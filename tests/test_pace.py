"""The figures of a training's speed; a GPU's use is the mean of readings taken while it trains."""

import sys
import types

import pytest
import torch

from cmir.network import pace
from cmir.network.pace import READ_EVERY_S, Pace, gpu_use_of


class Clock:
    """Time that a test moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(pace, "time", moved)
    return moved


def take_steps(going: Pace, clock: Clock, count: int, *, wait_s: float = 0.125, work_s: float = 0.375) -> None:
    for _ in range(count):
        going.begin()
        clock.now_s += wait_s
        going.have_batch()
        clock.now_s += work_s
        going.end(10)


def test_samples_a_second_and_waiting_count_steps_alone(clock: Clock) -> None:
    going = Pace(torch.device("cpu"))
    take_steps(going, clock, 4)
    clock.now_s += 50.0  # a validation
    take_steps(going, clock, 4)
    assert going.figures() == pytest.approx({"samples_per_s": 20.0, "feed_wait_share": 0.25})


def test_the_use_of_a_gpu_is_read_in_steps_and_averaged(clock: Clock) -> None:
    told = iter([90.0, 80.0, 40.0])
    going = Pace(torch.device("cpu"), lambda: next(told))
    assert "gpu_use_percent" not in going.figures(), "nothing was read before the first step"
    take_steps(going, clock, 1 + 2 * int(READ_EVERY_S / 0.5))
    clock.now_s += 50.0
    assert going.figures()["gpu_use_percent"] == pytest.approx(70.0), "nor is it after the last"


def test_without_a_gpu_that_tells_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu_use_of(torch.device("cpu")) is None
    error = type("NVMLError", (Exception,), {})
    monkeypatch.setitem(sys.modules, "pynvml", types.SimpleNamespace(NVMLError=error))
    monkeypatch.setattr(pace.importlib.util, "find_spec", lambda name: object())
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 55)
    read = gpu_use_of(cuda)
    assert read is not None
    assert read() == 55.0

    def refuse(device: torch.device) -> int:
        raise error("not supported")

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    assert gpu_use_of(cuda) is None
    monkeypatch.setattr(pace.importlib.util, "find_spec", lambda name: None)
    assert gpu_use_of(cuda) is None
