"""An item becomes a small WebP for the report: a chip as the eye sees it, an utterance as spectrogram over waveform."""

import io
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from cmir.archive.imagery import decode_chip, thumbnail
from cmir.archive.schema import Media
from cmir.archive.speech import SAMPLE_RATE_HZ, decode_features, decode_speech, is_features

SIZE_PX: Final = 128
MAX_BYTES: Final = 6000
_WAVE_PX: Final = 36
_FREQUENCIES_HZ: Final = (80.0, 7600.0)
_WINDOW: Final = 512  # 32 ms
_RANGE_DB: Final = 60.0
_BACKGROUND: Final = (18, 16, 32)
_INK: Final = (255, 205, 150)

Picture = npt.NDArray[np.uint8]  # [H,W,3]


def picture_of(media: Media) -> bytes:
    """WebP of an item, SIZE_PX on its longer side. Raises DataError where it cannot be decoded."""
    if media.modality != "speech":
        return thumbnail(decode_chip(media), size_px=SIZE_PX, max_bytes=MAX_BYTES)
    if is_features(media):
        return _webp(_bars(decode_features(media)))
    waveform = decode_speech(media)
    return _webp(np.concatenate([_spectrogram(waveform), _wave(waveform)]))


def _webp(pixels: Picture) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", quality=75, method=4)
    return buffer.getvalue()


def _spectrogram(waveform: npt.NDArray[np.float32]) -> Picture:
    """Loudness in dB below the loudest, time to the right, pitch (log-spaced) upwards."""
    padded = np.pad(waveform, (_WINDOW // 2, _WINDOW))
    starts = np.linspace(0, len(padded) - _WINDOW, SIZE_PX).astype(int)
    frames = np.stack([padded[start : start + _WINDOW] for start in starts]) * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    rows = np.geomspace(_FREQUENCIES_HZ[1], _FREQUENCIES_HZ[0], SIZE_PX - _WAVE_PX)
    bins = np.arange(power.shape[1]) * SAMPLE_RATE_HZ / _WINDOW
    decibel = 10 * np.log10(np.stack([np.interp(rows, bins, frame) for frame in power], axis=1) + 1e-12)
    level = np.clip(1 + (decibel - decibel.max()) / _RANGE_DB, 0, 1)
    return np.asarray(colormaps["magma"](level)[..., :3] * 255).astype(np.uint8)


def _wave(waveform: npt.NDArray[np.float32]) -> Picture:
    """The loudest sample of each column, up and down from the middle."""
    edges = np.linspace(0, max(len(waveform), 1), SIZE_PX + 1).astype(int)
    peaks = np.array([np.abs(waveform[a : max(b, a + 1)]).max(initial=0.0) for a, b in pairwise(edges)])
    peaks = peaks / max(float(peaks.max()), 1e-6)
    height = np.abs(np.arange(_WAVE_PX) - (_WAVE_PX - 1) / 2)[:, None]
    inside = height <= np.maximum(peaks * (_WAVE_PX / 2 - 3), 0.6)[None]
    return np.where(inside[..., None], _INK, _BACKGROUND).astype(np.uint8)


def _bars(features: npt.NDArray[np.float32]) -> Picture:
    """A vector of features as bars, up or down from the middle."""
    columns = np.interp(np.linspace(0, len(features) - 1, SIZE_PX), np.arange(len(features)), features)
    scaled = columns / max(float(np.abs(columns).max()), 1e-6) * (SIZE_PX / 2 - 3)
    up = (SIZE_PX - 1) / 2 - np.arange(SIZE_PX)[:, None]
    inside = (np.sign(up) == np.sign(scaled)[None]) & (np.abs(up) <= np.abs(scaled)[None])
    return np.where(inside[..., None], _INK, _BACKGROUND).astype(np.uint8)
