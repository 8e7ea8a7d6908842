"""One vector per item, the same alone and among any batch-mates; a bad item is named and stops nothing."""

import io
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmir.archive import shards
from cmir.archive.imagery import Chip, decode_chip, raw_media, read_raster
from cmir.archive.schema import Media
from cmir.archive.sensors import UCMERCED, US_SURVEY_FOOT_M
from cmir.archive.speech import pcm_media
from cmir.errors import ConfigError, DataError
from cmir.network.bundle import save_bundle
from cmir.network.embedder import Embedder, resolve_device
from cmir.network.image_tower import ImageTowerConfig
from cmir.network.model import NetworkConfig, SharedSpaceNet
from cmir.network.preprocessing import Preprocessing
from cmir.network.speech_tower import SpeechTowerConfig
from cmir.network.statistics import RunningStatistics
from tests.conftest import MakeRow

BGRN = ("blue", "green", "red", "nir")
RGB = ("red", "green", "blue")


def ms_media(seed: int, size_px: int = 16, sensor: str | None = "A", dtype: str = "uint16") -> Media:
    pixels = np.random.default_rng(seed).integers(0, 200, (4, size_px, size_px)).astype(dtype)
    return raw_media("ms", pixels, bands=BGRN, sensor=sensor, gsd_m=8.0)


def pan_media(seed: int, size_px: int = 40) -> Media:
    pixels = np.random.default_rng(seed).integers(0, 255, (1, size_px, size_px)).astype(np.uint8)
    return raw_media("pan", pixels, bands=("pan",), sensor="A", gsd_m=2.0)


def rgb_png(seed: int, size_px: int = 24) -> Media:
    pixels = np.random.default_rng(seed).integers(0, 255, (size_px, size_px, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return Media("rgb", buffer.getvalue(), "png")


def tone(frequency_hz: float, seconds: float) -> Media:
    time_s = np.arange(int(16_000 * seconds)) / 16_000
    return pcm_media((0.3 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32))


@pytest.fixture(scope="module")
def bundle_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    running = RunningStatistics()
    for seed in range(3):
        running.add_chip("ms", decode_chip(ms_media(seed)))
        running.add_chip("pan", decode_chip(pan_media(seed)))
        running.add_chip("rgb", replace(decode_chip(rgb_png(seed)), sensor="camera", gsd_m=0.3))
    config = NetworkConfig(
        modalities=("pan", "ms", "rgb", "speech"),
        dim=32,
        labels=("sea", "ship"),
        image=ImageTowerConfig(width=48, depths=(1, 1)),
        speech=SpeechTowerConfig(width=32),
    )
    preprocessing = Preprocessing.fit(running, chip_size_px={"pan": 48, "ms": 32, "rgb": 32}, max_speech_s=2.0)
    uri = str(tmp_path_factory.mktemp("embedder") / "bundle")
    save_bundle(uri, SharedSpaceNet(config), preprocessing, metrics={}, training={})
    return uri


@pytest.fixture(scope="module")
def embedder(bundle_uri: str) -> Embedder:
    return Embedder.open(bundle_uri, device="cpu")


def mixed_media() -> list[Media]:
    return [
        ms_media(0),
        tone(440, 0.31),
        pan_media(1),
        ms_media(2, size_px=70),
        rgb_png(3),
        tone(300, 1.7),
        ms_media(4, sensor="never seen"),
        tone(600, 0.45),
        ms_media(5),
        rgb_png(6, size_px=100),
        ms_media(7, sensor=None),
        tone(500, 5.0),
        ms_media(8, dtype="float32"),
        pan_media(9),
    ]


def test_unit_vectors_in_the_order_of_the_items(embedder: Embedder) -> None:
    vectors = embedder.embed(mixed_media())
    assert vectors.shape == (14, embedder.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors.round(5), axis=0)) == 14


def test_a_vector_does_not_depend_on_its_batch_mates(embedder: Embedder) -> None:
    media = mixed_media()
    together = embedder.embed(media)
    alone = np.concatenate([embedder.embed([item]) for item in media])
    backwards = embedder.embed(media[::-1])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, backwards, atol=1e-5)


@pytest.mark.parametrize("max_batch", [1, 2, 5])
def test_a_vector_does_not_depend_on_the_batch_size(bundle_uri: str, embedder: Embedder, max_batch: int) -> None:
    media = [ms_media(seed) for seed in range(7)] + [tone(200 + 50 * step, 0.2 + 0.1 * step) for step in range(7)]
    small = Embedder.open(bundle_uri, device="cpu", max_batch=max_batch)
    np.testing.assert_allclose(small.embed(media), embedder.embed(media), atol=1e-5)


def test_padding_of_speech_does_not_matter(embedder: Embedder) -> None:
    short = embedder.pre(tone(440, 0.4))
    assert short.form == ("speech", 8_000)
    longer = embedder.bundle.preprocessing.speech_input([np.asarray(short.content), np.zeros(30_000, np.float32)])
    vectors = embedder.bundle.net.encode_speech(*longer)
    np.testing.assert_allclose(vectors[0].numpy(), embedder.embed([tone(440, 0.4)])[0], atol=1e-5)


def test_the_three_steps_are_what_embed_does(embedder: Embedder) -> None:
    media = mixed_media()
    prepared = [embedder.pre(item) for item in media]
    vectors = embedder.core(prepared)
    assert isinstance(vectors, torch.Tensor)
    np.testing.assert_array_equal(embedder.post(vectors), embedder.embed(media))


def test_a_file_sent_without_metadata_has_its_archive_vector(embedder: Embedder) -> None:
    sent = rgb_png(5)
    chip = decode_chip(sent)
    stored = raw_media("rgb", chip.pixels, bands=RGB, sensor="camera", gsd_m=0.3)
    np.testing.assert_allclose(embedder.embed([sent]), embedder.embed([stored]), atol=1e-6)


def test_order_of_bands_does_not_matter(embedder: Embedder) -> None:
    straight = ms_media(1)
    chip = decode_chip(straight)
    rows = [3, 1, 0, 2]
    names = [BGRN[row] for row in rows]
    shuffled = raw_media("ms", np.ascontiguousarray(chip.pixels[rows]), bands=names, sensor="A", gsd_m=8.0)
    np.testing.assert_allclose(embedder.embed([straight]), embedder.embed([shuffled]), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (300, 200)])
def test_any_size_of_chip_is_accepted(embedder: Embedder, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (4, *size)).astype(np.uint16)
    vectors = embedder.embed([raw_media("ms", pixels, bands=BGRN)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def bad_media() -> list[tuple[Media, str]]:
    good = rgb_png(0)
    three_bands = raw_media("ms", np.ones((3, 8, 8), np.uint8), bands=RGB)
    infinite = np.ones((4, 8, 8), np.float32)
    infinite[0, 0, 0] = np.nan
    wrong_size = Media("pan", b"123", "raw", dtype="uint8", shape=(1, 8, 8), bands=("pan",), wavelength_nm=(675.0,))
    return [
        (replace(good, data=good.data[:50]), "image"),
        (replace(good, data=b"not an image"), "not an image"),
        (three_bands, "wrong bands for ms: seen 3"),
        (Media("ms", infinite.tobytes(), "raw", "float32", (4, 8, 8), BGRN, (None,) * 4), "not finite"),
        (wrong_size, "wrong size"),
        (Media("speech", b"", "wav"), "0 bytes"),
        (Media("speech", b"", "raw", "int16", (0,), sample_rate_hz=16_000), "no samples"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_a_bad_item_is_refused_and_says_why(embedder: Embedder, number: int) -> None:
    media, message = bad_media()[number]
    with pytest.raises(DataError, match=message):
        embedder.pre(media)
    with pytest.raises(DataError, match=message):
        embedder.embed([ms_media(0), media])


def test_bad_items_do_not_stop_the_others(embedder: Embedder) -> None:
    good, bad = mixed_media()[:7], [media for media, _ in bad_media()]
    results = embedder.embed_each([item for pair in zip(good, bad, strict=True) for item in pair])
    assert [isinstance(result, DataError) for result in results] == [False, True] * 7
    np.testing.assert_allclose(np.stack(results[::2]), embedder.embed(good), atol=1e-5)  # type: ignore[arg-type]


def test_extreme_values_are_reported_not_stored(embedder: Embedder) -> None:
    pixels = np.full((4, 16, 16), -3.4e38, np.float32)
    pixels[:, 4:8, 4:8] = 3.4e38  # the largest float less the smallest is infinite
    results = embedder.embed_each([raw_media("ms", pixels, bands=BGRN), ms_media(0)])
    assert isinstance(results[0], DataError)
    assert "embedding is not finite" in str(results[0])
    np.testing.assert_allclose(results[1], embedder.embed([ms_media(0)])[0], atol=1e-5)  # type: ignore[arg-type]


def test_nothing_gives_nothing(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 32)
    assert embedder.embed_each([]) == []


def test_what_it_says_of_itself(embedder: Embedder) -> None:
    assert embedder.space_id.startswith("s")
    assert embedder.modalities == ("pan", "ms", "rgb", "speech")
    assert embedder.labels == ("sea", "ship")
    assert embedder.prototypes.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(embedder.prototypes, axis=1), 1, atol=1e-5)


def test_a_modality_without_a_tower_is_refused(tmp_path: Path) -> None:
    net = SharedSpaceNet(NetworkConfig(modalities=("rgb",), dim=8, image=ImageTowerConfig(width=32, depths=(1,))))
    save_bundle(str(tmp_path / "b"), net, Preprocessing(chip_size_px={"rgb": 32}), metrics={}, training={})
    with pytest.raises(DataError, match="no tower for the modality: seen speech, expected rgb"):
        Embedder.open(str(tmp_path / "b"), device="cpu").pre(tone(440, 1.0))


def test_speech_features_in_place_of_waveforms(tmp_path: Path) -> None:
    running = RunningStatistics()
    vectors = np.random.default_rng(0).normal(3, 2, (5, 128)).astype(np.float32)
    for vector in vectors:
        running.add_features(vector)
    config = NetworkConfig(modalities=("speech",), dim=8, speech=SpeechTowerConfig(kind="features", input_dim=128))
    preprocessing = Preprocessing.fit(running, chip_size_px={})
    save_bundle(str(tmp_path / "b"), SharedSpaceNet(config), preprocessing, metrics={}, training={})
    embedder = Embedder.open(str(tmp_path / "b"), device="cpu")
    media = [Media("speech", vector.tobytes(), "raw", "float32", (128,)) for vector in vectors]
    together = embedder.embed(media)
    np.testing.assert_allclose(together[3], embedder.embed(media[3:4])[0], atol=1e-5)
    with pytest.raises(DataError, match="wrong number of speech features: seen 64, expected 128"):
        embedder.pre(Media("speech", vectors[0, :64].tobytes(), "raw", "float32", (64,)))
    with pytest.raises(DataError, match="cannot read speech features"):
        embedder.pre(tone(440, 1.0))


def test_several_threads_share_one_embedder(embedder: Embedder) -> None:
    expected = [embedder.embed([ms_media(seed)]) for seed in range(6)]
    found: dict[int, np.ndarray] = {}

    def embed_one(seed: int) -> None:
        found[seed] = embedder.embed([ms_media(seed)])

    threads = [threading.Thread(target=embed_one, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(6):
        np.testing.assert_allclose(found[seed], expected[seed], atol=1e-5)


def test_warming_up_changes_nothing(embedder: Embedder) -> None:
    before = embedder.embed(mixed_media())
    embedder.warm_up()
    np.testing.assert_array_equal(embedder.embed(mixed_media()), before)


def test_device_is_chosen_by_argument() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    if torch.cuda.is_available():
        assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda")
        return
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no CUDA device"):
        resolve_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(bundle_uri: str, embedder: Embedder) -> None:
    exact = embedder.embed(mixed_media())
    np.testing.assert_allclose(Embedder.open(bundle_uri, device="cuda").embed(mixed_media()), exact, atol=1e-4)
    rough = Embedder.open(bundle_uri, device="cuda", precision="bf16").embed(mixed_media())
    assert (rough * exact).sum(axis=1).min() >= 0.999


def test_a_chip_in_memory_needs_no_copy(embedder: Embedder) -> None:
    prepared = embedder.pre(ms_media(0))
    assert isinstance(prepared.content, Chip)
    assert prepared.content.pixels.dtype == np.uint16  # native values travel; numbers are made on the device


@pytest.mark.realdata
def test_real_files_have_the_vectors_of_their_archive_rows(real_data: Path, tmp_path: Path) -> None:
    """A UC Merced row knows its sensor and gsd, the file of the same image sent by a person does not."""
    paths = sorted((real_data / "ucmerced" / "Images").glob("*/*00.jpg"))[::5]
    assert paths
    chips = [read_raster(str(path)) for path in paths]
    rows = [raw_media("rgb", c.pixels, bands=RGB, sensor=UCMERCED.name, gsd_m=US_SURVEY_FOOT_M) for c in chips]
    running = RunningStatistics()
    for row in rows:
        running.add_chip("rgb", decode_chip(row))
    torch.manual_seed(0)
    net = SharedSpaceNet(NetworkConfig(modalities=("rgb", "speech"), dim=16))
    preprocessing = Preprocessing.fit(running, chip_size_px={"rgb": 96})
    save_bundle(str(tmp_path / "b"), net, preprocessing, metrics={}, training={})
    embedder = Embedder.open(str(tmp_path / "b"), device="cpu")
    files = [Media("rgb", path.read_bytes(), "jpeg") for path in paths]
    np.testing.assert_allclose(embedder.embed(rows), embedder.embed(files), atol=1e-5)
    spoken = sorted((real_data / "speech" / "fsdd").glob("*.wav"))[:3]
    spoken += sorted((real_data / "speech" / "gcompris" / "de").glob("*.ogg"))[:3]
    sounds = [Media("speech", path.read_bytes(), path.suffix[1:]) for path in spoken]
    together = embedder.embed(sounds)
    np.testing.assert_allclose(together, np.concatenate([embedder.embed([sound]) for sound in sounds]), atol=1e-5)


def test_a_table_gives_the_vectors_of_its_items(embedder: Embedder, make_row: MakeRow) -> None:
    good = [*(ms_media(i) for i in range(5)), tone(440, 0.4), tone(330, 1.2)]
    nan = raw_media("ms", np.zeros((4, 8, 8), np.float32), bands=BGRN)
    bad = replace(nan, data=np.full((4, 8, 8), np.nan, np.float32).tobytes())
    pixels = np.full((4, 16, 16), -3.4e38, np.float32)
    pixels[:, 4:8, 4:8] = 3.4e38
    extreme = raw_media("ms", pixels, bands=BGRN)
    media = [*good[:5], bad, *good[5:], extreme]
    table = shards.table_of_rows([replace(make_row(i), media=one) for i, one in enumerate(media)], "train")
    seen: dict[int, Chip] = {}
    found = embedder.embed_table(table, on_chip=seen.__setitem__)
    assert sorted(found.errors) == [5, 8]
    assert "not finite" in str(found.errors[5])
    assert "embedding is not finite" in str(found.errors[8])
    assert not found.vectors[[5, 8]].any()
    places = [0, 1, 2, 3, 4, 6, 7]
    np.testing.assert_allclose(found.vectors[places], embedder.embed(good), atol=1e-6)
    assert sorted(seen) == [0, 1, 2, 3, 4, 8]
    assert np.array_equal(seen[3].pixels, decode_chip(media[3]).pixels)
    stacked = embedder.embed_table(table.slice(0, 5))
    np.testing.assert_allclose(stacked.vectors, embedder.embed(good[:5]), atol=1e-6)
    assert embedder.embed_table(table.slice(0, 0)).vectors.shape == (0, embedder.dim)


def test_chips_in_a_table_that_the_network_cannot_read_say_why(embedder: Embedder, make_row: MakeRow) -> None:
    thermal = raw_media(
        "ms", np.ones((2, 8, 8), np.uint16), bands=("thermal_1", "thermal_2"), wavelength_nm=(1e4, 1.2e4)
    )
    table = shards.table_of_rows([replace(make_row(i), media=thermal) for i in range(2)], "train")
    found = embedder.embed_table(table)
    assert sorted(found.errors) == [0, 1]
    assert all("band" in str(error) for error in found.errors.values())
