"""The app as ASGI: routes, page, and around them one border where every request passes in and every answer out.

The border gives the request its id, checks the key, counts it in (429; routes tell it of several media parts), bounds
its body (413) and its time (504), turns whatever is raised into a problem document, adds the security headers, counts,
times and logs (`http` of the log record, which Ray Serve writes as JSON). Nothing is raised past it.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from opentelemetry.trace import Span
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cmir.errors import CmirError
from serve.engine import Engine
from serve.keys import KeyRing
from serve.limits import Gate, bounded_receive
from serve.openapi import document
from serve.problems import ProblemError, from_cmir_error, from_validation_error, problem_response
from serve.routes import operations, router
from serve.tracing import end_request, request_span, tracer

_WEB: Final = Path(__file__).parent / "web"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_API_PREFIX: Final = "/v1/"
_CORS_HEADERS: Final = ("Authorization", "Content-Type", "X-Request-Id")
_METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")
_CLIENT_HAS_GONE: Final = 499  # as proxies log it; never sent
_SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_log = logging.getLogger("cmir.serve")


def create_app(engine: Engine, *, keys: KeyRing | None = None, cors_origins: Sequence[str] = ()) -> FastAPI:
    """The whole HTTP app over an engine, with or without Ray; it starts and stops the engine with itself.

    Raises ConfigError where traces are wanted and cannot be sent.
    """
    tracer()  # refuses now, not at the first request

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        yield
        await engine.stop()

    app = FastAPI(
        title="cmir",
        version="1",
        description="Search earth-observation archives across sensors and by voice.",
        lifespan=lifespan,
        strict_content_type=False,  # a body without a type is read as JSON; another type is 415, see routes.py
        docs_url=None,  # its page takes scripts from elsewhere; ours stands in web/
        redoc_url=None,
    )
    app.state.engine = engine
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    app.include_router(router)
    app.include_router(operations)
    _add_pages(app)
    _add_problems(app)
    app.add_middleware(Border, engine=engine, keys=keys)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=_CORS_HEADERS,
        )
    return app


class Border:
    """ASGI middleware; see the module."""

    def __init__(self, app: ASGIApp, *, engine: Engine, keys: KeyRing | None) -> None:
        self._app, self._engine, self._keys = app, engine, keys
        self._gate = Gate(max_in_flight=engine.limits.max_in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        scope["state"] = {
            **scope.get("state", {}),
            "request_id": exchange.request_id,
            "started_at": exchange.started_at,
        }
        self._engine.metrics.in_flight.inc()
        with request_span(scope["method"], scope["path"], Headers(scope=scope)) as span:
            try:
                await self._pass(scope, receive, exchange)
            finally:
                self._engine.metrics.in_flight.dec()
                self._record(scope, exchange, span)

    async def _pass(self, scope: Scope, receive: Receive, exchange: "_Exchange") -> None:
        limits = self._engine.limits
        try:
            async with asyncio.timeout(limits.deadline_s) as deadline:
                await self._admit(scope, receive, exchange)
        except HTTPException as error:
            await exchange.fail(error)
        except ClientDisconnect:
            exchange.status = _CLIENT_HAS_GONE
        except Exception as error:  # the outermost border of the service: nothing may pass, and nothing is told
            if isinstance(error, TimeoutError) and deadline.expired():
                await exchange.fail(ProblemError(504, "deadline"))
                return
            _log.exception("request %s failed", exchange.request_id)
            await exchange.fail(ProblemError(500, "failure"))

    async def _admit(self, scope: Scope, receive: Receive, exchange: "_Exchange") -> None:
        if not scope["path"].removeprefix(scope.get("root_path", "")).startswith(_API_PREFIX):
            await self._app(scope, receive, exchange.send)
            return
        headers = Headers(scope=scope)
        authorization = headers.get("authorization")
        if self._keys is not None:
            exchange.key_name = self._keys.admit(authorization)

        def charge(num_media: int) -> None:
            passage.widen(num_media)
            if self._keys is not None and num_media > 1:
                self._keys.charge(authorization, num_media - 1)

        with self._gate.passage() as passage:
            scope["state"]["charge"] = charge
            bounded = bounded_receive(
                receive,
                declared_bytes=headers.get("content-length"),
                max_body_bytes=self._engine.limits.max_body_bytes,
            )
            await self._app(scope, bounded, exchange.send)

    def _record(self, scope: Scope, exchange: "_Exchange", span: Span) -> None:
        seconds = time.perf_counter() - exchange.started_at
        route = getattr(scope.get("route"), "path", "other")
        metrics = self._engine.metrics
        method = scope["method"] if scope["method"] in _METHODS else "other"
        metrics.requests.labels(method, route, exchange.status).inc()
        metrics.request_s.labels(route).observe(seconds)
        end_request(
            span,
            method=method,
            route=route,
            status=exchange.status,
            request_id=exchange.request_id,
            key_name=exchange.key_name,
        )
        line = {
            "method": scope["method"],
            "path": scope["path"],
            "status": exchange.status,
            "ms": round(seconds * 1000, 2),
            "request_id": exchange.request_id,
            "key": exchange.key_name,
        }
        _log.info("%s %s %s", line["method"], line["path"], line["status"], extra={"http": line})


class _Exchange:
    """One request's answer on its way out."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.started_at = time.perf_counter()
        self.status = 0
        self.key_name: str | None = None
        self._scope, self._send = scope, send

    async def send(self, message: Message) -> None:
        """Pass a message on, its headers completed."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def fail(self, error: HTTPException) -> None:
        """Answer with a problem, where no answer has begun."""
        if self.status == 0:
            response = problem_response(error, request_id=self.request_id, instance=self._scope["path"])
            await response(self._scope, _no_more, self.send)


async def _no_more() -> Message:
    return {"type": "http.disconnect"}


def _add_problems(app: FastAPI) -> None:
    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code >= 500:
            _log.error("request %s: %s", request.state.request_id, error.detail, exc_info=error)
        return problem_response(error, request_id=request.state.request_id, instance=request.url.path)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await on_http(request, from_validation_error(error))

    async def on_cmir(request: Request, error: Exception) -> Response:
        assert isinstance(error, CmirError)
        return await on_http(request, from_cmir_error(error))

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(CmirError, on_cmir)


def _add_pages(app: FastAPI) -> None:
    async def page() -> FileResponse:
        return FileResponse(_WEB / "index.html")

    async def docs() -> FileResponse:
        return FileResponse(_WEB / "docs.html")

    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    app.mount("/web", StaticFiles(directory=_WEB), name="web")
