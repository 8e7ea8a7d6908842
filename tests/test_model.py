"""The network's contract: unit vectors, one per item, from the towers it has; settings that survive JSON."""

import math

import pytest
import torch
from pydantic import ValidationError

from cmir.errors import DataError
from cmir.network.image_tower import ImageTowerConfig
from cmir.network.model import ImageInput, NetworkConfig, SharedSpaceNet
from cmir.network.speech_tower import SpeechTowerConfig

NAN = float("nan")


@pytest.fixture(scope="module")
def net() -> SharedSpaceNet:
    torch.manual_seed(0)
    config = NetworkConfig(
        modalities=("pan", "ms", "speech"),
        dim=24,
        labels=("sea", "ship", "sand"),
        image=ImageTowerConfig(width=32, depths=(1, 1)),
        speech=SpeechTowerConfig(width=32),
    )
    return SharedSpaceNet(config).eval()


def assert_unit(vectors: torch.Tensor, shape: tuple[int, int]) -> None:
    assert vectors.shape == shape
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(shape[0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("modality", "num_bands"), [("pan", 1), ("ms", 4), ("ms", 10)])
def test_images_become_unit_vectors(net: SharedSpaceNet, modality: str, num_bands: int) -> None:
    pixels = torch.randn(3, num_bands, 32, 32)
    vectors = net.encode_image(modality, pixels, torch.linspace(400, 900, num_bands), torch.tensor([2.0, 8.0, NAN]))
    assert_unit(vectors, (3, 24))
    assert (vectors[0] @ vectors[1]).item() < 0.99999  # two chips, two vectors


def test_parts_encoded_together_get_the_vectors_they_get_alone(net: SharedSpaceNet) -> None:
    parts: list[ImageInput] = [
        ImageInput(name, torch.randn(3, bands, size, size), torch.full((bands,), 600.0), torch.full((3,), 2.0))
        for name, bands, size in (("ms", 4, 32), ("ms", 3, 48), ("pan", 1, 32))
    ]
    together = net.eval().encode_images(parts)
    alone = torch.cat([net.encode_image(*part) for part in parts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_speech_becomes_unit_vectors(net: SharedSpaceNet) -> None:
    waveform = torch.randn(2, 8000) * 0.1
    assert_unit(net.encode_speech(waveform, torch.tensor([8000, 8000])), (2, 24))


def test_vectors_are_normalised_in_float32_under_autocast(net: SharedSpaceNet) -> None:
    pixels, gsd_m = torch.randn(2, 1, 32, 32), torch.tensor([2.0, 2.0])
    exact = net.encode_image("pan", pixels, torch.tensor([675.0]), gsd_m)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net.encode_image("pan", pixels, torch.tensor([675.0]), gsd_m)
    assert_unit(rough, (2, 24))
    assert (exact * rough).sum(dim=1).min() > 0.999


def test_every_parameter_learns(net: SharedSpaceNet) -> None:
    images = net.encode_image("pan", torch.randn(2, 1, 32, 32), torch.tensor([675.0]), torch.tensor([2.0, NAN]))
    more = net.encode_image("ms", torch.randn(2, 2, 32, 32), torch.tensor([NAN, 842.0]), torch.tensor([8.0, 8.0]))
    spoken = net.encode_speech(torch.randn(2, 8000), torch.tensor([8000, 4000]))
    logits = torch.cat([images, more, spoken]) @ net.unit_prototypes().T * net.logit_scale.exp() + net.logit_bias
    logits.square().sum().backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    net.zero_grad()
    assert without == []


def test_prototypes_are_one_unit_vector_per_label(net: SharedSpaceNet) -> None:
    assert_unit(net.unit_prototypes(), (3, 24))


def test_start_of_the_sigmoid_loss(net: SharedSpaceNet) -> None:
    assert net.logit_scale.exp().item() == pytest.approx(10.0)
    assert net.logit_bias.item() == -10.0
    assert math.isclose(net.logit_scale.item(), math.log(10), rel_tol=1e-6)


def test_a_modality_without_a_tower_is_refused(net: SharedSpaceNet) -> None:
    with pytest.raises(DataError, match="no tower for the modality: seen rgb, expected pan or ms or speech"):
        net.encode_image("rgb", torch.zeros(1, 3, 32, 32), torch.full((3,), NAN), torch.tensor([NAN]))
    silent = SharedSpaceNet(NetworkConfig(modalities=("rgb",), dim=8, image=ImageTowerConfig(width=32, depths=(1,))))
    with pytest.raises(DataError, match="seen speech, expected rgb"):
        silent.encode_speech(torch.zeros(1, 100), torch.tensor([100]))


def test_no_tower_is_built_that_is_not_used(net: SharedSpaceNet) -> None:
    names = set(net.state_dict())
    assert not any("rgb" in name for name in names)
    assert any(name.startswith("image_tower.stems.pan") for name in names)


def test_settings_survive_json(net: SharedSpaceNet) -> None:
    assert NetworkConfig.model_validate_json(net.config.model_dump_json()) == net.config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": ("ms", "pan")}, "must stand in the order pan, ms"),
        ({"modalities": ("pan", "pan")}, "modalities must not repeat"),
        ({"modalities": ("pan",), "labels": ("sea", "sea")}, "labels must not repeat"),
        ({"modalities": ()}, "at least 1 item"),
        ({"modalities": ("sar",)}, "'pan', 'ms', 'rgb' or 'speech'"),
        ({"modalities": ("pan",), "dimm": 3}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_make_no_network_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        NetworkConfig.model_validate(settings)
