"""A question typed at a terminal -> hits, from a running service or straight from a gallery; both say the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np

from cmir.archive import storage
from cmir.archive.imagery import decode_chip
from cmir.archive.raster import Window
from cmir.archive.schema import MODALITIES, Media, Modality
from cmir.archive.sensors import modality_of_bands
from cmir.client import Client, ClientHit, item_part, label_part
from cmir.errors import ConfigError, DataError, QueryError
from cmir.gallery.search import Hit, Searcher
from cmir.network.ear_opening import open_ear_of
from cmir.network.embedder import F32, Embedder
from cmir.network.hearing import NOTHING_HEARD, Heard
from cmir.network.second_ear import heard_by_ear

_IMAGES: Final = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp", "tif": "tiff", "tiff": "tiff"}
_SOUNDS: Final = ("wav", "flac", "ogg", "mp3", "webm", "mp4")


@dataclass(frozen=True)
class Question:
    """One thing to ask by (an image or sound file, a label, or an item) and what to find.

    `window` (column, row, width, height) is the part of the image that is meant, in pixels. `second_ear` names a
    recogniser to ask beside the speech tower, of a recording (see network/ear_opening).
    """

    image: str | None = None
    speech: str | None = None
    label: str | None = None
    item: str | None = None
    modality: str | None = None
    sensor: str | None = None
    window: Window | None = None
    targets: tuple[str, ...] = ()
    k: int = 10
    second_ear: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("image", "speech", "label", "item") if getattr(self, name) is not None]
        if len(given) != 1:
            seen = ", ".join(given) or "nothing"
            raise QueryError("ask by one thing", seen=seen, expected="one of --image, --speech, --label, --item")
        if self.image is not None and _ending(self.image) in _SOUNDS:
            raise QueryError(
                "a sound file is no image", seen=f"--image {self.image}", expected=f"--speech {self.image}"
            )
        if self.window is not None and self.image is None:
            raise QueryError("a window is a part of an image", seen=f"--{given[0]}", expected="--image")
        if self.second_ear is not None and self.speech is None:
            raise QueryError("a second ear hears recordings", seen=f"--{given[0]}", expected="--speech")


def window_of(text: str) -> Window:
    """`column,row,width,height` as numbers. Raises QueryError for anything else.

    >>> window_of("512,0,256,256")
    (512, 0, 256, 256)
    """
    numbers = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(numbers) != 4 or text.count(",") != 3:
        raise QueryError("not a window", seen=repr(text), expected="column,row,width,height in pixels")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def media_of_file(
    uri: str, modality: str | None = None, sensor: str | None = None, window: Window | None = None
) -> Media:
    """An image or sound file as media; an image's modality is told by its bands where it is not given.

    Raises QueryError for a kind of file or a modality that is not known, DataError where it cannot be read.
    """
    if modality is not None and modality not in MODALITIES:
        raise QueryError("no such modality", seen=modality, expected=", ".join(MODALITIES))
    ending = _ending(uri)
    data = storage.read_bytes(uri)
    if ending in _SOUNDS:
        if modality not in (None, "speech"):
            raise QueryError("a sound file is no image", seen=storage.name_of(uri), expected=f"an image of {modality}")
        return Media(modality="speech", data=data, encoding=ending)
    if ending not in _IMAGES:
        expected = ", ".join([*sorted(_IMAGES), *_SOUNDS])
        raise QueryError("unknown kind of file", seen=storage.name_of(uri), expected=f"a name ending in {expected}")
    media = Media(modality or "rgb", data, _IMAGES[ending], sensor=sensor, window=window)
    if modality is not None:
        return media
    bands = decode_chip(replace(media, modality="ms")).bands
    return replace(media, modality=modality_of_bands(bands))


def _ending(uri: str) -> str:
    return storage.name_of(uri).rpartition(".")[2].lower()


def embed_file(
    embedder: Embedder,
    uri: str,
    modality: str | None = None,
    sensor: str | None = None,
    window: Window | None = None,
) -> F32:
    """The unit vector f32[D] of an image or sound file. Raises DataError and QueryError as `media_of_file` does."""
    try:
        vector: F32 = embedder.embed([media_of_file(uri, modality, sensor, window)])[0]
    except DataError as error:
        raise error.at(uri) from error
    return vector


def hear_file(embedder: Embedder, uri: str, second_ear: str | None = None) -> tuple[F32, Heard | None]:
    """The query vector f32[D] of a recording, and what was heard in it (None where the bundle cannot tell).

    With a second ear that is sure, the vector is that of the labels it names (see network/second_ear). Raises
    ConfigError where the ear cannot be opened, else as `embed_file`.
    """
    media = media_of_file(uri, "speech")
    try:
        prepared = embedder.pre(media)
    except DataError as error:
        raise error.at(uri) from error
    vector: F32 = embedder.post(embedder.core([prepared]))[0]
    if second_ear is not None:
        ear = open_ear_of(second_ear, embedder.bundle.config, device=embedder.device)
        said = ear.listen(prepared.content)  # type: ignore[arg-type]  # a waveform: open_ear_of refuses features
        if said.is_sure:
            return heard_by_ear(said, vector, embedder.labels, embedder.prototypes)
    return vector, embedder.hear(vector)


def ask_gallery(
    gallery_uri: str, question: Question, *, on_heard: Callable[[Heard], object] = lambda _: None
) -> list[Hit]:
    """Hits of the published gallery, found in this process; `on_heard` is told what a recording was taken to name.

    Raises GalleryError where nothing is published, SpaceMismatchError where its bundle was replaced by another,
    QueryError where a recording names no known label, ConfigError where the second ear cannot be opened.
    """
    searcher = Searcher.open(gallery_uri)
    if question.item is not None:
        vector = searcher.vector(question.item)
    else:
        embedder = Embedder.open(searcher.pointer.bundle_uri)
        searcher.check_space(embedder.space_id)
        vector, heard = _embed(embedder, question)
        if heard is not None and not heard.is_known:
            raise nothing_heard(heard.labels, question.speech)
        if heard is not None:
            on_heard(heard)
    return searcher.search(vector[None], targets=question.targets, k=question.k)[0]


def _embed(embedder: Embedder, question: Question) -> tuple[F32, Heard | None]:
    if question.label is not None:
        if question.label not in embedder.labels:
            raise QueryError("no such label", seen=question.label, expected=", ".join(embedder.labels))
        return np.asarray(embedder.prototypes[embedder.labels.index(question.label)]), None
    if question.speech is not None:
        return hear_file(embedder, question.speech, question.second_ear)
    return embed_file(embedder, question.image or "", question.modality, question.sensor, question.window), None


def ask_service(url: str, question: Question) -> list[ClientHit]:
    """Hits of a running service.

    Raises QueryError where it refuses or hears no known label, GalleryError where it does not answer, ConfigError for a
    second ear, which is the service's own to have.
    """
    if question.second_ear is not None:
        fix = "start the service with it: cmir serve --second-ear, or `second_ear` of its settings"
        raise ConfigError("a service has its own second ear", seen=question.second_ear, where=url, fix=fix)
    targets = cast(tuple[Modality, ...], question.targets)
    with Client(url) as client:
        if question.speech is not None:
            answer = client.search_speech(storage.read_bytes(question.speech), target=targets, k=question.k)
        elif question.image is not None:
            modality = cast(Modality | None, question.modality)
            data = storage.read_bytes(question.image)
            told = {"modality": modality, "sensor": question.sensor, "window": question.window}
            answer = client.search_image(data, **told, target=targets, k=question.k)  # type: ignore[arg-type]
        else:
            part = item_part(question.item) if question.item is not None else label_part(question.label or "")
            answer = client.search([part], target=targets, k=question.k)
    if answer.unheard is not None:
        raise nothing_heard(answer.unheard.labels, question.speech)
    return list(answer.hits)


def nothing_heard(nearest: Sequence[tuple[str, float]], uri: str | None) -> QueryError:
    """The answer to a recording that names no known label: what it came nearest to."""
    seen = ", ".join(f"nearest {label}, {score:.2f}" for label, score in nearest)
    fix = "say one of the labels that `cmir info` lists, a little closer to the microphone"
    return QueryError(NOTHING_HEARD, seen=seen, where=uri or "", fix=fix)
