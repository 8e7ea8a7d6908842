"""How much one request, and all requests together, may ask for.

What is over a size limit is refused with 413, what comes while too much is under way with 429 and Retry-After, what
takes longer than the deadline ends with 504. The gate counts requests, not bytes: with the defaults the bodies of all
admitted requests together stay below max_in_flight * max_body_bytes.
"""

from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Message, Receive

from cmir.gallery.filters import MAX_POLYGON_POINTS
from serve.problems import ProblemError, too_large

MAX_HITS: Final = 1000
DEFAULT_HITS: Final = 10
MAX_BATCH_QUERIES: Final = 64
MAX_PARTS: Final = 32
MIN_POLYGON_POINTS: Final = 100  # what finding and reading the rows near any polygon costs
RETRY_AFTER_S: Final = 1


class Limits(BaseModel):
    """Bounds of the service; a deployment's configuration may set each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: int = Field(default=32 * 2**20, ge=1, description="largest request body, bytes")
    max_pixels: int = Field(default=50_000_000, ge=1, description="largest image, samples: width * height * bands")
    max_audio_s: float = Field(default=30.0, gt=0, description="longest recording, seconds")
    max_decode_s: float = Field(default=10.0, gt=0, description="longest time for decoding one query, seconds")
    max_decode_bytes: int = Field(default=2**30, ge=2**26, description="memory for decoding one query, bytes")
    max_in_flight: int = Field(default=64, ge=1, description="requests under way in one replica before 429")
    deadline_s: float = Field(default=20.0, gt=0, description="longest time for one answer, seconds")
    max_encode_items: int = Field(default=32, ge=1, description="most media in one pass of the encoder")
    max_polygon_points: int = Field(
        default=MAX_POLYGON_POINTS,
        ge=MIN_POLYGON_POINTS,
        description=f"points of all different polygons of a request, each counted as {MIN_POLYGON_POINTS} or more",
    )
    max_search_items: int = Field(default=64, ge=1, description="most vectors in one search call")


class Gate:
    """Counts the requests under way; the one after the last that fits is told to come back.

    >>> gate = Gate(max_in_flight=1)
    >>> with gate:
    ...     gate.in_flight
    1
    """

    def __init__(self, *, max_in_flight: int) -> None:
        self.in_flight = 0
        self._max_in_flight = max_in_flight

    def __enter__(self) -> "Gate":
        if self.in_flight >= self._max_in_flight:
            raise ProblemError(
                429,
                f"{self.in_flight} requests are under way, as many as this replica takes",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self.in_flight += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.in_flight -= 1


def bounded_receive(receive: Receive, *, declared_bytes: str | None, max_body_bytes: int) -> Receive:
    """`receive` that refuses a body over the limit, by its Content-Length or while it comes in.

    Raises: ProblemError 413, at once for a declared length, from the returned callable for an undeclared one; 400
        where the declared length is no number.
    """
    if declared_bytes is not None:
        if not declared_bytes.isdecimal():
            raise ProblemError(400, "Content-Length is not a number")
        if len(declared_bytes) > 18 or int(declared_bytes) > max_body_bytes:
            raise too_large("body", seen=f"{declared_bytes[:18]} bytes", limit=f"{max_body_bytes} bytes")
    num_bytes = 0

    async def receive_bounded() -> Message:
        nonlocal num_bytes
        message = await receive()
        if message["type"] == "http.request":
            num_bytes += len(message.get("body", b""))
            if num_bytes > max_body_bytes:
                raise too_large("body", seen=f"more than {max_body_bytes} bytes", limit=f"{max_body_bytes} bytes")
        return message

    return receive_bounded
