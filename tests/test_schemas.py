"""The words on the wire: what is accepted, what is refused, how hits become GeoJSON."""

from datetime import UTC, datetime
from typing import Any

import pytest
import shapely.geometry
from pydantic import ValidationError

from serve.schemas import EmbeddingRequest, HitAnswer, SearchAnswer, SearchRequest, Timings, to_geojson

LABEL = {"kind": "label", "label": "water"}


def hit(item_id: str, bbox: tuple[float, float, float, float] | None) -> HitAnswer:
    return HitAnswer(
        item_id=item_id,
        rank=1,
        score=0.5,
        modality="ms",
        labels=["water"],
        scene_class=None,
        sensor="GF-1-PMS",
        acquired_at=datetime(2020, 5, 1, tzinfo=UTC),
        bbox=bbox,
        source_uri="a.tif",
        thumbnail=None,
    )


def answer(*hits: HitAnswer) -> SearchAnswer:
    timings = Timings(decode=1, queue=2, encode=3, search=4, total=12)
    return SearchAnswer(hits=list(hits), space_id="s1", gallery_version=3, timings_ms=timings, request_id="r")


def test_a_request_has_sensible_defaults() -> None:
    request = SearchRequest.model_validate({"parts": [LABEL]})
    assert (request.k, request.targets(), request.filters, request.parts[0].weight) == (10, (), None, 1.0)


@pytest.mark.parametrize(
    ("target", "expected"), [("ms", ("ms",)), (["ms", "pan", "ms"], ("ms", "pan")), ([], ()), (None, ())]
)
def test_target_is_one_or_several(target: Any, expected: tuple[str, ...]) -> None:
    assert SearchRequest.model_validate({"parts": [LABEL], "target": target}).targets() == expected


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"k": 0}, "k"),
        ({"k": 1001}, "k"),
        ({"k": "many"}, "k"),
        ({"target": "sar"}, "target"),
        ({"colour": "red"}, "colour"),
        ({"parts": []}, "parts"),
        ({"parts": [LABEL] * 33}, "parts"),
        ({"parts": [{"kind": "text", "text": "water"}]}, "parts"),
        ({"parts": [{"kind": "image"}]}, "data"),
        ({"parts": [{**LABEL, "weight": float("nan")}]}, "weight"),
        ({"parts": [{**LABEL, "weight": float("inf")}]}, "weight"),
        ({"parts": [{**LABEL, "url": "http://example.org"}]}, "url"),
        ({"parts": [{"kind": "item", "item_id": ""}]}, "item_id"),
        ({"parts": [{"kind": "item", "item_id": "\udcff"}]}, "item_id"),
        ({"filters": {"country": "FR"}}, "country"),
        ({"filters": {"bbox": [1, 2, 3]}}, "bbox"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        SearchRequest.model_validate({"parts": [LABEL], **changed})


@pytest.mark.parametrize("vector", [[], [float("nan")], [1, "x"], [1e400]])
def test_a_vector_of_other_things_than_numbers_is_refused(vector: list[Any]) -> None:
    with pytest.raises(ValidationError, match="vector"):
        EmbeddingRequest.model_validate({"vector": vector, "space_id": "s1"})


def test_hits_become_features_where_they_lie() -> None:
    made = to_geojson(answer(hit("a", (10.0, 50.0, 10.5, 50.5)), hit("b", None))).model_dump(exclude_unset=True)
    first, second = made["features"]
    assert (made["type"], made["space_id"], made["request_id"]) == ("FeatureCollection", "s1", "r")
    assert shapely.geometry.shape(first["geometry"]).bounds == (10.0, 50.0, 10.5, 50.5)
    assert first["bbox"] == (10.0, 50.0, 10.5, 50.5)
    assert first["properties"]["labels"] == ["water"]
    assert second["geometry"] is None
    assert "bbox" not in second  # RFC 7946: a bbox is an array or absent
