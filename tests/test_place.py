"""Grounds have places of their own; footprints are squares in UTM and agree with their degrees."""

from itertools import pairwise

import pytest
import shapely
from rasterio.warp import transform

from cmir.archive.world.place import CELL_M, place_of


def test_no_two_grounds_overlap() -> None:
    places = [place_of(0, index, 136.0) for index in range(1600)]
    corners = {(place.crs, place.west_m, place.north_m) for place in places}
    assert len(corners) == 1600
    assert all(west % 4 == 0 for _, west, _ in corners)
    one_region = sorted(west for crs, west, _ in corners if crs == places[0].crs)
    assert min(b - a for a, b in pairwise(one_region)) == CELL_M > 136.0


def test_a_footprint_is_a_square_of_its_side() -> None:
    footprint = place_of(3, 17, 136.0).footprint(4.0, 4.0, 128.0)
    lon, lat = zip(*footprint.corners_deg, strict=True)
    xs, ys = transform("EPSG:4326", footprint.crs, lon, lat)
    assert max(xs) - min(xs) == pytest.approx(128.0, abs=1e-3)
    assert max(ys) - min(ys) == pytest.approx(128.0, abs=1e-3)
    assert (min(xs), max(ys)) == pytest.approx(footprint.corner_m, abs=1e-3)


def test_bbox_is_that_of_the_geometry() -> None:
    footprint = place_of(0, 5, 136.0).footprint(0.0, 0.0, 136.0)
    shape = shapely.from_wkb(footprint.geometry)
    assert shape.is_valid
    assert shape.bounds == footprint.bbox
    assert -180 <= shape.bounds[0] < shape.bounds[2] <= 180


def test_the_middle_in_degrees_lies_inside() -> None:
    for index in range(8):  # one of every region, both hemispheres
        place = place_of(1, index, 136.0)
        west, south, east, north = place.footprint(0.0, 0.0, 136.0).bbox
        assert west < place.longitude_deg < east
        assert south < place.latitude_deg < north
        assert (place.latitude_deg > 0) == place.crs.startswith("EPSG:326")
