"""A raster named by a manifest (a file, or `FILE.mat:NAME`) -> its size and place, and pixels by windows.

Files are read window by window and never whole. A MATLAB variable has no windows: the last two files read are kept by
the process, because the chips of one scene follow each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np
import rasterio.windows

from cmir.archive import storage
from cmir.archive.matlab import read_matrix
from cmir.archive.raster import Georeference, Pixels, acquired_at_of, bands_of, georeference_of, open_file, to_native
from cmir.archive.sensors import band_names
from cmir.errors import DataError

Window = tuple[int, int, int, int]  # column, row, width, height


@dataclass(frozen=True, slots=True)
class RasterInfo:
    """What a raster's header says."""

    width: int
    height: int
    bands: tuple[str, ...]
    georeference: Georeference | None = None
    nodata: float | None = None
    acquired_at: datetime | None = None

    @classmethod
    def of(cls, dataset: "rasterio.io.DatasetReader", sensor: str | None = None) -> "RasterInfo":
        """Of an open file; `sensor` names the bands of one that does not."""
        return cls(
            dataset.width,
            dataset.height,
            bands_of(dataset, sensor),
            georeference_of(dataset),
            dataset.nodata,
            acquired_at_of(dataset),
        )


@dataclass(frozen=True, slots=True)
class RasterFile:
    """A raster file, or the variable of a MATLAB file."""

    uri: str
    variable: str | None = None

    @classmethod
    def parse(cls, text: str) -> "RasterFile":
        """From a manifest's entry.

        >>> RasterFile.parse("a/b.mat:I_PAN")
        RasterFile(uri='a/b.mat', variable='I_PAN')
        >>> RasterFile.parse("s3://bucket/pan.tif").variable is None
        True
        """
        head, _, tail = text.rpartition(":")
        return cls(head, tail) if head.lower().endswith(".mat") and tail else cls(text)

    def info(self, sensor: str | None = None) -> RasterInfo:
        """Size, bands and place; `sensor` names the bands of a file that does not. Raises DataError: unreadable."""
        if self.variable is not None:
            bands, height, width = _matlab_pixels(self.uri, self.variable, _num_bytes(self.uri)).shape
            return RasterInfo(width, height, band_names(bands, sensor))
        with open_file(self.uri) as dataset:
            return RasterInfo.of(dataset, sensor)

    def read(self, window: Window) -> Pixels:
        """Pixels [C,h,w] of a window inside the raster, native dtype. Raises DataError: unreadable."""
        column, row, width, height = window
        if self.variable is not None:
            return _matlab_pixels(self.uri, self.variable, _num_bytes(self.uri))[
                :, row : row + height, column : column + width
            ]
        with open_file(self.uri) as dataset:
            pixels = dataset.read(window=rasterio.windows.Window(column, row, width, height))
        return to_native(pixels, self.uri)


def grid_windows(width: int, height: int, side_px: int) -> Iterator[Window]:
    """Windows of a raster, row by row without overlap; a smaller raster is one window.

    What is left at the right and lower edge, less than a window, is not used.

    >>> list(grid_windows(5, 3, 2))
    [(0, 0, 2, 2), (2, 0, 2, 2)]
    """
    wide, high = min(side_px, width), min(side_px, height)
    for row in range(0, height - high + 1, high):
        for column in range(0, width - wide + 1, wide):
            yield column, row, wide, high


def holds_nodata(pixels: Pixels, nodata: float | None) -> bool:
    """True where any pixel is nodata or not finite, or where a band is one value throughout: fill without a mark."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        return True
    mark = _within(nodata, pixels) if nodata is not None else None
    if mark is not None and bool((pixels == mark).any()):
        return True
    flat = pixels.reshape(pixels.shape[0], -1)
    return bool((flat.min(axis=1) == flat.max(axis=1)).all())


def _num_bytes(uri: str) -> int:
    return sum(file.num_bytes for file in storage.list_files(uri))


def _within(nodata: float, pixels: Pixels) -> Pixels | None:
    """The nodata value in the pixels' type, None where it cannot hold it (a tag of float64 rounds to float32)."""
    if pixels.dtype.kind == "f":
        lowest, highest = np.finfo(np.float32).min, np.finfo(np.float32).max
        return np.asarray(np.clip(nodata, lowest, highest), np.float32)
    limits = np.iinfo(pixels.dtype)
    return np.asarray(nodata, pixels.dtype) if limits.min <= nodata <= limits.max else None


@lru_cache(maxsize=4)
def _matlab_pixels(uri: str, variable: str, num_bytes: int) -> Pixels:
    """[C,H,W] of a variable [H,W] or [H,W,C]; a first axis shorter than both others holds the bands."""
    # num_bytes is part of the key, so that a file that was replaced is read again
    values = read_matrix(storage.read_bytes(uri), variable, uri)
    if values.ndim == 2:
        values = values[None]
    elif values.ndim == 3 and values.shape[2] <= values.shape[0]:
        values = values.transpose(2, 0, 1)
    if values.ndim != 3:
        raise DataError("not a raster", seen=f"shape {values.shape}", expected="[H,W] or [H,W,C]", where=uri)
    return to_native(values, uri)
