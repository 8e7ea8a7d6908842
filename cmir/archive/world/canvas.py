"""Surfaces painted in metres -> a Ground: reflectance, heights and slopes, and which label every pixel carries.

The picture is an image of surface numbers at twice the resolution of the ground, painted back to front by Pillow; band
reflectances are looked up from it and averaged 2 x 2, which is the anti-aliasing. So the mask of every label is exact,
and a hundred cars cost a hundred polygon fills and nothing more.

Positions are metres from the middle of the ground, x and y in the layout's own axes: the canvas turns and shifts every
layout, so that a layout is written straight and seen at any angle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from cmir.archive.world.covers import Cover
from cmir.archive.world.textures import FloatArray, Rows, smooth_noise, stripes

GROUND_GSD_M: Final = 0.5
GROUND_SIZE_PX: Final = 272  # a chip of 256 and a margin of 8 on each side, for sensors that point a little off
SUPERSAMPLING: Final = 2
MAX_SLOPE: Final = 1.2  # rise per run; steeper walls are not seen from above


@dataclass(frozen=True, slots=True)
class Surface:
    """A cover as it lies somewhere: its brightness, height, slope (rise per metre east and north) and rows."""

    cover: Cover
    brightness: float
    height_m: float
    slope: tuple[float, float]
    rows: Rows | None


@dataclass(frozen=True, slots=True)
class Ground:
    """What lies there, before any light falls on it. Row 0 is north, column 0 west; H = W = GROUND_SIZE_PX.

    `reflectance` f32[4,H,W] in the order of covers.BANDS, surface reflectance 0..1; `height_m` f32[H,W] above the
    ground; `slope` f32[2,H,W], rise per metre east and north; `greenness` f32[H,W] 0..1; `surface_index` i32[2H,2W]
    into `surfaces`.
    """

    reflectance: FloatArray
    height_m: FloatArray
    slope: FloatArray
    greenness: FloatArray
    surface_index: npt.NDArray[np.int32]
    surfaces: tuple[Surface, ...]

    def label_areas_m2(
        self, window: tuple[int, int, int, int], hidden: npt.NDArray[np.bool_] | None = None
    ) -> dict[str, float]:
        """Visible square metres of every label within `window` (column, row, width, height in ground pixels).

        `hidden` bool[H,W]: pixels under cloud, which count for no label.
        """
        column, row, width, height = (SUPERSAMPLING * side for side in window)
        index = self.surface_index[row : row + height, column : column + width]
        if hidden is not None:
            fine = hidden.repeat(SUPERSAMPLING, axis=0).repeat(SUPERSAMPLING, axis=1)
            index = index[~fine[row : row + height, column : column + width]]
        counts = np.bincount(index.ravel(), minlength=len(self.surfaces))
        areas: dict[str, float] = {}
        for surface, count in zip(self.surfaces, counts.tolist(), strict=True):
            if surface.cover.label is not None and count:
                area = count * (GROUND_GSD_M / SUPERSAMPLING) ** 2
                areas[surface.cover.label] = areas.get(surface.cover.label, 0.0) + area
        return areas


class Canvas:
    """Where a layout paints. `ground` draws what stays in its place, `visit` what moves between two dates."""

    def __init__(self, ground: np.random.Generator, visit: np.random.Generator) -> None:
        self.ground, self.visit = ground, visit
        self._turn_rad = float(ground.uniform(0.0, 2.0 * np.pi))
        self._shift_m = ground.uniform(-8.0, 8.0, 2)
        side = GROUND_SIZE_PX * SUPERSAMPLING
        self._image = Image.new("I", (side, side), 0)
        self._draw = ImageDraw.Draw(self._image)
        self._surfaces: list[Surface] = []
        self._domes: list[tuple[float, float, float, float]] = []

    def surface(
        self,
        cover: Cover,
        *,
        brightness: float = 1.0,
        height_m: float = 0.0,
        slope: tuple[float, float] = (0.0, 0.0),
        rows: Rows | None = None,
    ) -> int:
        """Number of a new surface to paint with; `slope` and `rows` in the layout's axes."""
        east, north = _turned(np.array([slope]), self._turn_rad)[0].tolist()
        if rows is not None:
            rows = Rows(rows.normal_rad + self._turn_rad, rows.period_m, rows.contrast, rows.wander_rad)
        self._surfaces.append(Surface(cover, brightness, height_m, (east, north), rows))
        return len(self._surfaces) - 1

    def fill(self, surface: int) -> None:
        """Paint everything."""
        self._image.paste(surface, (0, 0, *self._image.size))

    def polygon(self, points_m: npt.ArrayLike, surface: int) -> None:
        """Paint a polygon of points [V,2]."""
        self._draw.polygon(self._pixels(points_m).ravel().tolist(), fill=surface)

    def polygons(self, points_m: npt.NDArray[np.float64], surfaces: Sequence[int]) -> None:
        """Paint polygons [N,V,2] one after the other, each with its own surface."""
        num, num_points, _ = points_m.shape
        corners = self._pixels(points_m.reshape(-1, 2)).reshape(num, num_points * 2).tolist()
        for corner, surface in zip(corners, surfaces, strict=True):
            self._draw.polygon(corner, fill=surface)

    def rectangle(
        self, x_m: float, y_m: float, length_m: float, width_m: float, surface: int, *, turn_rad: float = 0.0
    ) -> None:
        """Paint a rectangle around (x, y), its length along `turn_rad`."""
        # in plain floats: hundreds of rectangles make a layout, and most of numpy's time on four points is overhead
        turn = turn_rad + self._turn_rad
        per_m = SUPERSAMPLING / GROUND_GSD_M
        cos, sin = math.cos(self._turn_rad), math.sin(self._turn_rad)
        half_m = GROUND_SIZE_PX * GROUND_GSD_M / 2
        column = (half_m + x_m * cos - y_m * sin + float(self._shift_m[0])) * per_m
        row = (half_m - x_m * sin - y_m * cos - float(self._shift_m[1])) * per_m
        along = (math.cos(turn) * length_m * per_m / 2, -math.sin(turn) * length_m * per_m / 2)
        across = (math.sin(turn) * width_m * per_m / 2, math.cos(turn) * width_m * per_m / 2)
        reach = abs(along[0]) + abs(along[1]) + abs(across[0]) + abs(across[1])
        side = GROUND_SIZE_PX * SUPERSAMPLING
        if -reach < column < side + reach and -reach < row < side + reach:
            corners = [
                (column + a * along[0] + b * across[0], row + a * along[1] + b * across[1])
                for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))
            ]
            self._draw.polygon(corners, fill=surface)

    def disc(self, x_m: float, y_m: float, radius_m: float, surface: int) -> None:
        """Paint a circle."""
        column, row = self._pixels([[x_m, y_m]])[0].tolist()
        radius = radius_m / GROUND_GSD_M * SUPERSAMPLING
        self._draw.ellipse((column - radius, row - radius, column + radius, row + radius), fill=surface)

    def line(self, points_m: npt.ArrayLike, width_m: float, surface: int) -> None:
        """Paint a line through points [V,2], rounded at its bends."""
        width = max(1, round(width_m / GROUND_GSD_M * SUPERSAMPLING))
        self._draw.line(self._pixels(points_m).ravel().tolist(), fill=surface, width=width, joint="curve")

    def dome(self, x_m: float, y_m: float, radius_m: float, height_m: float) -> None:
        """Raise a half ball, such as a tree's crown; it changes heights and slopes, not what is painted."""
        self.domes(np.array([[x_m, y_m]]), np.array([radius_m]), np.array([height_m]))

    def domes(
        self, places_m: npt.NDArray[np.float64], radii_m: npt.NDArray[np.float64], heights_m: npt.NDArray[np.float64]
    ) -> None:
        """Raise half balls at `places_m` [N,2]."""
        pixels = self._pixels(places_m) / SUPERSAMPLING
        rows = np.column_stack([pixels, radii_m / GROUND_GSD_M, heights_m])
        reach = radii_m[:, None] / GROUND_GSD_M
        seen = ((pixels > -reach) & (pixels < GROUND_SIZE_PX + reach)).all(axis=1)
        self._domes += [(a, b, c, d) for a, b, c, d in rows[seen].tolist()]

    def finish(self) -> Ground:
        """The painted ground, with its textures."""
        index = np.asarray(self._image, dtype=np.int32)
        flat = index.astype(np.intp)  # what numpy looks up with, converted once
        near = index[::SUPERSAMPLING, ::SUPERSAMPLING]
        covers = [surface.cover for surface in self._surfaces]
        bands = np.array([s.cover.reflectance for s in self._surfaces], dtype=np.float32).T
        bands = bands * np.array([s.brightness for s in self._surfaces], dtype=np.float32)
        reflectance = np.stack([_averaged(band.take(flat, mode="clip")) for band in bands])
        texture, relief_m = self._texture(near, covers)
        reflectance *= texture
        height_m = _table([s.height_m for s in self._surfaces])[near]
        slope = np.stack([_table([s.slope[axis] for s in self._surfaces])[near] for axis in (0, 1)])
        # what stands by itself and was painted later, such as a bridge, hides the domes below it
        bumps_m = np.where(height_m > 0.0, np.float32(0.0), self._stamped_domes())
        slope += _gradient(bumps_m + relief_m)
        return Ground(
            reflectance=np.clip(reflectance, 0.002, 0.95),
            height_m=np.maximum(height_m, bumps_m),
            slope=np.clip(slope, -MAX_SLOPE, MAX_SLOPE),
            greenness=_table([cover.greenness for cover in covers])[near],
            surface_index=index,
            surfaces=tuple(self._surfaces),
        )

    def _pixels(self, points_m: npt.ArrayLike) -> npt.NDArray[np.float64]:
        points = _turned(np.asarray(points_m, dtype=np.float64), self._turn_rad) + self._shift_m
        half_m = GROUND_SIZE_PX * GROUND_GSD_M / 2
        return np.stack([half_m + points[:, 0], half_m - points[:, 1]], axis=1) * (SUPERSAMPLING / GROUND_GSD_M)

    def _texture(self, near: npt.NDArray[np.int32], covers: Sequence[Cover]) -> tuple[FloatArray, FloatArray]:
        size = GROUND_SIZE_PX
        fine = 0.8 * smooth_noise(self.ground, size, 1.0) + 0.6 * smooth_noise(self.ground, size, 2.5)
        coarse = 0.7 * smooth_noise(self.ground, size, 60.0) + 0.7 * smooth_noise(self.ground, size, 18.0)
        texture = (
            1.0 + fine * _table([c.fine for c in covers])[near] + coarse * _table([c.coarse for c in covers])[near]
        )
        axis_m = (np.arange(size, dtype=np.float32) - size / 2) * np.float32(GROUND_GSD_M)
        for number, surface in enumerate(self._surfaces):
            if surface.rows is not None:
                rows, columns = np.nonzero(near == number)
                texture[rows, columns] *= stripes(surface.rows, axis_m[columns], -axis_m[rows], coarse[rows, columns])
        relief_m = smooth_noise(self.ground, size, 4.0) * _table([c.relief_m for c in covers])[near]
        return np.asarray(texture, dtype=np.float32), np.asarray(relief_m, dtype=np.float32)

    def _stamped_domes(self) -> FloatArray:
        heights = np.zeros((GROUND_SIZE_PX, GROUND_SIZE_PX), dtype=np.float32)
        for column, row, radius, height_m in self._domes:
            left, top = int(np.floor(column - radius)), int(np.floor(row - radius))
            x0, y0 = max(left, 0), max(top, 0)
            x1, y1 = min(left + int(2 * radius) + 2, GROUND_SIZE_PX), min(top + int(2 * radius) + 2, GROUND_SIZE_PX)
            if x0 < x1 and y0 < y1:
                x = (np.arange(x0, x1, dtype=np.float32) + 0.5 - column) / radius
                y = (np.arange(y0, y1, dtype=np.float32) + 0.5 - row) / radius
                ball = np.sqrt(np.maximum(0.0, 1.0 - x[None, :] ** 2 - y[:, None] ** 2)) * height_m
                np.maximum(heights[y0:y1, x0:x1], ball, out=heights[y0:y1, x0:x1])
        return heights


def placed(points_m: npt.ArrayLike, x_m: float, y_m: float, turn_rad: float) -> npt.NDArray[np.float64]:
    """Points [V,2] turned counter-clockwise about the origin, then moved to (x, y)."""
    return np.asarray(np.add(_turned(np.asarray(points_m, dtype=np.float64), turn_rad), (x_m, y_m)))


def _turned(points: npt.NDArray[np.float64], turn_rad: float) -> npt.NDArray[np.float64]:
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]))


def _table(values: Sequence[float]) -> FloatArray:
    return np.array(values, dtype=np.float32)


def _averaged(fine: FloatArray) -> FloatArray:
    return np.asarray((fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) * np.float32(0.25))


def _gradient(height_m: FloatArray) -> FloatArray:
    slope = np.zeros((2, *height_m.shape), dtype=np.float32)
    slope[0, :, 1:-1] = (height_m[:, 2:] - height_m[:, :-2]) / (2 * GROUND_GSD_M)
    slope[1, 1:-1, :] = (height_m[:-2, :] - height_m[2:, :]) / (2 * GROUND_GSD_M)
    return slope
