"""Filters: what they accept, which rows they leave (against shapely and plain Python), nothing can be injected."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cmir.errors import QueryError
from cmir.gallery.filters import Filters
from cmir.gallery.footprints import NobodyWaitsError, rows_touching
from tests.gallery_rows import day, rows, square

NUM_ITEMS = 300
RING = "POLYGON ((0 0, 40 10, 30 60, -20 40, 0 0), (5 15, 20 15, 20 40, 5 40, 5 15))"
TWO_PARTS = "MULTIPOLYGON (((-10 -10, 10 -10, 0 5, -10 -10)), ((20 20, 30 20, 30 30, 20 20)))"


def items() -> list[dict[str, Any]]:
    draw = np.random.default_rng(3)
    made = []
    for i in range(NUM_ITEMS):
        west, south = float(draw.uniform(-30, 45)), float(draw.uniform(-20, 65))
        triangle = shapely.Polygon([(west, south), (west + 4, south), (west + 2, south + 4)])
        place = {
            0: {},
            1: {"bbox": square(west, south, 4)["bbox"]},  # a box and no geometry
        }.get(i % 6, {"bbox": square(west, south, 4)["bbox"], "geometry": shapely.to_wkb(triangle)})
        made.append(
            {
                "item_id": f"i{i}",
                "sensor": ("O'Brien", "GF-1", None)[i % 3],
                "labels": [[], ["sea"], ["sea", "ship's"], ["sea", "ship's", "dock"]][i % 4],
                "acquired_at": None if i % 7 == 0 else day(i),
                "cloud_cover": None if i % 5 == 0 else float(i % 100),
                "gsd_m": None if i % 2 else 0.1 * (i % 10),
                **place,
            }
        )
    return made


ITEMS = items()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> lance.LanceDataset:
    uri = str(tmp_path_factory.mktemp("filters") / "t.lance")
    return lance.write_dataset(rows("a.1.0", ITEMS), uri)


def matching(dataset: lance.LanceDataset, filters: Filters) -> set[str]:
    found = dataset.to_table(columns=["item_id"], filter=filters.sql(), with_row_id=True)
    area = filters.area()
    if area is not None:
        touching = rows_touching(dataset, filters.sql(), area, lambda: True)
        found = found.filter(pc.is_in(found["_rowid"], pa.array(touching)))
    return set(found["item_id"].to_pylist())


def ids(condition: Any) -> set[str]:
    return {item["item_id"] for item in ITEMS if condition(item)}


def footprint(item: dict[str, Any]) -> shapely.Geometry | None:
    if item.get("geometry"):
        return shapely.from_wkb(item["geometry"])
    box = item.get("bbox")
    return shapely.box(box["xmin"], box["ymin"], box["xmax"], box["ymax"]) if box else None


@pytest.mark.parametrize("wkt", [RING, TWO_PARTS])
def test_polygon_is_exact(dataset: lance.LanceDataset, wkt: str) -> None:
    area = shapely.from_wkt(wkt)
    wanted = ids(lambda item: (shape := footprint(item)) is not None and shape.intersects(area))
    boxed = ids(lambda item: (shape := footprint(item)) is not None and shape.intersects(shapely.box(*area.bounds)))
    assert len(wanted) > 5
    assert wanted < boxed  # the polygon says more than its box
    assert any(item.get("geometry") is None for item in ITEMS if item["item_id"] in wanted)
    assert matching(dataset, Filters(polygon=wkt)) == wanted
    geojson = shapely.geometry.mapping(area)
    assert matching(dataset, Filters.parse({"polygon": geojson})) == wanted
    assert matching(dataset, Filters(polygon=json.dumps({"type": "Feature", "geometry": geojson}))) == wanted


def test_footprints_are_compared_in_parts_and_only_while_somebody_waits(
    dataset: lance.LanceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmir.gallery.footprints._ROWS_AT_ONCE", 50)
    wanted = iter([True, True, False])
    with pytest.raises(NobodyWaitsError):
        rows_touching(dataset, "split = 'test'", shapely.box(-180, -90, 180, 90), lambda: next(wanted))
    assert list(wanted) == [], "it goes on while somebody waits, and then no further"


@pytest.mark.parametrize("wkt", ["POLYGON ((0 0, 10 10, 0 10, 10 0, 0 0))", "POLYGON ((0 0, 10 0, 5 0, 0 0))"])
def test_a_polygon_that_crosses_itself_is_refused_by_the_search(wkt: str) -> None:
    filters = Filters(polygon=wkt)
    assert filters.sql()
    with pytest.raises(QueryError, match=r"not a simple polygon: seen .*Self-intersection"):
        filters.area()


def test_a_geometry_that_is_none_touches_nothing(tmp_path: Path) -> None:
    broken = {"item_id": "broken", **square(0, 0), "geometry": b"no WKB"}
    dataset = lance.write_dataset(rows("a.1.0", [broken, {"item_id": "whole", **square(0, 0)}]), str(tmp_path / "t"))
    assert matching(dataset, Filters(polygon="POLYGON ((0 0, 9 0, 9 9, 0 0))")) == {"whole"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=st.lists(st.tuples(st.floats(-30, 45), st.floats(-20, 65)), min_size=3, max_size=8))
def test_polygons_agree_with_shapely(dataset: lance.LanceDataset, points: list[tuple[float, float]]) -> None:
    area = shapely.MultiPoint(points).convex_hull
    if area.geom_type != "Polygon" or area.area < 1e-3:
        return
    wanted = ids(lambda item: (shape := footprint(item)) is not None and shape.intersects(area))
    assert matching(dataset, Filters(polygon=area.wkt)) == wanted


def test_bbox_means_footprints_that_touch_it(dataset: lance.LanceDataset) -> None:
    def touches(item: dict[str, Any]) -> bool:
        box = item.get("bbox")
        return bool(box) and box["xmin"] <= 10 and box["xmax"] >= -5.5 and box["ymin"] <= 30 and box["ymax"] >= 0

    assert matching(dataset, Filters(bbox=(-5.5, 0, 10, 30))) == ids(touches) != set()
    assert Filters.parse({"bbox": "-5.5,0,10,30"}) == Filters(bbox=(-5.5, 0, 10, 30))


def test_bbox_may_cross_the_antimeridian(dataset: lance.LanceDataset) -> None:
    def touches(item: dict[str, Any]) -> bool:
        box = item.get("bbox")
        return bool(box) and (box["xmax"] >= 40 or box["xmin"] <= -25)

    assert matching(dataset, Filters(bbox=(40, -90, -25, 90))) == ids(touches) != set()


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2020-02-01/2020-03-01", day(31).replace(hour=0), datetime(2020, 3, 1, 23, 59, 59, 999999, UTC)),
        ("2020-02-01T12:00:00Z/..", day(31), datetime.max.replace(tzinfo=UTC)),
        ("../2020-02-01T13:00:00+01:00", datetime.min.replace(tzinfo=UTC), day(31)),
        ("2020-02-02T12:00:00", day(32), day(32)),
        ("2020-02-03", day(33) - timedelta(hours=12), day(33) + timedelta(hours=11)),
        ("1066-10-14/9999-12-31", datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)),
    ],
)
def test_datetime_is_a_closed_interval(dataset: lance.LanceDataset, text: str, start: datetime, end: datetime) -> None:
    wanted = ids(lambda item: item["acquired_at"] is not None and start <= item["acquired_at"] <= end)
    assert matching(dataset, Filters(datetime=text)) == wanted != set()


def test_other_conditions(dataset: lance.LanceDataset) -> None:
    assert matching(dataset, Filters(sensor="O'Brien")) == ids(lambda item: item["sensor"] == "O'Brien")
    both = ids(lambda item: {"dock", "ship's"} <= set(item["labels"]))
    assert matching(dataset, Filters.parse({"labels": "dock, ship's"})) == both != set()
    clear = ids(lambda item: item["cloud_cover"] is not None and item["cloud_cover"] <= 12)
    assert matching(dataset, Filters(cloud_cover_max=12)) == clear != set()
    sharp = ids(
        lambda item: item["gsd_m"] is not None and 0.19 < item["gsd_m"] < 0.61
    )  # 0.2 to 0.6 as stored in float32
    assert matching(dataset, Filters(gsd_min_m=0.2, gsd_max_m=0.6)) == sharp != set()
    all_at_once = Filters(sensor="GF-1", labels=("sea",), cloud_cover_max=50, datetime="2020-01-01/2020-06-01")
    every = [Filters(sensor="GF-1"), Filters(labels=("sea",)), Filters(cloud_cover_max=50)]
    wanted = set.intersection(*(matching(dataset, one) for one in [*every, Filters(datetime="2020-01-01/2020-06-01")]))
    assert matching(dataset, all_at_once) == wanted != set()
    assert Filters().sql() == ""


HOSTILE = [
    "' OR 1=1 --",
    "'; DROP TABLE x; --",
    "\\' OR '1'='1",
    "x\x00y",
    "a'], []) OR true OR array_has_all(labels, ['",
    '"',
    "''",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_matches_nothing_and_changes_nothing(dataset: lance.LanceDataset, text: str) -> None:
    assert matching(dataset, Filters(sensor=text)) == set()
    assert matching(dataset, Filters(labels=(text,))) == set()
    for field in ("bbox", "polygon", "datetime", "cloud_cover_max", "gsd_min_m", "gsd_max_m"):
        with pytest.raises(QueryError, match=f"filter {field}"):
            Filters.parse({field: text})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=30))
def test_any_text_is_only_ever_compared(dataset: lance.LanceDataset, text: str) -> None:
    known = {"O'Brien", "GF-1"}
    assert bool(matching(dataset, Filters(sensor=text))) == (text in known)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bbox": "1,2,3"}, "filter bbox"),
        ({"bbox": (0, 10, 1, 5)}, "south below north"),
        ({"bbox": (0, float("nan"), 1, 5)}, "filter bbox"),
        ({"bbox": (-200, 0, 1, 5)}, "-180..180"),
        ({"polygon": "POINT (1 2)"}, "Polygon or MultiPolygon"),
        ({"polygon": "POLYGON ((0 0, 300 0, 300 10, 0 0))"}, "longitudes"),
        ({"polygon": {"type": "Polygon"}}, "not a polygon"),
        ({"polygon": '{"type": '}, "not JSON"),
        ({"polygon": 7}, "not a polygon"),
        ({"polygon": "GEOMETRYCOLLECTION(" * 3000}, "expected a Polygon or MultiPolygon"),
        ({"polygon": "GEOMETRYCOLLECTION(" * 100_000}, "more than 65536 characters"),
        ({"polygon": "SRID=4326;POLYGON ((0 0, 1 0, 1 1, 0 0))"}, "without SRID"),
        ({"polygon": "POLYGON" + "(" * 60_000}, "not a polygon"),
        ({"polygon": '{"type": "Polygon", "coordinates": ' + "[" * 60_000}, "not JSON"),
        ({"polygon": {"type": "Polygon", "coordinates": [[[10**400, 0], [1, 0], [1, 1]]]}}, "filter polygon"),
        ({"polygon": {"type": "Polygon", "coordinates": [[0, 0], [1, 0], [1, 1]]}}, "not a polygon"),
        ({"polygon": {"type": "GeometryCollection", "geometries": []}}, "not a polygon"),
        ({"datetime": "yesterday"}, "ISO 8601"),
        ({"datetime": "../.."}, "expected an instant"),
        ({"datetime": "2020-02-01/2020-01-01"}, "start is later"),
        ({"cloud_cover_max": 101}, "filter cloud_cover_max"),
        ({"gsd_min_m": -1}, "filter gsd_min_m"),
        ({"gsd_max_m": float("inf")}, "filter gsd_max_m"),
        ({"gsd_min_m": 2, "gsd_max_m": 1}, "gsd_min_m is larger"),
        ({"labels": ["x" * 300]}, "1 to 256 characters"),
        ({"cloud": 3}, "known filters: bbox"),
    ],
)
def test_what_does_not_fit_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Filters.parse(values)


@pytest.mark.parametrize("num_levels", [4, 500, 50_000])
def test_nesting_is_refused_at_any_depth(num_levels: int) -> None:
    nested: list[Any] = [0, 0]
    collection: dict[str, Any] = {"type": "Point", "coordinates": [0, 0]}
    for _ in range(num_levels):
        nested = [nested]
        collection = {"type": "GeometryCollection", "geometries": [collection]}
    whole = [{"type": kind, "coordinates": nested} for kind in ("Polygon", "MultiPolygon")]
    for polygon in (*whole, collection, {"type": "Feature", "geometry": collection}, nested):
        with pytest.raises(QueryError, match="not a polygon"):
            Filters.parse({"polygon": polygon})
    with pytest.raises(QueryError, match="filter bbox"):
        Filters.parse({"bbox": nested})


def test_a_polygon_in_any_spelling_is_taken(dataset: lance.LanceDataset) -> None:
    wanted = matching(dataset, Filters(polygon=RING))
    assert matching(dataset, Filters(polygon=f"\n {RING.lower()}")) == wanted != set()


def test_the_model_itself_raises_what_pydantic_raises() -> None:
    with pytest.raises(ValidationError, match="ISO 8601"):
        Filters(datetime="nonsense!")
