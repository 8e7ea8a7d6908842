"""One small item per modality of a bundle, to ask it whether it works.

A grey ramp with the bands of a training sensor, half a second of a tone, or a constant feature vector: content does not
matter, that something comes out does.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from cmir.archive.imagery import raw_media
from cmir.archive.schema import IMAGE_MODALITIES, Media, Modality
from cmir.archive.speech import SAMPLE_RATE_HZ, pcm_media
from cmir.network.preprocessing import Preprocessing

_TONE_HZ: Final = 220.0
_RAMP_PX: Final = 64
_PEAK: Final = {"uint8": 255.0, "uint16": 10_000.0, "int16": 10_000.0, "float32": 1.0}


def probe_media(preprocessing: Preprocessing, modalities: Sequence[Modality]) -> tuple[Media, ...]:
    """One small item of each modality that a bundle with this preprocessing can embed."""
    images = [_ramp(preprocessing, modality) for modality in modalities if modality in IMAGE_MODALITIES]
    speech = [_sound(preprocessing)] if "speech" in modalities else []
    return tuple(images + speech)


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
