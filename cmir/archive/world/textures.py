"""Random fields that make surfaces look like what they are: smooth noise, and rows (furrows, waves, mowing)."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]

_TAU: Final = 2.0 * np.pi


@dataclass(frozen=True, slots=True)
class Rows:
    """Parallel stripes across a surface: direction of the normal (radians, counter-clockwise from east), period in
    metres, relative contrast, and how far the stripes wander (radians of phase)."""

    normal_rad: float
    period_m: float
    contrast: float
    wander_rad: float = 0.0


def smooth_noise(rng: np.random.Generator, size_px: int, cell_px: float) -> FloatArray:
    """f32[size,size] with mean 0 and standard deviation 1 whose features are about `cell_px` wide."""
    if cell_px <= 1.0:
        return rng.standard_normal((size_px, size_px), dtype=np.float32)
    num_cells = int(np.ceil(size_px / cell_px)) + 3
    grid = rng.standard_normal((num_cells, num_cells), dtype=np.float32)
    # box: the part of the grid that is seen, one cell inside its border, so that no edge effect is visible
    box = (1.0, 1.0, 1.0 + size_px / cell_px, 1.0 + size_px / cell_px)
    field = np.asarray(Image.fromarray(grid).resize((size_px, size_px), Image.Resampling.BICUBIC, box=box))
    spread = float(field.std())
    return np.asarray((field - field.mean()) / max(spread, 1e-6), dtype=np.float32)


def stripes(rows: Rows, x_m: FloatArray, y_m: FloatArray, wander: FloatArray) -> FloatArray:
    """Factors 1 +- contrast of `rows` at the positions (x east, y north, metres); `wander` is a unit noise there."""
    along = x_m * np.float32(np.cos(rows.normal_rad)) + y_m * np.float32(np.sin(rows.normal_rad))
    phase = along * np.float32(_TAU / rows.period_m)
    if rows.wander_rad:
        phase = phase + wander * np.float32(rows.wander_rad)
    return np.asarray(1.0 + np.float32(rows.contrast) * np.sin(phase), dtype=np.float32)
