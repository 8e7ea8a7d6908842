"""Tables of sensors: complete, plausible, found under the names in use."""

import pytest

from cmir.archive.sensors import SENSORS, band_names, band_wavelength, canonical_band, pan_weights, sensor_named


@pytest.mark.parametrize("sensor", SENSORS.values(), ids=SENSORS)
def test_every_sensor_is_whole(sensor) -> None:
    names = [band.name for band in sensor.bands]
    assert len(set(names)) == len(names)
    assert sensor.source
    assert sensor.value_min < sensor.value_max
    assert all(canonical_band(name) == name for name in names)
    for band in sensor.bands:
        assert band.wavelength_nm is None or 400 < band.wavelength_nm < 13_000
        assert 0.2 < band.gsd_m <= 60
    visible = [band.wavelength_nm for name in ("blue", "green", "red", "nir") if (band := sensor.band(name))]
    assert visible == sorted(visible)


def test_dsrsid_statistics_are_those_of_the_paper() -> None:
    sensor = SENSORS["GF-1-PMS"]
    assert [(b.name, b.gsd_m, b.mean, b.std) for b in sensor.bands] == [
        ("pan", 2.0, 73.59, 22.78),
        ("blue", 8.0, 113.24, 22.96),
        ("green", 8.0, 111.79, 27.69),
        ("red", 8.0, 84.83, 26.16),
        ("nir", 8.0, 53.06, 21.43),
    ]


def test_wavelengths_by_name_and_by_sensor() -> None:
    assert [band_wavelength(name) for name in ("blue", "green", "red", "nir")] == [480.0, 560.0, 665.0, 842.0]
    assert band_wavelength("NIR", "landsat-8") == 864.7
    assert band_wavelength("band_7", "Landsat-8") is None
    assert band_wavelength("red", "my drone") == 665.0


@pytest.mark.parametrize(
    ("num_bands", "sensor", "expected"),
    [
        (1, None, ("pan",)),
        (3, None, ("red", "green", "blue")),
        (4, None, ("blue", "green", "red", "nir")),
        (4, "NAIP", ("red", "green", "blue", "nir")),
        (5, "GF-2", ("pan", "blue", "green", "red", "nir")),
        (2, None, ("band_1", "band_2")),
    ],
)
def test_names_of_unnamed_bands(num_bands: int, sensor: str | None, expected: tuple[str, ...]) -> None:
    assert band_names(num_bands, sensor) == expected


def test_landsat_8_with_ten_bands_gets_its_own_order() -> None:
    assert band_names(10, "Landsat8")[:5] == ("coastal", "blue", "green", "red", "nir")
    assert sensor_named("LANDSAT_8") is SENSORS["Landsat-8-OLI-TIRS"]


def test_pan_weights_share_the_window_among_the_nearest_bands() -> None:
    # 450..900 nm cut midway between 485, 555, 660, 830: 70, 87.5, 137.5 and 155 nm of 450
    assert pan_weights([485.0, 555.0, 660.0, 830.0]) == pytest.approx([70 / 450, 87.5 / 450, 137.5 / 450, 155 / 450])
    # without near-infrared 450..700: red 665, green 560, blue 480 in the order of picture files
    assert pan_weights([665.0, 560.0, 480.0]) == pytest.approx([87.5 / 250, 92.5 / 250, 70 / 250])
    assert pan_weights([None, None]) == (0.5, 0.5)
    assert pan_weights([560.0, None, 1610.0]) == (1.0, 0.0, 0.0)
    assert sum(pan_weights([443.0, 480.0, 480.0, 560.0, 665.0, 842.0, 1610.0])) == pytest.approx(1.0)
