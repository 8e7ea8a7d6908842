"""What the engine found -> the answers' schemas."""

import json
import math
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Final
from urllib.parse import quote

import shapely
import shapely.geometry
from fastapi import Request
from pydantic import JsonValue

from cmir.gallery.search import GalleryItem, Hit
from cmir.network.hearing import NOTHING_HEARD, Heard
from serve.engine import Engine, Found
from serve.media import AUDIO_KINDS, IMAGE_KINDS
from serve.schemas import (
    BundleInfo,
    GalleryInfo,
    HeardAnswer,
    HeardLabel,
    HitAnswer,
    InfoAnswer,
    ItemAnswer,
    SearchAnswer,
    Timings,
)

_JUDGED_SPLITS: Final = ("validation", "test")


def search_answer(found: Found, request: Request) -> SearchAnswer:
    """The hits of one query; `total` runs from the first byte of the request to now."""
    times = found.times
    return SearchAnswer(
        hits=[hit_answer(hit) for hit in found.hits],
        heard=[heard_answer(heard) for heard in found.heard],
        space_id=found.pointer.space_id,
        gallery_version=found.pointer.table_version,
        timings_ms=Timings(
            decode=_ms(times.decode_s),
            queue=_ms(times.queue_s),
            encode=_ms(times.encode_s),
            search=_ms(times.search_s),
            total=_ms(time.perf_counter() - request.state.started_at),
        ),
        request_id=request.state.request_id,
    )


def heard_answer(heard: Heard) -> HeardAnswer:
    """What one recording named."""
    labels = [HeardLabel(label=label, score=score) for label, score in heard.labels]
    message = None if heard.is_known else NOTHING_HEARD
    return HeardAnswer(labels=labels, message=message, by=heard.by, confidence=heard.confidence)


def hit_answer(hit: Hit) -> HitAnswer:
    """One hit."""
    return HitAnswer(
        item_id=hit.item_id,
        rank=hit.rank,
        score=hit.score,
        modality=hit.modality,
        labels=list(hit.labels),
        scene_class=hit.scene_class,
        sensor=hit.sensor,
        acquired_at=hit.acquired_at,
        bbox=hit.bbox,
        source_uri=hit.source_uri,
        thumbnail=thumbnail_path(hit.item_id) if hit.has_thumbnail else None,
    )


def thumbnail_path(item_id: str) -> str:
    """Where an item's thumbnail is served."""
    return f"/v1/items/{quote(item_id, safe='')}/thumbnail"


def info_answer(engine: Engine) -> InfoAnswer:
    """What is served now."""
    snapshot = engine.snapshot
    embedder, pointer = snapshot.embedder, snapshot.pointer
    bundle = BundleInfo(
        uri=pointer.bundle_uri,
        space_id=embedder.space_id,
        dim=int(embedder.prototypes.shape[1]),
        modalities=list(embedder.modalities),
        labels=list(embedder.labels),
        figures=bundle_figures(embedder.metrics),
    )
    gallery = GalleryInfo(
        sequence=pointer.sequence,
        version=pointer.table_version,
        published_at=pointer.published_at,
        num_items=dict(snapshot.num_items),
        index_kind=pointer.index.kind,
        recall_at_10=pointer.recall_at_10,
        recall_by_case=dict(pointer.tuning.recall_by_case) if pointer.tuning else {},
    )
    return InfoAnswer(
        service_version=service_version(),
        bundle=bundle,
        gallery=gallery,
        image_formats=list(IMAGE_KINDS),
        audio_formats=list(AUDIO_KINDS),
        limits={name: float(value) for name, value in engine.limits.model_dump().items()},
        second_ear=snapshot.listener.name if snapshot.listener else None,
    )


def bundle_figures(metrics: Mapping[str, JsonValue]) -> dict[str, dict[str, float]]:
    """The figures of each split that a bundle's metrics.json tells of, without what is no number.

    >>> bundle_figures({"validation": {"speech_to_rgb_map": 0.9, "of": "voices"}, "num_steps": 168})
    {'validation': {'speech_to_rgb_map': 0.9}}
    """
    found = {}
    for split in _JUDGED_SPLITS:
        told = metrics.get(split)
        if isinstance(told, Mapping):
            numbers = {name: value for name, value in told.items() if isinstance(value, int | float)}
            found[split] = {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
    return found


def service_version() -> str:
    """The installed version, `unknown` in a bare checkout."""
    try:
        return metadata.version("cmir")
    except metadata.PackageNotFoundError:
        return "unknown"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def item_answer(item: GalleryItem, space_id: str, *, has_thumbnail: bool) -> ItemAnswer:
    """All metadata of one item; geometry as GeoJSON, attributes as the object they are."""
    return ItemAnswer(
        item_id=item.item_id,
        modality=item.modality,
        split=item.split,
        labels=list(item.labels),
        scene_class=item.scene_class,
        sensor=item.sensor,
        bands=list(item.bands),
        wavelength_nm=list(item.wavelength_nm),
        gsd_m=item.gsd_m,
        sample_rate_hz=item.sample_rate_hz,
        pair_id=item.pair_id,
        scene_id=item.scene_id,
        acquired_at=item.acquired_at,
        cloud_cover=item.cloud_cover,
        crs=item.crs,
        bbox=item.bbox,
        geometry=None if item.geometry is None else shapely.geometry.mapping(shapely.from_wkb(item.geometry)),
        source_uri=item.source_uri,
        window=None if item.window is None else list(item.window),
        attributes=None if item.attributes is None else json.loads(item.attributes),
        thumbnail=thumbnail_path(item.item_id) if has_thumbnail else None,
        space_id=space_id,
    )
