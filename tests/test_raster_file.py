"""Rasters of manifests: headers, windows, variables of MATLAB files, nodata."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from cmir.archive.raster_file import RasterFile, holds_nodata
from cmir.errors import DataError
from tests.picture_files import write_geotiff


def test_a_window_of_a_geotiff_is_read_alone(tmp_path: Path) -> None:
    pixels = np.arange(4 * 30 * 40, dtype=np.uint16).reshape(4, 30, 40)
    file = RasterFile(str(write_geotiff(tmp_path / "a.tif", pixels, nodata=3)))
    np.testing.assert_array_equal(file.read((5, 7, 12, 9)), pixels[:, 7:16, 5:17])
    found = file.info("NAIP")
    assert (found.width, found.height, found.bands, found.nodata) == (40, 30, ("red", "green", "blue", "nir"), 3)


@pytest.mark.parametrize("version", ["v5", "v7.3"])
def test_a_variable_of_a_matlab_file_is_a_raster(tmp_path: Path, version: str) -> None:
    pan = np.arange(12 * 10, dtype=np.uint16).reshape(12, 10)
    ms = np.arange(6 * 5 * 4, dtype=np.uint16).reshape(6, 5, 4)
    path = tmp_path / "scene.mat"
    if version == "v5":
        scipy.io.savemat(path, {"I_PAN": pan, "I_MS": ms})
    else:
        with h5py.File(path, "w") as file:
            file["I_PAN"], file["I_MS"] = pan.T, ms.T
    assert RasterFile.parse(f"{path}:I_PAN").info().bands == ("pan",)
    raster = RasterFile.parse(f"{path}:I_MS")
    assert (raster.info().width, raster.info().height) == (5, 6)
    np.testing.assert_array_equal(raster.read((1, 2, 3, 4)), ms.transpose(2, 0, 1)[:, 2:6, 1:4])


def test_a_variable_that_is_missing_or_no_raster_is_named(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"I_PAN": np.zeros((4, 4)), "cube": np.zeros((2, 2, 2, 2))})
    with pytest.raises(DataError, match=r"no such variable.*\['I_PAN', 'cube'\], expected I_MS"):
        RasterFile.parse(f"{tmp_path}/a.mat:I_MS").info()
    with pytest.raises(DataError, match=r"not a raster: seen shape \(2, 2, 2, 2\)"):
        RasterFile.parse(f"{tmp_path}/a.mat:cube").info()


def test_nodata_is_found_by_mark_by_nan_and_by_flatness() -> None:
    pixels = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert not holds_nodata(pixels, None)
    assert holds_nodata(pixels, 5.0)
    assert holds_nodata(np.where(pixels == 3, np.nan, pixels), None)
    assert holds_nodata(np.zeros((2, 4, 4), np.uint8), None)
    lowest = np.where(pixels == 3, np.finfo(np.float32).min, pixels)
    assert holds_nodata(lowest, -1.7976931348623157e308)  # the lowest float64 on a float32 raster
    assert not holds_nodata(pixels.astype(np.uint8), -9999.0)
