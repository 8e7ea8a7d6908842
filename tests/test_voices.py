"""Synthetic voices: different ones are drawn, each says the same thing the same way every time."""

import os
import sys

import numpy as np
import pytest

from cmir.archive import festival, voices
from cmir.archive.festival import festival_is_installed
from cmir.archive.pico import pico_is_installed
from cmir.archive.voices import Voice, draw_voices, flite_is_installed, installed_engines, speak
from cmir.errors import DataError

needs_flite = pytest.mark.skipif(not flite_is_installed(), reason="the program flite is not installed")
needs_festival = pytest.mark.skipif(not festival_is_installed(), reason="Festival is not installed with its voices")
needs_pico = pytest.mark.skipif(not pico_is_installed(), reason="the package ttspico is not installed")


def test_drawn_voices_are_different_and_the_same_for_the_same_seed() -> None:
    drawn = draw_voices(40, 7)
    assert drawn == draw_voices(40, 7)
    assert len({voice.name for voice in drawn}) == 40
    assert drawn != draw_voices(40, 8)


def test_every_base_voice_of_the_language_speaks() -> None:
    drawn = draw_voices(16, 0, engines=())
    assert {voice.base for voice in drawn} == set(voices.ESPEAK_BASES["en"])
    assert {voice.base for voice in draw_voices(6, 0, language="fr", engines=())} == {"fr", "fr-be", "fr-ch"}


def test_one_voice_in_four_is_flite_and_one_in_eight_festival_and_pico() -> None:
    drawn = [voice.engine for voice in draw_voices(16, 0, engines=("flite", "festival", "pico"))]
    assert [drawn.count(name) for name in ("espeak-ng", "flite", "festival", "pico")] == [8, 4, 2, 2]
    assert all(voice.engine == "espeak-ng" for voice in draw_voices(16, 0, engines=()))
    assert {voice.engine for voice in draw_voices(16, 0)} == set(installed_engines())


def test_engines_speak_the_languages_they_know() -> None:
    drawn = draw_voices(16, 0, language="fr", engines=("flite", "pico"))
    assert {voice.base_voice for voice in drawn if voice.engine != "espeak-ng"} == {"pico/fr-FR"}
    with pytest.raises(DataError, match="unknown engine: seen mbrola, expected espeak-ng, flite, festival, pico"):
        draw_voices(16, 0, engines=("mbrola",))


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_every_base_voice_can_be_heard(language: str) -> None:
    for base in voices.ESPEAK_BASES[language]:
        waveform = speak(Voice("espeak-ng", base), "sand")
        assert waveform.dtype == np.float32
        assert 0.1 < np.abs(waveform).max() <= 1.0
        assert 4_000 < len(waveform) < 24_000


def test_samples_do_not_depend_on_what_was_spoken_before() -> None:
    voice = Voice("espeak-ng", "en-us", "f3", 1.1, 60, 70)
    first = speak(voice, "airplane")
    speak(Voice("espeak-ng", "en-gb-scotland", "klatt2"), "something else")
    np.testing.assert_array_equal(speak(voice, "airplane"), first)


def test_variants_change_the_sound() -> None:
    sounds = {speak(Voice("espeak-ng", "en-us", variant), "sea").tobytes() for variant in voices.VARIANTS}
    assert len(sounds) == len(voices.VARIANTS)


def test_rate_and_pitch_are_heard() -> None:
    slow, quick = (speak(Voice("espeak-ng", "en-us", rate=rate), "parking lot") for rate in (0.8, 1.3))
    assert len(slow) > 1.3 * len(quick)
    low, high = (_pitch_hz(speak(Voice("espeak-ng", "en-us", pitch=pitch), "aaa")) for pitch in (25, 75))
    assert high > 1.2 * low


@needs_flite
@pytest.mark.parametrize("base", voices.FLITE_BASES["en"])
def test_flite_speaks_at_16_khz_the_same_every_time(base: str) -> None:
    voice = Voice("flite", base, rate=0.9)
    waveform = speak(voice, "airplane")
    assert 6_000 < len(waveform) < 24_000
    np.testing.assert_array_equal(speak(voice, "airplane"), waveform)


@needs_festival
@pytest.mark.parametrize("base", voices.FESTIVAL_BASES["en"])
def test_festival_speaks_quickly_and_slowly_the_same_every_time(base: str) -> None:
    slow, quick = (speak(Voice("festival", base, rate=rate), "parking lot") for rate in (0.8, 1.3))
    assert 6_000 < len(quick) < 1.25 * len(quick) < len(slow) < 32_000
    np.testing.assert_array_equal(speak(Voice("festival", base, rate=1.3), "parking lot"), quick)


@needs_festival
def test_quotes_and_parentheses_are_spoken_as_words() -> None:
    said = speak(Voice("festival", "ked"), 'sea") (quit')
    assert len(said) > len(speak(Voice("festival", "ked"), "sea"))


@needs_festival
def test_festival_that_was_killed_between_or_within_texts_speaks_the_next_one() -> None:
    voice = Voice("festival", "ked")
    first = speak(voice, "sea")
    running = festival._program("ked", os.getpid())._process
    assert running is not None
    running.kill()
    running.wait()
    np.testing.assert_array_equal(speak(voice, "sea"), first)
    with pytest.raises(DataError, match=r"festival failed: seen SIOD ERROR.*unbound"):
        festival._program("ked", os.getpid()).wav("sea", "(no-such-thing)")
    np.testing.assert_array_equal(speak(voice, "sea"), first)


@needs_festival
def test_the_pitch_of_a_diphone_voice_is_heard() -> None:
    low, high = (_pitch_hz(speak(Voice("festival", "ked", pitch=pitch), "aaa")) for pitch in (25, 75))
    assert high > 1.2 * low


def test_silence_at_the_ends_is_cut() -> None:
    waveform = speak(Voice("espeak-ng", "en-us"), "grass")
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.abs(waveform).max())
    assert loud[0] <= 800
    assert len(waveform) - loud[-1] <= 801


def test_what_cannot_be_spoken_is_refused() -> None:
    with pytest.raises(DataError, match="no such voice: seen xx-nowhere"):
        speak(Voice("espeak-ng", "xx-nowhere"), "sea")
    with pytest.raises(DataError, match="said nothing"):
        speak(Voice("espeak-ng", "en-us"), " ")
    with pytest.raises(DataError, match="no voices for this language: seen tlh, expected one of en, de, fr"):
        draw_voices(3, 0, language="tlh")
    with pytest.raises(DataError, match="too few voices: seen 0"):
        draw_voices(0, 0)


@needs_pico
@pytest.mark.parametrize("base", [base for bases in voices.PICO_BASES.values() for base in bases])
def test_pico_speaks_the_same_every_time_whatever_was_spoken_before(base: str) -> None:
    voice = Voice("pico", base, rate=0.9, pitch=60)
    first = speak(voice, "sand")
    assert first.dtype == np.float32
    assert 4_000 < len(first) < 24_000
    speak(Voice("pico", base, rate=1.3), "something else")
    np.testing.assert_array_equal(speak(voice, "sand"), first)
    assert len(speak(Voice("pico", base, rate=0.75), "sand")) > 1.3 * len(speak(Voice("pico", base, rate=1.3), "sand"))


@needs_pico
def test_pico_names_a_language_it_does_not_speak() -> None:
    with pytest.raises(DataError, match="no voice for this language: seen xx"):
        speak(Voice("pico", "xx"), "sand")


def test_a_missing_pico_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ttspico", None)
    with pytest.raises(DataError, match="no package ttspico"):
        speak(Voice("pico", "en-US"), "sea")


def test_a_missing_flite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not flite_is_installed()
    with pytest.raises(DataError, match="no program flite"):
        speak(Voice("flite", "slt"), "sea")


def test_a_missing_festival_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    festival._program("ked", os.getpid()).end()
    with pytest.raises(DataError, match="no program festival"):
        speak(Voice("festival", "ked"), "sea")
    with pytest.raises(DataError, match="no such voice: seen rab, expected slt, ked, kal"):
        speak(Voice("festival", "rab"), "sea")


def _pitch_hz(waveform: np.ndarray) -> float:
    """The fundamental by the highest peak of the autocorrelation between 60 and 400 Hz."""
    middle = waveform[len(waveform) // 4 : -len(waveform) // 4]
    correlation = np.correlate(middle, middle, mode="full")[len(middle) - 1 :]
    return 16_000 / (40 + int(np.argmax(correlation[40:267])))
