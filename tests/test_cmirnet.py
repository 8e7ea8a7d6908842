"""Every published term equals a naive computation on small numbers; together they make two modalities meet."""

import pytest
import torch
from torch import Tensor

from cmir.archive.schema import MODALITIES
from cmir.network.catalogue import UNKNOWN
from cmir.network.cmirnet_model import CmirNet
from cmir.network.model import CmirNetConfig, NetworkConfig
from cmir.network.objectives.cmirnet import (
    TERMS,
    CmirNetObjective,
    CmirNetWeights,
    alpha_distance,
    class_entropy,
    mean_square,
    orthogonality,
    pairs_of,
)
from cmir.network.objectives.contrastive import Targets

PAN, MS, RGB, SPEECH = range(4)


def make_net(*, multi_label: bool = False, feature_dim: int = 6, dim: int = 5) -> CmirNet:
    torch.manual_seed(0)
    labels = ("a", "b", "c")
    settings = CmirNetConfig(
        classes=labels,
        multi_label=multi_label,
        num_bands={"pan": 1, "ms": 4},
        chip_size_px={"pan": 16, "ms": 16},
        feature_dim=feature_dim,
    )
    modalities = ("pan", "ms")
    return CmirNet(
        NetworkConfig(
            modalities=modalities, dim=dim, labels=labels * multi_label, architecture="cmirnet", cmirnet=settings
        )
    )


def make_targets(
    modality: list[int],
    class_id: list[int] | None = None,
    labels: list[list[int]] | None = None,
    pair_id: list[int] | None = None,
) -> Targets:
    count = len(modality)
    hot = torch.tensor(labels or [[0, 0, 0]] * count).float()
    return Targets(
        modality=torch.tensor(modality),
        labels=hot,
        has_labels=hot.sum(dim=1) > 0,
        class_id=torch.tensor(class_id or [UNKNOWN] * count),
        pair_id=torch.tensor(pair_id or [UNKNOWN] * count),
    )


def only(term: str) -> CmirNetWeights:
    return CmirNetWeights.model_validate({name: float(name == term) for name in TERMS})


def squares(x: Tensor) -> float:
    return sum(value**2 for value in x.detach().flatten().tolist())


def test_orthogonality_by_hand() -> None:
    # Z^T Z / 2 = [[2.5, 2], [2, 2.5]], less the identity [[1.5, 2], [2, 1.5]]: squares 12.5, over 2 features
    assert float(orthogonality(torch.tensor([[1.0, 2.0], [2.0, 1.0]]))) == 6.25
    assert float(orthogonality(torch.eye(4) * 2)) == 0.0
    assert float(orthogonality(torch.zeros(0, 3))) == 0.0


def test_mean_square_by_hand() -> None:
    assert float(mean_square(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))) == 13.0
    assert float(mean_square(torch.zeros(0, 2))) == 0.0


def test_softmax_entropy_counts_known_classes_only() -> None:
    targets = make_targets([PAN] * 3, class_id=[1, UNKNOWN, 0])
    logits = torch.tensor([[1.0, 2.0, 0.0], [9.0, 9.0, 9.0], [0.5, 0.5, 0.5]])
    exp = torch.tensor([1.0, 2.0, 0.0]).exp()
    expected = (-(exp[1] / exp.sum()).log() + torch.tensor(3.0).log()) / 2
    assert float(class_entropy(logits, targets, torch.arange(3), False)) == pytest.approx(expected.item(), rel=1e-6)
    nothing = make_targets([PAN] * 3)
    assert float(class_entropy(logits, nothing, torch.arange(3), False)) == 0.0


def test_sigmoid_entropy_for_multi_hot_labels() -> None:
    targets = make_targets([PAN] * 2, labels=[[1, 0, 1], [0, 0, 0]])
    logits = torch.tensor([[0.0, 1.0, -2.0], [7.0, 7.0, 7.0]])

    def sigmoid(x: float) -> float:
        return float(torch.tensor(x).sigmoid())

    naive = [sigmoid(0.0), 1 - sigmoid(1.0), sigmoid(-2.0)]
    expected = -sum(float(torch.tensor(p).log()) for p in naive)
    assert float(class_entropy(logits, targets, torch.arange(2), True)) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def batch() -> tuple[CmirNet, Tensor, Targets]:
    targets = make_targets(
        [PAN, MS, MS, PAN, PAN], class_id=[0, 2, 0, 2, 1], pair_id=[7, 8, 7, 8, UNKNOWN]
    )  # places 0-2 and 3-1 are pairs, 4 is alone
    return make_net(), torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).relu(), targets


def test_latent_term_is_the_distance_of_pairs(batch: tuple[CmirNet, Tensor, Targets]) -> None:
    net, z, targets = batch
    found = CmirNetObjective(only("latent"))(net, z, targets, fraction=1.0)
    v = [net.latent("ms" if place in (1, 2) else "pan", z[place : place + 1]) for place in range(5)]
    expected = (squares(v[0] - v[2]) + squares(v[3] - v[1])) / 2
    assert set(found) == {"latent"}
    assert found["latent"].item() == pytest.approx(expected, rel=1e-5)


def test_decoder_term_guesses_the_other_features(batch: tuple[CmirNet, Tensor, Targets]) -> None:
    net, z, targets = batch
    found = CmirNetObjective(only("decoder"))(net, z, targets, fraction=1.0)
    total = 0.0
    for pan, ms in ((0, 2), (3, 1)):
        v_pan, v_ms = net.latent("pan", z[pan]), net.latent("ms", z[ms])
        total += squares(net.decoded("pan", v_pan) - z[ms]) + squares(net.decoded("ms", v_ms) - z[pan])
    assert found["decoder"].item() == pytest.approx(total / 2, rel=1e-5)


def test_norm_term(batch: tuple[CmirNet, Tensor, Targets]) -> None:
    net, z, targets = batch
    found = CmirNetObjective(only("norm"))(net, z, targets, fraction=1.0)
    expected = squares(net.latent("pan", z[[0, 3, 4]])) / 3 + squares(net.latent("ms", z[[1, 2]])) / 2
    assert found["norm"].item() == pytest.approx(expected, rel=1e-5)


def test_classifier_term_adds_both_modalities(batch: tuple[CmirNet, Tensor, Targets]) -> None:
    net, z, targets = batch
    found = CmirNetObjective(only("classifier"))(net, z, targets, fraction=1.0)
    total = 0.0
    for name, rows in (("pan", [0, 3, 4]), ("ms", [1, 2])):
        share = net.classifiers[name](net.latent(name, z[rows])).softmax(dim=1)
        total -= sum(share[i, targets.class_id[row]].log().item() for i, row in enumerate(rows)) / len(rows)
    assert found["classifier"].item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_regulariser_is_the_distance_of_the_encoders_from_alpha(alpha: float) -> None:
    net = make_net()
    weights = [net.encoders[name].weight for name in ("pan", "ms")]
    expected = sum(squares(weight - alpha) / weight.numel() for weight in weights)  # type: ignore[operator, union-attr]
    assert alpha_distance(net, alpha).item() == pytest.approx(expected, rel=1e-5)


def test_stage_1_adds_both_modalities(batch: tuple[CmirNet, Tensor, Targets]) -> None:
    net, z, targets = batch
    found = CmirNetObjective(CmirNetWeights(orthogonality=0.5))(net, z, targets, fraction=0.0)
    assert set(found) == {"classes", "orthogonality"}
    expected = 0.5 * (orthogonality(z[[0, 3, 4]]) + orthogonality(z[[1, 2]]))
    assert found["orthogonality"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_stage_1_classes_are_told_apart_by_each_modality(batch: tuple[CmirNet, Tensor, Targets]) -> None:
    net, z, targets = batch
    found = CmirNetObjective(only("classes"))(net, z, targets, fraction=0.0)
    total = 0.0
    for name, rows in (("pan", [0, 3, 4]), ("ms", [1, 2])):
        share = net.stage1_classifiers[name](z[rows]).softmax(dim=1)
        total -= sum(share[i, targets.class_id[row]].log().item() for i, row in enumerate(rows)) / len(rows)
    assert set(found) == {"classes"}
    assert found["classes"].item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_regulariser_term_draws_to_the_alpha_it_is_given(batch: tuple[CmirNet, Tensor, Targets], alpha: float) -> None:
    net, z, targets = batch
    weights = only("regulariser").model_copy(update={"regulariser": 0.5, "alpha": alpha})
    found = CmirNetObjective(weights)(net, z, targets, fraction=1.0)
    sizes = [net.encoders.get_parameter(f"{name}.weight") for name in ("pan", "ms")]
    expected = 0.5 * sum(squares(weight - alpha) / 30 for weight in sizes)  # 5 x 6 weights each
    assert set(found) == {"regulariser"}
    assert found["regulariser"].item() == pytest.approx(expected, rel=1e-5)


def test_the_whole_of_stage_2_by_hand() -> None:
    net = make_net(feature_dim=2, dim=2)
    with torch.no_grad():
        for name in ("pan", "ms"):
            net.encoders.get_parameter(f"{name}.weight").copy_(torch.eye(2))
            net.decoders.get_parameter(f"{name}.weight").copy_(torch.eye(2))
            net.classifiers.get_parameter(f"{name}.weight").zero_()
            for part in (net.encoders, net.decoders, net.classifiers):
                part.get_parameter(f"{name}.bias").zero_()
    targets = make_targets([PAN, MS], class_id=[0, 0], pair_id=[1, 1])
    weights = CmirNetWeights(latent=1, classifier=1, norm=1, decoder=1, regulariser=1)
    found = CmirNetObjective(weights)(net, torch.tensor([[1.0, 2.0], [3.0, 1.0]]), targets, fraction=1.0)
    values = {name: term.item() for name, term in found.items()}
    assert values == {
        "latent": 5.0,  # (1 - 3)^2 + (2 - 1)^2
        "classifier": pytest.approx(2 * 1.0986, abs=1e-4),  # ln 3 each
        "norm": 15.0,  # 1 + 4 and 9 + 1
        "decoder": 10.0,  # V is Z, so each side misses the other by 5
        "regulariser": 1.0,  # half the weights are 0, of each encoder
    }


def test_a_weight_multiplies_its_term_and_zero_leaves_it_out(batch: tuple[CmirNet, Tensor, Targets]) -> None:
    net, z, targets = batch
    full = CmirNetObjective(CmirNetWeights())(net, z, targets, fraction=1.0)
    assert set(full) == {"latent", "classifier", "norm", "decoder", "regulariser"}
    doubled = CmirNetObjective(CmirNetWeights(latent=2 * CmirNetWeights().latent))(net, z, targets, fraction=1.0)
    assert doubled["latent"].item() == pytest.approx(2 * full["latent"].item())
    for term in full:
        ablated = CmirNetObjective(CmirNetWeights().without(term))(net, z, targets, fraction=1.0)  # type: ignore[arg-type]
        assert set(ablated) == set(full) - {term}
    for term, left in (("orthogonality", "classes"), ("classes", "orthogonality")):
        assert set(CmirNetObjective(CmirNetWeights().without(term))(net, z, targets, fraction=0.0)) == {left}  # type: ignore[arg-type]


def test_stages_freeze_and_thaw_the_features() -> None:
    net, objective = make_net(), CmirNetObjective(CmirNetWeights(), stage1_share=0.5)
    objective.begin_step(net, 0.2)
    assert objective.stage(net, 0.2) == 1
    assert net.features.training
    assert all(parameter.requires_grad for parameter in net.features.parameters())
    objective.begin_step(net, 0.7)
    assert objective.stage(net, 0.7) == 2
    assert not net.features.training
    assert net.encoders.training
    assert not any(parameter.requires_grad for parameter in net.features.parameters())


def test_multi_label_networks_learn_everything_together() -> None:
    net, objective = make_net(multi_label=True), CmirNetObjective(CmirNetWeights())
    objective.begin_step(net, 0.0)
    assert objective.stage(net, 0.0) == 2
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_pairs_by_label_take_one_utterance_of_each_label() -> None:
    targets = make_targets(
        [RGB, RGB, SPEECH, SPEECH, SPEECH],
        labels=[[1, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0]],
    )
    left, right = pairs_of(targets, torch.tensor([0, 1]), torch.tensor([2, 3, 4]))
    # image 0 meets the utterances of a and of b alone, never the one that names both; nobody says c
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 0), (0, 1)]


def test_pairs_by_class_where_nothing_else_is_known() -> None:
    targets = make_targets([PAN, PAN, PAN, MS, MS], class_id=[0, 1, UNKNOWN, 1, 1])
    for _ in range(5):
        left, right = pairs_of(targets, torch.tensor([0, 1, 2]), torch.tensor([3, 4]))
        assert left.tolist() == [1]
        assert right.tolist()[0] in (0, 1)


def test_no_pairs_at_all_are_no_error() -> None:
    targets = make_targets([PAN, PAN])
    left, right = pairs_of(targets, torch.tensor([0, 1]), torch.zeros(0, dtype=torch.int64))
    assert len(left) == len(right) == 0
    net = make_net()
    terms = CmirNetObjective(CmirNetWeights())(net, torch.rand(2, 6), targets, fraction=1.0)
    assert torch.stack(list(terms.values())).sum().isfinite()


def generated(count: int, generator: torch.Generator) -> tuple[dict[str, Tensor], Targets]:
    """Pairs of 8 px chips whose class is a pattern, seen in one band and in four, under noise."""
    patterns = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    class_id = torch.randint(3, (count,), generator=generator)
    pixels = {
        "pan": patterns[class_id] + 0.7 * torch.randn(count, 1, 8, 8, generator=generator),
        "ms": patterns[class_id] * torch.tensor([1.0, -1.0, 0.5, 2.0]).view(1, 4, 1, 1)
        + 0.7 * torch.randn(count, 4, 8, 8, generator=generator),
    }
    targets = make_targets([PAN] * count + [MS] * count, class_id=[*class_id.tolist()] * 2, pair_id=[*range(count)] * 2)
    return pixels, targets


def hit_at_1(net: CmirNet, seed: int) -> float:
    pixels, targets = generated(40, torch.Generator().manual_seed(seed))
    net.eval()
    nothing = torch.zeros(4), torch.zeros(40)
    with torch.inference_mode():
        pan, ms = (net.encode_image(name, pixels[name], *nothing) for name in ("pan", "ms"))
    first = (pan @ ms.T).argmax(dim=1)
    return float((targets.class_id[:40] == targets.class_id[first]).float().mean())


def test_training_makes_the_modalities_meet() -> None:
    net, objective = make_net(feature_dim=128, dim=16), CmirNetObjective(CmirNetWeights(), stage1_share=0.5)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    num_steps = 100
    for step in range(num_steps):
        objective.begin_step(net, step / num_steps)
        pixels, targets = generated(16, generator)
        z = torch.cat([net.image_features(name, pixels[name]) for name in ("pan", "ms")])
        loss = torch.stack(list(objective(net, z, targets, fraction=step / num_steps).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert hit_at_1(net, seed=99) > 0.9  # chance: a third


def test_modality_numbers_are_those_of_the_schema() -> None:
    assert MODALITIES == ("pan", "ms", "rgb", "speech")
