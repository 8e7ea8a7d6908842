"""STAC items -> pan, ms or rgb chips of their raster assets, with the item's id, time, cloud cover, sensor and place.

Input is an item, an item collection (JSON), or a stac-geoparquet file. Assets with the role `data`, or GeoTIFFs without
a role, are the layers; a cloud mask is the asset `scl`, `qa_pixel` or one with the role `cloud`. Band names are the
assets' own (`common_name` of `eo:bands` or `bands`), else those of the file's band code. Assets of one grid make one
chip. Hrefs are relative to the file, local or s3://; chips are cut as by source `geotiff`.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from cmir.archive import storage
from cmir.archive.product_names import CloudKind, parse_product_name
from cmir.archive.scenes import CloudMask, Layer, Scene, chip_items, chip_rows, scenes_of_layers
from cmir.archive.schema import ShardRow
from cmir.archive.sensors import canonical_band, sensor_named
from cmir.archive.sources import Item
from cmir.archive.sources.geotiff import DEFAULT_MAX_CLOUD_COVER, SUFFIXES
from cmir.errors import DataError

_NUM_READERS: Final = 8  # threads; reading headers from object storage is waiting
_NO_PIXELS: Final = {"visual", "overview", "thumbnail", "metadata", "cloud", "data-mask", "saturation", "snow-ice"}
_PROPERTY_COLUMNS: Final = (
    *("datetime", "start_datetime", "eo:cloud_cover", "platform", "constellation", "instruments"),
)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class StacSource:
    """Source `stac`; `sensor` is that of items which do not tell it, `max_cloud_cover` in per cent."""

    uri: str
    chip_size_px: int = 256
    sensor: str | None = None
    max_cloud_cover: float = DEFAULT_MAX_CLOUD_COVER

    def items(self) -> Iterator[Item]:
        """One item per chip, from headers; an item whose assets cannot be read is one that fails.

        Raises DataError: missing, neither STAC JSON nor Parquet, no items.
        """
        with ThreadPoolExecutor(_NUM_READERS) as readers:
            read = readers.map(self._scenes, _records(self.uri))
            scenes = [scene for found in read for scene in found]
        yield from chip_items(scenes, self.chip_size_px)

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """The chip; none where it holds nodata or too much cloud. Raises DataError: unreadable."""
        yield from chip_rows("stac", item, self.max_cloud_cover)

    def _scenes(self, record: Record) -> list[Scene]:
        name, told = str(record["id"]), record.get("properties") or {}
        sensor = _sensor(told) or self.sensor
        collection = record.get("collection")
        described = Scene(
            f"{collection}/{name}" if collection else name,
            (),
            sensor=sensor,
            acquired_at=_time(told.get("datetime") or told.get("start_datetime")),
            cloud_cover=_number(told.get("eo:cloud_cover")),
            geometry=_geometry(record.get("geometry")),
            attributes={"stac_id": name} | ({"collection": collection} if collection else {}),
        )
        try:
            described = replace(described, clouds=_clouds(record, self.uri))
            layers = [
                _layer(asset, _resolved(str(asset["href"]), self.uri), sensor)
                for key, asset in _assets(record)
                if _is_raster(key, asset)
            ]
            if not layers:
                assets = ", ".join(key for key, _ in _assets(record)) or "none"
                raise DataError("the item has no raster", seen=f"assets {assets}", expected="GeoTIFFs with role data")
        except DataError as error:
            return [described.failed(str(error))]
        return scenes_of_layers(described, layers)


def _records(uri: str) -> list[Record]:
    """Items as STAC JSON has them. Raises DataError where they cannot be read, or there is none."""
    if not storage.exists(uri):
        raise DataError("input not found", seen="nothing", expected="STAC JSON or stac-geoparquet", where=uri)
    data = storage.read_bytes(uri)
    found = _from_parquet(data, uri) if data[:4] == b"PAR1" else _from_json(data, uri)
    whole = [record for record in found if record.get("id") is not None]
    if not whole or len(whole) < len(found):
        seen = f"{len(found)} records, {len(found) - len(whole)} without an id"
        raise DataError("no STAC items", seen=seen, expected="items with id and assets", where=uri)
    return whole


def _from_json(data: bytes, uri: str) -> Sequence[Record]:
    try:
        told = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError("not a STAC file", seen=error, expected="JSON or Parquet", where=uri) from error
    kind = told.get("type") if isinstance(told, dict) else type(told).__name__
    if kind == "Feature":
        return [told]
    if kind == "FeatureCollection" and isinstance(told.get("features"), list):
        return [one for one in told["features"] if isinstance(one, dict)]
    raise DataError(
        "not a STAC item or item collection", seen=f"type {kind}", expected="Feature(Collection)", where=uri
    )


def _from_parquet(data: bytes, uri: str) -> Sequence[Record]:
    """stac-geoparquet: an item a row, with the properties as columns and the geometry as WKB."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise DataError("Parquet cannot be read", seen=error, where=uri) from error
    if missing := {"id", "assets"} - set(table.column_names):
        raise DataError("not stac-geoparquet", seen=f"no column {', '.join(sorted(missing))}", where=uri)
    records = []
    for row in table.to_pylist():
        properties = {name: row.get(name) for name in _PROPERTY_COLUMNS}
        assets = json.loads(row["assets"]) if isinstance(row["assets"], str) else row["assets"]
        records.append({**row, "properties": properties, "assets": assets})
    return records


def _assets(record: Record) -> list[tuple[str, Record]]:
    """The assets that are there; stac-geoparquet has every item tell every asset, absent ones as None."""
    assets = record.get("assets") or {}
    if not isinstance(assets, Mapping):
        raise DataError("assets are no mapping", seen=type(assets).__name__, expected="assets by their key")
    return [(str(key), asset) for key, asset in assets.items() if isinstance(asset, Mapping) and asset.get("href")]


def _is_raster(key: str, asset: Record) -> bool:
    roles = set(asset.get("roles") or ())
    if roles & _NO_PIXELS or _cloud_kind(key, asset) is not None:
        return False
    is_tiff = str(asset["href"]).lower().endswith(SUFFIXES) or str(asset.get("type")).startswith("image/tiff")
    return is_tiff and (not roles or "data" in roles or "reflectance" in roles)


def _layer(asset: Record, uri: str, sensor: str | None) -> Layer:
    """An asset's raster with the names that the asset gives its bands."""
    names = []
    for band in asset.get("eo:bands") or asset.get("bands") or ():
        name = band.get("common_name") or band.get("eo:common_name") or band.get("name")
        names.append(canonical_band(str(name)) if name else None)
    code = parse_product_name(storage.name_of(uri).rsplit(".", 1)[0]).band(sensor)
    layer = Layer.read(uri, sensor=sensor, band=names[0] if len(names) == 1 and names[0] else code)
    if len(names) == len(layer.bands) > 1 and all(names):
        return layer.named(tuple(name for name in names if name))
    return layer


def _clouds(record: Record, uri: str) -> CloudMask | None:
    found = ((kind, asset) for key, asset in _assets(record) if (kind := _cloud_kind(key, asset)) is not None)
    return next((CloudMask(_resolved(str(asset["href"]), uri), kind) for kind, asset in found), None)


def _cloud_kind(key: str, asset: Record) -> CloudKind | None:
    named: dict[str, CloudKind] = {"scl": "scl", "qa_pixel": "qa_pixel"}
    if key.lower() in named:
        return named[key.lower()]
    return "cloud" if "cloud" in (asset.get("roles") or ()) else None


def _sensor(told: Record) -> str | None:
    """The listed sensor that platform, constellation or instruments name, else the platform as it stands."""
    instruments = told.get("instruments") or ()
    for name in (told.get("platform"), told.get("constellation"), *instruments):
        if name and (known := sensor_named(str(name))):
            return known.name
    return str(told["platform"]) if told.get("platform") else None


def _time(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _geometry(value: Any) -> bytes | None:
    try:
        shape = shapely.from_wkb(value) if isinstance(value, bytes) else shapely.from_geojson(json.dumps(value))
    except (shapely.errors.ShapelyError, TypeError):
        return None
    return shapely.to_wkb(shape) if shape is not None and not shape.is_empty else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _resolved(href: str, uri: str) -> str:
    if "://" in href and not storage.is_s3(href) and not href.startswith("file://"):
        raise DataError("cannot read this place", seen=href, expected="a path or s3://", where=uri)
    if href.startswith("file://"):
        return href.removeprefix("file://")
    if storage.is_s3(href) or href.startswith("/"):
        return href
    parts = uri.split("/")[:-1]
    for part in href.split("/"):
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
