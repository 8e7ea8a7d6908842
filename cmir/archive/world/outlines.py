"""Natural outlines and places: ragged discs, winding lines, scattered points; all in metres."""

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


def blob(rng: np.random.Generator, radius_m: float, roughness: float, num_points: int = 28) -> Points:
    """A closed irregular outline [num_points,2] around the origin; its radius varies by about `roughness`."""
    angle = np.linspace(0.0, 2 * np.pi, num_points, endpoint=False)
    waves = sum(
        rng.normal(0.0, 1.0 / order) * np.sin(order * angle + rng.uniform(0, 2 * np.pi)) for order in (1, 2, 3, 5)
    )
    radius = radius_m * np.clip(1.0 + roughness * np.asarray(waves), 0.3, 2.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def moved(points_m: Points, x_m: float, y_m: float) -> Points:
    """The points [V,2], shifted."""
    return np.asarray(np.add(points_m, (x_m, y_m)))


def winding(rng: np.random.Generator, amplitude_m: float, *, half_length_m: float = 110.0) -> Points:
    """A winding line [45,2] from west to east through about y = 0: a coast, a river's middle, a path."""
    x = np.linspace(-half_length_m, half_length_m, 45)
    y = np.zeros_like(x)
    for period_m, share in ((190.0, 1.0), (75.0, 0.35), (31.0, 0.12)):
        y += rng.normal(0.0, amplitude_m * share) * np.sin(2 * np.pi * x / period_m + rng.uniform(0, 2 * np.pi))
    return np.stack([x, y], axis=1)


def ribbon(middle: Points, width_m: float) -> Points:
    """The outline of a band of one width along a winding line: a river, a fairway."""
    ahead = np.gradient(middle, axis=0)
    across = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.linalg.norm(ahead, axis=1, keepdims=True)
    return np.concatenate([middle + across * width_m / 2, (middle - across * width_m / 2)[::-1]])


def beyond(edge: Points, *, half_length_m: float = 110.0) -> Points:
    """The area north of a west-to-east line, as an outline."""
    return np.concatenate([edge, [[half_length_m, half_length_m], [-half_length_m, half_length_m]]])


def scattered(rng: np.random.Generator, count: int, gap_m: float, half_m: float = 95.0) -> Points:
    """Up to `count` places [n,2] in the square of +-half_m, about `gap_m` apart: a staggered grid, well shaken."""
    cells = max(1, int(2 * half_m / gap_m))
    step = 2 * half_m / cells
    column, row = np.meshgrid(np.arange(cells), np.arange(cells))
    middle = np.stack([column.ravel() + 0.5 * (row.ravel() % 2), row.ravel()], axis=1) * step + step / 2 - half_m
    places = middle + rng.uniform(-0.42, 0.42, middle.shape) * step
    return np.asarray(rng.permutation(places)[:count])
