"""Where a ground lies: every ground has a cell of its own on a map, in one of a few regions of the earth.

Cells are 200 m apart and a ground covers 136 m, so different grounds never overlap. Positions are exact UTM (WGS 84);
what stands on the ground has nothing to do with what really lies there.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from rasterio.warp import transform

CELL_M: Final = 200.0
_CELLS_PER_ROW: Final = 400

# EPSG code (326zz: UTM zone zz north, 327zz: south), easting and northing of a region's south-west corner in metres.
_REGIONS: Final = (
    (32611, 420_000.0, 3_720_000.0),
    (32617, 560_000.0, 2_820_000.0),
    (32630, 640_000.0, 4_330_000.0),
    (32636, 460_000.0, 3_440_000.0),
    (32648, 340_000.0, 1_320_000.0),
    (32651, 250_000.0, 3_400_000.0),
    (32723, 300_000.0, 7_380_000.0),
    (32756, 300_000.0, 6_220_000.0),
)


@dataclass(frozen=True, slots=True)
class Place:
    """The north-west corner of a ground in UTM metres, and the middle in degrees."""

    crs: str
    west_m: float
    north_m: float
    longitude_deg: float
    latitude_deg: float

    def footprint(self, east_m: float, south_m: float, side_m: float) -> "Footprint":
        """The square of `side_m` whose north-west corner lies that far east and south of the ground's."""
        left, top = self.west_m + east_m, self.north_m - south_m
        xs, ys = [left, left + side_m, left + side_m, left], [top, top, top - side_m, top - side_m]
        lon, lat = transform(self.crs, "EPSG:4326", xs, ys)
        corners = tuple(zip(map(float, lon), map(float, lat), strict=True))
        return Footprint(self.crs, (left, top), corners)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one chip covers: its CRS, its north-west corner there in metres, its corners as (longitude, latitude)."""

    crs: str
    corner_m: tuple[float, float]
    corners_deg: tuple[tuple[float, float], ...]

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) in degrees of EPSG:4326."""
        lon, lat = zip(*self.corners_deg, strict=True)
        return min(lon), min(lat), max(lon), max(lat)

    @property
    def geometry(self) -> bytes:
        """The outline as WKB, EPSG:4326."""
        return bytes(shapely.to_wkb(shapely.Polygon(self.corners_deg)))


def place_of(seed: int, ground_index: int, side_m: float) -> Place:
    """The place of a ground of `side_m`; `seed` moves the whole world, so that two worlds do not share places."""
    shift = np.random.default_rng([seed, 4]).integers(0, 200, 2) * 500.0
    epsg, west, south = _REGIONS[ground_index % len(_REGIONS)]
    row, column = divmod(ground_index // len(_REGIONS), _CELLS_PER_ROW)
    left, bottom = west + float(shift[0]) + CELL_M * column, south + float(shift[1]) + CELL_M * row
    crs = f"EPSG:{epsg}"
    lon, lat = transform(crs, "EPSG:4326", [left + side_m / 2], [bottom + side_m / 2])
    return Place(crs, left, bottom + side_m, float(lon[0]), float(lat[0]))
