"""A request's body or parameters -> a `Query`, the one form in which the engine is asked."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cmir.archive.schema import Modality
from cmir.errors import QueryError
from cmir.gallery.filters import Filters
from serve.media import ImageBytes, ImageHints, SpeechBytes
from serve.schemas import EmbeddingRequest, ImagePart, ItemPart, LabelPart, Part, SearchRequest, SpeechPart

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ItemRef:
    """An item of the gallery."""

    item_id: str


@dataclass(frozen=True, slots=True)
class LabelRef:
    """A word of the bundle."""

    label: str


@dataclass(frozen=True, slots=True, eq=False)
class GivenVector:
    """A vector f32[D] of the space named, of any length."""

    vector: F32
    space_id: str


Source: TypeAlias = ImageBytes | SpeechBytes | ItemRef | LabelRef | GivenVector


@dataclass(frozen=True, slots=True)
class Query:
    """Weighted sources of a query vector, and what is wanted; no targets means every modality."""

    sources: tuple[Source, ...]
    weights: tuple[float, ...]
    targets: tuple[Modality, ...]
    k: int
    filters: Filters | None


def num_media(queries: Sequence[Query]) -> int:
    """Images and recordings of all of them."""
    return sum(isinstance(source, ImageBytes | SpeechBytes) for query in queries for source in query.sources)


def single(source: Source, *, targets: tuple[Modality, ...], k: int, filters: Filters | None) -> Query:
    """A query of one source."""
    return Query((source,), (1.0,), targets, k, filters)


def from_request(request: SearchRequest) -> Query:
    """A mixed query. Raises QueryError for data that is not base64."""
    sources = tuple(_source(part) for part in request.parts)
    weights = tuple(part.weight for part in request.parts)
    return Query(sources, weights, request.targets(), request.k, request.filters)


def from_embedding(request: EmbeddingRequest) -> Query:
    """A query by vector, of any length that a double can hold."""
    vector = np.asarray(request.vector, np.float64)
    largest = np.abs(vector).max()
    source = GivenVector((vector / largest if largest > 0 else vector).astype(np.float32), request.space_id)
    return single(source, targets=request.targets(), k=request.k, filters=request.filters)


def _source(part: Part) -> Source:
    match part:
        case ImagePart():
            hints = ImageHints(part.modality, tuple(part.bands), part.sensor, part.gsd_m, part.window)
            return ImageBytes(_decoded(part.data), hints)
        case SpeechPart():
            return SpeechBytes(_decoded(part.data))
        case ItemPart():
            return ItemRef(part.item_id)
        case LabelPart():
            return LabelRef(part.label)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise QueryError(
            "the data of a part is not base64", seen=repr(text[:16]), expected="RFC 4648 base64"
        ) from error
