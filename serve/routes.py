"""Every route of the service: a request becomes a `Query`, the engine answers it, the answer gets its schema.

Media come as the body or as the multipart part `file`; everything else of such a request stands in its query string.
Whatever is raised here becomes a problem document in asgi.py.
"""

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import UploadFile
from starlette.responses import Response

from cmir.errors import QueryError
from serve import query as queries
from serve.answers import info_answer, item_answer, search_answer
from serve.engine import Engine, Found
from serve.limits import MAX_BATCH_QUERIES
from serve.media import ImageBytes, SpeechBytes
from serve.parameters import ImageParameters, ImageSearchParameters, SearchParameters
from serve.problems import PROBLEM_RESPONSES, ProblemError, unsupported_media
from serve.schemas import (
    EmbedAnswer,
    EmbeddingRequest,
    HealthAnswer,
    InfoAnswer,
    ItemAnswer,
    SearchAnswer,
    SearchRequest,
    to_geojson,
)

GEOJSON_MEDIA_TYPE: Final = "application/geo+json"
_BINARY: Final = {"type": "string", "format": "binary"}
_FILE_FORM: Final = {"type": "object", "required": ["file"], "properties": {"file": _BINARY}}
_FILE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": _BINARY}, "multipart/form-data": {"schema": _FILE_FORM}},
    }
}
_GEOJSON_TOO: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {GEOJSON_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/FeatureCollection"}}}}
}
_WEBP: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"image/webp": {"schema": _BINARY}}}}
_METRICS: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

router = APIRouter(prefix="/v1", responses=PROBLEM_RESPONSES)
operations = APIRouter(responses={503: PROBLEM_RESPONSES[503]})


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def _file(request: Request) -> bytes:
    """The bytes of the query, from the body or from the multipart part `file`. Raises ProblemError 400."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await request.body()
    async with request.form(max_files=1, max_fields=8) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile) or len(form) != 1:
            seen = ", ".join(form.keys()) or "nothing"
            raise ProblemError(400, f"a form must hold one file named 'file', seen: {seen}; options go in the query")
        return await file.read()


async def _json_only(request: Request) -> None:
    """Raises ProblemError 415 where the body says it is something else than JSON."""
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise unsupported_media(kind, "application/json")


JSON_ONLY: Final = Depends(_json_only)
Asked = Annotated[Engine, Depends(_engine)]
File = Annotated[bytes, Depends(_file)]
ItemPath = Annotated[str, Path(min_length=1, max_length=256)]


@router.post("/search/image", response_model=SearchAnswer, responses=_GEOJSON_TOO, openapi_extra=_FILE_BODY)
async def search_image(
    request: Request, engine: Asked, parameters: Annotated[ImageSearchParameters, Query()], file: File
) -> Response:
    """Search by an image: png, jpeg, webp, tiff or GeoTIFF of any depth."""
    return await _search_one(request, engine, ImageBytes(file, parameters.image_hints()), parameters)


@router.post("/search/speech", response_model=SearchAnswer, responses=_GEOJSON_TOO, openapi_extra=_FILE_BODY)
async def search_speech(
    request: Request, engine: Asked, parameters: Annotated[SearchParameters, Query()], file: File
) -> Response:
    """Search by voice: wav, flac, ogg, mp3, or what a browser records (webm/opus, mp4/aac)."""
    return await _search_one(request, engine, SpeechBytes(file), parameters)


@router.post("/search/embedding", response_model=SearchAnswer, responses=_GEOJSON_TOO, dependencies=[JSON_ONLY])
async def search_embedding(request: Request, engine: Asked, body: EmbeddingRequest) -> Response:
    """Search by a vector of the published space."""
    return await _searched(request, engine, queries.from_embedding(body))


@router.post("/search/batch", dependencies=[JSON_ONLY])
async def search_batch(
    request: Request,
    engine: Asked,
    body: Annotated[list[SearchRequest], Body(min_length=1, max_length=MAX_BATCH_QUERIES)],
) -> list[SearchAnswer]:
    """Many queries at once, answered in the same order; one that cannot be answered fails them all."""
    found = await _found(request, engine, [queries.from_request(one) for one in body])
    return [search_answer(one, request) for one in found]


@router.post("/search", response_model=SearchAnswer, responses=_GEOJSON_TOO, dependencies=[JSON_ONLY])
async def search(request: Request, engine: Asked, body: SearchRequest) -> Response:
    """Search by weighted parts: images, recordings, items of the gallery, labels; negative weights push away."""
    return await _searched(request, engine, queries.from_request(body))


@router.post("/embed/{modality}", openapi_extra=_FILE_BODY)
async def embed(
    engine: Asked,
    modality: Literal["pan", "ms", "rgb", "speech"],
    parameters: Annotated[ImageParameters, Query()],
    file: File,
) -> EmbedAnswer:
    """The unit vector of an image or a recording."""
    source = SpeechBytes(file) if modality == "speech" else ImageBytes(file, parameters.hints(modality))
    vector, space_id = await engine.embed(source)
    return EmbedAnswer(vector=vector.tolist(), space_id=space_id)


@router.get("/items/{item_id}")
async def item(engine: Asked, item_id: ItemPath) -> ItemAnswer:
    """What the gallery knows of an item."""
    try:
        found, has_thumbnail, space_id = await engine.item(item_id)
    except QueryError as error:
        raise ProblemError(404, str(error)) from error
    return item_answer(found, space_id, has_thumbnail=has_thumbnail)


@router.get("/items/{item_id}/thumbnail", response_class=Response, responses=_WEBP)
async def thumbnail(engine: Asked, item_id: ItemPath) -> Response:
    """A small WebP preview of an item."""
    try:
        webp = await engine.thumbnail(item_id)
    except QueryError as error:
        raise ProblemError(404, str(error)) from error
    if webp is None:
        raise ProblemError(404, "no thumbnail of this item")
    return Response(webp, media_type="image/webp", headers={"Cache-Control": "private, max-age=3600"})


@router.get("/info")
async def info(engine: Asked) -> InfoAnswer:
    """The bundle, the published gallery, and the limits of the service."""
    return info_answer(engine)


@operations.get("/healthz", tags=["operations"])
async def healthz() -> HealthAnswer:
    """Alive."""
    return HealthAnswer(status="alive")


@operations.get("/readyz", tags=["operations"])
async def readyz(engine: Asked) -> HealthAnswer:
    """Ready: a query has just gone through decoding, the encoder and the gallery."""
    pointer = (await engine.check_ready()).pointer
    return HealthAnswer(status="ready", space_id=pointer.space_id, gallery_version=pointer.table_version)


@operations.get("/metrics", tags=["operations"], response_class=Response, responses=_METRICS)
async def metrics(engine: Asked) -> Response:
    """Counters and times of this replica, for Prometheus."""
    return Response(engine.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _search_one(
    request: Request, engine: Engine, source: queries.Source, parameters: SearchParameters
) -> Response:
    query = queries.single(source, targets=parameters.targets(), k=parameters.k, filters=parameters.wanted_filters())
    return await _searched(request, engine, query)


async def _found(request: Request, engine: Engine, asked: list[queries.Query]) -> list[Found]:
    """The answers, after the border has counted every image and recording as a request of its own."""
    num_media = queries.num_media(asked)
    if num_media > engine.limits.max_media_parts:
        what, fix = "too many images and recordings in one request", "ask in several requests"
        raise QueryError(what, seen=num_media, expected=f"at most {engine.limits.max_media_parts}", fix=fix)
    request.state.charge(num_media)
    return await engine.search(asked)


async def _searched(request: Request, engine: Engine, query: queries.Query) -> Response:
    [found] = await _found(request, engine, [query])
    answer = search_answer(found, request)
    if GEOJSON_MEDIA_TYPE in request.headers.get("accept", ""):
        return Response(to_geojson(answer).model_dump_json(exclude_unset=True), media_type=GEOJSON_MEDIA_TYPE)
    return Response(answer.model_dump_json(), media_type="application/json")
