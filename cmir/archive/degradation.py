"""One multi-band image -> a PAN at full and an MS at a quarter of the resolution, clean or each spoilt by itself.

Clean is Wald's protocol: the image stands for the truth, its average over 4 x 4 pixels is the MS, and PAN is a
spectral-response-weighted mean at full resolution. Both then agree to the last pixel, and a 16x16 thumbnail finds the
partner every time, so pair retrieval on them says nothing. `Spoiling` draws for each side, by itself, what two real
acquisitions differ in. Ranges (uint8 scale; other types by their 99.5th percentile) and reasons:

- shift: up to 2 PAN pixels (half an MS pixel) per axis: co-registration of real PAN and MS is about that good;
- MTF: a gaussian of 0.3-0.9 pixels of the side's own grid before its square detector: 0.41 to 0.01 at Nyquist, where
  sensors in orbit are built for 0.1-0.35;
- gain 0.5-1.4, lowered where it would whiten more than a hundredth of the chip (exposure), and another 0.85-1.15 for
  each band; offset -15..15 grey levels: sun, calibration, path radiance;
- haze: a smooth field of 5 x 5 knots takes 50% to 80% of the contrast at its thickest and adds airlight of
  200-255: this is what defeats thumbnails, since it alters the large scale that they see, while edges stay visible;
- noise: gaussian, 1-4 grey levels.

A person matches such chips by edges and shapes. Source: L. Wald, T. Ranchin, M. Mangolini, Fusion of satellite images
of different spatial resolutions, 1997.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from cmir.archive.raster import Pixels
from cmir.errors import DataError

RATIO: Final = 4  # DSRSID's geometry: PAN 256 px and MS 64 px of the same ground
MIN_SIDE_PX: Final = 4 * RATIO
MAX_SHIFT_PX: Final = 2.0
BLUR_PX: Final = (0.3, 0.9)
GAIN: Final = (0.5, 1.4)
BAND_GAIN: Final = (0.85, 1.15)
OFFSET: Final = (-15.0, 15.0)
HAZE: Final = (0.5, 0.8)  # of the thickest knot
AIRLIGHT: Final = (200.0, 255.0)
NOISE: Final = (1.0, 4.0)
_HAZE_KNOTS: Final = 5
_GREY_LEVELS: Final = 255.0
_BRIGHT_PERCENTILE: Final = 99.5
_EXPOSED_PERCENTILE: Final = 99.0

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Spoiling:
    """What happens to one side: shift in PAN pixels, blur in its own pixels, the rest in grey levels of 255."""

    shift_px: tuple[float, float]
    blur_px: float
    gain: tuple[float, ...]
    offset: float
    haze_knots: NDArray[np.float64]
    airlight: float
    noise: float

    @classmethod
    def draw(cls, rng: np.random.Generator, num_bands: int) -> "Spoiling":
        """One draw from the ranges of this module."""
        gain = rng.uniform(*GAIN)
        return cls(
            shift_px=(rng.uniform(-MAX_SHIFT_PX, MAX_SHIFT_PX), rng.uniform(-MAX_SHIFT_PX, MAX_SHIFT_PX)),
            blur_px=rng.uniform(*BLUR_PX),
            gain=tuple(gain * rng.uniform(*BAND_GAIN) for _ in range(num_bands)),
            offset=rng.uniform(*OFFSET),
            haze_knots=rng.uniform(0.0, 1.0, (_HAZE_KNOTS, _HAZE_KNOTS)) * rng.uniform(*HAZE),
            airlight=rng.uniform(*AIRLIGHT),
            noise=rng.uniform(*NOISE),
        )


def synthesise_pan(pixels: Pixels, weights: tuple[float, ...]) -> Floats:
    """f32[1,H,W], the mean of the bands [C,H,W] weighted by `weights`, which sum to 1."""
    return np.asarray(np.tensordot(np.asarray(weights, np.float32), pixels.astype(np.float32), axes=1)[None])


def averaged_down(pixels: Pixels, ratio: int = RATIO) -> Floats:
    """f32[C,H/ratio,W/ratio], means over ratio x ratio pixels; H and W must be multiples of ratio."""
    bands, height, width = pixels.shape
    blocks = pixels.reshape(bands, height // ratio, ratio, width // ratio, ratio)
    return np.asarray(blocks.mean(axis=(2, 4), dtype=np.float64), np.float32)


def wald_pair(pixels: Pixels, weights: tuple[float, ...], rng: np.random.Generator | None) -> tuple[Pixels, Pixels]:
    """PAN [1,H,W] and MS [C,H/4,W/4] of an image [C,H,W] in its own dtype; spoilt where a generator is given.

    H and W are cut to multiples of 4. Raises DataError for an image smaller than 16 px.
    """
    bands, height, width = pixels.shape
    if min(height, width) < MIN_SIDE_PX:
        raise DataError("image is too small", seen=f"{width} x {height} px", expected=f"{MIN_SIDE_PX} px or more")
    truth = pixels[:, : height // RATIO * RATIO, : width // RATIO * RATIO]
    pan, ms = synthesise_pan(truth, weights), truth.astype(np.float32)
    if rng is None:
        return _as(pan, pixels.dtype), _as(averaged_down(ms), pixels.dtype)
    bright = _bright_level(pixels)
    pan = _spoilt(pan, Spoiling.draw(rng, 1), 1, bright, rng)
    ms = _spoilt(ms, Spoiling.draw(rng, bands), RATIO, bright, rng)
    return _as(pan, pixels.dtype), _as(ms, pixels.dtype)


def _spoilt(image: Floats, how: Spoiling, ratio: int, bright: float, rng: np.random.Generator) -> Floats:
    """f32[C,H/ratio,W/ratio]: optics and detector, then atmosphere, then electronics."""
    step = bright / _GREY_LEVELS
    rows, columns = (
        _optics(size, ratio, shift, how.blur_px) for size, shift in zip(image.shape[1:], how.shift_px, strict=True)
    )
    sampled = rows @ image @ columns.T
    haze = _weights(sampled.shape[1]) @ how.haze_knots.astype(np.float32) @ _weights(sampled.shape[2]).T
    seen = sampled * (1.0 - haze) + haze * how.airlight * step
    gained = seen * np.asarray(how.gain, np.float32)[:, None, None] + how.offset * step
    exposed = gained * min(1.0, bright / max(float(np.percentile(gained, _EXPOSED_PERCENTILE)), 1e-6))
    return np.asarray(exposed + rng.normal(0.0, how.noise * step, exposed.shape), np.float32)


def _optics(size: int, ratio: int, shift_px: float, blur_px: float) -> Floats:
    """f32[size/ratio,size]: how much each pixel of the truth adds to each detector, one axis.

    A detector `ratio` pixels wide behind a gaussian of `blur_px` detectors, moved by `shift_px` pixels of the truth.
    """
    centre = (np.arange(size // ratio)[:, None] + 0.5) * ratio + shift_px
    from_centre = np.arange(size)[None, :] + 0.5 - centre
    spread = np.sqrt(2.0) * blur_px * ratio
    response = erf((from_centre + ratio / 2) / spread) - erf((from_centre - ratio / 2) / spread)
    return np.asarray(response / response.sum(axis=1, keepdims=True), np.float32)


def _weights(size: int) -> Floats:
    """f32[size,knots], smooth interpolation between the haze's knots along one axis (cubic ease between two)."""
    place = np.linspace(0, _HAZE_KNOTS - 1, size)[:, None] - np.arange(_HAZE_KNOTS)
    near = np.clip(1.0 - np.abs(place), 0.0, 1.0)
    return np.asarray(near**2 * (3.0 - 2.0 * near), np.float32)


def _bright_level(pixels: Pixels) -> float:
    """What 255 stands for: the type's own white for uint8, else the 99.5th percentile."""
    return _GREY_LEVELS if pixels.dtype == np.uint8 else float(max(np.percentile(pixels, _BRIGHT_PERCENTILE), 1e-6))


def _as(values: Floats, dtype: np.dtype[Any]) -> Pixels:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.asarray(np.clip(np.rint(values), limits.min, limits.max), dtype)
