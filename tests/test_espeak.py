"""espeak-ng through ctypes: samples depend on the arguments alone, in one thread or several."""

import concurrent.futures

import numpy as np
import pytest

from cmir.archive.espeak import espeak_samples
from cmir.errors import DataError


def spoken(text: str, voice: str = "en-us+f2") -> np.ndarray:
    samples, rate_hz = espeak_samples(text, voice=voice, words_per_minute=165, pitch=50, pitch_range=50)
    assert (samples.dtype, rate_hz) == (np.int16, 22_050)
    return samples


def test_samples_do_not_depend_on_what_was_spoken_before() -> None:
    first = spoken("airplane")
    spoken("something else", "en-gb-scotland+klatt2")
    np.testing.assert_array_equal(spoken("airplane"), first)
    assert not np.array_equal(spoken("airplane", "en-us+m2"), first)


def test_threads_do_not_disturb_each_other() -> None:
    texts = ["airplane", "grass", "bare soil", "tanks"] * 3
    alone = {text: spoken(text).tobytes() for text in set(texts)}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: spoken(text).tobytes(), texts))
    assert together == [alone[text] for text in texts]


def test_letters_beyond_ascii_and_nothing_at_all_are_taken() -> None:
    assert np.abs(spoken("forêt", "fr")).max() > 5_000
    assert not spoken("").any()


def test_an_unknown_voice_is_refused_and_the_next_text_is_spoken() -> None:
    with pytest.raises(DataError, match="no such voice: seen xx-nowhere"):
        spoken("sea", "xx-nowhere")
    assert len(spoken("sea")) > 3_000
