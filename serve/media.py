"""The bytes of a query -> `Media`, after its first bytes and its header have been looked at; nothing is decoded here.

What a file is, is told by its first bytes, never by a name or a Content-Type, and only kinds on the list reach a
decoder: others (playlists, virtual rasters) could make it open further files. Sizes are read from headers before
memory is spent on pixels or samples. The decoding itself is the embedder's, the same as in the embedding job.
"""

import io
from dataclasses import dataclass
from typing import Final, cast, get_args

import soundfile
from PIL import Image, UnidentifiedImageError

from cmir.archive.raster import Window, bands_of, check_window, load_raster, open_dataset
from cmir.archive.schema import IMAGE_MODALITIES, Media, Modality
from cmir.archive.sensors import band_names, canonical_band, modality_of_bands
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


def image_media(data: bytes, hints: ImageHints, limits: Limits) -> Media:
    """An encoded image as media of the modality given, or told by its bands.

    Raises ProblemError: 400 empty, 413 more samples than `limits.max_pixels`, 415 another kind of file;
    DataError where the header cannot be read or the window lies outside; QueryError where the modality must be given.
    With a window a TIFF may be of any size, as long as the window and each of its blocks keep to the limit.
    """
    kind = _kind_of(data, IMAGE_KINDS)
    window = hints.window
    found = _tiff_bands(data, limits, window) if kind == "tiff" else _picture_bands(data, kind, limits, window)
    bands = tuple(canonical_band(name) for name in hints.bands)
    modality = hints.modality or told_modality(bands or found)
    return Media(
        modality=modality,
        data=data,
        encoding=kind,
        bands=bands,
        sensor=hints.sensor,
        gsd_m=hints.gsd_m,
        window=window,
    )


def speech_media(data: bytes, limits: Limits) -> Media:
    """A recording as media.

    Raises ProblemError: 400 empty, 413 longer than `limits.max_audio_s` by its header, 415 another kind of file.
    Containers of FFmpeg (webm, mp4) are bounded while they are decoded.
    """
    kind = _kind_of(data, AUDIO_KINDS)
    if kind in _PROBED_BY_SOUNDFILE:
        duration_s = _duration_s(data)
        if duration_s is not None and duration_s > limits.max_audio_s:
            raise too_large("recording", seen=f"{duration_s:.1f} s", limit=f"{limits.max_audio_s:g} s")
    return Media(modality="speech", data=data, encoding=kind)


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


def _picture_bands(data: bytes, kind: str, limits: Limits, window: Window | None) -> tuple[str, ...]:
    try:
        with Image.open(io.BytesIO(data), formats=[kind.upper()]) as image:
            grey = image.mode in ("1", "L", "LA", "La", "I", "F") or image.mode.startswith("I;16")
            bands = band_names(1 if grey else 3)
            _refuse_larger(image.width, image.height, len(bands), limits)
            if window is not None:
                check_window(window, image.width, image.height, "query")
            return bands
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large("image", seen="a picture of far too many pixels", limit=limits.max_pixels) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError("image header cannot be read", seen=f"{kind}, {len(data)} bytes") from error


def _tiff_bands(data: bytes, limits: Limits, window: Window | None) -> tuple[str, ...]:
    with open_dataset(data, "query") as dataset:
        if window is None:
            _refuse_larger(dataset.width, dataset.height, dataset.count, limits)
        else:
            check_window(window, dataset.width, dataset.height, "query")
            _refuse_larger(window[2], window[3], dataset.count, limits)
            for height, width in set(dataset.block_shapes):  # a block is decoded whole, however small the window
                _refuse_larger(width, height, dataset.count, limits)
        has_alpha = dataset.colorinterp[-1].name == "alpha"
        if not has_alpha:
            return bands_of(dataset)
    return load_raster(
        data, where="query", window=window
    ).bands  # alpha may be a mask or a mislabelled band: only its values tell


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
