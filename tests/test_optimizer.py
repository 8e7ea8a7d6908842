"""The optimizer: kernels are moved in all directions alike, the rest by AdamW, and a state goes on where it was."""

import copy

import pytest
import torch
from torch import nn

from cmir.network.optimizer import KernelOptimizer


def a_net(*, is_channels_last: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Flatten(), nn.Linear(12, 4))
    return net.to(memory_format=torch.channels_last) if is_channels_last else net  # type: ignore[call-overload]


def optimizer_of(net: nn.Sequential, **rates: float) -> KernelOptimizer:
    kernels = [net[1].weight]
    others = [p for p in net.parameters() if p is not net[1].weight]
    rates = {"learning_rate": 0.01, "kernel_learning_rate": 0.1, "kernel_decay": 0.0, **rates}
    return KernelOptimizer(kernels, [{"params": others, "weight_decay": 0.1}], **rates)  # type: ignore[arg-type]


def take_steps(net: nn.Sequential, optimizer: KernelOptimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("is_channels_last", [False, True])
def test_a_kernel_is_moved_in_all_directions_alike(is_channels_last: bool) -> None:
    net = a_net(is_channels_last=is_channels_last)
    before = copy.deepcopy(net)
    take_steps(net, optimizer_of(net), range(1))
    moved = torch.linalg.svdvals((net[1].weight - before[1].weight).detach().flatten(1)) / 0.1
    asked = torch.linalg.svdvals(net[1].weight.grad.flatten(1))
    assert 0.6 < float(moved.max()) < 1.3, "Newton and Schulz bring singular values near 1"
    assert float(moved.median() / moved.max()) > 4 * float(asked.median() / asked.max())
    for index in (0, 3):
        step = (net[index].weight - before[index].weight).detach().abs()
        assert float(step.max()) < 0.0105, "AdamW moves no number by more than the learning rate (and the decay)"
        assert float(step.max()) > 0


def test_layout_in_memory_changes_nothing() -> None:
    nets = [a_net(), a_net(is_channels_last=True)]
    for net in nets:
        take_steps(net, optimizer_of(net), range(3))
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-2)  # torch orthogonalises in bfloat16


def test_gradients_that_lie_otherwise_than_the_kernel_move_it_alike() -> None:
    """Averaging over workers leaves gradients in the order of a flat vector, whatever the kernel's own."""
    moved = []
    for is_channels_last in (False, True):
        net = a_net(is_channels_last=is_channels_last)
        optimizer, before = optimizer_of(net), net[1].weight.detach().clone()
        net[1].weight.grad = torch.randn(12, 8, 3, 3, generator=torch.Generator().manual_seed(7))  # contiguous
        optimizer.step()
        moved.append((net[1].weight.detach() - before).contiguous())
    cosine = torch.cosine_similarity(moved[0].flatten(), moved[1].flatten(), dim=0)
    assert float(cosine) > 0.999
    down = torch.cosine_similarity(moved[1].flatten(), -net[1].weight.grad.flatten(), dim=0)
    assert float(down) > 0.5, "downhill"


def test_a_state_goes_from_one_layout_to_the_other() -> None:
    nets = [a_net(), a_net()]
    optimizer = optimizer_of(nets[0])
    take_steps(nets[0], optimizer, range(3))
    nets[1].load_state_dict(nets[0].state_dict())
    nets[1].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    other = optimizer_of(nets[1])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(nets[0], optimizer, range(3, 4))
    take_steps(nets[1], other, range(3, 4))
    torch.testing.assert_close(nets[0][1].weight, nets[1][1].weight, atol=1e-3, rtol=1e-2)


def test_five_steps_are_three_and_a_state_and_two() -> None:
    whole, first = a_net(), a_net()
    take_steps(whole, optimizer_of(whole), range(5))
    optimizer = optimizer_of(first)
    take_steps(first, optimizer, range(3))
    second = a_net()
    second.load_state_dict(first.state_dict())
    again = optimizer_of(second)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_steps(second, again, range(3, 5))
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_every_group_has_its_part_of_the_rate() -> None:
    optimizer = optimizer_of(a_net())
    optimizer.set_learning_rate(0.005)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.05])


def test_without_kernels_there_is_adamw_alone() -> None:
    net = nn.Linear(3, 2)
    others = [{"params": list(net.parameters())}]
    optimizer = KernelOptimizer([], others, learning_rate=0.1, kernel_learning_rate=0.1, kernel_decay=0.0)
    before = net.weight.detach().clone()
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(net.weight, before)
    assert optimizer.state_dict()["muon"] is None
    optimizer.load_state_dict(optimizer.state_dict())
