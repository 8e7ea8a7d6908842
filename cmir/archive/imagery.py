"""Bytes or arrays become a `Chip`: pixels [C,H,W] in their native dtype with the names and centres of their bands.

Nothing is scaled here: uint8 and uint16 travel to the device as they are and are normalised there, by one function for
training and inference. Raw uint8 data is read without a copy, so the pixels of a decoded chip are read-only.
"""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from cmir.archive import storage
from cmir.archive.raster import NATIVE_DTYPES, Georeference, Pixels, load_raster, to_native
from cmir.archive.schema import Media, Modality
from cmir.archive.sensors import band_names, band_wavelength
from cmir.errors import DataError

THUMBNAIL_MAX_BYTES: Final = 4096  # DESIGN: a gallery's thumbnails are WebP of at most 4 kB
_QUALITIES: Final = (80, 65, 50, 35, 20, 8)
_STRETCH_SAMPLES: Final = 64  # along a side: percentiles of all pixels take ten times as long and differ by little
_STRETCH_PERCENTILES: Final = (2.0, 98.0)  # the usual display stretch of reflectance and 11- to 16-bit values


@dataclass(frozen=True, eq=False)
class Chip:
    """An image: pixels [C,H,W] of dtype uint8, uint16, int16 or float32, a name and a centre (nm) per band."""

    pixels: Pixels
    bands: tuple[str, ...]
    wavelength_nm: tuple[float | None, ...]
    gsd_m: float | None = None
    sensor: str | None = None
    georeference: Georeference | None = None

    def __post_init__(self) -> None:
        assert self.pixels.ndim == 3
        assert len(self.bands) == len(self.wavelength_nm) == self.pixels.shape[0]


def decode_chip(media: Media) -> Chip:
    """The chip in an item's bytes.

    Bands and centres come from the media; where it names none, from the file or the usual order of that many bands.
    Raises DataError: not an image modality, cut short, wrong size or dtype, not an image, wrong band count, NaN.
    """
    if media.modality == "speech":
        raise DataError("not an image", seen="speech", expected="pan, ms or rgb", where="media.modality")
    georeference = None
    if media.encoding == "raw":
        pixels = _raw_pixels(media)
        found = band_names(pixels.shape[0], media.sensor)
    else:
        raster = load_raster(media.data, where=f"{media.modality} {media.encoding}", window=media.window)
        pixels, found, georeference = raster.pixels, raster.bands, raster.georeference
    if media.modality == "pan" and pixels.shape[0] == 3 and _is_grey(pixels):
        pixels, found = pixels[:1], ("pan",)
    if media.modality == "rgb" and not media.bands and pixels.shape[0] >= 3 and {"red", "green", "blue"} <= set(found):
        pixels, found = pixels[[found.index(name) for name in ("red", "green", "blue")]], ("red", "green", "blue")
    bands = media.bands or found
    _check_bands(media, pixels, bands)
    _check_finite(pixels, f"{media.modality} chip")
    centres = media.wavelength_nm or tuple(band_wavelength(name, media.sensor) for name in bands)
    gsd_m = media.gsd_m or (georeference.gsd_m() if georeference else None)
    return Chip(pixels, bands, centres, gsd_m, media.sensor, georeference)


def raw_media(
    modality: Modality,
    pixels: Pixels,
    *,
    bands: Sequence[str],
    wavelength_nm: Sequence[float | None] | None = None,
    sensor: str | None = None,
    gsd_m: float | None = None,
) -> Media:
    """Pixels [C,H,W] as `raw` media; centres default to those of the band names. Raises DataError: shape, NaN."""
    if pixels.ndim != 3 or pixels.shape[0] != len(bands) or 0 in pixels.shape:
        raise DataError("cannot store pixels", seen=f"shape {pixels.shape}", expected=f"[{len(bands)},H,W]")
    native = to_native(pixels)
    _check_finite(native, f"{modality} chip")
    centres = tuple(wavelength_nm) if wavelength_nm is not None else tuple(band_wavelength(b, sensor) for b in bands)
    if len(centres) != len(bands):
        raise DataError("cannot store pixels", seen=f"{len(centres)} wavelengths", expected=f"{len(bands)}")
    return Media(
        modality=modality,
        data=native.tobytes(),
        encoding="raw",
        dtype=native.dtype.name,
        shape=tuple(int(n) for n in native.shape),
        bands=tuple(bands),
        wavelength_nm=centres,
        sensor=sensor,
        gsd_m=gsd_m,
    )


def read_raster(source: str | bytes, *, sensor: str | None = None) -> Chip:
    """A whole raster file (URI or bytes) of any format as a chip; georeferenced files keep CRS and gsd_m.

    Raises DataError: missing, empty, not an image, cut short, larger than `raster.MAX_PIXELS`.
    """
    where = "bytes" if isinstance(source, bytes) else source
    raster = load_raster(source if isinstance(source, bytes) else storage.read_bytes(source), where=where)
    place = raster.georeference
    centres = tuple(band_wavelength(name, sensor) for name in raster.bands)
    return Chip(raster.pixels, raster.bands, centres, place.gsd_m() if place else None, sensor, place)


def thumbnail(chip: Chip, *, size_px: int = 96, max_bytes: int = THUMBNAIL_MAX_BYTES) -> bytes:
    """A WebP preview of any chip, `size_px` on its longer side, in at most `max_bytes`: RGB where it has the bands.

    Values other than 8-bit are stretched band by band between their 2nd and 98th percentile. Quality falls first, then
    size. Raises DataError where even a 16 px preview is larger than `max_bytes`.
    """
    image = Image.fromarray(preview(chip))
    while size_px >= 16:
        scale = size_px / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=1.1)  # antialiased; halved first where it can
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=quality, method=2)
            if buffer.tell() <= max_bytes:
                return buffer.getvalue()
        size_px //= 2
    raise DataError("thumbnail does not fit", seen=f"{buffer.tell()} bytes", expected=f"at most {max_bytes}")


def preview(chip: Chip) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """uint8[H,W,3] for the eye: red, green, blue by name, else the first band as grey."""
    names = ("red", "green", "blue") if {"red", "green", "blue"} <= set(chip.bands) else (chip.bands[0],) * 3
    planes = {name: _stretched(chip.pixels[chip.bands.index(name)]) for name in set(names)}
    return np.ascontiguousarray(np.stack([planes[name] for name in names], axis=-1))


def _raw_pixels(media: Media) -> Pixels:
    if media.dtype not in NATIVE_DTYPES or media.shape is None or len(media.shape) != 3:
        raise DataError(
            "cannot read raw pixels",
            seen=f"dtype {media.dtype}, shape {media.shape}",
            expected=f"one of {', '.join(NATIVE_DTYPES)} and (C,H,W)",
        )
    dtype = np.dtype(media.dtype).newbyteorder("<")
    expected = math.prod(media.shape) * dtype.itemsize
    if len(media.data) != expected or expected == 0:
        raise DataError("raw pixels have the wrong size", seen=f"{len(media.data)} bytes", expected=f"{expected} bytes")
    return np.frombuffer(media.data, dtype).reshape(media.shape)


def _check_bands(media: Media, pixels: Pixels, bands: tuple[str, ...]) -> None:
    wanted = {"pan": (1, 1), "rgb": (3, 3), "ms": (2, 512)}[media.modality]
    count = pixels.shape[0]
    if not wanted[0] <= count <= wanted[1]:
        expected = str(wanted[0]) if wanted[0] == wanted[1] else f"{wanted[0]} or more"
        raise DataError("wrong band count", seen=f"{count} bands", expected=f"{expected} for {media.modality}")
    if len(bands) != count or (media.wavelength_nm and len(media.wavelength_nm) != count):
        seen = f"{count} bands of pixels, {len(bands)} names, {len(media.wavelength_nm)} wavelengths"
        raise DataError("bands and pixels disagree", seen=seen, expected="the same number")


def _check_finite(pixels: Pixels, where: str) -> None:
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        bad = int((~np.isfinite(pixels)).sum())
        raise DataError("pixels are not finite", seen=f"{bad} NaN or infinite values", where=where)


def _is_grey(pixels: Pixels) -> bool:
    return bool((pixels[0] == pixels[1]).all() and (pixels[0] == pixels[2]).all())


def _stretched(plane: Pixels) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    if plane.dtype == np.uint8:
        return np.asarray(plane, np.uint8)
    step = max(1, min(plane.shape) // _STRETCH_SAMPLES)
    low, high = np.percentile(plane[::step, ::step].astype(np.float32), _STRETCH_PERCENTILES)
    scaled = (plane.astype(np.float32) - low) * (255.0 / max(float(high - low), 1e-6))
    return np.asarray(np.clip(scaled, 0, 255), np.uint8)
