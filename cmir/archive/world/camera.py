"""A ground under a sky -> what a satellite (PAN, MS) and an aerial camera (RGB) deliver as digital numbers.

Light: radiance of a surface = reflectance x (sun on its slope, unless something stands before the sun, + light of the
sky), times the transmission of the haze, plus the haze's own light, which is mostly blue. Then each sensor: spectral
response, point spread by its modulation transfer function (MTF), sampling, noise, quantisation.

PAN and MS come from one pass and share their sky; RGB is another day's flight, with its own sun, haze and aim.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cmir.archive.world.canvas import GROUND_GSD_M, GROUND_SIZE_PX, Ground
from cmir.archive.world.sky import Sky
from cmir.archive.world.textures import FloatArray

CHIP_SIZE_PX: Final = 256
MS_RATIO: Final = 4  # MS pixels are four PAN pixels wide, as on GF-1, QuickBird and WorldView-2
MARGIN_PX: Final = (GROUND_SIZE_PX - CHIP_SIZE_PX) // 2

# Share of WorldView-2's PAN passband (450-800 nm) that lies nearest to each MS band (450-510, 510-580, 630-690,
# 770-895 nm; the gaps between bands divided at their middle): 60, 95, 125 and 70 nm of 350.
PAN_RESPONSE: Final = (60 / 350, 95 / 350, 125 / 350, 70 / 350)

# Blue, green, red as an aerial camera's filters mix our bands: filters of colour cameras overlap; rows sum to 1.
# In the order red, green, blue of the delivered image.
RGB_RESPONSE: Final = ((0.0, 0.08, 0.92, 0.0), (0.06, 0.88, 0.06, 0.0), (0.90, 0.10, 0.0, 0.0))

# Share of light on flat ground that comes from the sky, by band: Rayleigh scattering makes shadows blue.
SKY_SHARE: Final = (0.30, 0.23, 0.18, 0.12)
# At haze 1: radiance added by the haze (as reflectance) and what it takes away, by band.
HAZE_LIGHT: Final = (0.110, 0.080, 0.055, 0.030)
HAZE_LOSS: Final = (0.28, 0.24, 0.20, 0.14)
CLOUD_REFLECTANCE: Final = 0.72
# By band at season 0: dry plants reflect more visible and less near-infrared light than green ones.
DRY_PLANT_FACTOR: Final = (1.15, 1.15, 1.75, 0.66)

PAN_MTF_AT_NYQUIST: Final = 0.15  # a common requirement for PAN imagers; MS pixels are larger and sharper
MS_MTF_AT_NYQUIST: Final = 0.28
RGB_MTF_AT_NYQUIST: Final = 0.22
FULL_SCALE_DN: Final = 2047  # 11 bits, as WorldView-2
DN_PER_REFLECTANCE: Final = 2400.0  # at a sun of 90 degrees


@dataclass(frozen=True, slots=True)
class Capture:
    """One chip as delivered: `pixels` [C,H,W], and `window` (column, row, width, height) in pixels of the ground."""

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    window: tuple[int, int, int, int]


def radiance(ground: Ground, sky: Sky) -> FloatArray:
    """f32[4,H,W] at the sensor, as reflectance 0..1 of a surface under a sun of 90 degrees, bands of covers.BANDS."""
    sun = _sunlight(ground, sky)
    height = float(np.sin(np.radians(sky.sun_elevation_deg)))
    dry = ground.greenness * np.float32(1.0 - sky.season)
    out = np.empty_like(ground.reflectance)
    for band in range(len(out)):
        share = SKY_SHARE[band]
        light = sun * np.float32((1.0 - share) * height) + np.float32(share * height)
        light *= np.float32(1.0 - HAZE_LOSS[band] * sky.haze)
        light *= 1.0 + dry * np.float32(DRY_PLANT_FACTOR[band] - 1.0)
        np.multiply(ground.reflectance[band], light, out=out[band])
        out[band] += np.float32(HAZE_LIGHT[band] * sky.haze * height)
    if sky.cloud is not None:
        out += sky.cloud * (np.float32(CLOUD_REFLECTANCE * height) - out)
    return out


def shadow_height_m(height_m: FloatArray, sun_elevation_deg: float, sun_azimuth_deg: float) -> FloatArray:
    """f32[H,W]: up to what height (metres) each pixel lies in shadow; in the open that is its own height.

    The highest of h(p + k d) - k |d| tan(elevation) over steps k towards the sun, by doubling: log2(steps) passes.
    """
    azimuth = np.radians(sun_azimuth_deg)
    toward = np.array([-np.cos(azimuth), np.sin(azimuth)])  # rows, columns
    toward /= np.abs(toward).max()
    drop_m = float(np.hypot(*toward)) * GROUND_GSD_M * np.tan(np.radians(sun_elevation_deg))
    steps = max(1, int(np.ceil(float(height_m.max()) / drop_m)))
    top = height_m
    reach = 1
    while reach <= steps:
        shifted = _shifted(top, *(round(reach * axis) for axis in toward.tolist()))
        top = np.maximum(top, shifted - np.float32(reach * drop_m))
        reach *= 2
    return top


def pan_band(bands: FloatArray) -> FloatArray:
    """f32[H,W]: the PAN detector's mean of bands f32[4,H,W], weighted by PAN_RESPONSE."""
    return np.asarray(np.tensordot(np.array(PAN_RESPONSE, dtype=np.float32), bands, axes=1))


def capture_pan(bands: FloatArray, rng: np.random.Generator) -> Capture:
    """PAN, uint16[1,256,256] with 11 bits, of radiance f32[4,H,W]."""
    seen = _blurred(pan_band(bands), PAN_MTF_AT_NYQUIST)[_inside(0, 0)]
    return Capture(_quantised(seen[None], rng, read_noise=0.0035), _window(0, 0))


def capture_ms(bands: FloatArray, rng: np.random.Generator) -> Capture:
    """MS, uint16[4,64,64] with 11 bits: each pixel the mean of 4 x 4, the same ground as PAN."""
    row, column = _inside(0, 0)
    chip = bands[:, row, column]
    side = CHIP_SIZE_PX // MS_RATIO
    coarse = chip.reshape(len(bands), side, MS_RATIO, side, MS_RATIO).mean(axis=(2, 4), dtype=np.float32)
    seen = np.stack([_blurred(band, MS_MTF_AT_NYQUIST) for band in coarse])
    return Capture(_quantised(seen, rng, read_noise=0.0015), _window(0, 0))


def capture_rgb(bands: FloatArray, sun_elevation_deg: float, rng: np.random.Generator) -> Capture:
    """RGB, uint8[3,256,256] (red, green, blue): aimed up to 3 m off, exposed and toned by the camera."""
    aim = tuple(int(pixels) for pixels in rng.integers(-6, 7, 2))
    mix = np.array(RGB_RESPONSE, dtype=np.float32) * rng.uniform(0.93, 1.07, (3, 1)).astype(np.float32)
    row, column = _inside(*aim)
    wide = bands[:, row, column]
    seen = np.stack([_blurred(band, RGB_MTF_AT_NYQUIST) for band in np.tensordot(mix, wide, axes=1)])
    white = 0.50 * float(np.sin(np.radians(sun_elevation_deg))) * float(rng.uniform(0.8, 1.2))
    seen += rng.standard_normal(seen.shape, dtype=np.float32) * np.float32(0.004)
    gamma = float(rng.uniform(0.50, 0.64))
    curve = np.asarray(255.0 * np.linspace(0.0, 1.0, 4096) ** gamma + 0.5, dtype=np.uint8)
    levels = np.asarray(np.clip(seen * np.float32(4095.0 / white) + 0.5, 0.0, 4095.0), dtype=np.uint16)
    return Capture(curve[levels], _window(*aim))


def _sunlight(ground: Ground, sky: Sky) -> FloatArray:
    """f32[H,W]: direct light on each pixel's slope, 1 on open flat ground, 0 in shadow."""
    elevation, azimuth = np.radians(sky.sun_elevation_deg), np.radians(sky.sun_azimuth_deg)
    flat = 1.0 / np.tan(elevation)
    east, north = np.float32(flat * np.sin(azimuth)), np.float32(flat * np.cos(azimuth))
    slope_east, slope_north = ground.slope
    steepness = np.sqrt(1.0 + slope_east * slope_east + slope_north * slope_north)
    facing = (1.0 - slope_east * east - slope_north * north) / steepness
    top = shadow_height_m(ground.height_m, sky.sun_elevation_deg, sky.sun_azimuth_deg)
    hidden = np.clip((top - ground.height_m - 0.15) / 0.6, 0.0, 1.0)
    return np.asarray(np.clip(facing, 0.0, 1.7) * (1.0 - hidden), dtype=np.float32)


def _shifted(field: FloatArray, rows: int, columns: int) -> FloatArray:
    """field[r + rows, c + columns], zero from outside."""
    height, width = field.shape
    out = np.zeros_like(field)
    into = slice(max(0, -rows), height - max(0, rows)), slice(max(0, -columns), width - max(0, columns))
    out_of = slice(max(0, rows), height - max(0, -rows)), slice(max(0, columns), width - max(0, -columns))
    out[into] = field[out_of]
    return out


def _blurred(band: FloatArray, mtf_at_nyquist: float) -> FloatArray:
    """A Gaussian point spread whose transfer at half a cycle per pixel is as given: exp(-2 pi^2 sigma^2 / 4)."""
    sigma_px = float(np.sqrt(-2.0 * np.log(mtf_at_nyquist)) / np.pi)
    return np.asarray(ndimage.gaussian_filter(band, sigma_px, mode="nearest", truncate=2.5), dtype=np.float32)


def _quantised(seen: FloatArray, rng: np.random.Generator, *, read_noise: float) -> npt.NDArray[np.uint16]:
    """Digital numbers: photon noise grows with the root of the signal, read noise does not."""
    spread = np.sqrt(np.float32(read_noise**2) + np.float32(2.5e-5) * np.maximum(seen, 0.0))
    noisy = seen + rng.standard_normal(seen.shape, dtype=np.float32) * spread
    return np.asarray(np.clip(noisy * DN_PER_REFLECTANCE + 0.5, 0, FULL_SCALE_DN), dtype=np.uint16)


def _inside(east_px: int, south_px: int) -> tuple[slice, slice]:
    row, column = MARGIN_PX + south_px, MARGIN_PX + east_px
    return slice(row, row + CHIP_SIZE_PX), slice(column, column + CHIP_SIZE_PX)


def _window(east_px: int, south_px: int) -> tuple[int, int, int, int]:
    return MARGIN_PX + east_px, MARGIN_PX + south_px, CHIP_SIZE_PX, CHIP_SIZE_PX
