"""The border: keys, limits, deadlines, failures that tell nothing, headers, the page, and the OpenAPI file."""

import base64
import json
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from cmir.network.embedder import Prepared
from serve.asgi import create_app
from serve.keys import KeyRing, new_key
from serve.limits import Limits
from tests.serve_doubles import SPACE, FakeEmbedder, FakeGallery, pixels, png, running, tone, wav

GOLDEN = Path(__file__).parent / "golden" / "openapi.json"
DATA = png(pixels("rgb", 0))


class SlowEmbedder(FakeEmbedder):
    """Waits for `go_on` before it encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on, self.entered = threading.Event(), threading.Event()
        self.go_on.set()

    def core(self, prepared: Sequence[Prepared]) -> torch.Tensor:
        self.entered.set()
        self.go_on.wait(10)
        return super().core(prepared)


def slow_gallery(limits: Limits) -> tuple[FakeGallery, SlowEmbedder]:
    gallery, embedder = FakeGallery(limits=limits), SlowEmbedder()
    gallery.embedders[SPACE] = embedder
    return gallery, embedder


def test_keys_guard_the_interface_and_nothing_else(tmp_path: Path) -> None:
    key, line = new_key("alice")
    (tmp_path / "keys").write_text(line)
    with running(create_app(FakeGallery().engine(), keys=KeyRing(tmp_path / "keys"))) as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            refused = http.post("/v1/search/image", content=DATA, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"].startswith("Bearer")
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.headers["x-request-id"]
        assert http.get("/v1/info").status_code == 401
        for open_path in ("/", "/docs", "/healthz", "/readyz", "/metrics", "/openapi.json", "/web/page.js"):
            assert http.get(open_path).status_code == 200, open_path
        known = {"Authorization": f"Bearer {key}"}
        assert http.post("/v1/search/image", content=DATA, headers=known).status_code == 200
        (tmp_path / "keys").write_text("# nobody\n")
        assert http.post("/v1/search/image", content=DATA, headers=known).status_code == 401


def test_sizes_are_bounded() -> None:
    limits = Limits(max_body_bytes=60_000, max_pixels=500, max_audio_s=1.0)
    with running(create_app(FakeGallery(limits=limits).engine())) as http:
        declared = http.post("/v1/search/image", content=bytes(70_000))
        chunked = http.post("/v1/search/image", content=iter([bytes(30_000)] * 3))
        form = http.post("/v1/search/image", files={"file": bytes(70_000)})
        body = http.post("/v1/search", content=b" " * 70_000, headers={"Content-Type": "application/json"})
        pixels_ = http.post("/v1/search/image", content=png(pixels("rgb", 0, 20)))
        seconds = http.post("/v1/search/speech", content=wav(tone(0, 1.5)))
        for response in (declared, chunked, form, body, pixels_, seconds):
            assert response.status_code == 413, response.text
            assert "at most" in response.json()["detail"]
        assert http.post("/v1/search/speech", content=wav(tone(0, 0.5))).status_code == 200


def test_too_many_at_once_are_told_to_come_back() -> None:
    gallery, embedder = slow_gallery(Limits(max_in_flight=2))
    with running(create_app(gallery.engine())) as http, ThreadPoolExecutor(2) as two:
        assert http.get("/readyz").status_code == 200
        embedder.go_on.clear()
        held = [two.submit(http.post, "/v1/search/image", content=DATA) for _ in range(2)]
        deadline = time.monotonic() + 10
        while "cmir_in_flight_requests 3.0" not in http.get("/metrics").text and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = http.post("/v1/search/image", content=DATA)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert http.get("/healthz").status_code == 200
        embedder.go_on.set()
        assert [call.result().status_code for call in held] == [200, 200]
        assert http.post("/v1/search/image", content=DATA).status_code == 200


def test_a_deadline_ends_a_request_and_frees_its_place() -> None:
    gallery, embedder = slow_gallery(Limits(max_in_flight=1, deadline_s=0.3))
    with running(create_app(gallery.engine())) as http:
        embedder.go_on.clear()
        began = time.monotonic()
        late = http.post("/v1/search/image", content=DATA)
        assert late.status_code == 504
        assert time.monotonic() - began < 5
        assert "deadline" in late.json()["detail"]
        embedder.go_on.set()
        time.sleep(0.05)
        assert http.post("/v1/search/image", content=DATA).status_code == 200


def test_a_failure_tells_nothing_but_its_request(caplog: pytest.LogCaptureFixture) -> None:
    gallery = FakeGallery()
    with running(create_app(gallery.engine())) as http:
        gallery.embedders[SPACE].fails = True
        failed = http.post("/v1/search/image", content=DATA)
        assert failed.status_code == 500
        assert failed.headers["content-type"] == "application/problem+json"
        assert "secret" not in failed.text
        assert "secret: the encoder's own words" in caplog.text
        assert failed.json()["request_id"] in caplog.text
        unready = http.get("/readyz")
        assert unready.status_code == 503
        assert "secret" not in unready.text
        gallery.embedders[SPACE].fails = False
        assert http.post("/v1/search/image", content=DATA).status_code == 200


def test_every_answer_carries_the_security_headers() -> None:
    with running(create_app(FakeGallery().engine(), cors_origins=["https://map.example"])) as http:
        for path in ("/", "/web/style.css", "/v1/info", "/v1/nothing", "/healthz"):
            headers = http.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
        ours = http.get("/v1/info", headers={"Origin": "https://map.example"})
        assert ours.headers["access-control-allow-origin"] == "https://map.example"
        assert (
            "access-control-allow-origin" not in http.get("/v1/info", headers={"Origin": "https://x.example"}).headers
        )


def test_another_origin_may_send_its_key(tmp_path: Path) -> None:
    key, line = new_key("map")
    (tmp_path / "keys").write_text(line)
    origin = {"Origin": "https://map.example"}
    app = create_app(FakeGallery().engine(), keys=KeyRing(tmp_path / "keys"), cors_origins=[origin["Origin"]])
    with running(app) as http:
        wanted = {"Access-Control-Request-Method": "POST"}
        for name in ("authorization", "content-type", "x-request-id"):
            asked = {**origin, **wanted, "Access-Control-Request-Headers": name}
            allowed = http.options("/v1/search", headers=asked)
            assert allowed.status_code == 200, allowed.text
            assert name in allowed.headers["access-control-allow-headers"].lower()
        other = {**origin, **wanted, "Access-Control-Request-Headers": "x-other"}
        assert http.options("/v1/search", headers=other).status_code == 400
        answered = http.get("/v1/info", headers={**origin, "Authorization": f"Bearer {key}"})
        assert (answered.status_code, answered.headers["access-control-allow-origin"]) == (200, origin["Origin"])


def test_the_pages_load_nothing_from_elsewhere() -> None:
    with running(create_app(FakeGallery().engine())) as http:
        for path in ("/", "/docs"):
            page = http.get(path).text
            assert "<style" not in page
            assert not re.search(r"<script(?![^>]*\bsrc=)", page)
            assert not re.search(r"\son\w+=|\sstyle=|javascript:", page)
            for target in re.findall(r'(?:src|href)="([^"#][^"]*)"', page):
                assert not target.startswith(("http", "//", "/")), target  # relative: works below any prefix
                assert http.get(f"/{target.removeprefix('./')}").status_code == 200, target


def test_a_request_leaves_a_record_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="cmir.serve")
    with running(create_app(FakeGallery().engine())) as http:
        http.post("/v1/search/image?k=3", content=DATA, headers={"X-Request-Id": "seen-1", "Authorization": "Bearer x"})
    lines = [record.__dict__["http"] for record in caplog.records if record.name == "cmir.serve"]
    line = json.loads(json.dumps(next(line for line in lines if line["request_id"] == "seen-1")))
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/search/image", 200)
    assert "Bearer" not in caplog.text


IMAGE_PART = {"kind": "image", "data": base64.b64encode(DATA).decode()}
LABEL_PART = {"kind": "label", "label": "water"}


def test_every_media_part_counts_as_a_request() -> None:
    gallery, embedder = slow_gallery(Limits(max_in_flight=3, max_media_parts=4))

    def batch(*num_parts: int) -> httpx.Response:
        return http.post("/v1/search/batch", json=[{"parts": [IMAGE_PART] * number} for number in num_parts])

    with running(create_app(gallery.engine())) as http, ThreadPoolExecutor(1) as askers:
        assert batch(2, 2).status_code == 200, "what is alone gets through"
        too_many = batch(2, 3)
        assert too_many.status_code == 422
        assert "seen 5, expected at most 4" in too_many.text
        embedder.go_on.clear()
        embedder.entered.clear()
        slow = askers.submit(http.post, "/v1/search/image", content=DATA)
        assert embedder.entered.wait(10)
        for refused in (batch(2, 1), http.post("/v1/search", json={"parts": [IMAGE_PART] * 3})):
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert "3 more are too many" in refused.text
        labels = [{"parts": [LABEL_PART]}] * 10
        assert http.post("/v1/search/batch", json=labels).status_code == 200, "labels are no media"
        embedder.go_on.set()
        assert slow.result().status_code == 200
        assert batch(4).status_code == 200, "what was refused has left"


def test_every_media_part_is_taken_of_a_keys_rate(tmp_path: Path) -> None:
    key, line = new_key("alice", "4/min")
    (tmp_path / "keys").write_text(line)
    with running(create_app(FakeGallery().engine(), keys=KeyRing(tmp_path / "keys"))) as http:
        http.headers["Authorization"] = f"Bearer {key}"
        assert http.post("/v1/search", json={"parts": [IMAGE_PART] * 5}).status_code == 200
        refused = http.get("/v1/info")
        assert refused.status_code == 429
        assert 60 < int(refused.headers["retry-after"]) <= 75, "five are owed at four a minute"


def test_the_openapi_document_is_the_committed_one() -> None:
    made = json.dumps(create_app(FakeGallery().engine()).openapi(), indent=1, sort_keys=True) + "\n"
    assert made == GOLDEN.read_text(), "python -m tests.test_asgi writes the file anew; say what changed"


def test_the_openapi_document_holds_together() -> None:
    document = json.loads(GOLDEN.read_text())
    text = json.dumps(document)
    for reference in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert reference in document["components"]["schemas"]
    routes = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert routes == {
        "POST /v1/search/image", "POST /v1/search/speech", "POST /v1/search/embedding", "POST /v1/search",
        "POST /v1/search/batch", "POST /v1/embed/{modality}", "GET /v1/items/{item_id}",
        "GET /v1/items/{item_id}/thumbnail", "GET /v1/info", "GET /healthz", "GET /readyz", "GET /metrics",
    }  # fmt: skip


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(create_app(FakeGallery().engine()).openapi(), indent=1, sort_keys=True) + "\n")
