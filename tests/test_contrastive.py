"""Goldens by hand, the terms' meaning on small batches, and equal gradients on one and two processes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from cmir.network.objectives.contrastive import (
    UNKNOWN,
    ContrastiveObjective,
    ContrastiveWeights,
    Targets,
    class_loss,
    gather_rows,
    info_nce,
    label_loss,
    label_share,
    modality_loss,
    pair_loss,
    word_loss,
)

PAN, MS, RGB, SPEECH = range(4)
ONE = torch.tensor(1.0)


def targets(modality: list[int], *, labels: list[list[float]] | None = None, classes: list[int] | None = None,
            pairs: list[int] | None = None) -> Targets:  # fmt: skip
    known = torch.tensor(labels, dtype=torch.float32) if labels else torch.zeros(len(modality), 3)
    nothing = [UNKNOWN] * len(modality)
    return Targets(
        modality=torch.tensor(modality),
        labels=known,
        has_labels=known.sum(dim=1) > 0,
        class_id=torch.tensor(classes or nothing),
        pair_id=torch.tensor(pairs or nothing),
    )


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_a_collapsed_batch_of_eight_pairs_costs_ln_8() -> None:
    collapsed = unit(1, 16).expand(16, 16)
    batch = targets([PAN] * 8 + [MS] * 8, pairs=[*range(8), *range(8)])
    for scale in (1.0, 50.0):
        assert float(pair_loss(collapsed, batch, torch.tensor(scale))) == pytest.approx(math.log(8), abs=1e-5)
    assert round(math.log(8), 4) == 2.0794


def test_pairs_that_meet_cost_nothing_and_swapped_ones_much() -> None:
    vectors = torch.eye(4)
    met = pair_loss(torch.cat([vectors, vectors]), targets([PAN] * 4 + [RGB] * 4, pairs=[0, 1, 2, 3] * 2), ONE * 50)
    swapped = pair_loss(
        torch.cat([vectors, vectors]), targets([PAN] * 4 + [RGB] * 4, pairs=[0, 1, 2, 3, 1, 0, 3, 2]), ONE * 50
    )
    assert float(met) == pytest.approx(0.0, abs=1e-6)
    assert float(swapped) == pytest.approx(50.0, abs=1e-3)


def test_info_nce_shares_the_positives_and_leaves_out_rows_without_any() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    positives = torch.tensor([[1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    log_sum = math.log(math.e + math.e**2 + math.e**3)
    assert float(info_nce(logits, positives)) == pytest.approx(0.25 * (log_sum - 1) + 0.75 * (log_sum - 3), abs=1e-6)


def test_label_loss_is_the_sigmoid_loss_summed_over_labels() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    batch = targets([RGB, PAN], labels=[[1, 1], [0, 1]])
    loss = label_loss(vectors, batch, torch.eye(2), torch.tensor(math.log(2.0)), torch.tensor(-1.0))

    def cost(cosine: float, present: bool) -> float:
        logit = 2 * cosine - 1
        return math.log1p(math.exp(-logit if present else logit))

    expected = cost(1, True) + cost(0, True) + cost(0.6, False) + cost(0.8, True)
    assert float(loss) == pytest.approx(expected / 2, abs=1e-6)


def test_an_utterance_names_labels_and_denies_none_unless_it_names_none_at_all() -> None:
    vectors, bias = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.6, 0.8], [0.8, 0.0, 0.6]]), torch.tensor(-1.0)
    batch = replace(targets([SPEECH] * 3, labels=[[1, 0, 0], [0, 1, 1], [0, 0, 0]]), has_labels=torch.ones(3).bool())
    loss = label_loss(vectors, batch, torch.eye(3), torch.tensor(math.log(2.0)), bias)
    one = math.log(math.exp(1.2) + math.exp(1.6) + 1.0) - 1.2
    two = math.log(1.0 + math.exp(1.2) + math.exp(1.6)) - (1.2 + 1.6) / 2
    none = sum(math.log1p(math.exp(2 * cosine - 1)) for cosine in (0.8, 0.0, 0.6))
    assert float(loss) == pytest.approx((one + two + none) / 3, abs=1e-6)


def test_words_cost_their_distance_from_the_sum_of_their_labels() -> None:
    prototypes = torch.eye(3).requires_grad_()
    vectors = torch.tensor([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 1]]).requires_grad_()
    batch = targets([SPEECH, SPEECH, SPEECH, RGB], labels=[[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]])
    loss = word_loss(vectors, batch, prototypes)
    assert float(loss.detach()) == pytest.approx((0 + 1 - math.sqrt(0.5)) / 2, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, vectors)
    assert gradient[2:].abs().sum() == 0, "neither words without a label nor images are words"
    assert not word_loss(vectors.detach(), batch, prototypes).requires_grad, "prototypes stay where images put them"


def test_items_without_labels_are_not_taken_as_negatives() -> None:
    vectors = unit(3, 8)
    some = targets([RGB] * 3, labels=[[1, 0], [0, 0], [0, 1]])
    without = targets([RGB] * 2, labels=[[1, 0], [0, 1]])
    scale, bias, prototypes = torch.tensor(2.0), torch.tensor(-3.0), unit(2, 8, seed=1)
    torch.testing.assert_close(
        label_loss(vectors, some, prototypes, scale, bias),
        label_loss(vectors[[0, 2]], without, prototypes, scale, bias),
    )


def test_label_share_is_one_where_an_image_holds_all_that_was_said() -> None:
    said = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0]])
    shown = torch.tensor([[1.0, 1, 1], [1, 0, 1]])
    assert label_share(said, shown).tolist() == [[1.0, 1.0], [1.0, 0.5], [0.0, 0.0]]


def test_speech_and_images_that_share_labels_attract() -> None:
    batch = targets([RGB, RGB, SPEECH, SPEECH], labels=[[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]])
    right = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    wrong = right[[0, 1, 3, 2]]
    assert float(modality_loss(right, batch, ONE * 20)) < 0.01 < float(modality_loss(wrong, batch, ONE * 20))


def test_a_term_without_anything_to_compare_is_zero_and_keeps_the_graph() -> None:
    vectors = unit(2, 8).requires_grad_()
    batch = targets([RGB, RGB])
    for loss in (
        label_loss(vectors, batch, unit(3, 8), ONE, ONE),
        class_loss(vectors, batch, unit(3, 8), ONE),
        pair_loss(vectors, batch, ONE),
        modality_loss(vectors, batch, ONE),
        word_loss(vectors, batch, unit(3, 8)),
    ):
        assert float(loss.detach()) == 0.0
        assert torch.autograd.grad(loss, vectors)[0].abs().sum() == 0


def test_a_weight_of_zero_leaves_a_term_out() -> None:
    weights = ContrastiveWeights(classes=0.0, pairs=0.5)
    objective = ContrastiveObjective(weights, dim=8, num_classes=2)
    batch = targets([PAN, PAN, MS, MS], pairs=[0, 1, 0, 1], labels=[[1, 0, 0], [0, 1, 0]] * 2)
    terms = objective(unit(4, 8), batch, unit(3, 8), ONE, ONE)
    assert set(terms) == {"labels", "pairs", "modalities", "words"}
    plain = pair_loss(unit(4, 8), batch, objective.pair_log_scale.exp())
    torch.testing.assert_close(terms["pairs"], 0.5 * plain)


def test_training_leaves_no_room_for_collapse() -> None:
    torch.manual_seed(0)
    free = torch.nn.Parameter(unit(1, 8).expand(8, 8) + 0.01 * torch.randn(8, 8))
    batch = targets([PAN] * 4 + [MS] * 4, pairs=[0, 1, 2, 3] * 2)
    optimizer = torch.optim.Adam([free], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        pair_loss(F.normalize(free, dim=1), batch, ONE * 10).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    vectors = F.normalize(free.detach(), dim=1)
    similar = vectors[:4] @ vectors[4:].T
    assert (similar.argmax(dim=1) == torch.arange(4)).all()
    assert similar.diagonal().min() > similar.fill_diagonal_(-1).max() + 0.5


def whole_batch() -> tuple[torch.Tensor, Targets]:
    """Seven items of four modalities; two processes take four and three of them."""
    batch = targets(
        [PAN, MS, RGB, SPEECH, PAN, MS, SPEECH],
        labels=[[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]],
        classes=[0, 0, 1, UNKNOWN, 1, 1, UNKNOWN],
        pairs=[5, 5, UNKNOWN, UNKNOWN, 6, 6, UNKNOWN],
    )
    return torch.randn(7, 6, generator=torch.Generator().manual_seed(3)), batch


def gradients(rows: slice) -> dict[str, torch.Tensor]:
    """Gradients of a linear map and of the objective, for this process's rows of the whole batch."""
    torch.manual_seed(0)
    encoder = torch.nn.Linear(6, 4)
    prototypes = torch.nn.Parameter(torch.randn(3, 4))
    objective = ContrastiveObjective(ContrastiveWeights(), dim=4, num_classes=2)
    inputs, batch = whole_batch()
    mine = Targets(**{name: getattr(batch, name)[rows] for name in Targets.__dataclass_fields__})
    terms = objective(
        F.normalize(encoder(inputs[rows]), dim=1), mine, F.normalize(prototypes, dim=1), ONE, torch.tensor(-1.0)
    )
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    named = {**dict(encoder.named_parameters()), **dict(objective.named_parameters()), "prototypes": prototypes}
    return {name: parameter.grad for name, parameter in named.items() if parameter.grad is not None}


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    found = gradients(slice(0, 4) if rank == 0 else slice(4, 7))
    for gradient in found.values():
        dist.all_reduce(gradient)
        gradient /= 2
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    mp.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    together = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone = gradients(slice(0, 7))
    assert set(together) == set(alone)
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, atol=1e-6, rtol=1e-5, msg=name)
        assert gradient.abs().max() > 0, name


def test_alone_nothing_is_gathered() -> None:
    rows = unit(2, 4)
    assert gather_rows(rows) is rows


def test_what_travels_between_workers_comes_back_exactly() -> None:
    _, batch = whole_batch()
    batch = replace(batch, pair_id=batch.pair_id + 2**52, has_labels=torch.arange(7) % 2 == 0)
    back = Targets.unpacked(batch.packed())
    for name in Targets.__dataclass_fields__:
        torch.testing.assert_close(getattr(back, name), getattr(batch, name), atol=0, rtol=0, msg=name)
