"""The published network has the published shapes, and embeds by the same calls as ours, through the same bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from cmir.archive.imagery import decode_chip, raw_media
from cmir.archive.schema import Media
from cmir.archive.speech import pcm_media
from cmir.errors import DataError
from cmir.network.build import build_network
from cmir.network.bundle import load_bundle, save_bundle
from cmir.network.cmirnet_model import CmirNet, unit_latent
from cmir.network.embedder import Embedder
from cmir.network.model import CmirNetConfig, NetworkConfig
from cmir.network.preprocessing import Preprocessing
from cmir.network.speech_tower import SpeechTowerConfig
from cmir.network.statistics import RunningStatistics

BGRN = ("blue", "green", "red", "nir")
CLASSES = ("forest", "river", "water")


def pan_ms_config(pan_px: int = 256, ms_px: int = 64) -> NetworkConfig:
    settings = CmirNetConfig(
        classes=CLASSES,
        multi_label=False,
        num_bands={"pan": 1, "ms": 4},
        chip_size_px={"pan": pan_px, "ms": ms_px},
    )
    return NetworkConfig(modalities=("pan", "ms"), dim=16, architecture="cmirnet", cmirnet=settings)


def rgb_speech_config(kind: str = "waveform") -> NetworkConfig:
    labels = ("airplane", "sea")
    settings = CmirNetConfig(classes=labels, multi_label=True, num_bands={"rgb": 3}, chip_size_px={"rgb": 32})
    speech = SpeechTowerConfig.model_validate({"kind": kind, "input_dim": 128})
    return NetworkConfig(
        modalities=("rgb", "speech"), dim=32, labels=labels, architecture="cmirnet", cmirnet=settings, speech=speech
    )


@pytest.mark.parametrize(("modality", "num_bands", "size_px"), [("pan", 1, 256), ("ms", 4, 64)])
def test_published_shapes(modality: str, num_bands: int, size_px: int) -> None:
    net = build_network(pan_ms_config()).eval()
    assert isinstance(net, CmirNet)
    convolutions = net.features[modality].convolutions
    pixels = torch.randn(2, num_bands, size_px, size_px)
    assert convolutions(pixels).shape == (2, 2048)
    before_last_pool = convolutions[:-2](pixels)
    assert before_last_pool.shape[-1] == (4 if modality == "pan" else 8)  # 4 x 4, or a last pooling by 2
    z = net.image_features(modality, pixels)
    assert z.shape == (2, 128)
    v = net.latent(modality, z)
    assert v.shape == (2, 16)
    assert v.min() >= 0
    assert net.classifiers[modality](v).shape == (2, 3)
    assert net.decoded(modality, v).shape == (2, 128)


def test_published_shapes_of_image_and_speech() -> None:
    config = rgb_speech_config("features")
    assert config.cmirnet is not None
    settings = config.cmirnet.model_copy(update={"chip_size_px": {"rgb": 256}, "hidden_dim": 512})
    net = CmirNet(config.model_copy(update={"cmirnet": settings})).eval()
    image = net.features["rgb"]
    widths = [(layer.in_features, layer.out_features) for layer in image.project if isinstance(layer, nn.Linear)]
    assert widths == [(4096, 512), (512, 128)]
    assert net.image_features("rgb", torch.randn(1, 3, 256, 256)).shape == (1, 128)
    (spoken,) = [layer for layer in net.features["speech"].modules() if isinstance(layer, nn.Linear)]
    assert (spoken.in_features, spoken.out_features) == (128, 128)
    assert (net.encoders["rgb"].out_features, net.decoders["rgb"].out_features) == (32, 128)


@pytest.mark.parametrize("size_px", [16, 33, 96, 128, 200])
def test_other_chip_sizes_end_in_the_same_features(size_px: int) -> None:
    net = CmirNet(pan_ms_config(ms_px=size_px)).eval()
    assert net.image_features("ms", torch.randn(1, 4, size_px, size_px)).shape == (1, 128)


def test_a_collapsed_vector_still_has_length_1() -> None:
    vectors = unit_latent(torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 4.0, 0.0]]))
    assert vectors.tolist() == [[0.5] * 4, [pytest.approx(0.6), 0.0, pytest.approx(0.8), 0.0]]


def test_wrong_band_count_and_modality_are_refused() -> None:
    net = CmirNet(pan_ms_config())
    with pytest.raises(DataError, match="wrong band count for ms: seen 3, expected 4"):
        net.image_features("ms", torch.zeros(1, 3, 64, 64))
    with pytest.raises(DataError, match="no tower for the modality: seen rgb"):
        net.image_features("rgb", torch.zeros(1, 3, 64, 64))
    with pytest.raises(DataError, match="no tower for the modality: seen speech"):
        net.speech_features(torch.zeros(1, 100), torch.tensor([100]))


def test_padding_of_speech_does_not_matter() -> None:
    net = CmirNet(rgb_speech_config()).eval()
    waveform = torch.randn(1, 8000) * 0.1
    padded = torch.cat([waveform, torch.zeros(1, 8000)], dim=1)
    count = torch.tensor([8000])
    torch.testing.assert_close(net.encode_speech(waveform, count), net.encode_speech(padded, count), atol=1e-5, rtol=0)


def test_prototypes_stand_for_labels_only() -> None:
    assert CmirNet(pan_ms_config()).unit_prototypes().shape == (0, 16)
    prototypes = CmirNet(rgb_speech_config()).unit_prototypes()
    torch.testing.assert_close(prototypes.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modalities": ("pan", "ms", "rgb")}, "joins exactly two modalities"),
        ({"modalities": ("pan", "rgb")}, "needs num_bands and chip_size_px of pan, rgb"),
        ({"architecture": "shared"}, "go together"),
        ({"cmirnet": None}, "go together"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    settings = {**pan_ms_config().model_dump(), **change}
    with pytest.raises(ValidationError, match=message):
        NetworkConfig.model_validate(settings)


def test_multi_label_classes_are_the_labels() -> None:
    settings = {**rgb_speech_config().model_dump(), "labels": ("sea", "airplane")}
    with pytest.raises(ValidationError, match="are its labels, in their order"):
        NetworkConfig.model_validate(settings)


def media_of(seed: int) -> list[Media]:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 200, (3, 40, 40)).astype(np.uint8)
    tone = 0.2 * np.sin(np.arange(4000 + 3000 * seed) * random.uniform(0.05, 0.5))
    return [raw_media("rgb", pixels, bands=("red", "green", "blue")), pcm_media(tone.astype(np.float32))]


def test_it_travels_in_a_bundle_and_embeds_like_ours(tmp_path: Path) -> None:
    torch.manual_seed(0)
    running = RunningStatistics()
    media = [item for seed in range(3) for item in media_of(seed)]
    for item in media[::2]:
        running.add_chip("rgb", decode_chip(item))
    net = build_network(rgb_speech_config())
    net.train()
    net.encode_image("rgb", torch.randn(8, 3, 32, 32), torch.zeros(3), torch.zeros(8))  # batch statistics that matter
    preprocessing = Preprocessing.fit(running, chip_size_px={"rgb": 32})
    uri = str(tmp_path / "bundle")
    space_id = save_bundle(uri, net, preprocessing, metrics={}, training={})
    assert isinstance(load_bundle(uri).net, CmirNet)
    embedder = Embedder.open(uri, device="cpu")
    assert embedder.space_id == space_id
    assert embedder.prototypes.shape == (2, 32)
    together = embedder.embed(media)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([embedder.embed([item]) for item in media])
    np.testing.assert_allclose(together, alone, atol=1e-5)
