"""The whole service, real network and gallery, under requests made to break it: no 5xx, no leak, still ready."""

import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import httpx
import numpy as np
import psutil
import pytest
import schemathesis.checks
from hypothesis import HealthCheck, settings

from serve.asgi import create_app
from serve.limits import Limits
from serve.opening import build_engine
from tests.hostile import hostile_body, hostile_filters, hostile_headers, mutated, whole_images, whole_sounds
from tests.serve_doubles import pixels, png, running
from tests.serve_real import published

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LIMITS = Limits(max_body_bytes=2**20, max_pixels=2**22, max_audio_s=10, max_decode_s=5, deadline_s=10)
REFUSALS = {400, 413, 415, 422}
SEED = 20_261_126


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    _, gallery_uri = published(tmp_path_factory.mktemp("hostile"))
    engine = build_engine(gallery_uri, device="cpu", limits=LIMITS, decode_processes=2)
    with running(create_app(engine)) as client:
        yield client
        assert client.get("/healthz").status_code == 200


def check_still_well(service: httpx.Client) -> None:
    assert service.get("/readyz").status_code == 200
    answer = service.post("/v1/search/image?target=rgb&k=1", content=png(pixels("rgb", 3)))
    assert [hit["item_id"] for hit in answer.json()["hits"]] == ["rgb-3"]


def resident_bytes() -> int:
    """Of this process, which is service and asker, and of the decoding processes."""
    this = psutil.Process()
    return sum(process.memory_info().rss for process in (this, *this.children(recursive=True)))


def ask_all(asks: list[Callable[[], httpx.Response]]) -> Counter[int]:
    """Eight at a time; statuses by how often. Every answer is timely, and a refusal is a problem that tells why."""
    statuses: Counter[int] = Counter()

    def ask(one: Callable[[], httpx.Response]) -> httpx.Response:
        began = time.monotonic()
        response = one()
        assert time.monotonic() - began < LIMITS.deadline_s + 5
        return response

    with ThreadPoolExecutor(8) as threads:
        for response in threads.map(ask, asks):
            statuses[response.status_code] += 1
            if response.status_code != 200:
                assert response.headers["content-type"] == "application/problem+json", response.text
                assert response.json()["detail"], response.text
    return statuses


def test_five_thousand_mutated_files(service: httpx.Client) -> None:
    random = np.random.default_rng(SEED)
    images, sounds = list(whole_images().values()), list(whole_sounds().values())

    def one(i: int) -> Callable[[], httpx.Response]:
        speech = i % 3 == 0
        data = mutated(sounds + images[:2] if speech else images + sounds[:1], random)
        route = "search/speech" if speech else "search/image"
        window = "" if speech or random.random() < 0.8 else "&window=" + ",".join(map(str, random.integers(0, 64, 4)))
        return partial(service.post, f"/v1/{route}?k=1{window}", content=data)

    for files, route in ((whole_images(), "image"), (whole_sounds(), "speech")):  # read where they are whole
        for name, data in files.items():
            answer = service.post(f"/v1/search/{route}?k=1", content=data)
            assert answer.status_code == 200, (name, answer.text)
    statuses = ask_all([one(i) for i in range(1000)])
    threads, handles, memory = psutil.Process().num_threads(), psutil.Process().num_fds(), resident_bytes()
    statuses += ask_all([one(i) for i in range(1000, 5000)])
    print(dict(statuses))
    assert statuses.keys() <= REFUSALS | {200}, statuses
    assert statuses[200] > 250, "some mutations leave a file readable"
    assert statuses[415] > 250, "some make it another kind"
    assert statuses[422] > 500, "and many are told only by decoding"
    check_still_well(service)
    assert psutil.Process().num_threads() <= threads + 8
    assert psutil.Process().num_fds() <= handles + 32
    assert resident_bytes() - memory < 96 * 2**20


def test_a_thousand_hostile_headers_and_filters(service: httpx.Client) -> None:
    random = np.random.default_rng(SEED)
    picture = png(pixels("rgb", 1))

    def one(i: int) -> Callable[[], httpx.Response]:
        if i % 3 == 0:
            return partial(service.post, "/v1/search", content=hostile_body(random))
        if i % 3 == 1:
            flat = {name: str(value)[:8000] for name, value in hostile_filters(random).items()}
            query = urlencode(flat, errors="replace")
            return partial(service.post, f"/v1/search/image?{query}", content=picture)
        return partial(service.post, "/v1/search/image?k=2", content=picture, headers=list(hostile_headers(random)))

    statuses = ask_all([one(i) for i in range(1000)])
    print(dict(statuses))
    assert statuses.keys() <= REFUSALS | {200}, statuses
    assert statuses[200] > 100
    assert statuses[422] > 300
    check_still_well(service)


_BODY = b"\r\n\r\n" + png(pixels("rgb", 1))
RAW = {
    "nothing": b"",
    "half a request line": b"POST /v1/sea",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "an unknown version": b"GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "a header without a colon": b"GET /healthz HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "a zero in a header": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: \x00\r\n\r\n",
    "folded headers": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
    "a header of 1 MiB": b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 2**20 + b"\r\n\r\n",
    "ten thousand headers": b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n",
    "a path of 1 MiB": b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path upwards": b"GET /../../../etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "a path upwards, escaped": b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "bytes in a path": b"GET /v1/items/%00%ff%fe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "a proxy's request": b"GET http://evil.example/v1/info HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "a tunnel": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a negative length": b"POST /v1/search/image HTTP/1.1\r\nHost: a\r\nContent-Length: -1" + _BODY,
    "two lengths": b"POST /v1/search/image HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 9" + _BODY,
    "a length of 400 digits": b"POST /v1/search/image HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 400 + _BODY,
    "length and chunks": b"POST /v1/search/image HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked"
    + _BODY,
    "chunks that are none": b"POST /v1/search/image HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked" + _BODY,
    "an endless chunk": b"POST /v1/search/image HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffff\r\n"
    + bytes(2**21),
    "less than its length": b"POST /v1/search/image HTTP/1.1\r\nHost: a\r\nContent-Length: 9000" + _BODY,
}


@pytest.mark.parametrize("name", RAW)
def test_raw_bytes_on_the_port(service: httpx.Client, name: str) -> None:
    port = service.base_url.port
    assert port is not None
    with socket.create_connection(("127.0.0.1", port), timeout=LIMITS.deadline_s + 10) as wire:
        answer = b""
        try:
            wire.sendall(RAW[name])
            if name != "less than its length":  # where the asker waits for an answer, and gets one by the deadline
                wire.shutdown(socket.SHUT_WR)
            while block := wire.recv(65_536):
                answer += block
                if b"504" in answer[:16]:
                    break
        except (ConnectionResetError, BrokenPipeError):
            pass
    status = int(answer.split()[1]) if answer else 0
    assert status < 500 or (status, name) == (504, "less than its length"), answer[:500]
    assert b"root:" not in answer
    assert b"Traceback" not in answer
    check_still_well(service)


_DOCUMENT = schemathesis.openapi.from_path(Path(__file__).parent.parent / "golden" / "openapi.json")


@_DOCUMENT.parametrize()
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_all_that_the_openapi_document_allows_and_forbids(case: schemathesis.Case, service: httpx.Client) -> None:
    response = case.call(base_url=str(service.base_url), timeout=LIMITS.deadline_s + 5)
    if response.status_code == 400 and "x-request-id" not in response.headers:
        return  # the parameters together are longer than the HTTP server takes, which refuses by itself
    # a schema cannot say which bytes are an image, so a request that fits it may be refused
    case.validate_response(response, excluded_checks=[schemathesis.checks.positive_data_acceptance])
