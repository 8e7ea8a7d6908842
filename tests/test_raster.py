"""Georeferences, tags and band names of raster files."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import Affine

from cmir.archive.raster import Georeference, is_tiff, load_raster, open_file, to_native
from cmir.errors import DataError
from tests.picture_files import write_geotiff


def test_a_moved_georeference_starts_at_the_pixel() -> None:
    place = Georeference("EPSG:32631", (2.0, 0.0, 100.0, 0.0, -2.0, 900.0)).moved(3, 5)
    assert place.transform == (2.0, 0.0, 106.0, 0.0, -2.0, 890.0)


def test_gsd_of_degrees_is_metres_at_that_latitude() -> None:
    place = Georeference("EPSG:4326", (0.001, 0.0, 10.0, 0.0, -0.001, 60.0))
    assert place.gsd_m() == pytest.approx(111.32 * np.sqrt(0.5), rel=1e-3)


def test_gsd_of_feet_is_metres() -> None:
    assert Georeference("EPSG:2229", (1.0, 0.0, 6e6, 0.0, -1.0, 2e6)).gsd_m() == pytest.approx(0.3048, rel=1e-4)


def test_time_and_nodata_come_from_the_file(tmp_path: Path) -> None:
    pixels = np.zeros((1, 4, 4), np.uint16)
    path = write_geotiff(tmp_path / "a.tif", pixels, nodata=7, tags={"TIFFTAG_DATETIME": "2020:05:17 10:30:01"})
    raster = load_raster(path.read_bytes())
    assert raster.acquired_at == datetime(2020, 5, 17, 10, 30, 1, tzinfo=UTC)
    assert raster.nodata == 7


def test_descriptions_that_name_no_band_give_way_to_the_usual_order(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint16)
    path = write_geotiff(tmp_path / "a.tif", pixels, descriptions=("Band 1", "Band 2", "Band 3", "Band 4"))
    assert load_raster(path.read_bytes()).bands == ("blue", "green", "red", "nir")


def test_a_file_without_georeference_has_no_place(tmp_path: Path) -> None:
    path = write_geotiff(tmp_path / "a.tif", np.zeros((1, 4, 4), np.uint8), crs=None)
    assert load_raster(path.read_bytes()).georeference is None


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ('LOCAL_CS["a table top",UNIT["metre",1]]', Affine(1, 0, 0, 0, -1, 9)),
        ("EPSG:4326", Affine(0.1, 0, 0, 0, -0.1, 900)),  # a latitude that there is not
        ("EPSG:32631", Affine(0, 0, 5, 0, 0, 9)),
    ],
)
def test_a_georeference_that_names_no_place_on_earth_is_none(tmp_path: Path, crs: str, transform: Affine) -> None:
    path = write_geotiff(tmp_path / "a.tif", np.zeros((1, 4, 4), np.uint8), crs=crs, transform=transform)
    assert load_raster(path.read_bytes()).georeference is None


def test_a_rotated_grid_has_the_footprint_of_its_corners(tmp_path: Path) -> None:
    turned = Affine(0.8, -0.6, 500_000.0, -0.6, -0.8, 5_000_000.0)
    raster = load_raster(
        write_geotiff(tmp_path / "a.tif", np.zeros((1, 10, 10), np.uint8), transform=turned).read_bytes()
    )
    assert raster.georeference is not None
    assert raster.georeference.gsd_m() == pytest.approx(1.0)
    ring = raster.georeference.polygon_lonlat(10, 10)
    assert ring[0] == ring[-1]
    assert len(set(ring)) == 4


def test_bytes_of_both_orders_are_tiff() -> None:
    assert [is_tiff(head) for head in (b"II*\0", b"MM\0*", b"II+\0", b"\x89PNG")] == [True, True, True, False]


def test_complex_pixels_are_refused() -> None:
    with pytest.raises(DataError, match="cannot use this type of pixels: seen complex64"):
        to_native(np.zeros((1, 2, 2), np.complex64))


def test_a_file_that_is_missing_or_no_raster_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    with pytest.raises(DataError, match=r"input not found.*gone\.tif"), open_file(str(tmp_path / "gone.tif")):
        pass
    with pytest.raises(DataError, match=r"raster cannot be decoded.*text\.tif"), open_file(str(tmp_path / "text.tif")):
        pass
