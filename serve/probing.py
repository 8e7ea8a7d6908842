"""A small query that goes all the way: warms a snapshot before it serves, and tells whether the service is ready.

One probe per modality of the bundle: a grey ramp with the bands of a training sensor, half a second of a tone, or a
constant feature vector; content does not matter, that a finite unit vector and a hit come out does.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from cmir.archive.imagery import raw_media
from cmir.archive.schema import IMAGE_MODALITIES, Media, Modality
from cmir.archive.speech import SAMPLE_RATE_HZ, pcm_media
from cmir.network.preprocessing import Preprocessing
from serve.deployments import Snapshot, Wanted
from serve.problems import ProblemError
from serve.query import F32

_TONE_HZ: Final = 220.0
_RAMP_PX: Final = 64
_PEAK: Final = {"uint8": 255.0, "uint16": 10_000.0, "int16": 10_000.0, "float32": 1.0}


def probe_media(preprocessing: Preprocessing, modalities: Sequence[Modality]) -> tuple[Media, ...]:
    """One small item of each modality that a bundle with this preprocessing can embed."""
    images = [_ramp(preprocessing, modality) for modality in modalities if modality in IMAGE_MODALITIES]
    speech = [_sound(preprocessing)] if "speech" in modalities else []
    return tuple(images + speech)


async def probe(snapshot: Snapshot, media: Media) -> None:
    """Embed `media`, search with it, and read a row of the table, which a search of vectors in memory does not.

    An encoder that may sleep is let sleep: that row's vector is searched with. Raises ProblemError 503 where the vector
    is not a finite unit vector or nothing is found, else whatever a part raises.
    """
    vector = await (_of_a_row(snapshot) if snapshot.encoder.may_sleep else _embedded(snapshot, media))
    found = await snapshot.finder.find(Wanted(vector, targets=(), k=1, filters=None))
    if not found.result:
        raise ProblemError(503, "the gallery answers the probe with no hit")
    await _of_a_row(snapshot)


async def _of_a_row(snapshot: Snapshot) -> F32:
    [vector] = await asyncio.to_thread(snapshot.searcher.sample, 1, 0)
    unit: F32 = vector
    return unit


async def _embedded(snapshot: Snapshot, media: Media) -> F32:
    prepared = await snapshot.prepare(media)
    vector = (await snapshot.encoder.encode(prepared)).result
    if not np.isclose(float(np.linalg.norm(vector)), 1.0, atol=1e-2):  # false for nan; 1e-2 leaves room for bf16
        raise ProblemError(503, f"the encoder answers the {media.modality} probe with no unit vector")
    return vector


def _ramp(preprocessing: Preprocessing, modality: Modality) -> Media:
    sensor = next(entry for entry in preprocessing.sensors if entry.modality == modality)
    ramp = np.linspace(0, _PEAK[sensor.dtype], _RAMP_PX * _RAMP_PX).reshape(1, _RAMP_PX, _RAMP_PX)
    pixels = np.repeat(ramp, len(sensor.band_names), axis=0).astype(sensor.dtype)
    return raw_media(modality, pixels, bands=sensor.band_names)


def _sound(preprocessing: Preprocessing) -> Media:
    if preprocessing.features is not None:
        features = np.asarray(preprocessing.features.mean, np.float32)
        return Media("speech", features.tobytes(), "raw", dtype="float32", shape=features.shape)
    seconds = np.arange(SAMPLE_RATE_HZ // 2, dtype=np.float32) / SAMPLE_RATE_HZ
    return pcm_media(0.3 * np.sin(2 * np.pi * _TONE_HZ * seconds).astype(np.float32))
