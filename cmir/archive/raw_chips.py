"""Rows of a shard that hold raw pixels of one form as one array, without an object for each row and without a copy."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cmir.archive import shards
from cmir.archive.imagery import Chip, decode_chip
from cmir.archive.raster import NATIVE_DTYPES, Pixels
from cmir.archive.schema import Modality
from cmir.errors import DataError

_SHARED = ("modality", "encoding", "dtype", "shape", "bands", "wavelength_nm", "sensor")  # what makes one form


@dataclass(frozen=True, eq=False)
class RawChips:
    """N chips of one form: `pixels` native [N,C,H,W], read-only, and the gsd_m of each, None where not known.

    `first` is the first of them, whose bands, wavelengths and sensor hold for all.
    """

    modality: Modality
    pixels: Pixels
    gsd_m: tuple[float | None, ...]
    first: Chip

    def __len__(self) -> int:
        return len(self.pixels)

    def chip(self, i: int) -> Chip:
        """Chip `i`, a view of its pixels."""
        return Chip(self.pixels[i], self.first.bands, self.first.wavelength_nm, self.gsd_m[i], self.first.sensor)


def raw_chips(table: pa.Table) -> RawChips | None:
    """The rows of a SHARD_SCHEMA table as `RawChips`; None where they are not all whole raw chips of one form.

    Rows that are left to the reader of single items: encoded files, speech, several forms, bands without names, pixels
    cut short, NaN, and whatever else `decode_chip` has to say something about.
    """
    if not len(table) or not all(_is_constant(table[name]) for name in _SHARED):
        return None
    media = shards.media_of(table, 0)
    if media.modality == "speech" or media.encoding != "raw" or media.dtype not in NATIVE_DTYPES or not media.bands:
        return None
    try:
        first = decode_chip(media)
    except DataError:
        return None
    if media.shape != first.pixels.shape:  # a grey file of three equal bands, say
        return None
    data = table["data"].combine_chunks() if table["data"].num_chunks != 1 else table["data"].chunk(0)
    pixels = _stacked(data, np.dtype(media.dtype).newbyteorder("<"), media.shape)
    if pixels is None or (pixels.dtype.kind == "f" and not np.isfinite(pixels).all()):
        return None
    gsd_m = tuple(known_m or None for known_m in table["gsd_m"].to_pylist())
    return RawChips(media.modality, pixels, gsd_m, first)


def _stacked(data: pa.Array, dtype: np.dtype, shape: tuple[int, ...]) -> Pixels | None:
    """Binary values as one array [N,*shape] over Arrow's own memory; None where one has another length."""
    if isinstance(data, pa.ChunkedArray) or data.null_count:
        return None
    offsets = np.frombuffer(data.buffers()[1], np.int32)[data.offset : data.offset + len(data) + 1]
    if (np.diff(offsets) != math.prod(shape) * dtype.itemsize).any():
        return None
    flat = np.frombuffer(data.buffers()[2], dtype, len(data) * math.prod(shape), int(offsets[0]))
    return flat.reshape(len(data), *shape)


def _is_constant(column: pa.ChunkedArray) -> bool:
    """Whether all values, or all lists, of a column are equal; all null is."""
    if column.null_count:
        return bool(column.null_count == len(column))
    if not pa.types.is_list(column.type):
        return len(column.unique()) == 1
    lengths = pc.list_value_length(column).unique()
    if len(lengths) != 1:
        return False
    values, count = pc.list_flatten(column), lengths[0].as_py()
    places = np.arange(len(column)) * count
    return all(len(values.take(pa.array(places + i)).unique()) == 1 for i in range(count))
