"""Chips become numbers by the names of their bands and the statistics of their sensor; speech is cut and padded."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cmir.archive.imagery import Chip
from cmir.archive.schema import Modality
from cmir.errors import DataError
from cmir.network.preprocessing import MIN_STD_FRACTION, Preprocessing
from cmir.network.statistics import BandStatistics, RunningStatistics, SensorStatistics

BGRN = ("blue", "green", "red", "nir")
NM = (480.0, 560.0, 665.0, 842.0)
RGB = ("red", "green", "blue")


def chip(pixels: np.ndarray, bands: tuple[str, ...], sensor: str | None = None, gsd_m: float | None = None) -> Chip:
    nm = {"blue": 480.0, "green": 560.0, "red": 665.0, "nir": 842.0}
    return Chip(pixels, bands, tuple(nm.get(name) for name in bands), gsd_m, sensor)


def noise(seed: int, size_px: int = 16, num_bands: int = 4, dtype: str = "uint16") -> np.ndarray:
    scale = np.arange(1, num_bands + 1)[:, None, None] * (60 if dtype == "uint8" else 1000)
    return (np.random.default_rng(seed).random((num_bands, size_px, size_px)) * scale).astype(dtype)


@pytest.fixture(scope="module")
def preprocessing() -> Preprocessing:
    running = RunningStatistics()
    for seed in range(4):
        running.add_chip("ms", chip(noise(seed), BGRN, "A", 8.0))
        running.add_chip("ms", chip(noise(seed) + 1000, BGRN, "B", 4.0))
        running.add_chip("rgb", chip(noise(seed, num_bands=3, dtype="uint8"), RGB, "camera", 0.3))
    return Preprocessing.fit(running, chip_size_px={"ms": 16, "rgb": 8}, max_speech_s=2.0)


@pytest.fixture(scope="module")
def by_wavelength(preprocessing: Preprocessing) -> Preprocessing:
    """The same for a tower that takes multispectral bands it was never trained on."""
    return preprocessing.model_copy(update={"bands_by_wavelength": True})


def test_training_chips_come_out_with_mean_0_and_deviation_1(preprocessing: Preprocessing) -> None:
    chips = [chip(noise(seed), BGRN, "A") for seed in range(4)]
    x = preprocessing.image_input("ms", chips)
    assert x.shape == (4, 4, 16, 16)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(dim=(0, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0)


def test_normalisation_by_hand() -> None:
    bands = (BandStatistics(name="pan", mean=100.0, std=20.0),)
    entry = SensorStatistics(modality="pan", sensor="S", dtype="uint8", scale=255.0, bands=bands)
    preprocessing = Preprocessing(chip_size_px={"pan": 2}, sensors=(entry,))
    pixels = np.array([[[100, 120], [60, 200]]], np.uint8)
    x = preprocessing.image_input("pan", [chip(pixels, ("pan",), "S")])
    assert x[0, 0].tolist() == [[0.0, 1.0], [-2.0, 5.0]]


def test_order_of_bands_does_not_matter(preprocessing: Preprocessing) -> None:
    pixels = noise(7)
    rows = [2, 0, 3, 1]
    straight = chip(pixels, BGRN, "A")
    shuffled = chip(pixels[rows], tuple(BGRN[row] for row in rows), "A")
    assert preprocessing.reading("ms", shuffled).rows == (1, 3, 0, 2)
    assert torch.equal(preprocessing.image_input("ms", [straight]), preprocessing.image_input("ms", [shuffled]))
    for one, other in zip(
        preprocessing.conditions("ms", [straight]), preprocessing.conditions("ms", [shuffled]), strict=True
    ):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize(
    ("modality", "bands", "message"),
    [
        ("ms", RGB, r"wrong bands for ms: seen 3 \(red, green, blue\), expected 4 \(blue, green, red, nir\)"),
        ("ms", ("blue", "green", "red", "swir1"), "wrong bands for ms: seen 4"),
        ("ms", ("blue", "green", "red", "red"), "band count and band names do not agree"),
        ("rgb", BGRN, r"wrong bands for rgb: seen 4 .*, expected 3 \(red, green, blue\)"),
    ],
)
def test_bands_never_trained_on_are_refused(
    preprocessing: Preprocessing, modality: Modality, bands: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        preprocessing.image_input(modality, [chip(noise(0, num_bands=len(bands)), bands, "A")])


def test_a_part_of_the_bands_is_read_as_it_is_among_all(by_wavelength: Preprocessing) -> None:
    pixels = noise(3)
    whole = by_wavelength.image_input("ms", [chip(pixels, BGRN, "A")])
    rows = [3, 1]
    part = chip(pixels[rows], ("nir", "green"), "A")
    assert torch.equal(by_wavelength.image_input("ms", [part]), whole[:, [1, 3]])
    wavelength_nm, gsd_m = by_wavelength.conditions("ms", [part])
    assert wavelength_nm.tolist() == [560.0, 842.0]
    assert gsd_m.tolist() == [8.0]


def test_bands_of_another_sensor_are_read_by_wavelength(
    by_wavelength: Preprocessing, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("swir1", "rededge", "yellow", "coastal", "tir", "mystery")
    centres = (1610.0, 725.0, 605.0, 427.0, 10_900.0, None)
    pixels = noise(1, num_bands=6)
    for _ in range(2):
        reading = by_wavelength.reading("ms", Chip(pixels, names, centres, 1.2, "another"))
    assert reading.rows == (3, 2, 1)
    assert reading.wavelength_nm == (427.0, 605.0, 725.0)
    assert reading.statistics is None
    left_out = [record.getMessage() for record in caplog.records]
    assert left_out == ["another: bands far from every wavelength trained on are left out: swir1, tir, mystery"]
    x = by_wavelength.image_input("ms", [Chip(pixels, names, centres, 1.2, "another")])
    torch.testing.assert_close(x.mean(dim=(2, 3)), torch.zeros(1, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("modality", "bands"),
    [("ms", ("swir1", "tir")), ("ms", ("red",)), ("ms", ("red", "swir1")), ("rgb", BGRN), ("rgb", ("red", "green"))],
)
def test_too_few_readable_bands_are_refused_and_rgb_is_rgb(
    by_wavelength: Preprocessing, modality: Modality, bands: tuple[str, ...]
) -> None:
    nm = {"swir1": 1610.0, "tir": 10_900.0} | dict(zip(BGRN, NM, strict=True))
    with pytest.raises(DataError, match=f"wrong bands for {modality}: seen {len(bands)}"):
        by_wavelength.reading(modality, Chip(noise(0, num_bands=len(bands)), bands, tuple(nm[b] for b in bands)))


def test_a_trained_band_without_wavelength_is_found_by_its_name(by_wavelength: Preprocessing) -> None:
    reading = by_wavelength.reading("ms", Chip(noise(0, num_bands=2), ("red", "blue"), (None, None)))
    assert reading.rows == (1, 0)
    assert reading.wavelength_nm == (480.0, 665.0)


def test_which_statistics_apply(preprocessing: Preprocessing) -> None:
    def sensor_of(sensor: str | None, dtype: str = "uint16") -> str | None:
        found = preprocessing.reading("ms", chip(noise(0, dtype=dtype), BGRN, sensor)).statistics
        return None if found is None else found.sensor

    assert sensor_of("A") == "A"
    assert sensor_of("B") == "B"
    assert sensor_of(None) == ""
    assert sensor_of("never seen") is None
    assert sensor_of("A", "uint8") is None


def test_a_file_without_metadata_gets_what_it_has_in_the_archive(preprocessing: Preprocessing) -> None:
    pixels = noise(5, num_bands=3, dtype="uint8")
    stored = chip(pixels, RGB, "camera", 0.3)
    sent = Chip(pixels, RGB, (None, 500.0, None))
    assert torch.equal(preprocessing.image_input("rgb", [stored]), preprocessing.image_input("rgb", [sent]))
    for one, other in zip(
        preprocessing.conditions("rgb", [stored]), preprocessing.conditions("rgb", [sent]), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_an_unknown_sensor_is_normalised_by_each_chip_itself(preprocessing: Preprocessing) -> None:
    chips = [chip(noise(seed) * (seed + 1) + 300 * seed, BGRN, "new") for seed in range(3)]
    x = preprocessing.image_input("ms", chips)
    torch.testing.assert_close(x.mean(dim=(2, 3)), torch.zeros(3, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(dim=(2, 3), correction=0), torch.ones(3, 4), atol=1e-4, rtol=0)
    wavelength_nm, gsd_m = preprocessing.conditions("ms", chips)
    assert wavelength_nm.tolist() == list(NM)
    assert gsd_m.isnan().all()


@pytest.mark.parametrize("sensor", ["A", "new"])
def test_a_flat_chip_stays_finite(preprocessing: Preprocessing, sensor: str) -> None:
    x = preprocessing.image_input("ms", [chip(np.full((4, 9, 9), 7, np.uint16), BGRN, sensor)])
    assert x.isfinite().all()


def test_a_flat_training_band_is_not_blown_up() -> None:
    running = RunningStatistics()
    running.add_chip("pan", chip(np.full((1, 4, 4), 9, np.uint8), ("pan",)))
    preprocessing = Preprocessing.fit(running, chip_size_px={"pan": 4})
    x = preprocessing.image_input("pan", [chip(np.full((1, 4, 4), 10, np.uint8), ("pan",))])
    torch.testing.assert_close(x, torch.full((1, 1, 4, 4), 1 / (255 * MIN_STD_FRACTION)))


@pytest.mark.parametrize("shape", [(16, 16), (64, 64), (5, 5), (20, 12), (1, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_any_size_and_dtype_is_resized(preprocessing: Preprocessing, shape: tuple[int, int], dtype: str) -> None:
    values = [10, 20, 30, 40]
    pixels = np.tile(np.array(values, dtype)[:, None, None], (1, *shape))
    entry = preprocessing.sensors[0]
    x = preprocessing.pixels_input("ms", torch.from_numpy(pixels)[None], entry)
    assert x.shape == (1, 4, 16, 16)
    expected = torch.tensor(
        [(v - band.mean) / max(band.std, 65.535) for v, band in zip(values, entry.bands, strict=True)]
    )
    torch.testing.assert_close(x, expected.view(1, 4, 1, 1).expand_as(x), atol=1e-5, rtol=1e-5)


def test_resizing_is_antialiased() -> None:
    running = RunningStatistics()
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 64, 32))  # the finest stripes there are
    running.add_chip("pan", chip(stripes, ("pan",)))
    preprocessing = Preprocessing.fit(running, chip_size_px={"pan": 16})
    x = preprocessing.image_input("pan", [chip(stripes, ("pan",))])
    assert x.abs().max() < 0.1  # grey, as seen from afar; without the filter it would be all -1 or all 1


def test_chips_that_differ_do_not_go_into_one_batch(preprocessing: Preprocessing) -> None:
    with pytest.raises(DataError, match="differ in shape, dtype, bands or sensor"):
        preprocessing.image_input("ms", [chip(noise(0), BGRN, "A"), chip(noise(0), BGRN, "B")])


def test_a_modality_without_chip_size_is_refused() -> None:
    bands = (BandStatistics(name="pan", mean=1.0, std=1.0),)
    entry = SensorStatistics(modality="pan", sensor="", dtype="uint8", scale=255.0, bands=bands)
    preprocessing = Preprocessing(chip_size_px={"ms": 64}, sensors=(entry,))
    with pytest.raises(DataError, match="no chip size for the modality: seen pan, expected ms"):
        preprocessing.image_input("pan", [chip(np.zeros((1, 4, 4), np.uint8), ("pan",))])


def test_two_orders_of_the_same_bands_are_refused() -> None:
    entries = tuple(
        SensorStatistics(
            modality="rgb", sensor=sensor, dtype="uint8", scale=255.0,
            bands=tuple(BandStatistics(name=name, mean=0.0, std=1.0) for name in names),
        )
        for sensor, names in (("A", RGB), ("B", RGB[::-1]))
    )  # fmt: skip
    with pytest.raises(ValidationError, match="stand in two orders"):
        Preprocessing(sensors=entries)


def test_it_survives_json(preprocessing: Preprocessing, by_wavelength: Preprocessing) -> None:
    assert Preprocessing.model_validate_json(preprocessing.model_dump_json()) == preprocessing
    assert Preprocessing.model_validate_json(by_wavelength.model_dump_json()) == by_wavelength
    assert "bands_by_wavelength" not in preprocessing.model_dump_json()


def test_speech_is_padded_to_a_bucket_and_cut_at_the_limit(preprocessing: Preprocessing) -> None:
    waveforms = [np.ones(n, np.float32) for n in (1, 8_000, 8_001, 100_000)]
    padded, num_samples = preprocessing.speech_input(waveforms)
    assert [preprocessing.bucket_samples(len(w)) for w in waveforms] == [8_000, 8_000, 16_000, 32_000]
    assert padded.shape == (4, 32_000)
    assert num_samples.tolist() == [1, 8_000, 8_001, 32_000]
    assert padded.sum(dim=1).tolist() == num_samples.tolist()


def test_features_are_normalised_by_their_statistics() -> None:
    running = RunningStatistics()
    vectors = [np.array([1.0, 5.0], np.float32), np.array([3.0, 5.0], np.float32)]
    for vector in vectors:
        running.add_features(vector)
    preprocessing = Preprocessing.fit(running, chip_size_px={})
    torch.testing.assert_close(preprocessing.feature_input(vectors), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    with pytest.raises(DataError, match="seen 3, expected 2"):
        preprocessing.feature_input([np.zeros(3, np.float32)])
