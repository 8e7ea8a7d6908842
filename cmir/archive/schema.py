"""The tables that cross a border: a shard row, a gallery row, a thumbnail; names, dtypes, units stand only here.

`Media` is what an embedder needs of an item (bytes and how to read them), `ShardRow` is an item with all it knows of
itself. An item_id never depends on where the input lay: it is a hash of the source's name, the item's own name in the
source, its modality or asset, and its window.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, get_args

import pyarrow as pa

Modality = Literal["pan", "ms", "rgb", "speech"]
Split = Literal["train", "val", "test"]
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)
IMAGE_MODALITIES: Final[tuple[Modality, ...]] = ("pan", "ms", "rgb")
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
ENCODINGS: Final = ("raw", "png", "jpeg", "webp", "tiff", "wav", "flac", "ogg", "mp3")

BBOX_TYPE: Final = pa.struct([(side, pa.float64()) for side in ("xmin", "ymin", "xmax", "ymax")])

_MEDIA_FIELDS: Final = [
    pa.field("data", pa.binary(), nullable=False),
    pa.field("encoding", pa.string(), nullable=False),
    pa.field("dtype", pa.string()),
    pa.field("shape", pa.list_(pa.int32())),
]

# What describes an item without its bytes; shared by shard rows and gallery rows.
_METADATA_FIELDS: Final = [
    pa.field("bands", pa.list_(pa.string())),
    pa.field("wavelength_nm", pa.list_(pa.float32())),
    pa.field("sensor", pa.string()),
    pa.field("gsd_m", pa.float32()),
    pa.field("sample_rate_hz", pa.int32()),
    pa.field("labels", pa.list_(pa.string()), nullable=False),
    pa.field("scene_class", pa.string()),
    pa.field("pair_id", pa.string()),
    pa.field("scene_id", pa.string(), nullable=False),
    pa.field("acquired_at", pa.timestamp("us", tz="UTC")),
    pa.field("cloud_cover", pa.float32()),
    pa.field("crs", pa.string()),
    pa.field("bbox", BBOX_TYPE),
    pa.field("geometry", pa.binary()),
    pa.field("source_uri", pa.string(), nullable=False),
    pa.field("window", pa.list_(pa.int32())),
    pa.field("content_hash", pa.string(), nullable=False),
    pa.field("attributes", pa.string()),
]

_IDENTITY_FIELDS: Final = [
    pa.field("item_id", pa.string(), nullable=False),
    pa.field("modality", pa.string(), nullable=False),
    pa.field("split", pa.string(), nullable=False),
]

SHARD_SCHEMA: Final = pa.schema(_IDENTITY_FIELDS + _MEDIA_FIELDS + _METADATA_FIELDS)
METADATA_COLUMNS: Final = tuple(field.name for field in _IDENTITY_FIELDS + _METADATA_FIELDS)

THUMBNAIL_SCHEMA: Final = pa.schema(
    [pa.field("item_id", pa.string(), nullable=False), pa.field("webp", pa.binary(), nullable=False)]
)

QUARANTINE_SCHEMA: Final = pa.schema(
    [
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("data", pa.binary()),  # only when small
    ]
)


def gallery_schema(dim: int) -> pa.Schema:
    """Arrow schema of a gallery table whose vectors have `dim` components: item rows only, never pixels."""
    vector = [
        pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
        pa.field("piece_id", pa.string(), nullable=False),
    ]
    return pa.schema(_IDENTITY_FIELDS + vector + _METADATA_FIELDS)


@dataclass(frozen=True, slots=True)
class Media:
    """The bytes of one item and what is needed to read them; what an embedder takes.

    `raw` data is C-order pixels (C,H,W), PCM samples (T,) or features (F,), with `dtype` and `shape`; any other
    encoding is a whole encoded file. `wavelength_nm` holds band centres in nanometres, None where not known. `window`
    is the part of an encoded image that is meant, (column, row, width, height) in its pixels; None is all of it.
    """

    modality: Modality
    data: bytes
    encoding: str
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    bands: tuple[str, ...] = ()
    wavelength_nm: tuple[float | None, ...] = ()
    sensor: str | None = None
    gsd_m: float | None = None
    sample_rate_hz: int | None = None
    window: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One item of an archive before its split is known; the shard writer adds split and content_hash.

    `bbox` is (xmin, ymin, xmax, ymax) in degrees of EPSG:4326, `geometry` WKB in EPSG:4326, `crs` the CRS of the
    source raster, `window` (column, row, width, height) in pixels of the source, `attributes` a JSON object as text.
    """

    item_id: str
    media: Media
    scene_id: str
    source_uri: str
    labels: tuple[str, ...] = ()
    scene_class: str | None = None
    pair_id: str | None = None
    acquired_at: datetime | None = None
    cloud_cover: float | None = None
    crs: str | None = None
    bbox: tuple[float, float, float, float] | None = None
    geometry: bytes | None = None
    window: tuple[int, int, int, int] | None = None
    attributes: str | None = None


def make_item_id(source: str, name: str, modality_or_asset: str, window: Sequence[int] | None = None) -> str:
    """The id of an item: 24 hex digits, the same wherever the input lies.

    `name` is the item's own name in its source (path relative to the input, table index or product id).

    >>> make_item_id("folder", "river/1.png", "rgb") == make_item_id("folder", "river/1.png", "rgb", None)
    True
    """
    return _digest("item", source, name, modality_or_asset, "" if window is None else ",".join(map(str, window)))


def make_group_id(kind: str, *parts: str) -> str:
    """A scene_id or pair_id from its parts, 24 hex digits; `kind` keeps different sorts of ids apart."""
    return _digest(kind, *parts)


def content_hash(data: bytes) -> str:
    """sha256 of an item's bytes, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:24]
