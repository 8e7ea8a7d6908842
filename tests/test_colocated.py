"""Which MS pixels lie under which PAN pixels, whole or between."""

from pathlib import Path

import numpy as np
import pytest

from cmir.archive.colocated import Alignment, Box, chip_windows, read_box
from cmir.archive.raster import Georeference
from cmir.archive.raster_file import RasterFile, RasterInfo
from cmir.errors import DataError
from tests.picture_files import write_geotiff


def info(width: int, height: int, gsd_m: float | None = None, west: float = 0.0, crs: str = "EPSG:32631") -> RasterInfo:
    place = Georeference(crs, (gsd_m, 0.0, 500_000 + west, 0.0, -gsd_m, 5_000_000.0)) if gsd_m else None
    return RasterInfo(width, height, ("pan",), place)


def test_without_places_the_ratio_of_sizes_decides() -> None:
    alignment = Alignment.of(info(512, 400), info(256, 100))
    assert alignment.box((100, 80, 64, 40)) == Box(50.0, 20.0, 32.0, 10.0)


def test_with_places_an_offset_is_seen() -> None:
    alignment = Alignment.of(info(400, 400, 0.5, west=30.0), info(300, 300, 2.0))
    box = alignment.box((8, 16, 40, 40))
    assert (box.column, box.row, box.width, box.height) == pytest.approx((17.0, 4.0, 10.0, 10.0))


def test_places_in_two_crs_are_brought_together() -> None:
    # zone 31 and zone 30 meet at longitude 0: the same ground in both, turned by 4 degrees
    with pytest.raises(DataError, match="grids are turned against each other"):
        Alignment.of(info(400, 400, 0.5, west=-200_000), info(100, 100, 2.0, west=264_000, crs="EPSG:32630"))
    # NAD83 and WGS84 of one zone differ by less than an MS pixel
    alignment = Alignment.of(info(400, 400, 0.5), info(100, 100, 2.0, crs="EPSG:25831"))
    assert alignment.column_scale == pytest.approx(0.25, rel=1e-4)


def test_an_ms_finer_than_its_pan_is_refused() -> None:
    with pytest.raises(DataError, match="ms is finer than pan"):
        Alignment.of(info(100, 100), info(400, 400))


def test_windows_tile_the_pan_where_the_ms_covers_it() -> None:
    pan, ms = info(600, 300, 0.5), info(100, 100, 2.0)  # the MS covers 200 m, the PAN 300 m x 150 m
    windows = list(chip_windows(pan, ms, Alignment.of(pan, ms), 128))
    assert windows == [
        (0, 0, 128, 128),
        (128, 0, 128, 128),
        (256, 0, 128, 128),
        *((c, 128, 128, 128) for c in (0, 128, 256)),
    ]
    small = info(90, 70, 0.5)
    assert list(chip_windows(small, ms, Alignment.of(small, ms), 128)) == [(0, 0, 90, 70)]
    apart = info(128, 128, 0.5, west=5000)
    assert list(chip_windows(apart, ms, Alignment.of(apart, ms), 128)) == []


@pytest.fixture
def ramp(tmp_path: Path) -> tuple[RasterFile, RasterInfo]:
    """Two bands whose values are 10 x column and 1000 + row."""
    rows, columns = np.mgrid[0:40, 0:50]
    pixels = np.stack([10 * columns, 1000 + rows]).astype(np.uint16)
    file = RasterFile(str(write_geotiff(tmp_path / "ms.tif", pixels, nodata=65535)))
    return file, file.info()


def test_whole_pixels_are_cut_untouched(ramp: tuple[RasterFile, RasterInfo]) -> None:
    cut = read_box(*ramp, Box(5.01, 7.0, 16.02, 8.0))
    assert cut is not None
    assert (cut.shape, cut.dtype) == ((2, 8, 16), np.uint16)
    assert cut[0, 0].tolist() == list(range(50, 210, 10))
    assert cut[1, :, 0].tolist() == list(range(1007, 1015))


def test_between_pixels_values_are_interpolated_at_their_places(ramp: tuple[RasterFile, RasterInfo]) -> None:
    cut = read_box(*ramp, Box(5.5, 7.0, 16.0, 8.0))
    assert cut is not None
    assert cut[0, 0].tolist() == list(range(55, 215, 10))
    stretched = read_box(*ramp, Box(4.0, 4.0, 9.4, 9.4))  # 9.4 pixels of ground in 9
    assert stretched is not None
    assert stretched.shape == (2, 9, 9)
    centres = 4.0 + (np.arange(9) + 0.5) * 9.4 / 9 - 0.5
    np.testing.assert_allclose(stretched[0, 0], 10 * centres, atol=0.5)


def test_a_box_over_the_edge_repeats_the_last_pixel(ramp: tuple[RasterFile, RasterInfo]) -> None:
    cut = read_box(*ramp, Box(-0.4, 31.9, 10.0, 8.3))
    assert cut is not None
    assert cut.shape == (2, 8, 10)
    assert int(cut[0, 0, 0]) == 0
    assert int(cut[1, -1, 0]) == 1039


def test_a_box_that_holds_nodata_gives_nothing(tmp_path: Path) -> None:
    pixels = np.arange(2 * 20 * 20, dtype=np.float32).reshape(2, 20, 20)
    pixels[1, 3, 3] = -9999
    file = RasterFile(str(write_geotiff(tmp_path / "a.tif", pixels, nodata=-9999)))
    assert read_box(file, file.info(), Box(0, 0, 8, 8)) is None
    assert read_box(file, file.info(), Box(8, 8, 8, 8)) is not None
