"""Every route over HTTP, a fake embedder and searcher behind it: answers, refusals, everyone's own wishes kept."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from cmir.gallery.publish import Tuning
from serve.asgi import create_app
from tests.serve_doubles import (
    DIM,
    LABELS,
    SPACE,
    WEBP,
    FakeGallery,
    gallery_rows,
    pixels,
    png,
    running,
    tone,
    vector_of,
    wav,
)

WATER = {"kind": "label", "label": "water"}


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with running(create_app(FakeGallery().engine())) as client:
        yield client


def image_part(seed: int, **changed: Any) -> dict[str, Any]:
    return {"kind": "image", "data": base64.b64encode(png(pixels("rgb", seed))).decode(), **changed}


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [hit["item_id"] for hit in response.json()["hits"]]


def refused(response: httpx.Response, status: int) -> str:
    """The detail of a problem document, after checks that hold for all of them."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["instance"] == response.request.url.path
    assert problem["request_id"] == response.headers["x-request-id"]
    return str(problem["detail"])


def test_an_image_as_body_and_as_form_finds_the_same(http: httpx.Client) -> None:
    data = png(pixels("rgb", 2))
    by_body = http.post("/v1/search/image?target=rgb,pan&k=4", content=data)
    by_form = http.post("/v1/search/image?target=rgb&target=pan&k=4", files={"file": ("a.png", data)})
    assert ids(by_body) == ids(by_form)
    assert len(ids(by_body)) == 4
    first = by_body.json()["hits"][0]
    assert first == {
        "item_id": "rgb-2",
        "rank": 1,
        "score": pytest.approx(1.0),
        "modality": "rgb",
        "labels": ["water"],
        "scene_class": None,
        "sensor": "NAIP",
        "acquired_at": "2020-01-03T00:00:00Z",
        "bbox": [12.0, 50.0, 12.5, 50.5],
        "source_uri": "s3://archive/rgb-2.tif",
        "thumbnail": "/v1/items/rgb-2/thumbnail",
    }
    assert {hit["modality"] for hit in by_body.json()["hits"]} <= {"rgb", "pan"}


def test_a_window_asks_by_the_part_alone(http: httpx.Client) -> None:
    scene = np.concatenate([pixels("rgb", 1), pixels("rgb", 0)], axis=2)
    width, height = pixels("rgb", 0).shape[2], scene.shape[1]
    window = [width, 0, width, height]
    by_parameter = http.post(f"/v1/search/image?window={','.join(map(str, window))}", content=png(scene))
    part = {"kind": "image", "data": base64.b64encode(png(scene)).decode(), "window": window}
    by_part = http.post("/v1/search", json={"parts": [part]})
    assert ids(by_parameter) == ids(by_part) == ids(http.post("/v1/search/image", content=png(pixels("rgb", 0))))
    for bad in ("0,0,8", "a,0,8,8", "-1,0,8,8", f"{width},0,{width + 1},8"):
        assert "window" in refused(http.post(f"/v1/search/image?window={bad}", content=png(scene)), 422)


def test_every_answer_names_its_space_its_times_and_its_request(http: httpx.Client) -> None:
    response = http.post("/v1/search/image", content=png(pixels("rgb", 2)), headers={"X-Request-Id": "mine-1"})
    answer = response.json()
    assert (answer["space_id"], answer["gallery_version"], answer["request_id"]) == (SPACE, 11, "mine-1")
    assert response.headers["x-request-id"] == "mine-1"
    times = answer["timings_ms"]
    assert set(times) == {"decode", "queue", "encode", "search", "total"}
    assert times["total"] >= times["decode"] + times["queue"] + times["encode"] + times["search"] - 0.01
    hostile = http.post("/v1/search/image", content=b"", headers={"X-Request-Id": "a b<script>"})
    assert hostile.json()["request_id"] != "a b<script>"


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_speech_finds_its_own(http: httpx.Client, kind: str) -> None:
    response = http.post("/v1/search/speech?target=speech&k=2", content=wav(tone(3), kind))
    assert ids(response)[0] == "speech-3"
    assert response.json()["hits"][0]["bbox"] is None
    assert response.json()["hits"][0]["thumbnail"] is None


def test_embed_and_search_by_the_vector_is_the_same_as_by_the_image(http: httpx.Client) -> None:
    embedded = http.post("/v1/embed/pan", content=png(pixels("pan", 1))).json()
    np.testing.assert_allclose(embedded["vector"], vector_of(pixels("pan", 1).tobytes()), atol=1e-6)
    by_image = ids(http.post("/v1/search/image?k=7", content=png(pixels("pan", 1))))
    for length in (2, 1e300, 1e-300):
        vector = [length * value for value in embedded["vector"]]
        by_vector = http.post("/v1/search/embedding", json={"vector": vector, "space_id": embedded["space_id"], "k": 7})
        assert ids(by_vector) == by_image


def test_mixed_parts_of_every_kind(http: httpx.Client) -> None:
    speech = {"kind": "speech", "data": base64.b64encode(wav(tone(1))).decode()}
    item = {"kind": "item", "item_id": "ms-4", "weight": -1}
    response = http.post("/v1/search", json={"parts": [image_part(0), speech, item, WATER], "k": 24})
    query = vector_of(pixels("rgb", 0).tobytes()) + vector_of(tone(1).tobytes())
    query = query - gallery_rows()["ms-4"][1] + np.eye(DIM)[LABELS.index("water")]
    rows = gallery_rows()
    assert ids(response) == sorted(rows, key=lambda name: -float(rows[name][1] @ query))


def test_a_batch_keeps_order_and_every_wish(http: httpx.Client) -> None:
    bodies: list[dict[str, Any]] = [
        {"parts": [image_part(i % 6)], "k": 1 + i % 5, "target": ["rgb", "pan"][i % 2]} for i in range(12)
    ]
    bodies[3]["filters"] = {"labels": ["water"]}
    answers = http.post("/v1/search/batch", json=bodies).json()
    for body, answer in zip(bodies, answers, strict=True):
        assert [hit["item_id"] for hit in answer["hits"]] == ids(http.post("/v1/search", json=body))
        assert len(answer["hits"]) == min(body["k"], 2 if "filters" in body else 6)


def test_requests_at_once_keep_their_own_wishes(http: httpx.Client) -> None:
    def ask(i: int) -> tuple[list[str], set[str]]:
        target, label = ("rgb", "ms", "pan")[i % 3], LABELS[i % 2]
        response = http.post(
            f"/v1/search/image?target={target}&k={1 + i % 2}&labels={label}", content=png(pixels("rgb", i % 6))
        )
        hits = response.json()["hits"]
        assert all(hit["modality"] == target and hit["labels"] == [label] for hit in hits)
        return ids(response), {target}

    with ThreadPoolExecutor(16) as many:
        together = list(many.map(ask, range(48)))
    assert together == [ask(i) for i in range(48)]


def test_filters_by_parameter_and_by_json_are_the_same(http: httpx.Client) -> None:
    data = png(pixels("rgb", 1))
    by_parameter = http.post("/v1/search/image?labels=water&k=50", content=data)
    by_json = http.post(
        "/v1/search/image", params={"filters": json.dumps({"labels": ["water"]}), "k": 50}, content=data
    )
    assert ids(by_parameter) == ids(by_json)
    assert all(hit["labels"] == ["water"] for hit in by_parameter.json()["hits"])
    twice = http.post("/v1/search/image", params={"filters": '{"labels": "water"}', "labels": "water"}, content=data)
    assert "given twice" in refused(twice, 422)


def test_hits_as_geojson(http: httpx.Client) -> None:
    response = http.post("/v1/search", json={"parts": [WATER]}, headers={"Accept": "application/geo+json"})
    assert response.headers["content-type"] == "application/geo+json"
    made = response.json()
    assert made["type"] == "FeatureCollection"
    plain = http.post("/v1/search", json={"parts": [WATER]}).json()
    assert [feature["id"] for feature in made["features"]] == [hit["item_id"] for hit in plain["hits"]]


def test_items_and_thumbnails(http: httpx.Client) -> None:
    item = http.get("/v1/items/rgb-0").json()
    assert (item["item_id"], item["labels"], item["gsd_m"], item["attributes"]) == (
        "rgb-0", ["airplane"], 0.5, {"speaker": 3},
    )  # fmt: skip
    assert item["geometry"]["type"] == "Polygon"
    assert item["wavelength_nm"] == [665.0, 560.0, None]
    thumbnail = http.get(item["thumbnail"])
    assert (thumbnail.content, thumbnail.headers["content-type"]) == (WEBP, "image/webp")
    assert http.get("/v1/items/speech-0").json()["thumbnail"] is None
    assert "no thumbnail" in refused(http.get("/v1/items/speech-0/thumbnail"), 404)
    for path in ("/v1/items/none", "/v1/items/none/thumbnail", "/v1/items/..%2f..%2fetc", "/v1/items/%00"):
        refused(http.get(path), 404)


def test_info_health_readiness_metrics(http: httpx.Client) -> None:
    told = http.get("/v1/info").json()
    assert told["bundle"]["labels"] == list(LABELS)
    assert told["gallery"]["num_items"] == {"pan": 6, "ms": 6, "rgb": 6, "speech": 6}
    assert told["gallery"]["recall_at_10"] == 0.995
    assert (told["bundle"]["figures"], told["gallery"]["recall_by_case"]) == ({}, {}), "neither is known"
    assert http.get("/healthz").json()["status"] == "alive"
    assert http.get("/readyz").json() == {"status": "ready", "space_id": SPACE, "gallery_version": 11}
    ids(http.post("/v1/search/image", content=png(pixels("rgb", 1))))
    metrics = http.get("/metrics").text
    assert 'cmir_requests_total{method="POST",route="/v1/search/image",status="200"}' in metrics
    for stage in ("decode", "queue", "encode", "search", "fetch"):
        assert f'cmir_stage_seconds_count{{stage="{stage}"}}' in metrics
    assert "process_resident_memory_bytes" in metrics
    for stage in ("encode", "search"):
        assert f'cmir_queue_items{{stage="{stage}"}} 0.0' in metrics
        assert f'cmir_batch_items_count{{stage="{stage}"}}' in metrics


def test_info_tells_how_good_what_is_served_is() -> None:
    gallery = FakeGallery()
    figures = {"speech_to_rgb_map": 0.93, "rgb_to_speech_map": 0.91}
    gallery.embedders[SPACE].metrics = {"validation": {**figures, "lost": float("nan")}, "num_steps": 9, "test": None}
    recall = {"pan_to_ms": 0.998, "pan_to_ms, 1% of rows": 0.991}
    tuning = Tuning(
        target_recall=0.99,
        num_queries=128,
        latency_ms=1.0,
        latency_filtered_ms=None,
        recall_by_case=recall,
        filters={},
    )
    gallery.published = gallery.published.model_copy(update={"tuning": tuning})
    with running(create_app(gallery.engine())) as http:
        told = http.get("/v1/info").json()
    assert told["bundle"]["figures"] == {"validation": figures}
    assert told["gallery"]["recall_by_case"] == recall


@pytest.mark.parametrize(
    ("path", "content", "status", "text"),
    [
        ("/v1/search/image", b"", 400, "empty"),
        ("/v1/search/image", b"GIF89a", 415, "png, jpeg, webp, tiff"),
        ("/v1/search/image", png(pixels("rgb", 0))[:-40], 422, "cannot be decoded"),
        ("/v1/search/image?modality=ms", png(pixels("pan", 0)), 422, "wrong band count"),
        ("/v1/search/image?modality=sar", png(pixels("pan", 0)), 422, "modality"),
        ("/v1/search/image?target=sar", png(pixels("pan", 0)), 422, "no such modality: seen 'sar'"),
        ("/v1/search/image?k=0", png(pixels("pan", 0)), 422, "query.k"),
        ("/v1/search/image?k=1001", png(pixels("pan", 0)), 422, "query.k"),
        ("/v1/search/image?colour=red", png(pixels("pan", 0)), 422, "query.colour"),
        ("/v1/search/image?bbox=1,2,3", png(pixels("pan", 0)), 422, "filter bbox"),
        ("/v1/search/image?filters=[1]", png(pixels("pan", 0)), 422, "not a JSON object"),
        ("/v1/search/image?filters={", png(pixels("pan", 0)), 422, "not JSON"),
        ("/v1/search/image?filters=" + "[" * 8000, png(pixels("pan", 0)), 422, "not JSON"),
        ("/v1/search/image?polygon={%22type%22:" + "[" * 8000, png(pixels("pan", 0)), 422, "polygon is not JSON"),
        ("/v1/search/image?polygon=" + "GEOMETRYCOLLECTION(" * 400, png(pixels("pan", 0)), 422, "expected a Polygon"),
        ("/v1/search/image?polygon=" + "0" * 9000, png(pixels("pan", 0)), 422, "at most 8192 characters"),
        ("/v1/search/speech", wav(np.zeros(0, np.float32)), 422, "no samples"),
        ("/v1/search/speech", wav(tone(0))[:2000], 422, "cut short"),
        ("/v1/search/speech", b"hello, not a sound", 415, "wav, flac, ogg"),
        ("/v1/embed/sar", png(pixels("pan", 0)), 422, "modality"),
        ("/v1/embed/rgb", png(pixels("pan", 0)), 422, "wrong band count"),
    ],
)
def test_files_that_cannot_be_asked_by(http: httpx.Client, path: str, content: bytes, status: int, text: str) -> None:
    assert text in refused(http.post(path, content=content), status)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b"[]", 422, "body"),
        (b"null", 422, "body"),
        (json.dumps({"parts": [WATER], "k": 1e9}).encode(), 422, "body.k"),
        (json.dumps({"parts": [{**WATER, "label": "sea"}]}).encode(), 422, "no such label: seen 'sea'"),
        (json.dumps({"parts": [{"kind": "item", "item_id": "x"}]}).encode(), 422, "no such item"),
        (json.dumps({"parts": [{"kind": "image", "data": "a$"}]}).encode(), 422, "not base64"),
        (json.dumps({"parts": [{"kind": "image", "data": "AAAA"}]}).encode(), 415, "bytes beginning 00 00 00"),
        (json.dumps({"parts": [WATER, {**WATER, "weight": -1}]}).encode(), 422, "cancel"),
        (json.dumps({"parts": [{**WATER, "weight": 0}]}).encode(), 422, "cancel"),
        (b'{"parts": [{"kind": "label", "label": "\\ud800"}]}', 422, "label"),
        (b'{"parts": [{"kind": "label", "label": "water", "weight": NaN}]}', 422, "weight"),
        (json.dumps({"parts": [WATER], "filters": {"datetime": "soon"}}).encode(), 422, "datetime"),
        (b"[" * 100_000, 400, "parsing the body"),
    ],
)
def test_bodies_that_cannot_be_answered(http: httpx.Client, body: bytes, status: int, text: str) -> None:
    response = http.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
    assert text in refused(response, status)


@pytest.mark.parametrize("num_levels", [100, 800, 900, 950, 990, 1500])  # about 1000 is Python's own limit
def test_no_depth_of_nesting_is_a_failure(http: httpx.Client, num_levels: int) -> None:
    nested = "[" * num_levels + "0" + "]" * num_levels
    polygon = f'{{"type": "Polygon", "coordinates": {nested}}}'
    for filters in (nested, f'{{"bbox": {nested}}}', f'{{"polygon": {polygon}}}', f'{{"x": {nested}}}'):
        body = f'{{"parts": [{json.dumps(WATER)}], "filters": {filters}}}'
        response = http.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
        assert refused(response, 400 if num_levels == 1500 else response.status_code)
        assert response.status_code in (400, 422)
        asked = http.post("/v1/search/image", params={"filters": filters}, content=png(pixels("pan", 0)))
        assert refused(asked, 422)
    vector = f'{{"vector": {nested}, "space_id": "{SPACE}"}}'
    response = http.post("/v1/search/embedding", content=vector, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422), response.text


def test_the_polygons_of_a_request_are_bounded_together(http: httpx.Client) -> None:
    def asked(*polygons: dict[str, object]) -> httpx.Response:
        bodies = [{"parts": [WATER], "filters": {"polygon": polygon}} for polygon in polygons]
        return http.post("/v1/search/batch", json=bodies)

    def fan(num_points: int, east: float = 1.0) -> dict[str, object]:
        bow = [[east * i / num_points, (i / num_points) ** 2] for i in range(num_points - 1)]
        return {"type": "Polygon", "coordinates": [[*bow, bow[0]]]}

    assert asked(*[fan(6000)] * 3).status_code == 200, "one polygon, asked three times"
    told = refused(asked(fan(6000), fan(4000, east=2.0), fan(5)), 422)
    assert "10100 of 3 different polygons" in told
    assert "at most 10000 together" in told


def test_other_refusals(http: httpx.Client) -> None:
    assert "another space" in refused(http.post("/v1/search/embedding", json={"vector": [1.0], "space_id": "s1"}), 422)
    assert "at most 64 items" in refused(http.post("/v1/search/batch", json=[{"parts": [WATER]}] * 65), 422)
    refused(http.post("/v1/search/batch", json=[]), 422)
    refused(http.get("/v1/search"), 405)
    refused(http.get("/v1/nothing"), 404)
    text = http.post("/v1/search", content=b"{}", headers={"Content-Type": "text/plain"})
    assert "expected application/json" in refused(text, 415)
    data = png(pixels("rgb", 0))
    form = http.post("/v1/search/image", files={"file": data, "other": data})
    refused(form, 400)
    misnamed = http.post("/v1/search/image", files={"image": data})
    assert "named 'file'" in refused(misnamed, 400)
    fields = http.post("/v1/search/image", files={"file": data}, data={"k": "3"})
    assert "options go in the query" in refused(fields, 400)
    broken = http.post("/v1/search/image", content=b"--x", headers={"Content-Type": "multipart/form-data"})
    refused(broken, 400)
