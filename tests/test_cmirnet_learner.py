"""The published network is trained by the loop that trains ours, stops where it was told and goes on the same."""

import copy
from typing import cast

import numpy as np
import pytest
import torch

from cmir.archive.imagery import Chip
from cmir.archive.schema import Modality
from cmir.errors import ConfigError
from cmir.network.augment import ImageAugmentation
from cmir.network.batches import Batch, ImagePart, SpeechPart
from cmir.network.catalogue import Catalogue
from cmir.network.cmirnet_learner import CmirNetLearner, published_config
from cmir.network.cmirnet_model import CmirNet
from cmir.network.objectives.cmirnet import CmirNetSettings
from cmir.network.objectives.contrastive import Targets
from cmir.network.preprocessing import Preprocessing
from cmir.network.statistics import RunningStatistics

CPU = torch.device("cpu")


def make_catalogue(labels: tuple[str, ...], classes: tuple[str, ...]) -> Catalogue:
    nothing = np.zeros(0, np.int64)
    return Catalogue(
        (), labels, classes, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing, nothing
    )


def make_preprocessing(*num_ms_bands: int) -> Preprocessing:
    running = RunningStatistics()
    bands = ("blue", "green", "red", "nir")
    for count in num_ms_bands:
        running.add_chip("ms", Chip(np.ones((count, 4, 4), np.uint8), bands[:count], (None,) * count))
    running.add_chip("pan", Chip(np.ones((1, 4, 4), np.uint8), ("pan",), (675.0,)))
    running.add_chip("rgb", Chip(np.ones((3, 4, 4), np.uint8), ("red", "green", "blue"), (None,) * 3))
    return Preprocessing.fit(running, chip_size_px={"pan": 16, "ms": 16, "rgb": 16})


def make_batch(seed: int, count: int = 6) -> Batch:
    random = torch.Generator().manual_seed(seed)
    parts = tuple(
        ImagePart(
            cast(Modality, name),
            torch.randint(-64, 64, (count, bands, 20, 20), generator=random).to(torch.int8),
            torch.full((bands,), 600.0),
            torch.ones(count),
        )
        for name, bands in (("pan", 1), ("ms", 4))
    )
    class_id = torch.randint(2, (count,), generator=random).repeat(2)
    targets = Targets(
        modality=torch.tensor([0] * count + [1] * count),
        labels=torch.zeros(2 * count, 2),
        has_labels=torch.zeros(2 * count, dtype=torch.bool),
        class_id=class_id,
        pair_id=torch.arange(count).repeat(2),
    )
    return Batch(parts, (), targets)


def take_step(learner: CmirNetLearner, batch: Batch, *, step: int, fraction: float) -> dict[str, float]:
    return learner.step(learner.prepare(batch, step=step, fraction=fraction), step=step, fraction=fraction)


def make_learner() -> CmirNetLearner:
    torch.manual_seed(0)
    catalogue = make_catalogue((), ("river", "water"))
    net = CmirNet(published_config(("pan", "ms"), catalogue, make_preprocessing(4), dim=8))
    return CmirNetLearner(net, CmirNetSettings(), ImageAugmentation(), seed=3, device=CPU)


def test_both_stages_report_their_terms() -> None:
    learner = make_learner()
    first = take_step(learner, make_batch(0), step=0, fraction=0.0)
    later = take_step(learner, make_batch(1), step=1, fraction=0.9)
    always = {"loss", "learning_rate", "gradient_norm"}
    assert set(first) == {*always, "classes", "orthogonality"}
    assert set(later) == {*always, "latent", "classifier", "norm", "decoder", "regulariser"}
    assert later["loss"] == pytest.approx(sum(later[name] for name in set(later) - always))


def test_stage_2_leaves_the_features_alone() -> None:
    learner = make_learner()
    take_step(learner, make_batch(0), step=0, fraction=0.0)
    before = copy.deepcopy(learner.net.features.state_dict())
    encoders = copy.deepcopy(learner.net.encoders.state_dict())
    take_step(learner, make_batch(1), step=1, fraction=0.9)
    for name, tensor in learner.net.features.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(tensor, encoders[name]) for name, tensor in learner.net.encoders.state_dict().items())


def test_going_on_from_a_state_gives_the_same_weights() -> None:
    through, stopped = make_learner(), make_learner()
    fractions = [0.0, 0.3, 0.6, 0.9]
    for step, fraction in enumerate(fractions):
        take_step(through, make_batch(step), step=step, fraction=fraction)
    for step in (0, 1):
        take_step(stopped, make_batch(step), step=step, fraction=fractions[step])
    resumed = make_learner()
    resumed.load_state(copy.deepcopy(stopped.state()))
    for step in (2, 3):
        take_step(resumed, make_batch(step), step=step, fraction=fractions[step])
    for name, tensor in through.net.state_dict().items():
        torch.testing.assert_close(resumed.net.state_dict()[name], tensor, msg=name)


def test_image_and_speech_learn_together() -> None:
    torch.manual_seed(0)
    catalogue = make_catalogue(("sea", "ship"), ("a", "b"))
    config = published_config(("rgb", "speech"), catalogue, make_preprocessing(), dim=8)
    assert config.labels == ("sea", "ship")
    assert config.cmirnet is not None
    assert config.cmirnet.hidden_dim == 512
    learner = CmirNetLearner(CmirNet(config), CmirNetSettings(), ImageAugmentation(), seed=0, device=CPU)
    chips = torch.randint(-64, 64, (2, 3, 20, 20)).to(torch.int8)
    image = ImagePart("rgb", chips, torch.full((3,), 600.0), torch.ones(2))
    speech = SpeechPart(torch.randn(2, 8000) * 0.1, torch.tensor([8000, 6000]), False)
    targets = Targets(
        modality=torch.tensor([2, 2, 3, 3]),
        labels=torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
        has_labels=torch.ones(4, dtype=torch.bool),
        class_id=torch.full((4,), -1),
        pair_id=torch.full((4,), -1),
    )
    values = take_step(learner, Batch((image,), (speech,), targets), step=0, fraction=0.0)
    assert values["latent"] > 0
    assert values["classifier"] > 0


@pytest.mark.parametrize(
    ("modalities", "labels", "classes", "num_bands", "message"),
    [
        (("pan", "ms", "rgb"), (), ("a", "b"), (4,), "joins two modalities: seen pan, ms, rgb"),
        (("pan", "ms"), (), (), (4,), "nothing to tell apart"),
        (("pan", "ms"), (), ("a", "b"), (3, 4), "ms chips of one number of bands: seen 3, 4"),
    ],
)
def test_data_it_cannot_learn_from_are_refused(
    modalities: tuple[Modality, ...],
    labels: tuple[str, ...],
    classes: tuple[str, ...],
    num_bands: tuple[int, ...],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        published_config(modalities, make_catalogue(labels, classes), make_preprocessing(*num_bands), dim=8)
