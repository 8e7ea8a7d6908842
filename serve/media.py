"""The bytes of a query -> `Media`, after its first bytes and its header have been looked at; nothing is decoded here.

What a file is, is told by its first bytes, never by a name or a Content-Type, and only kinds on the list reach a
decoder: others (playlists, virtual rasters) could make it open further files. Sizes are read from headers before
memory is spent on pixels or samples. The decoding itself is the embedder's, the same as in the embedding job.
"""

import io
from dataclasses import dataclass
from typing import Final, cast, get_args

import numpy as np
import soundfile
from PIL import Image, UnidentifiedImageError

from cmir.archive.raster import NATIVE_DTYPES, Window, bands_of, check_window, load_raster, open_dataset
from cmir.archive.schema import IMAGE_MODALITIES, Media, Modality
from cmir.archive.sensors import band_names, canonical_band, modality_of_bands
from cmir.archive.speech import SAMPLE_RATE_HZ
from cmir.errors import DataError, QueryError
from serve.limits import Limits
from serve.problems import ProblemError, too_large, unsupported_media

IMAGE_KINDS: Final = ("png", "jpeg", "webp", "tiff")
AUDIO_KINDS: Final = ("wav", "flac", "ogg", "mp3", "webm", "mp4")
_PROBED_BY_SOUNDFILE: Final = ("wav", "flac", "ogg", "mp3")


@dataclass(frozen=True, slots=True)
class ImageHints:
    """What the asker says of an image; what is left out is told by the file.

    `modality` pan, ms or rgb; `bands` names in the file's order; `gsd_m` ground sampling distance in metres; `window`
    (column, row, width, height) the part of a scene that is meant, in pixels.
    """

    modality: Modality | None = None
    bands: tuple[str, ...] = ()
    sensor: str | None = None
    gsd_m: float | None = None
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class ImageBytes:
    """An image file."""

    data: bytes
    hints: ImageHints


@dataclass(frozen=True, slots=True)
class SpeechBytes:
    """A recording."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Sized:
    """Media that are still encoded, and how many bytes their pixels or samples will take at most."""

    media: Media
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the header of an image says of the part that is meant."""

    bands: tuple[str, ...]
    num_bytes: int


def sized_media(source: ImageBytes | SpeechBytes, limits: Limits) -> Sized:
    """The bytes of a query as media, sized by their header. Raises as `image_media` and `speech_media` do."""
    if isinstance(source, SpeechBytes):
        return _sized_speech(source.data, limits)
    return _sized_image(source.data, source.hints, limits)


def image_media(data: bytes, hints: ImageHints, limits: Limits) -> Media:
    """An encoded image as media of the modality given, or told by its bands.

    Raises ProblemError: 400 empty, 413 more samples than `limits.max_pixels`, 415 another kind of file;
    DataError where the header cannot be read or the window lies outside; QueryError where the modality must be given.
    With a window a TIFF may be of any size, as long as the window and each of its blocks keep to the limit.
    """
    return _sized_image(data, hints, limits).media


def speech_media(data: bytes, limits: Limits) -> Media:
    """A recording as media.

    Raises ProblemError: 400 empty, 413 longer than `limits.max_audio_s` by its header, 415 another kind of file.
    Files whose header does not say, as those of FFmpeg's containers (webm, mp4), are bounded while they are decoded.
    """
    return _sized_speech(data, limits).media


def told_modality(bands: tuple[str, ...]) -> Modality:
    """The modality of an image with these bands, as archives have it. Raises QueryError for two bands without names."""
    if bands == band_names(2):
        raise QueryError(
            "cannot tell the modality of the image",
            seen="2 bands without names",
            expected="1, 3, or 4 and more, or names",
            fix=f"give modality={'|'.join(IMAGE_MODALITIES)}",
        )
    return modality_of_bands(bands)


def as_modality(text: str) -> Modality:
    """`text` as a modality. Raises QueryError naming those there are."""
    if text not in get_args(Modality):
        raise QueryError("no such modality", seen=repr(text), expected=", ".join(get_args(Modality)))
    return cast(Modality, text)


def _sized_image(data: bytes, hints: ImageHints, limits: Limits) -> Sized:
    kind = _kind_of(data, IMAGE_KINDS)
    window = hints.window
    seen = _tiff_seen(data, limits, window) if kind == "tiff" else _picture_seen(data, kind, limits, window)
    bands = tuple(canonical_band(name) for name in hints.bands)
    media = Media(
        modality=hints.modality or told_modality(bands or seen.bands),
        data=data,
        encoding=kind,
        bands=bands,
        sensor=hints.sensor,
        gsd_m=hints.gsd_m,
        window=window,
    )
    return Sized(media, seen.num_bytes)


def _sized_speech(data: bytes, limits: Limits) -> Sized:
    kind = _kind_of(data, AUDIO_KINDS)
    duration_s = _duration_s(data) if kind in _PROBED_BY_SOUNDFILE else None
    if duration_s is not None and duration_s > limits.max_audio_s:
        raise too_large("recording", seen=f"{duration_s:.1f} s", limit=f"{limits.max_audio_s:g} s")
    longest_s = limits.max_audio_s if duration_s is None else duration_s
    num_bytes = int((longest_s * SAMPLE_RATE_HZ + 1) * np.dtype(np.float32).itemsize)
    return Sized(Media(modality="speech", data=data, encoding=kind), num_bytes)


def _kind_of(data: bytes, wanted: tuple[str, ...]) -> str:
    if not data:
        raise ProblemError(400, f"the query is empty; expected the bytes of one of {', '.join(wanted)}")
    kind = _sniff(data[:12])
    if kind not in wanted:
        seen = kind or f"bytes beginning {data[:8].hex(' ')}"
        raise unsupported_media(seen, f"one of {', '.join(wanted)}")
    return kind


def _sniff(head: bytes) -> str | None:
    """The kind of a file by its magic number (the formats' own specifications), None where it is not on the list."""
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"WAVE"):
        return "webp" if head[8:12] == b"WEBP" else "wav"
    if head[:2] == b"\xff\xd8":
        return "jpeg"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:  # frame sync, layer III
        return "mp3"
    if head[4:8] == b"ftyp":
        return "mp4"
    kinds = {
        b"\x89PNG": "png",
        b"II*\0": "tiff",
        b"MM\0*": "tiff",
        b"II+\0": "tiff",
        b"MM\0+": "tiff",
        b"fLaC": "flac",
        b"OggS": "ogg",
        b"\x1aE\xdf\xa3": "webm",
    }
    return "mp3" if head[:3] == b"ID3" else kinds.get(head[:4])


def _picture_seen(data: bytes, kind: str, limits: Limits, window: Window | None) -> _Seen:
    try:
        with Image.open(io.BytesIO(data), formats=[kind.upper()]) as image:
            grey = image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")
            bands = band_names(1 if grey else 3)
            _refuse_larger(image.width, image.height, len(bands), limits)
            if window is not None:
                check_window(window, image.width, image.height, "query")
            width, height = window[2:] if window else image.size
            bytes_each = 4 if image.mode in ("I", "F") else 2 if image.mode.startswith("I;16") else 1
            return _Seen(bands, width * height * len(bands) * bytes_each)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large("image", seen="a picture of far too many pixels", limit=limits.max_pixels) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError("image header cannot be read", seen=f"{kind}, {len(data)} bytes") from error


def _tiff_seen(data: bytes, limits: Limits, window: Window | None) -> _Seen:
    with open_dataset(data, "query") as dataset:
        if window is None:
            _refuse_larger(dataset.width, dataset.height, dataset.count, limits)
        else:
            check_window(window, dataset.width, dataset.height, "query")
            _refuse_larger(window[2], window[3], dataset.count, limits)
            for height, width in set(dataset.block_shapes):  # a block is decoded whole, however small the window
                _refuse_larger(width, height, dataset.count, limits)
        width, height = window[2:] if window else (dataset.width, dataset.height)
        bytes_each = max(np.dtype(name).itemsize if name in NATIVE_DTYPES else 4 for name in dataset.dtypes)
        num_bytes = width * height * dataset.count * bytes_each
        has_alpha = dataset.colorinterp[-1].name == "alpha"
        if not has_alpha:
            return _Seen(bands_of(dataset), num_bytes)
    # alpha may be a mask or a mislabelled band: only its values tell
    return _Seen(load_raster(data, where="query", window=window).bands, num_bytes)


def _refuse_larger(width: int, height: int, num_bands: int, limits: Limits) -> None:
    if width * height * num_bands > limits.max_pixels:
        seen = f"{width} x {height} px, {num_bands} bands"
        raise too_large("image", seen=seen, limit=f"{limits.max_pixels} samples")


def _duration_s(data: bytes) -> float | None:
    try:
        info = soundfile.info(io.BytesIO(data))
    except soundfile.LibsndfileError:
        return None  # the decoder says what is wrong with it
    return float(info.frames) / info.samplerate if info.samplerate else None
