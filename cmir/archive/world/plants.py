"""Trees painted on a canvas: ragged crowns under domes about as high as they are wide."""

from typing import Final

import numpy as np
import numpy.typing as npt

from cmir.archive.world.canvas import Canvas
from cmir.archive.world.covers import Cover

_CROWN_POINTS: Final = 11
_SHADES: Final = 8  # crowns of one call differ in brightness by as many steps


def trees(canvas: Canvas, places_m: npt.ArrayLike, radius_m: tuple[float, float], cover: Cover) -> None:
    """Crowns at `places_m` [N,2] with radii drawn between the two given."""
    rng = canvas.ground
    places = np.asarray(places_m, dtype=np.float64).reshape(-1, 2)
    radii = rng.uniform(*radius_m, len(places))
    angles = np.linspace(0.0, 2 * np.pi, _CROWN_POINTS, endpoint=False) + rng.uniform(0, 6.3, (len(places), 1))
    reach = radii[:, None] * rng.uniform(0.78, 1.12, angles.shape)
    outlines = np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=2) + places[:, None, :]
    shades = [canvas.surface(cover, brightness=float(shade)) for shade in rng.uniform(0.75, 1.3, _SHADES)]
    canvas.polygons(outlines, [shades[number] for number in rng.integers(_SHADES, size=len(places)).tolist()])
    canvas.domes(places, radii, rng.uniform(1.3, 2.0, len(places)) * radii)
