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
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

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


class _Described(BaseModel):
    """What is read of an item; whatever else it holds is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Band(_Described):
    name: str | None = None
    common_name: str | None = Field(None, validation_alias=AliasChoices("common_name", "eo:common_name"))


class _Asset(_Described):
    href: str
    type: str | None = None
    roles: tuple[str, ...] | None = None
    bands: tuple[_Band, ...] | None = Field(None, validation_alias=AliasChoices("eo:bands", "bands"))


class _Properties(_Described):
    datetime: str | None = None
    start_datetime: str | None = None
    cloud_cover: float | None = Field(None, validation_alias="eo:cloud_cover")
    platform: str | None = None
    constellation: str | None = None
    instruments: tuple[str, ...] | None = None


class _Record(_Described):
    id: str
    collection: str | None = None
    geometry: Any = None
    properties: _Properties
    assets: dict[str, _Asset | None]


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

    def _scenes(self, told: Mapping[str, Any]) -> list[Scene]:
        """The scenes of one item, one for each grid, or one that tells what is wrong."""
        try:
            record = _Record.model_validate(told)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            return [Scene(str(told.get("id")), (), error=f"{place}: {first['msg']}")]
        properties = record.properties
        sensor = _sensor(properties) or self.sensor
        described = Scene(
            f"{record.collection}/{record.id}" if record.collection else record.id,
            (),
            sensor=sensor,
            acquired_at=_time(properties.datetime or properties.start_datetime),
            cloud_cover=properties.cloud_cover,
            geometry=_geometry(record.geometry),
            attributes={"stac_id": record.id} | ({"collection": record.collection} if record.collection else {}),
        )
        assets = {key: asset for key, asset in record.assets.items() if asset is not None}
        try:
            described = replace(described, clouds=_clouds(assets, self.uri))
            layers = [
                _layer(asset, _resolved(asset.href, self.uri), sensor)
                for key, asset in assets.items()
                if _is_raster(key, asset)
            ]
            if not layers:
                seen = f"assets {', '.join(assets) or 'none'}"
                raise DataError("the item has no raster", seen=seen, expected="GeoTIFFs with role data")
        except DataError as error:
            return [described.failed(str(error))]
        return scenes_of_layers(described, layers)


def _records(uri: str) -> list[Mapping[str, Any]]:
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


def _from_json(data: bytes, uri: str) -> Sequence[Mapping[str, Any]]:
    try:
        told = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError("not a STAC file", seen=error, expected="JSON or Parquet", where=uri) from error
    kind = told.get("type") if isinstance(told, dict) else type(told).__name__
    if kind == "Feature":
        return [told]
    if kind == "FeatureCollection" and isinstance(told.get("features"), list):
        return [one if isinstance(one, dict) else {} for one in told["features"]]
    raise DataError(
        "not a STAC item or item collection", seen=f"type {kind}", expected="Feature(Collection)", where=uri
    )


def _from_parquet(data: bytes, uri: str) -> Sequence[Mapping[str, Any]]:
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
        properties |= {name: value.isoformat() for name, value in properties.items() if isinstance(value, datetime)}
        assets = json.loads(row["assets"]) if isinstance(row["assets"], str) else row["assets"]
        records.append({**row, "properties": properties, "assets": assets})
    return records


def _is_raster(key: str, asset: _Asset) -> bool:
    roles = set(asset.roles or ())
    if roles & _NO_PIXELS or _cloud_kind(key, asset) is not None:
        return False
    is_tiff = asset.href.lower().endswith(SUFFIXES) or (asset.type or "").startswith("image/tiff")
    return is_tiff and (not roles or "data" in roles or "reflectance" in roles)


def _layer(asset: _Asset, uri: str, sensor: str | None) -> Layer:
    """An asset's raster with the names that the asset gives its bands."""
    told = [band.common_name or band.name for band in asset.bands or ()]
    names = tuple(canonical_band(name) for name in told if name)
    code = parse_product_name(storage.name_of(uri).rsplit(".", 1)[0]).band(sensor)
    layer = Layer.read(uri, sensor=sensor, band=names[0] if len(told) == len(names) == 1 else code)
    return layer.named(names) if len(told) == len(names) == len(layer.info.bands) > 1 else layer


def _clouds(assets: Mapping[str, _Asset], uri: str) -> CloudMask | None:
    found = ((kind, asset) for key, asset in assets.items() if (kind := _cloud_kind(key, asset)) is not None)
    return next((CloudMask(_resolved(asset.href, uri), kind) for kind, asset in found), None)


def _cloud_kind(key: str, asset: _Asset) -> CloudKind | None:
    named: dict[str, CloudKind] = {"scl": "scl", "qa_pixel": "qa_pixel"}
    return named.get(key.lower()) or ("cloud" if "cloud" in (asset.roles or ()) else None)


def _sensor(told: _Properties) -> str | None:
    """The listed sensor that platform, constellation or instruments name, else the platform as it stands."""
    names = (told.platform, told.constellation, *(told.instruments or ()))
    known = (sensor_named(name) for name in names)
    return next((sensor.name for sensor in known if sensor), told.platform)


def _time(text: str | None) -> datetime | None:
    try:
        value = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


def _geometry(value: Any) -> bytes | None:
    try:
        shape = shapely.from_wkb(value) if isinstance(value, bytes) else shapely.from_geojson(json.dumps(value))
    except (shapely.errors.ShapelyError, TypeError):
        return None
    return shapely.to_wkb(shape) if shape is not None and not shape.is_empty else None


def _resolved(href: str, uri: str) -> str:
    if "://" in href and not storage.is_s3(href) and not href.startswith("file://"):
        raise DataError("cannot read this place", seen=href, expected="a path or s3://", where=uri)
    if href.startswith("file://"):
        return href.removeprefix("file://")
    if storage.is_s3(href) or href.startswith("/"):
        return href
    parts = uri.split("/")[:-1]
    for part in href.split("/"):
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part == "..":
            raise DataError("an href leads out of its storage", seen=href, expected="a place below it", where=uri)
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)
