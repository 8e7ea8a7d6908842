"""Questions to a running service, from Python: bytes or vectors in, typed hits out.

An answer 429 or 503 is asked again after the time the service names; every other error is raised at once as the
CmirError whose kind fits, with the text of the service's problem document. Retrying is safe: no question changes
anything. The types here are the client's own, so that asking needs neither a gallery nor a network on this machine.
"""

import base64
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote

import httpx

from cmir.archive.schema import Modality
from cmir.errors import CmirError, ConfigError, DataError, GalleryError, QueryError, SpaceMismatchError

Json: TypeAlias = Mapping[str, Any]
BBox: TypeAlias = tuple[float, float, float, float]
_RETRIED: Final = (429, 503)
_FIRST_WAIT_S: Final = 0.25
_LONGEST_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ClientHit:
    """One item found: `score` is a cosine, `bbox` (west, south, east, north) degrees, `thumbnail` a path."""

    item_id: str
    rank: int
    score: float
    modality: str
    labels: tuple[str, ...]
    scene_class: str | None
    sensor: str | None
    acquired_at: datetime | None
    bbox: BBox | None
    source_uri: str
    thumbnail: str | None


@dataclass(frozen=True, slots=True)
class ClientHeard:
    """What a recording was taken to name, (label, cosine) nearest first; `message` where no known label was heard.

    `by`: who heard it, the speech tower or the service's second ear ("ear"), of which the `confidence` is.
    """

    labels: tuple[tuple[str, float], ...]
    message: str | None
    by: str = "tower"
    confidence: float | None = None

    @property
    def summary(self) -> str:
        """What was heard with its cosines, as a person reads it."""
        said = ", ".join(f"{label} {score:.2f}" for label, score in self.labels)
        return f"heard: {said}" if self.message is None else f"{self.message} (nearest: {said})"


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits, best first, all of one version of one space; `timings_ms` by stage; `heard`, an entry per recording."""

    hits: tuple[ClientHit, ...]
    space_id: str
    gallery_version: int
    timings_ms: Mapping[str, float]
    request_id: str
    heard: tuple[ClientHeard, ...] = ()

    @property
    def unheard(self) -> ClientHeard | None:
        """The first recording that names no known label, and so leaves no hits; None if each names one."""
        return next((heard for heard in self.heard if heard.message is not None), None)


@dataclass(frozen=True, slots=True)
class Embedding:
    """A unit vector and the space it belongs to."""

    vector: tuple[float, ...]
    space_id: str


def image_part(
    data: bytes,
    *,
    weight: float = 1.0,
    modality: Modality | None = None,
    window: tuple[int, int, int, int] | None = None,
) -> Json:
    """A part of a mixed query: an image file, or the part of it in `window` (column, row, width, height; pixels)."""
    given: Json = {"modality": modality, "window": window and list(window)}
    told = {name: value for name, value in given.items() if value is not None}
    return {"kind": "image", "weight": weight, "data": base64.b64encode(data).decode(), **told}


def speech_part(data: bytes, *, weight: float = 1.0) -> Json:
    """A part of a mixed query: a recording."""
    return {"kind": "speech", "weight": weight, "data": base64.b64encode(data).decode()}


def item_part(item_id: str, *, weight: float = 1.0) -> Json:
    """A part of a mixed query: an item of the gallery."""
    return {"kind": "item", "weight": weight, "item_id": item_id}


def label_part(label: str, *, weight: float = 1.0) -> Json:
    """A part of a mixed query: a word of the bundle."""
    return {"kind": "label", "weight": weight, "label": label}


class Client:
    """A connection to one service; close it, or use it in a `with` block."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        max_attempts: int = 4,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`max_attempts` counts the first one; `timeout_s` is of a single attempt; `transport` replaces the network."""
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s, transport=transport)
        self._max_attempts = max_attempts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def search_image(
        self,
        data: bytes,
        *,
        modality: Modality | None = None,
        sensor: str | None = None,
        gsd_m: float | None = None,
        window: tuple[int, int, int, int] | None = None,
        target: Sequence[Modality] = (),
        k: int = 10,
        filters: Json | None = None,
    ) -> Answer:
        """Hits for an image file (png, jpeg, webp, tiff).

        `modality` is told by its bands unless given; `sensor` is the one it was taken by, as the archive names it,
        `gsd_m` its ground sampling distance in metres, `window` (column, row, width, height) the part of a scene that
        is meant, in pixels.
        """
        part = ",".join(map(str, window)) if window else None
        given = {"modality": modality, "image_sensor": sensor, "image_gsd_m": gsd_m, "window": part}
        told = {name: value for name, value in given.items() if value is not None}
        return self._search_file("/v1/search/image", data, {**told, **_query_string(target, k, filters)})

    def search_speech(
        self, data: bytes, *, target: Sequence[Modality] = (), k: int = 10, filters: Json | None = None
    ) -> Answer:
        """Hits for a recording (wav, flac, ogg, mp3, webm, mp4)."""
        return self._search_file("/v1/search/speech", data, _query_string(target, k, filters))

    def search_embedding(
        self,
        vector: Iterable[float],
        space_id: str,
        *,
        target: Sequence[Modality] = (),
        k: int = 10,
        filters: Json | None = None,
    ) -> Answer:
        """Hits for a vector. Raises SpaceMismatchError where it is not of the published space."""
        body = {"vector": [float(value) for value in vector], "space_id": space_id, **_wish(target, k, filters)}
        return _answer(self._json("POST", "/v1/search/embedding", body=body))

    def search(
        self, parts: Sequence[Json], *, target: Sequence[Modality] = (), k: int = 10, filters: Json | None = None
    ) -> Answer:
        """Hits for weighted parts, made by `image_part`, `speech_part`, `item_part`, `label_part`."""
        return _answer(self._json("POST", "/v1/search", body={"parts": list(parts), **_wish(target, k, filters)}))

    def search_batch(self, queries: Sequence[Json]) -> list[Answer]:
        """Answers to at most 64 bodies as `POST /v1/search` takes them, in their order."""
        return [_answer(one) for one in self._json("POST", "/v1/search/batch", body=list(queries))]

    def embed(self, modality: Modality, data: bytes, *, sensor: str | None = None) -> Embedding:
        """The unit vector of an image or a recording; `sensor` is the one an image was taken by."""
        params = {"image_sensor": sensor} if sensor else {}
        told = self._json("POST", f"/v1/embed/{modality}", content=data, params=params)
        return Embedding(tuple(told["vector"]), told["space_id"])

    def item(self, item_id: str) -> Json:
        """All metadata of an item. Raises QueryError where there is none."""
        found: Json = self._json("GET", f"/v1/items/{quote(item_id, safe='')}")
        return found

    def thumbnail(self, item_id: str) -> bytes:
        """WebP bytes. Raises QueryError where the item has none."""
        return self._ask("GET", f"/v1/items/{quote(item_id, safe='')}/thumbnail").content

    def info(self) -> Json:
        """Bundle, gallery and limits of the service."""
        told: Json = self._json("GET", "/v1/info")
        return told

    def is_ready(self) -> bool:
        """Whether an end-to-end query works just now; asked once."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _search_file(self, path: str, data: bytes, params: Json) -> Answer:
        return _answer(self._json("POST", path, content=data, params=params))

    def _json(
        self, method: str, path: str, *, content: bytes | None = None, body: object = None, params: Json | None = None
    ) -> Any:
        response = self._ask(method, path, content=content, body=body, params=params)
        try:
            return response.json()
        except ValueError as error:
            seen = response.headers.get("content-type")
            raise GalleryError("the service did not answer with JSON", seen=seen, where=str(response.url)) from error

    def _ask(
        self, method: str, path: str, *, content: bytes | None = None, body: object = None, params: Json | None = None
    ) -> httpx.Response:
        headers = {"Content-Type": "application/octet-stream"} if content is not None else {}
        for attempt in range(1, self._max_attempts + 1):
            try:
                response = self._http.request(method, path, content=content, json=body, params=params, headers=headers)
            except httpx.ConnectError as error:
                raise _unreachable(self._http.base_url, error) from error
            except httpx.TransportError as error:
                raise GalleryError("the service did not answer", seen=repr(error), where=path) from error
            if response.status_code not in _RETRIED or attempt == self._max_attempts:
                break
            time.sleep(_wait_s(response, attempt))
        if response.is_success:
            return response
        raise _error_of(response)


def _wish(target: Sequence[Modality], k: int, filters: Json | None) -> dict[str, Any]:
    named = {"target": list(target)} if target else {}
    return {"k": k, **named, **({"filters": dict(filters)} if filters else {})}


def _query_string(target: Sequence[Modality], k: int, filters: Json | None) -> dict[str, Any]:
    named = {"target": ",".join(target)} if target else {}
    return {"k": k, **named, **({"filters": json.dumps(dict(filters))} if filters else {})}


def _answer(told: Json) -> Answer:
    return Answer(
        hits=tuple(_hit(hit) for hit in told["hits"]),
        space_id=told["space_id"],
        gallery_version=told["gallery_version"],
        timings_ms=told["timings_ms"],
        request_id=told["request_id"],
        heard=tuple(_heard(heard) for heard in told.get("heard", ())),
    )


def _heard(told: Json) -> ClientHeard:
    labels = tuple((near["label"], near["score"]) for near in told["labels"])
    return ClientHeard(labels, told["message"], told.get("by", "tower"), told.get("confidence"))


def _hit(told: Json) -> ClientHit:
    acquired_at, bbox = told["acquired_at"], told["bbox"]
    return ClientHit(
        item_id=told["item_id"],
        rank=told["rank"],
        score=told["score"],
        modality=told["modality"],
        labels=tuple(told["labels"]),
        scene_class=told["scene_class"],
        sensor=told["sensor"],
        acquired_at=datetime.fromisoformat(acquired_at) if acquired_at else None,
        bbox=(bbox[0], bbox[1], bbox[2], bbox[3]) if bbox else None,
        source_uri=told["source_uri"],
        thumbnail=told["thumbnail"],
    )


def _wait_s(response: httpx.Response, attempt: int) -> float:
    """What the service asks for in seconds, else twice as long every time."""
    told = response.headers.get("retry-after", "")
    wait_s = float(told) if told.isdecimal() else _FIRST_WAIT_S * 2 ** (attempt - 1)
    return min(wait_s, _LONGEST_WAIT_S)


def _error_of(response: httpx.Response) -> CmirError:
    """The CmirError for a problem document, by its status and title."""
    try:
        told = response.json()
    except ValueError:
        told = {}
    problem = told if isinstance(told, dict) else {}
    title, status = str(problem.get("title", response.reason_phrase)), response.status_code
    what = f"the service refused: {problem.get('detail', title)}"
    where = f"{status} {response.request.method} {response.url.path}, request {problem.get('request_id', 'unknown')}"
    if status in (401, 403):
        return ConfigError(what, where=where, fix="give an API key that the service knows")
    if status in (429, *range(500, 600)):
        return GalleryError(what, where=where, fix="ask again later")
    if title == "Embedding of another space":
        return SpaceMismatchError(what, where=where)
    return DataError(what, where=where) if title == "Media that cannot be used" else QueryError(what, where=where)


def _unreachable(url: httpx.URL, error: httpx.ConnectError) -> GalleryError:
    return GalleryError("the service cannot be reached", seen=str(error), where=str(url), fix="is it running there?")
