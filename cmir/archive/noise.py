"""What a microphone hears while nobody speaks: silence, hiss, rumble, mains hum, clicks and tones, f32[T] at 16 kHz.

Made, not recorded. They teach a network to find no word in them, and measure whether it does.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from cmir.archive.speech import F32, SAMPLE_RATE_HZ

_SECONDS: Final = (0.4, 2.0)
_LEVEL_DB: Final = (-50.0, -12.0)  # of the root mean square, against full scale
_SILENCE_LEVEL: Final = 3e-5  # one step of 16 bits


def noise(kind: str, seed: int) -> F32:
    """A stretch of 0.4 to 2 s of one of NOISES at a level of -50 to -12 dB, the same for a seed; silence is dither."""
    rng = np.random.default_rng([seed, tuple(NOISES).index(kind)])
    num_samples = int(rng.uniform(*_SECONDS) * SAMPLE_RATE_HZ)
    shape = NOISES[kind](num_samples, rng)
    if kind == "silence":
        return (shape * _SILENCE_LEVEL).astype(np.float32)
    rms = float(np.sqrt(np.mean(np.square(shape)))) or 1.0
    scaled: F32 = np.clip(shape * 10.0 ** (rng.uniform(*_LEVEL_DB) / 20.0) / rms, -1.0, 1.0).astype(np.float32)
    return scaled


def _white(num_samples: int, rng: np.random.Generator) -> F32:
    return rng.standard_normal(num_samples).astype(np.float32)


def _falling(num_samples: int, rng: np.random.Generator, db_per_octave: float) -> F32:
    spectrum = np.fft.rfft(_white(num_samples, rng))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(num_samples, 1.0 / SAMPLE_RATE_HZ), 20.0) / 1000.0)
    return np.fft.irfft(spectrum * 10.0 ** (-db_per_octave * octaves / 20.0), num_samples).astype(np.float32)


def _hum(num_samples: int, rng: np.random.Generator) -> F32:
    """Mains at 50 or 60 Hz with falling harmonics."""
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    waves = [np.sin(2 * np.pi * n * time_s * rng.choice((50.0, 60.0)) + rng.uniform(0, 6)) / n for n in range(1, 9)]
    return np.asarray(np.sum(waves, axis=0) + 0.02 * _white(num_samples, rng), np.float32)


def _clicks(num_samples: int, rng: np.random.Generator) -> F32:
    """Keys and knocks: short bursts that die away within milliseconds."""
    sound = 0.003 * _white(num_samples, rng)
    for start in rng.integers(0, num_samples, rng.integers(1, 9)):
        burst = sound[start : start + 800]
        burst += _white(len(burst), rng) * np.exp(-np.arange(len(burst)) / rng.uniform(20, 200)).astype(np.float32)
    return sound


def _tones(num_samples: int, rng: np.random.Generator) -> F32:
    """A few beeps after each other, one or two frequencies each."""
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    beep = np.minimum((time_s * rng.uniform(1, 5)).astype(int), 15)
    pitches_hz = rng.uniform(200, 3_000, (2, 16))
    sound = sum(np.sin(2 * np.pi * time_s * pitch[beep]) for pitch in pitches_hz[: rng.integers(1, 3)])
    return np.asarray(sound + 0.005 * _white(num_samples, rng), np.float32)


NOISES: Final[dict[str, Callable[[int, np.random.Generator], F32]]] = {
    "silence": _white,
    "hiss": _white,
    "pink": lambda num_samples, rng: _falling(num_samples, rng, 3.0),
    "rumble": lambda num_samples, rng: _falling(num_samples, rng, 9.0),
    "hum": _hum,
    "clicks": _clicks,
    "tones": _tones,
}
