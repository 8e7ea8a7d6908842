"""What an asker narrows a search by becomes one SQL condition that Lance evaluates before it ranks.

Nothing of the asker's text reaches the SQL but as a number, or a literal with its quotes doubled. Of a polygon the
condition holds the bounding box; whether a footprint touches it is told exactly of what then is left (footprints.py):
by the item's geometry where it has one, else its bbox; items with neither never match a place.
"""

import json
import math
import re
import reprlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import shapely
import shapely.geometry
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cmir.errors import QueryError
from cmir.gallery.commits import quoted

MAX_POLYGON_POINTS: Final = 10_000
MAX_POLYGON_TEXT: Final = 65_536  # characters of WKT or GeoJSON text
MAX_TEXT: Final = 256  # characters of a sensor's or a label's name
MAX_LABELS: Final = 64
_POLYGON_WKT: Final = re.compile(r"\s*(MULTI)?POLYGON", re.IGNORECASE)
_GEOJSON_LEVELS: Final = {"Polygon": 3, "MultiPolygon": 4}  # of lists around a number, RFC 7946 section 3.1
_OPEN: Final = ("", "..")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Filters(BaseModel):
    """Conditions that all hold for a hit; every field may be left out.

    `bbox` is (west, south, east, north) in degrees, crossing the antimeridian where west > east; `polygon` GeoJSON or
    WKT in lon/lat degrees; both mean footprints that touch it. `datetime` is an instant or `start/end`, `..` for an
    open end, both included, without an offset in UTC. An item whose value is not known never matches a condition on it.

    >>> Filters(sensor="GF-1", labels=("sea", "dock")).sql()
    "sensor = 'GF-1' AND array_has_all(labels, ['sea', 'dock'])"
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bbox: tuple[float, float, float, float] | None = Field(None, description="west,south,east,north in degrees")
    polygon: str | None = Field(None, description="Polygon or MultiPolygon in degrees, as GeoJSON or WKT")
    datetime: str | None = Field(None, description="an instant, or start/end; .. leaves an end open")
    sensor: str | None = Field(None, max_length=MAX_TEXT, description="name of the sensor")
    labels: tuple[str, ...] = Field((), max_length=MAX_LABELS, description="labels, all of which a hit must carry")
    cloud_cover_max: float | None = Field(None, ge=0, le=100, description="per cent")
    gsd_min_m: float | None = Field(None, ge=0, allow_inf_nan=False, description="metres per pixel, at least")
    gsd_max_m: float | None = Field(None, ge=0, allow_inf_nan=False, description="metres per pixel, at most")

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> "Filters":
        """Filters from a mapping such as a JSON object. Raises QueryError that names the first field that is wrong."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "filters"
            what = f"filter {name} does not fit: {first['msg'].removeprefix('Value error, ')}"
            known = ", ".join(cls.model_fields)
            raise QueryError(what, seen=reprlib.repr(first.get("input")), fix=f"known filters: {known}") from error

    @field_validator("bbox", mode="before")
    @classmethod
    def _split_bbox(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @field_validator("bbox")
    @classmethod
    def _check_bbox(cls, value: tuple[float, float, float, float] | None) -> tuple[float, float, float, float] | None:
        if value is None:
            return None
        west, south, east, north = value
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):  # also refuses NaN
            raise ValueError("west and east must lie in -180..180, south and north in -90..90, south below north")
        return value

    @field_validator("polygon", mode="before")
    @classmethod
    def _read_polygon(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, str) and len(value) > MAX_POLYGON_TEXT:
            raise ValueError(f"polygon has more than {MAX_POLYGON_TEXT} characters")
        if isinstance(value, str) and value.lstrip().startswith("{"):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:  # the latter for text nested too deeply
                raise ValueError("polygon is not JSON") from error
        return _polygon(value).wkt

    @field_validator("datetime")
    @classmethod
    def _check_datetime(cls, value: str | None) -> str | None:
        if value is not None:
            _interval(value)
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _split_labels(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not 0 < len(label) <= MAX_TEXT for label in value):
            raise ValueError(f"a label has 1 to {MAX_TEXT} characters")
        return value

    @model_validator(mode="after")
    def _check_gsd(self) -> "Filters":
        if self.gsd_min_m is not None and self.gsd_max_m is not None and self.gsd_min_m > self.gsd_max_m:
            raise ValueError("gsd_min_m is larger than gsd_max_m")
        return self

    def area(self) -> shapely.Geometry | None:
        """The polygon, which a hit's footprint must touch. Raises QueryError where it crosses itself.

        That takes ten times as long to see as the rest of a polygon, so it is looked for only by whoever searches.
        """
        if self.polygon is None:
            return None
        shape = shapely.from_wkt(self.polygon)
        if not shape.is_valid:
            what, seen = "filter polygon does not fit: not a simple polygon", shapely.is_valid_reason(shape)
            raise QueryError(what, seen=seen, expected="rings that neither cross nor touch themselves")
        return shape

    @property
    def num_polygon_points(self) -> int:
        """Points of the polygon, 0 without one.

        >>> Filters(polygon="POLYGON ((0 0, 9 0, 9 9, 0 0), (5 1, 6 1, 6 2, 5 1))").num_polygon_points
        8
        """
        return 0 if self.polygon is None else self.polygon.count(",") + 1  # a comma between any two, and two rings

    def sql(self) -> str:
        """The condition in Lance's SQL, of the polygon its bounding box; an empty text where nothing is asked."""
        parts = [
            *(_touches_bbox(self.bbox) if self.bbox else ()),
            *(_touches_bbox(shapely.from_wkt(self.polygon).bounds) if self.polygon else ()),
            *(_within_time(self.datetime) if self.datetime else ()),
        ]
        if self.sensor is not None:
            parts.append(f"sensor = {quoted(self.sensor)}")
        if self.labels:
            parts.append(f"array_has_all(labels, [{', '.join(map(quoted, self.labels))}])")
        if self.cloud_cover_max is not None:
            parts.append(f"cloud_cover <= {_float32(self.cloud_cover_max)}")
        if self.gsd_min_m is not None:
            parts.append(f"gsd_m >= {_float32(self.gsd_min_m)}")
        if self.gsd_max_m is not None:
            parts.append(f"gsd_m <= {_float32(self.gsd_max_m)}")
        return " AND ".join(parts)


def _float32(value: float) -> str:
    """A number as the column stores it: 0.3 must equal a stored float32 0.3, which is larger than the double."""
    return f"CAST({value!r} AS FLOAT)"


def _touches_bbox(bbox: tuple[float, float, float, float]) -> list[str]:
    west, south, east, north = bbox
    between = f"bbox.xmin <= {east!r} AND bbox.xmax >= {west!r}"
    if west > east:
        between = f"(bbox.xmin <= {east!r} OR bbox.xmax >= {west!r})"
    return [between, f"bbox.ymin <= {north!r}", f"bbox.ymax >= {south!r}"]


def _within_time(text: str) -> list[str]:
    start_us, end_us = _interval(text)
    parts = [] if start_us is None else [f"acquired_at >= to_timestamp_micros({start_us})"]
    return parts + ([] if end_us is None else [f"acquired_at <= to_timestamp_micros({end_us})"])


def _interval(text: str) -> tuple[int | None, int | None]:
    """Start and end in microseconds since 1970 UTC, None for an open one. Raises ValueError for any other text."""
    ends = text.split("/")
    if len(ends) > 2 or all(end.strip() in _OPEN for end in ends):
        raise ValueError("expected an instant or start/end, such as 2020-01-01/2020-12-31T23:59:59Z or 2020-01-01/..")
    start_us, end_us = _instant_us(ends[0], "00:00:00"), _instant_us(ends[-1], "23:59:59.999999")
    if start_us is not None and end_us is not None and start_us > end_us:
        raise ValueError("start is later than end")
    return start_us, end_us


def _instant_us(text: str, time_of_day: str) -> int | None:
    """An ISO 8601 instant; a date alone stands for its first or last moment."""
    text = text.strip()
    if text in _OPEN:
        return None
    try:
        moment = datetime.fromisoformat(f"{text}T{time_of_day}" if len(text) == 10 else text)
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is not an ISO 8601 time") from error
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - _EPOCH) // timedelta(microseconds=1)


def _polygon(value: Any) -> shapely.Geometry:
    """A Polygon or MultiPolygon within lon/lat bounds. Raises ValueError for anything else.

    Other kinds are refused before they are parsed: GEOS follows nested collections by recursion, down to a crash.
    """
    if isinstance(value, str) and not _POLYGON_WKT.match(value):
        raise ValueError("expected a Polygon or MultiPolygon in GeoJSON or WKT, without SRID")
    try:
        shape = shapely.from_wkt(value) if isinstance(value, str) else _from_geojson(value)
    except (shapely.errors.ShapelyError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ValueError("not a polygon in GeoJSON or WKT") from error
    if shape is None or shape.geom_type not in ("Polygon", "MultiPolygon") or shape.is_empty:
        raise ValueError("expected a Polygon or MultiPolygon with points")
    if shapely.get_num_coordinates(shape) > MAX_POLYGON_POINTS:
        raise ValueError(f"more than {MAX_POLYGON_POINTS} points")
    west, south, east, north = shape.bounds
    if not all(map(math.isfinite, shape.bounds)) or west < -180 or east > 180 or south < -90 or north > 90:
        raise ValueError("longitudes must lie in -180..180, latitudes in -90..90")
    return shapely.force_2d(shape)


def _from_geojson(value: Mapping[str, Any]) -> shapely.Geometry:
    if value.get("type") == "Feature":
        value = value["geometry"]
    if value["type"] not in _GEOJSON_LEVELS:
        raise ValueError("its type is not Polygon or MultiPolygon")
    inner = [value["coordinates"]]
    for _ in range(_GEOJSON_LEVELS[value["type"]]):
        if not all(isinstance(part, list | tuple) for part in inner):
            raise ValueError("its coordinates are nested too little")
        inner = [deeper for part in inner for deeper in part]
    if not all(isinstance(number, int | float) for number in inner):
        raise ValueError("its coordinates are nested too deeply, or are not numbers")
    return shapely.geometry.shape(value)
