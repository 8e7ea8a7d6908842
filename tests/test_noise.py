"""Noises without a word."""

import numpy as np
import pytest

from cmir.archive.noise import NOISES, noise


@pytest.mark.parametrize("kind", NOISES)
def test_a_noise_is_the_same_for_a_seed_and_of_a_level_that_microphones_give(kind: str) -> None:
    first, again, other = noise(kind, 3), noise(kind, 3), noise(kind, 4)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[:100], other[:100])
    assert first.dtype == np.float32
    assert 0.4 * 16_000 <= len(first) <= 2.0 * 16_000
    level_db = 20 * np.log10(np.sqrt(np.mean(np.square(first))))
    assert level_db < -80 if kind == "silence" else -51 < level_db < -11


def test_rumble_is_low_and_hiss_is_not() -> None:
    def centre_hz(kind: str) -> float:
        sound = noise(kind, 0)
        power = np.abs(np.fft.rfft(sound)) ** 2
        return float((power * np.fft.rfftfreq(len(sound), 1 / 16_000)).sum() / power.sum())

    assert centre_hz("rumble") < 500 < 2_000 < centre_hz("hiss")
