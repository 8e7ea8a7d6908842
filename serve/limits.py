"""How much one request, and all requests together, may ask for.

What is over a size limit is refused with 413, what comes while too much is under way with 429 and Retry-After, what
takes longer than the deadline ends with 504. The gate counts requests, those of several media parts as so many, not
bytes: with the defaults the bodies of all admitted requests together stay below max_in_flight * max_body_bytes. A body
of a few kB may hold an image of 200 MB, so what is decoded of them is counted in bytes as well.
"""

from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.types import Message, Receive

from cmir.archive.speech import MAX_SECONDS
from cmir.gallery.filters import MAX_POLYGON_POINTS
from serve.problems import ProblemError, too_large

MAX_HITS: Final = 1000
DEFAULT_HITS: Final = 10
MAX_BATCH_QUERIES: Final = 64
MAX_PARTS: Final = 32
MIN_POLYGON_POINTS: Final = 100  # what finding and reading the rows near any polygon costs
RETRY_AFTER_S: Final = 1
_BYTES_A_SAMPLE: Final = 4  # of the widest type that pixels are decoded to


class Limits(BaseModel):
    """Bounds of the service; a deployment's configuration may set each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: int = Field(default=32 * 2**20, ge=1, description="largest request body, bytes")
    max_pixels: int = Field(default=50_000_000, ge=1, description="largest image, samples: width * height * bands")
    max_audio_s: float = Field(default=MAX_SECONDS, gt=0, le=MAX_SECONDS, description="longest recording, seconds")
    max_decode_s: float = Field(default=10.0, gt=0, description="longest time for decoding one query, seconds")
    max_decode_bytes: int = Field(default=2**30, ge=2**26, description="memory for decoding one query, bytes")
    max_decoded_bytes: int = Field(
        default=2**30, ge=2**26, description="memory for all that one replica has decoded and not yet encoded, bytes"
    )
    max_media_parts: int = Field(default=32, ge=1, description="images and recordings of one request, a batch too")
    max_in_flight: int = Field(default=64, ge=1, description="requests under way in one replica before 429")
    deadline_s: float = Field(default=20.0, gt=0, description="longest time for one answer, seconds")
    max_encode_items: int = Field(default=32, ge=1, description="most media in one pass of the encoder")
    max_encode_pixels: int = Field(default=2**25, ge=1, description="samples of images in one pass of the encoder")
    max_encode_audio_s: float = Field(default=120.0, gt=0, description="sound in one pass of the encoder, seconds")
    max_polygon_points: int = Field(
        default=MAX_POLYGON_POINTS,
        ge=MIN_POLYGON_POINTS,
        description=f"points of all different polygons of a request, each counted as {MIN_POLYGON_POINTS} or more",
    )
    max_search_items: int = Field(default=64, ge=1, description="most vectors in one search call")

    @model_validator(mode="after")
    def _largest_image_fits(self) -> Self:
        if self.max_pixels * _BYTES_A_SAMPLE > self.max_decoded_bytes:
            one = f"{_BYTES_A_SAMPLE} bytes for each of max_pixels, {self.max_pixels}"
            raise ValueError(f"max_decoded_bytes, {self.max_decoded_bytes}, is less than one image takes: {one}")
        return self


class Gate:
    """Counts the requests under way; the one after the last that fits is told to come back.

    >>> gate = Gate(max_in_flight=2)
    >>> with gate.passage() as passage:
    ...     passage.widen(2)  # it turns out to be two
    ...     gate.in_flight
    2
    >>> gate.in_flight
    0
    """

    def __init__(self, *, max_in_flight: int) -> None:
        self.in_flight = 0
        self._max_in_flight = max_in_flight

    def passage(self) -> "Passage":
        """The way of one request through it, for a `with` block."""
        return Passage(self)

    def enter(self, num_more: int, *, beside: int) -> None:
        """Let so many more in, one that is alone whatever its size. Raises ProblemError 429 where they do not fit.

        `beside` of those under way are its own.
        """
        others = self.in_flight - beside
        if others and self.in_flight + num_more > self._max_in_flight:
            raise ProblemError(
                429,
                f"{others} requests are under way, and {beside + num_more} more are too many for this replica",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self.in_flight += num_more

    def leave(self, num_leaving: int) -> None:
        """Let so many out."""
        self.in_flight -= num_leaving


class Passage:
    """One request in a gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._width = gate, 0

    def __enter__(self) -> "Passage":
        self.widen(1)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._gate.leave(self._width)

    def widen(self, width: int) -> None:
        """Count as so many requests from now on. Raises ProblemError 429 where they do not fit."""
        if width > self._width:
            self._gate.enter(width - self._width, beside=self._width)
            self._width = width


class DecodedBytes:
    """Counts the bytes of what was decoded and not yet encoded; use from one event loop."""

    def __init__(self, limits: Limits) -> None:
        self.held = 0
        self._most = limits.max_decoded_bytes

    def share(self) -> "Share":
        """A query's part of them, given back when its block ends."""
        return Share(self)

    def change(self, num_bytes: int) -> None:
        """Count so many more, or fewer. Raises ProblemError 429 where they are more than fit."""
        if num_bytes > 0 and self.held + num_bytes > self._most:
            raise ProblemError(
                429,
                f"decoding takes {num_bytes} bytes more, and {self.held} of {self._most} are taken",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self.held += num_bytes


class Share:
    """What one query has of `DecodedBytes`.

    >>> decoded = DecodedBytes(Limits())
    >>> with decoded.share() as share:
    ...     share.take(1000)
    ...     share.take(3000)  # in its place
    ...     decoded.held
    3000
    >>> decoded.held
    0
    """

    def __init__(self, decoded: DecodedBytes) -> None:
        self._decoded, self._held = decoded, 0

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.take(0)

    def take(self, num_bytes: int) -> None:
        """Have so many bytes in the place of those before. Raises ProblemError 429 where they do not fit."""
        self._decoded.change(num_bytes - self._held)
        self._held = num_bytes


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
