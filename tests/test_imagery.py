"""Chips from raw arrays and from files: values, bands, what is refused, previews."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmir.archive.imagery import Chip, decode_chip, preview, raw_media, read_raster, thumbnail
from cmir.archive.schema import Media
from cmir.errors import DataError
from tests.picture_files import encoded, ground, write_geotiff

MS_BANDS = ("blue", "green", "red", "nir")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_raw_pixels_come_back_as_they_were(dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (4, 5, 7)).astype(dtype)
    chip = decode_chip(raw_media("ms", pixels, bands=MS_BANDS, sensor="GF-1-PMS", gsd_m=8.0))
    assert chip.pixels.dtype == dtype
    np.testing.assert_array_equal(chip.pixels, pixels)
    assert chip.bands == MS_BANDS
    assert chip.wavelength_nm == (485.0, 555.0, 660.0, 830.0)
    assert (chip.gsd_m, chip.sensor) == (8.0, "GF-1-PMS")


def test_raw_pixels_are_read_without_a_copy() -> None:
    media = raw_media("rgb", np.zeros((3, 8, 8), np.uint8), bands=("red", "green", "blue"))
    pixels = decode_chip(media).pixels
    assert np.shares_memory(pixels, np.frombuffer(media.data, np.uint8))
    assert not pixels.flags.writeable


@pytest.mark.parametrize(("dtype", "stored"), [("float64", "float32"), ("int32", "float32"), ("bool", "uint8")])
def test_other_dtypes_are_stored_as_a_native_one(dtype: str, stored: str) -> None:
    assert raw_media("pan", np.ones((1, 4, 4), dtype), bands=("pan",)).dtype == stored


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": b"\0" * 10}, "seen 10 bytes, expected 48 bytes"),
        ({"dtype": "complex64"}, "cannot read raw pixels: seen dtype complex64"),
        ({"shape": (3, 16)}, r"cannot read raw pixels: .*\(3, 16\)"),
        ({"shape": (0, 4, 4), "data": b""}, "wrong size"),
        ({"shape": (4, 4, 3)}, "wrong band count: seen 4 bands, expected 3 for rgb"),
        ({"bands": ("red", "green")}, "bands and pixels disagree"),
        ({"modality": "speech"}, "not an image"),
    ],
)
def test_raw_media_that_cannot_be_a_chip_is_refused(change: dict[str, object], message: str) -> None:
    good = raw_media("rgb", np.zeros((3, 4, 4), np.uint8), bands=("red", "green", "blue"))
    fields = {name: getattr(good, name) for name in Media.__slots__} | change
    with pytest.raises(DataError, match=message):
        decode_chip(Media(**fields))


def test_values_that_are_not_finite_are_refused_on_both_ways() -> None:
    pixels = np.zeros((1, 4, 4), np.float32)
    media = raw_media("pan", pixels, bands=("pan",))
    pixels[0, 1, 2] = np.nan
    with pytest.raises(DataError, match="not finite: seen 1 NaN"):
        raw_media("pan", pixels, bands=("pan",))
    spoilt = Media("pan", pixels.tobytes(), "raw", media.dtype, media.shape, ("pan",))
    with pytest.raises(DataError, match="not finite: seen 1 NaN"):
        decode_chip(spoilt)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP", "JPEG"])
def test_a_picture_file_becomes_red_green_blue(kind: str) -> None:
    picture = np.full((6, 9, 3), (200, 100, 30), np.uint8)
    chip = decode_chip(Media("rgb", encoded(picture, kind), kind.lower()))
    assert chip.bands == ("red", "green", "blue")
    assert chip.pixels.shape == (3, 6, 9)
    np.testing.assert_allclose(chip.pixels[:, 3, 4], (200, 100, 30), atol=4)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_modes_become_one_band(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (5, 4), 255).convert(mode).save(buffer, "PNG")
    chip = read_raster(buffer.getvalue())
    assert (chip.bands, chip.pixels.shape, int(chip.pixels[0, 0, 0])) == (("pan",), (1, 4, 5), 255)


@pytest.mark.parametrize(("mode", "kind"), [("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG")])
def test_colour_modes_become_three_bands(mode: str, kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (255, 0, 0)).convert(mode).save(buffer, kind)
    np.testing.assert_allclose(read_raster(buffer.getvalue()).pixels[:, 0, 0], [255, 0, 0], atol=4)


def test_sixteen_bit_png_keeps_its_depth() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 1234, np.uint16)).save(buffer, "PNG")
    chip = decode_chip(Media("pan", buffer.getvalue(), "png"))
    assert (chip.pixels.dtype, int(chip.pixels.max())) == (np.dtype("uint16"), 1234)


def test_a_grey_picture_in_three_channels_is_a_pan_chip() -> None:
    grey = np.repeat(ground(1, 8, 8, 1), 3, axis=2)
    assert decode_chip(Media("pan", encoded(grey), "png")).bands == ("pan",)
    with pytest.raises(DataError, match="wrong band count: seen 3 bands, expected 1 for pan"):
        decode_chip(Media("pan", encoded(ground(1, 8, 8)), "png"))


def test_near_infrared_called_alpha_is_kept_and_a_mask_is_not(tmp_path: Path) -> None:
    picture = ground(2, 16, 16, 4).transpose(2, 0, 1).copy()
    mask = picture.copy()
    mask[3] = 255
    chips = []
    for name, pixels in (("nir.tif", picture), ("mask.tif", mask)):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(buffer, "TIFF")
        (tmp_path / name).write_bytes(buffer.getvalue())
        chips.append(read_raster(str(tmp_path / name)))
    assert chips[0].bands == ("red", "green", "blue", "nir")
    assert chips[1].bands == ("red", "green", "blue")


def test_a_geotiff_keeps_bands_place_and_gsd(tmp_path: Path) -> None:
    pixels = np.arange(2 * 4 * 6, dtype=np.uint16).reshape(2, 4, 6)
    path = write_geotiff(tmp_path / "a.tif", pixels, gsd_m=2.5, descriptions=("Red", "NIR"))
    chip = read_raster(str(path))
    np.testing.assert_array_equal(chip.pixels, pixels)
    assert chip.bands == ("red", "nir")
    assert chip.gsd_m == pytest.approx(2.5)
    assert chip.georeference is not None
    assert chip.georeference.crs == "EPSG:32631"
    west, south, east, north = chip.georeference.bbox_lonlat(6, 4)
    assert (west, north) == pytest.approx((3.0, 45.153), abs=2e-3)  # 500 km east is the zone's central meridian
    assert (east - west) * 111_320 * np.cos(np.radians(45.15)) == pytest.approx(15, rel=0.01)
    assert (north - south) * 111_320 == pytest.approx(10, rel=0.01)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "image is empty: seen 0 bytes"),
        (b"this is a text, named .jpg", "not an image: seen 26 bytes beginning 74 68 69 73"),
        (encoded(ground(3))[:1500], "image cannot be decoded"),
        (encoded(ground(3), "JPEG")[:1500], "image cannot be decoded"),
        (encoded(ground(3), "TIFF")[:1500], "cannot be decoded"),
        (encoded(ground(3), "WEBP")[:500], "cannot be decoded|not an image"),
        (b"II*\0" + b"\0" * 40, "raster cannot be decoded"),
    ],
)
def test_a_file_that_is_no_whole_image_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_raster(data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"input not found.*gone\.tif"):
        read_raster(str(tmp_path / "gone.tif"))


@pytest.mark.parametrize("bands", [1, 3, 4, 10])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_thumbnail_of_any_chip_is_a_small_webp(bands: int, dtype: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (bands, 300, 200)).astype(dtype)  # noise: the hardest to pack
    names = ("red", "green", "blue", *(f"band_{i}" for i in range(bands - 3))) if bands > 1 else ("pan",)
    webp = thumbnail(Chip(pixels, names, (None,) * bands))
    assert len(webp) <= 4096
    with Image.open(io.BytesIO(webp)) as image:
        assert image.format == "WEBP"
        assert max(image.size) <= 96
        assert image.height > image.width


def test_a_thumbnail_that_cannot_fit_is_an_error() -> None:
    chip = Chip(
        np.random.default_rng(1).integers(0, 256, (3, 64, 64)).astype(np.uint8), ("red", "green", "blue"), (None,) * 3
    )
    with pytest.raises(DataError, match="thumbnail does not fit"):
        thumbnail(chip, max_bytes=20)


def test_a_preview_takes_colours_by_name_and_stretches_deep_values() -> None:
    pixels = np.stack([np.full((4, 4), value, np.uint8) for value in (10, 20, 30, 40)])
    assert preview(Chip(pixels, MS_BANDS, (None,) * 4))[0, 0].tolist() == [30, 20, 10]
    deep = np.linspace(3000, 9000, 100, dtype=np.uint16).reshape(1, 10, 10)
    shown = preview(Chip(deep, ("pan",), (None,)))
    assert (int(shown.min()), int(shown.max())) == (0, 255)
    assert (shown[..., 0] == shown[..., 2]).all()
