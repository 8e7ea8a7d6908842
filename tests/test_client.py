"""The Python client against the real app, and against a service that is busy, broken or gone."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from cmir import client as client_module
from cmir.client import Client, image_part, item_part, label_part, speech_part
from cmir.errors import ConfigError, DataError, GalleryError, QueryError, SpaceMismatchError
from serve.asgi import create_app
from serve.keys import KeyRing, new_key
from tests.serve_doubles import SPACE, WEBP, FakeGallery, pixels, png, running, tone, vector_of, wav


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with running(create_app(FakeGallery().engine())) as http, Client(str(http.base_url)) as asked:
        yield asked


def test_an_image_query_gives_typed_hits(client: Client) -> None:
    answer = client.search_image(png(pixels("rgb", 1)), target=["rgb"], k=2, filters={"labels": ["pavement"]})
    first = answer.hits[0]
    assert (first.item_id, first.rank, first.labels) == ("rgb-1", 1, ("pavement",))
    assert first.acquired_at == datetime(2020, 1, 2, tzinfo=UTC)
    assert first.bbox == (11.0, 50.0, 11.5, 50.5)
    assert answer.space_id == SPACE
    assert answer.timings_ms["total"] > 0
    assert len(answer.hits) == 2


def test_speech_vectors_parts_and_batches(client: Client) -> None:
    assert client.search_speech(wav(tone(2)), target=("speech",)).hits[0].item_id == "speech-2"
    embedding = client.embed("rgb", png(pixels("rgb", 3)))
    np.testing.assert_allclose(embedding.vector, vector_of(pixels("rgb", 3).tobytes()), atol=1e-6)
    assert client.search_embedding(embedding.vector, embedding.space_id, k=1).hits[0].item_id == "rgb-3"
    parts = [image_part(png(pixels("rgb", 3)), modality="rgb"), label_part("water", weight=0.1)]
    mixed = client.search([*parts, item_part("ms-1", weight=-0.1), speech_part(wav(tone(1)), weight=0.01)], k=1)
    assert mixed.hits[0].item_id == "rgb-3"
    first, second = client.search_batch([{"parts": [item_part(name)], "k": 1} for name in ("pan-0", "pan-1")])
    assert (first.hits[0].item_id, second.hits[0].item_id) == ("pan-0", "pan-1")


def test_items_info_readiness(client: Client) -> None:
    assert client.item("rgb-0")["labels"] == ["airplane"]
    assert client.thumbnail("rgb-0") == WEBP
    assert client.info()["bundle"]["space_id"] == SPACE
    assert client.is_ready()


def test_refusals_keep_their_kind_and_their_words(client: Client) -> None:
    with pytest.raises(QueryError, match="no such label: seen 'sea'"):
        client.search([label_part("sea")])
    with pytest.raises(DataError, match="cut short"):
        client.search_speech(wav(tone(0))[:500])
    with pytest.raises(SpaceMismatchError, match=f"seen s1, expected {SPACE}"):
        client.search_embedding([1.0], "s1")
    with pytest.raises(QueryError, match="no such item"):
        client.item("none")
    with pytest.raises(QueryError, match="cannot read bytes"):
        client.search_image(b"GIF89a")


def test_a_key_is_sent_and_a_missing_one_is_said(tmp_path: Path) -> None:
    key, line = new_key("alice")
    (tmp_path / "keys").write_text(line)
    with running(create_app(FakeGallery().engine(), keys=KeyRing(tmp_path / "keys"))) as http:
        with Client(str(http.base_url), api_key=key) as known:
            assert known.info()["bundle"]["space_id"] == SPACE
        with Client(str(http.base_url)) as unknown, pytest.raises(ConfigError, match="API key"):
            unknown.info()


def scripted(*answers: tuple[int, dict[str, str]]) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A service that answers as told, and what it was asked."""
    waiting, asked = list(answers), list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        status, headers = waiting.pop(0)
        return httpx.Response(status, headers=headers, json={"title": "t", "detail": "busy", "request_id": "r"})

    return httpx.MockTransport(answer), asked


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    # a clock of the client's own: threads that other tests have left behind sleep by the real one
    monkeypatch.setattr(client_module, "time", SimpleNamespace(sleep=waits.append))
    return waits


def test_a_busy_service_is_asked_again_when_it_says(slept: list[float]) -> None:
    transport, asked = scripted((429, {"Retry-After": "3"}), (503, {}), (503, {"Retry-After": "999"}), (200, {}))
    assert Client("http://service", transport=transport).info()["detail"] == "busy"
    assert len(asked) == 4
    assert slept == [3.0, 0.5, 10.0]


def test_a_service_that_stays_busy_is_given_up(slept: list[float]) -> None:
    transport, asked = scripted((429, {}), (429, {}))
    with pytest.raises(GalleryError, match=r"busy.*429 GET /v1/info, request r"):
        Client("http://service", transport=transport, max_attempts=2).info()
    assert (len(asked), len(slept)) == (2, 1)


@pytest.mark.parametrize("status", [400, 404, 500, 504])
def test_other_errors_are_not_asked_again(slept: list[float], status: int) -> None:
    transport, asked = scripted((status, {}))
    with pytest.raises(GalleryError if status >= 500 else QueryError, match="busy"):
        Client("http://service", transport=transport).info()
    assert (len(asked), slept) == (1, [])


def failing(error: Callable[[httpx.Request], Exception]) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error(request)

    return httpx.MockTransport(answer)


def test_a_service_that_is_not_there_is_named() -> None:
    gone = Client("http://service", transport=failing(lambda request: httpx.ConnectError("refused", request=request)))
    with pytest.raises(GalleryError, match=r"cannot be reached: seen refused \(http://service"):
        gone.info()
    assert not gone.is_ready()
    silent = Client("http://service", transport=failing(lambda request: httpx.ReadTimeout("late", request=request)))
    with pytest.raises(GalleryError, match="did not answer"):
        silent.info()
    page = httpx.MockTransport(
        lambda request: httpx.Response(200, text="<html>", headers={"Content-Type": "text/html"})
    )
    with pytest.raises(GalleryError, match="did not answer with JSON: seen text/html"):
        Client("http://service", transport=page).info()
