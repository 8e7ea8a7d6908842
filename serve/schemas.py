"""What crosses the wire: bodies of requests and answers, field by field; the OpenAPI file is made from these.

Unknown keys of a request are refused. A score is a cosine, higher is better; times are milliseconds; a bbox is
(west, south, east, north) in degrees of EPSG:4326.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cmir.archive.schema import Modality
from cmir.gallery.filters import Filters
from serve.limits import DEFAULT_HITS, MAX_HITS, MAX_PARTS

Weight = Annotated[
    float, Field(ge=-100, le=100, allow_inf_nan=False, description="negative: less like this; parts are unit vectors")
]
ItemId = Annotated[str, Field(min_length=1, max_length=256)]
Pixel = Annotated[int, Field(ge=0, lt=10**9)]
Component = Annotated[float, Field(allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ImagePart(_Request):
    """An image file; what is not given is told by the file."""

    kind: Literal["image"]
    weight: Weight = 1.0
    data: str = Field(min_length=1, description="base64 of a png, jpeg, webp or tiff file")
    modality: Literal["pan", "ms", "rgb"] | None = Field(None, description="default: told by the bands")
    bands: list[str] = Field(default_factory=list, max_length=64, description="names in the file's order")
    sensor: str | None = Field(None, max_length=64)
    gsd_m: float | None = Field(None, gt=0, allow_inf_nan=False)
    window: tuple[Pixel, Pixel, Pixel, Pixel] | None = Field(
        None, description="column, row, width, height: the part of a scene that is meant, in pixels"
    )


class SpeechPart(_Request):
    """A recording."""

    kind: Literal["speech"]
    weight: Weight = 1.0
    data: str = Field(min_length=1, description="base64 of a wav, flac, ogg, mp3, webm or mp4 file")


class ItemPart(_Request):
    """An item of the gallery."""

    kind: Literal["item"]
    weight: Weight = 1.0
    item_id: ItemId


class LabelPart(_Request):
    """A word of the bundle's vocabulary; its embedding is the bundle's prototype."""

    kind: Literal["label"]
    weight: Weight = 1.0
    label: str = Field(min_length=1, max_length=256)


Part = Annotated[ImagePart | SpeechPart | ItemPart | LabelPart, Field(discriminator="kind")]


class _Wanted(_Request):
    target: Modality | list[Modality] | None = Field(None, description="modality or modalities; default: all")
    k: int = Field(DEFAULT_HITS, ge=1, le=MAX_HITS)
    filters: Filters | None = None

    def targets(self) -> tuple[Modality, ...]:
        """The modalities asked for, each once; empty means all."""
        named = self.target if isinstance(self.target, list) else [self.target] if self.target else []
        return tuple(dict.fromkeys(named))


class SearchRequest(_Wanted):
    """A query of weighted parts; the query vector is the normalised weighted sum of the parts' unit vectors."""

    parts: list[Part] = Field(min_length=1, max_length=MAX_PARTS)


class EmbeddingRequest(_Wanted):
    """A query by a vector that was embedded elsewhere; it is normalised here."""

    vector: list[Component] = Field(min_length=1, max_length=65_536)
    space_id: str = Field(max_length=64)


class HitAnswer(_Answer):
    """One item found."""

    item_id: str
    rank: int = Field(description="from 1")
    score: float = Field(description="cosine, higher is better")
    modality: str
    labels: list[str]
    scene_class: str | None
    sensor: str | None
    acquired_at: datetime | None
    bbox: tuple[float, float, float, float] | None
    source_uri: str
    thumbnail: str | None = Field(description="path of its thumbnail, relative to the service; null where it has none")


class Timings(_Answer):
    """Where the time went; queue is waiting for a batch, total all from the first byte of the request.

    A second ear listens while the network encodes: `queue` and `encode` are those of the slower.
    """

    decode: float
    queue: float
    encode: float
    search: float
    total: float


class HeardLabel(_Answer):
    """A label that a recording was taken to name."""

    label: str
    score: float = Field(description="cosine to the label's prototype, higher is better")


class HeardAnswer(_Answer):
    """What a recording was taken to say: labels, nearest first; or a message, and the nearest label all the same.

    Where a second ear was sure, its labels are there in the order said, and the query was their prototypes' mean.
    """

    labels: list[HeardLabel]
    message: str | None = Field(description="no known label heard; null where one was")
    by: Literal["tower", "ear"] = Field("tower", description="who heard it: the speech tower, or the second ear")
    confidence: float | None = Field(None, description="of the second ear, 0..1; null where the tower heard it")


class SearchAnswer(_Answer):
    """Hits in the order of their scores, all from one version of one space.

    `heard` has an entry for each recording of the query, where the bundle can judge them; where one names no known
    label there are no hits.
    """

    hits: list[HitAnswer]
    heard: list[HeardAnswer] = Field(default_factory=list)
    space_id: str
    gallery_version: int
    timings_ms: Timings
    request_id: str


class EmbedAnswer(_Answer):
    """A unit vector of the space named."""

    vector: list[float]
    space_id: str


class ItemAnswer(_Answer):
    """All that the gallery knows of an item, without its pixels."""

    item_id: str
    modality: str
    split: str
    labels: list[str]
    scene_class: str | None
    sensor: str | None
    bands: list[str]
    wavelength_nm: list[float | None]
    gsd_m: float | None
    sample_rate_hz: int | None
    pair_id: str | None
    scene_id: str
    acquired_at: datetime | None
    cloud_cover: float | None
    crs: str | None
    bbox: tuple[float, float, float, float] | None
    geometry: dict[str, Any] | None = Field(description="GeoJSON in EPSG:4326")
    source_uri: str
    window: list[int] | None
    attributes: dict[str, Any] | None
    thumbnail: str | None
    space_id: str


class BundleInfo(_Answer):
    """The network that embeds."""

    uri: str
    space_id: str
    dim: int
    modalities: list[Modality]
    labels: list[str]
    figures: dict[str, dict[str, float]] = Field(
        description="how good it is, by split (validation, test) and name, such as speech_to_rgb_map; empty: not known"
    )


class GalleryInfo(_Answer):
    """The published version that is searched."""

    sequence: int
    version: int
    published_at: datetime
    num_items: dict[str, int] = Field(description="by modality")
    index_kind: str
    recall_at_10: float = Field(description="of the index, against exact search; the worst of the cases")
    recall_by_case: dict[str, float] = Field(
        description="the same by direction, also under filters: pan_to_ms, or pan_to_ms, 1% of rows; empty: not known"
    )


class InfoAnswer(_Answer):
    """What is served, and within which limits."""

    service_version: str
    bundle: BundleInfo
    gallery: GalleryInfo
    image_formats: list[str]
    audio_formats: list[str]
    limits: dict[str, float]
    second_ear: str | None = Field(None, description="the recogniser asked beside the speech tower; null for none")


class HealthAnswer(_Answer):
    """Whether the service is alive, or ready."""

    status: str
    space_id: str | None = None
    gallery_version: int | None = None


class Feature(_Answer):
    """A hit as GeoJSON (RFC 7946); geometry is its bbox, null where it has no place."""

    type: Literal["Feature"] = "Feature"
    id: str
    bbox: tuple[float, float, float, float] | None = None
    geometry: dict[str, Any] | None
    properties: dict[str, Any]


class FeatureCollection(_Answer):
    """A search answer as GeoJSON; the members beside `features` are those of SearchAnswer."""

    type: Literal["FeatureCollection"] = "FeatureCollection"
    features: list[Feature]
    heard: list[HeardAnswer] = Field(default_factory=list)
    space_id: str
    gallery_version: int
    timings_ms: Timings
    request_id: str


def to_geojson(answer: SearchAnswer) -> FeatureCollection:
    """The same answer as a FeatureCollection; dump it with `exclude_unset`, a bbox that is not known must be absent."""
    return FeatureCollection(
        type="FeatureCollection",
        features=[_feature(hit) for hit in answer.hits],
        heard=answer.heard,
        space_id=answer.space_id,
        gallery_version=answer.gallery_version,
        timings_ms=answer.timings_ms,
        request_id=answer.request_id,
    )


def _feature(hit: HitAnswer) -> Feature:
    properties = hit.model_dump(mode="json", exclude={"bbox"})
    if hit.bbox is None:
        return Feature(type="Feature", id=hit.item_id, geometry=None, properties=properties)
    west, south, east, north = hit.bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return Feature(type="Feature", id=hit.item_id, bbox=hit.bbox, geometry=geometry, properties=properties)
