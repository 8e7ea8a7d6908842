"""Raster files (picture formats and GeoTIFF) become pixel arrays with band names and a place on Earth.

Picture formats go through Pillow, TIFF through rasterio, by the first bytes and never by the file's name. Values keep
their type where it is one of uint8, uint16, int16, float32; wider types become float32. An `alpha` band is dropped
where it is a mask (only 0 and its largest value): NAIP files and others carry near-infrared under that name.
"""

import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import rasterio
import rasterio.windows
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rasterio._err import CPLE_BaseError  # what GDAL says where rasterio has no error of its own; public nowhere
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.warp import transform_geom

from cmir.archive import storage
from cmir.archive.sensors import band_names, band_wavelength, canonical_band
from cmir.errors import DataError

Pixels = NDArray[Any]
Window = tuple[int, int, int, int]
NATIVE_DTYPES: Final = ("uint8", "uint16", "int16", "float32")
MAX_PIXELS: Final = 64_000_000  # a picture larger than 8,000 x 8,000 is a scene, to be cut by windows, or a bomb
RASTER_SUFFIXES: Final = (".tif", ".tiff", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".jp2", ".ppm", ".pgm")
_ONE_FILTER_AT_A_TIME: Final = threading.Lock()
_METRES_PER_DEGREE: Final = 111_320.0  # of latitude, and of longitude at the equator (WGS 84, mean)


@dataclass(frozen=True, slots=True)
class Georeference:
    """Where pixels lie: `crs` (authority:code or WKT) and the affine (a, b, c, d, e, f) from (column, row)."""

    crs: str
    transform: tuple[float, float, float, float, float, float]

    def moved(self, column: float, row: float) -> "Georeference":
        """The same grid with its origin at pixel (column, row)."""
        a, b, c, d, e, f = self.transform
        return Georeference(self.crs, (a, b, c + a * column + b * row, d, e, f + d * column + e * row))

    def gsd_m(self) -> float:
        """Ground sampling distance in metres; degrees are converted at the latitude of the origin."""
        a, b, _, d, e, f = self.transform
        x, y = math.hypot(a, d), math.hypot(b, e)
        crs = rasterio.crs.CRS.from_user_input(self.crs)
        if crs.is_geographic:
            x, y = x * _METRES_PER_DEGREE * math.cos(math.radians(f)), y * _METRES_PER_DEGREE
        else:
            factor = float(crs.linear_units_factor[1])
            x, y = x * factor, y * factor
        return round(math.sqrt(x * y), 6)

    def polygon_lonlat(self, width: int, height: int) -> list[tuple[float, float]]:
        """Corners of a width x height chip as a closed ring in degrees of EPSG:4326."""
        a, b, c, d, e, f = self.transform
        corners = [(0, 0), (width, 0), (width, height), (0, height), (0, 0)]
        ring = [(a * col + b * row + c, d * col + e * row + f) for col, row in corners]
        lonlat = transform_geom(self.crs, "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
        return [(float(point[0]), float(point[1])) for point in lonlat["coordinates"][0]]

    def bbox_lonlat(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) of a width x height chip in degrees of EPSG:4326."""
        lon, lat = zip(*self.polygon_lonlat(width, height), strict=True)
        return min(lon), min(lat), max(lon), max(lat)


@dataclass(frozen=True, slots=True)
class Raster:
    """Pixels [C,H,W] in a native dtype, band names, and what the file says of place and time."""

    pixels: Pixels
    bands: tuple[str, ...]
    georeference: Georeference | None = None
    nodata: float | None = None
    acquired_at: datetime | None = None


def load_raster(data: bytes, *, where: str = "bytes", window: Window | None = None) -> Raster:
    """Decode a raster file, or the part of it in a window (column, row, width, height), in pixels.

    Of a tiled TIFF only the tiles that a window touches are read. Raises DataError: empty, not an image, cut short, too
    large, a window that does not lie inside.
    """
    if not data:
        raise DataError("image is empty", seen="0 bytes", expected="an image file", where=where)
    return _load_tiff(data, where, window) if is_tiff(data) else _load_picture(data, where, window)


def check_window(window: Window, width: int, height: int, where: str) -> None:
    """Raises DataError where a window is empty or does not lie inside width x height pixels."""
    column, row, wide, high = window
    if column < 0 or row < 0 or wide < 1 or high < 1 or column + wide > width or row + high > height:
        seen = f"{wide} x {high} px from column {column}, row {row}"
        raise DataError(
            "window lies outside the image", seen=seen, expected=f"inside {width} x {height} px", where=where
        )


def is_tiff(data: bytes) -> bool:
    """True for the first bytes of TIFF and BigTIFF."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def to_native(pixels: Pixels, where: str = "raster") -> Pixels:
    """The same values in one of NATIVE_DTYPES; wider numbers become float32. Raises DataError for other types."""
    name = pixels.dtype.name
    if name in NATIVE_DTYPES and pixels.dtype.isnative:
        return pixels
    if name in NATIVE_DTYPES:
        return pixels.astype(name)
    if name == "bool":
        return pixels.astype(np.uint8) * np.uint8(255)
    if name == "int8":
        return pixels.astype(np.int16)
    if pixels.dtype.kind in "iuf":
        return pixels.astype(np.float32)
    raise DataError("cannot use this type of pixels", seen=name, expected="integers or floats", where=where)


@contextmanager
def open_dataset(data: bytes, where: str) -> Iterator["rasterio.io.DatasetReader"]:
    """A rasterio dataset over bytes; its errors become DataError, and having no georeference is no warning."""
    with _reading(where), rasterio.MemoryFile(data) as memory, _opened(memory.open) as dataset:
        yield dataset


@contextmanager
def open_file(uri: str) -> Iterator["rasterio.io.DatasetReader"]:
    """A rasterio dataset over a file, read by windows; from object storage by ranges. Errors as `open_dataset`."""
    if not storage.exists(uri):
        raise DataError("input not found", seen="nothing", expected="a raster file", where=uri)
    with ExitStack() as stack:
        stack.enter_context(_reading(uri))
        file = stack.enter_context(storage.open_input(uri)) if storage.is_s3(uri) else str(storage.local_path(uri))
        yield stack.enter_context(_opened(lambda: rasterio.open(file)))


def _opened(opener: Callable[[], "rasterio.io.DatasetReader"]) -> "rasterio.io.DatasetReader":
    """Open without the warning that a picture has no georeference; filters of warnings are no thread's own."""
    with _ONE_FILTER_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return opener()


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (RasterioError, rasterio.errors.CRSError, CPLE_BaseError) as error:
        raise DataError("raster cannot be decoded", seen=_first_line(error), where=where) from error


def georeference_of(dataset: "rasterio.io.DatasetReader") -> Georeference | None:
    """Where a dataset lies, None where it does not say, or names no place on Earth."""
    crs, t = dataset.crs, dataset.transform
    if crs is None or t.is_identity or not (crs.is_geographic or crs.is_projected):
        return None
    if not all(map(math.isfinite, t)) or t.determinant == 0 or (crs.is_geographic and abs(t.f) > 90):
        return None
    code = crs.to_epsg()
    found = Georeference(f"EPSG:{code}" if code else crs.to_wkt(), (t.a, t.b, t.c, t.d, t.e, t.f))
    try:
        corners = found.polygon_lonlat(dataset.width, dataset.height)
    except CPLE_BaseError:  # outside of what the projection covers
        return None
    return found if np.isfinite(corners).all() else None


def acquired_at_of(dataset: "rasterio.io.DatasetReader") -> datetime | None:
    """The time in a dataset's tags (ACQUISITIONDATETIME or TIFFTAG_DATETIME, taken as UTC), else None."""
    tags = {**dataset.tags(), **dataset.tags(ns="IMAGERY")}
    text = tags.get("ACQUISITIONDATETIME") or tags.get("TIFFTAG_DATETIME") or ""
    for pattern in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y:%m:%d %H:%M:%S"):
        try:
            return datetime.strptime(text[:19], pattern).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def bands_of(dataset: "rasterio.io.DatasetReader", sensor: str | None = None) -> tuple[str, ...]:
    """Band names of a dataset: its descriptions, else its colours, else the sensor's or the usual ones."""
    described = tuple(canonical_band(name or "") for name in dataset.descriptions)
    if all(described) and any(band_wavelength(name, sensor) for name in described):
        return described
    colours = [interp.name for interp in dataset.colorinterp]
    if colours[:3] == ["red", "green", "blue"]:
        rest = ["nir" if i == 3 else f"band_{i + 1}" for i in range(3, dataset.count)]
        return (*colours[:3], *rest)
    return band_names(dataset.count, sensor)


def _load_tiff(data: bytes, where: str, window: Window | None) -> Raster:
    with open_dataset(data, where) as dataset:
        column, row, width, height = window or (0, 0, dataset.width, dataset.height)
        _check_size(width, height, where)
        check_window((column, row, width, height), dataset.width, dataset.height, where)
        pixels, bands = dataset.read(window=rasterio.windows.Window(column, row, width, height)), bands_of(dataset)
        if dataset.colorinterp[-1].name == "alpha" and is_mask(pixels[-1]):
            pixels = pixels[:-1]
            bands = band_names(len(pixels)) if len(pixels) != 3 else bands[:-1]
        georeference = georeference_of(dataset)
        moved = georeference and georeference.moved(column, row)
        return Raster(to_native(pixels, where), bands, moved, dataset.nodata, acquired_at_of(dataset))


def _load_picture(data: bytes, where: str, window: Window | None) -> Raster:
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image.width, image.height, where)
            pixels = np.asarray(_plain_mode(_cut(image, window, where) if window else image))
    except UnidentifiedImageError as error:
        head = data[:8].hex(" ")
        raise DataError("not an image", seen=f"{len(data)} bytes beginning {head}", where=where) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError("image cannot be decoded", seen=_first_line(error), where=where) from error
    stack = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Raster(np.ascontiguousarray(to_native(stack, where)), band_names(len(stack)))


def _cut(image: Image.Image, window: Window, where: str) -> Image.Image:
    check_window(window, image.width, image.height, where)
    column, row, width, height = window
    return image.crop((column, row, column + width, row + height))


def _plain_mode(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB", "F", "I") or image.mode.startswith("I;16"):
        return image
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    return image.convert("RGB")  # palettes, CMYK, YCbCr; alpha is dropped


def _check_size(width: int, height: int, where: str) -> None:
    if width * height > MAX_PIXELS:
        raise DataError(
            "image is too large for one chip",
            seen=f"{width} x {height} px",
            expected=f"at most {MAX_PIXELS:,} pixels",
            where=where,
            fix="cut the scene into chips",
        )


def is_mask(band: Pixels) -> bool:
    """True for a band that holds nothing but 0 and the largest value of its type."""
    highest = np.iinfo(band.dtype).max if band.dtype.kind in "iu" else 1.0
    return bool(np.isin(band, (0, highest)).all())


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
