"""Whatever goes wrong -> one RFC 9457 problem document with a status a client can act on.

The asker's mistakes (4xx) carry the message of the error that was raised; a failure of ours (5xx) carries a fixed
sentence and the request id, never the text of an exception: that goes to the log.
Source of the format: RFC 9457, Problem Details for HTTP APIs.
"""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cmir.errors import CmirError, DataError, QueryError, SpaceMismatchError

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"
_MAX_DETAIL_CHARS: Final = 2000
_SERVER_SENTENCES: Final[Mapping[int, str]] = {
    500: "the service failed on this request; the log tells more under its request id",
    503: "the service is not ready to answer; try again shortly",
    504: "the request was not answered before its deadline; ask for less, or try again when the service is less busy",
}


class ProblemError(HTTPException):
    """An answer that is an error; `title` is the same for every error of the kind, `detail` is of this one."""

    def __init__(
        self, status: int, detail: str, *, title: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status_code=status, detail=detail, headers=headers)
        self.title = title


def problem_response(error: HTTPException, *, request_id: str, instance: str) -> Response:
    """The problem document of `error`; the text of a 5xx is replaced by a fixed sentence."""
    status = error.status_code
    detail = _SERVER_SENTENCES.get(status, _SERVER_SENTENCES[500]) if status >= 500 else str(error.detail)
    title = error.title if isinstance(error, ProblemError) and error.title else HTTPStatus(status).phrase
    body = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail[:_MAX_DETAIL_CHARS],
        "instance": instance,
        "request_id": request_id,
    }
    # ensure_ascii (the default) keeps lone surrogates of a hostile query encodable
    return Response(json.dumps(body), status, headers=dict(error.headers or {}), media_type=PROBLEM_MEDIA_TYPE)


def from_cmir_error(error: CmirError) -> ProblemError:
    """A library error as a problem: what the asker sent is 422, everything else is ours."""
    if isinstance(error, SpaceMismatchError):
        return ProblemError(422, str(error), title="Embedding of another space")
    if isinstance(error, DataError):
        return ProblemError(422, str(error), title="Media that cannot be used")
    if isinstance(error, QueryError):
        return ProblemError(422, str(error), title="Query that cannot be answered")
    return ProblemError(503, str(error))


def from_validation_error(error: RequestValidationError) -> ProblemError:
    """FastAPI's validation errors: 400 where the body is no JSON, else 422 naming up to five fields."""
    problems = error.errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        return ProblemError(400, "the body is not JSON", title="Malformed body")
    named = [f"{'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}" for problem in problems[:5]]
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return ProblemError(422, "; ".join(named) + more, title="Request that does not fit the schema")


def too_large(what: str, *, seen: object, limit: object) -> ProblemError:
    """413: a body, an image or a recording over its limit."""
    return ProblemError(413, f"{what}: seen {seen}, at most {limit}", title="Content over the limit")


def unsupported_media(seen: str, expected: str) -> ProblemError:
    """415: bytes of a kind that is not read here."""
    return ProblemError(415, f"cannot read {seen}; expected {expected}", title="Unsupported media type")


def _described(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": HTTPStatus(status).phrase, "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}}}


_TEXTS: Final = ("type", "title", "detail", "instance", "request_id")
PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "An error (RFC 9457).",
    "required": [*_TEXTS, "status"],
    "properties": {name: {"type": "string"} for name in _TEXTS} | {"status": {"type": "integer"}},
}
# What the OpenAPI document says of the errors of every route.
PROBLEM_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    status: _described(status) for status in (400, 401, 403, 404, 405, 413, 415, 422, 429, 500, 503, 504)
}
