"""Two rasters of the same ground at any two resolutions -> windows of the one and the pixels of the other beneath them.

`Alignment` says where a PAN pixel lies in the MS: by the georeferences where both have one, else by the ratio of their
sizes. An MS window that falls on whole pixels is cut as it is, values untouched; one that does not is resampled by
linear interpolation, since cutting at the nearest pixel would move it by up to half an MS pixel, two PAN pixels at a
ratio of 4.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform

from cmir.archive.raster import Georeference, Pixels
from cmir.archive.raster_file import RasterFile, RasterInfo, Window, grid_windows, holds_nodata
from cmir.errors import DataError

_WHOLE_PIXEL_TOLERANCE: Final = 0.05  # MS pixels; georeferences of real products are rounded by a few hundredths
_EDGE_TOLERANCE: Final = 0.5  # MS pixels that a window may reach over the MS's edge
_MAX_BEND: Final = 1.0  # MS pixels by which a corner may miss the axis-aligned fit: reprojected or rotated grids


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in MS pixels, not necessarily whole ones."""

    column: float
    row: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """MS column = `column_offset` + `column_scale` x PAN column, and the same for rows; scales are 1 / ratio."""

    column_offset: float
    column_scale: float
    row_offset: float
    row_scale: float

    @classmethod
    def of(cls, pan: RasterInfo, ms: RasterInfo) -> "Alignment":
        """How an MS raster lies under a PAN. Raises DataError: no common ground, rotated grids, MS finer than PAN."""
        if pan.georeference and ms.georeference:
            found = _by_place(pan, pan.georeference, ms.georeference)
        else:
            found = cls(0.0, ms.width / pan.width, 0.0, ms.height / pan.height)
        if not (0 < found.column_scale <= 1 and 0 < found.row_scale <= 1):
            seen = f"{found.column_scale:.3f} x {found.row_scale:.3f} MS pixels per PAN pixel"
            raise DataError("ms is finer than pan, or turned", seen=seen, expected="0 to 1", fix="swap pan and ms")
        return found

    def box(self, window: Window) -> Box:
        """Where a PAN window lies in the MS."""
        column, row, width, height = window
        return Box(
            self.column_offset + self.column_scale * column,
            self.row_offset + self.row_scale * row,
            self.column_scale * width,
            self.row_scale * height,
        )


def chip_windows(pan: RasterInfo, ms: RasterInfo, alignment: Alignment, chip_size_px: int) -> Iterator[Window]:
    """Windows of the PAN as `grid_windows` cuts them, whose ground the MS covers."""
    for window in grid_windows(pan.width, pan.height, chip_size_px):
        box = alignment.box(window)
        inside_columns = box.column >= -_EDGE_TOLERANCE and box.column + box.width <= ms.width + _EDGE_TOLERANCE
        inside_rows = box.row >= -_EDGE_TOLERANCE and box.row + box.height <= ms.height + _EDGE_TOLERANCE
        if inside_columns and inside_rows and min(box.width, box.height) >= 1:
            yield window


def read_box(file: RasterFile, info: RasterInfo, box: Box) -> Pixels | None:
    """Pixels [C,h,w] of a box, h and w its size in whole pixels; None where any pixel that they need is nodata."""
    column, width, columns = _axis(box.column, box.width, info.width)
    row, height, rows = _axis(box.row, box.height, info.height)
    pixels = file.read((column, row, width, height))
    if holds_nodata(pixels, info.nodata):
        return None
    if rows is None and columns is None:
        return pixels
    values = pixels.astype(np.float64)
    values = values if rows is None else rows @ values
    values = values if columns is None else values @ columns.T
    return np.asarray(values if pixels.dtype.kind == "f" else np.rint(values), pixels.dtype)


def _axis(start: float, size: float, limit: int) -> tuple[int, int, NDArray[np.float64] | None]:
    """First pixel and number of pixels to read, and weights f64[out,read] to resample by; None for whole pixels."""
    num_out = max(1, round(size))
    whole = round(start)
    if (
        abs(start - whole) < _WHOLE_PIXEL_TOLERANCE
        and abs(size - num_out) < 2 * _WHOLE_PIXEL_TOLERANCE
        and 0 <= whole <= limit - num_out
    ):
        return whole, num_out, None
    centres = np.clip(start + (np.arange(num_out) + 0.5) * size / num_out - 0.5, 0, limit - 1)
    first = int(np.floor(centres[0]))
    last = min(int(np.floor(centres[-1])) + 1, limit - 1)
    distance = np.abs(centres[:, None] - np.arange(first, last + 1)[None, :])
    return first, last - first + 1, np.clip(1.0 - distance, 0.0, 1.0)


def _by_place(pan: RasterInfo, pan_place: Georeference, ms_place: Georeference) -> Alignment:
    """The axis-aligned fit through the corners of the PAN, in MS pixels."""
    columns = np.array([0.0, pan.width, pan.width, 0.0])
    rows = np.array([0.0, 0.0, pan.height, pan.height])
    a, b, c, d, e, f = pan_place.transform
    x, y = a * columns + b * rows + c, d * columns + e * rows + f
    if pan_place.crs != ms_place.crs:
        x, y = (np.asarray(values) for values in transform(pan_place.crs, ms_place.crs, x.tolist(), y.tolist()))
    a, b, c, d, e, f = ms_place.transform
    inverse = np.linalg.inv(np.array([[a, b], [d, e]]))
    ms_columns, ms_rows = inverse @ np.stack([x - c, y - f])
    left, right = (ms_columns[0] + ms_columns[3]) / 2, (ms_columns[1] + ms_columns[2]) / 2
    top, bottom = (ms_rows[0] + ms_rows[1]) / 2, (ms_rows[2] + ms_rows[3]) / 2
    bend = max(abs(ms_columns - [left, right, right, left]).max(), abs(ms_rows - [top, top, bottom, bottom]).max())
    if bend > _MAX_BEND:
        raise DataError(
            "pan and ms grids are turned against each other",
            seen=f"corners {bend:.1f} MS pixels off",
            expected=f"at most {_MAX_BEND}",
            fix="warp one to the grid of the other",
        )
    return Alignment(float(left), float(right - left) / pan.width, float(top), float(bottom - top) / pan.height)
