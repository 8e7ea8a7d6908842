"""pocketsphinx hears spoken forms, refuses what is none, and says the same whatever it heard before."""

import logging
import sys
import threading
import time

import numpy as np
import pytest

from cmir.archive.noise import NOISES, noise
from cmir.archive.pico import pico_is_installed
from cmir.archive.vocabulary import UCMERCED_LABELS, spoken_forms
from cmir.archive.voices import Voice, speak
from cmir.errors import ConfigError
from cmir.network.ear_opening import open_ear
from cmir.network.second_ear import F32, Said
from cmir.network.sphinx_ear import SphinxEar


@pytest.fixture(scope="module")
def ear() -> SphinxEar:
    pytest.importorskip("pocketsphinx", reason="the extra `ears` is not installed")
    return SphinxEar(spoken_forms(UCMERCED_LABELS))


def spoken(text: str) -> F32:
    return speak(Voice("pico", "en-US") if pico_is_installed() else Voice("espeak-ng", "en-us", "f5"), text)


def test_a_word_and_a_phrase_are_named(ear: SphinxEar) -> None:
    one, many = ear.listen(spoken("trees")), ear.listen(spoken("water and sand"))
    assert (one.text, one.labels, one.is_sure) == ("trees", ("trees",), True)
    assert many.labels == ("water", "sand")


def test_other_words_are_not_believed(ear: SphinxEar) -> None:
    others = [ear.listen(spoken(word)) for word in ("elephant", "wednesday", "university", "good morning")]
    assert [said.is_sure for said in others] == [False] * 4
    assert max(said.confidence for said in others) < ear.listen(spoken("trees")).confidence


@pytest.mark.parametrize("labels", [UCMERCED_LABELS, ("airplane", "water", "trees", "grass")], ids=["many", "few"])
def test_noises_are_not_taken_for_words_of_long_or_short_lists(labels: tuple[str, ...]) -> None:
    pytest.importorskip("pocketsphinx", reason="the extra `ears` is not installed")
    ear = SphinxEar(spoken_forms(labels))
    sure = [kind for kind in NOISES for seed in (1, 2) if ear.listen(noise(kind, seed)).is_sure]
    assert len(sure) <= 1, sure


def test_silence_around_a_word_changes_little(ear: SphinxEar) -> None:
    word, silence = spoken("trees"), np.zeros(16_000, np.float32)
    said = ear.listen(np.concatenate([silence, word, silence]))
    assert said.labels == ("trees",)
    assert said.confidence == pytest.approx(ear.listen(word).confidence, abs=0.05)


def test_what_was_heard_before_changes_nothing(ear: SphinxEar) -> None:
    word = spoken("grass")
    first = ear.listen(word)
    ear.listen(noise("hiss", 5))
    ear.listen(spoken("tennis court"))
    assert ear.listen(word) == first


def test_threads_hear_what_one_hears(ear: SphinxEar) -> None:
    words = [spoken(word) for word in ("grass", "water", "trees", "beach")]
    alone = [ear.listen(word) for word in words]
    together: dict[int, Said] = {}
    threads = [threading.Thread(target=lambda i=i: together.__setitem__(i, ear.listen(words[i % 4]))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[i] for i in range(8)] == alone * 2


def test_others_run_while_it_listens(ear: SphinxEar) -> None:
    """The decoder keeps the interpreter's lock: at once, eight seconds of hiss would keep it for half a second."""
    hiss = np.random.default_rng(0).normal(0, 0.1, 16_000 * 8).astype(np.float32)
    listening = threading.Thread(target=ear.listen, args=(hiss,))
    began_s = last_s = time.perf_counter()
    longest_s = 0.0
    listening.start()
    while listening.is_alive():
        time.sleep(0.001)
        now_s = time.perf_counter()
        longest_s, last_s = max(longest_s, now_s - last_s), now_s
    assert longest_s < 0.5 * (last_s - began_s)


def test_an_empty_or_tiny_recording_says_nothing(ear: SphinxEar) -> None:
    for num_samples in (0, 1, 400):
        assert ear.listen(np.zeros(num_samples, np.float32)) == Said("", (), 0.0)


def test_forms_without_words_are_left_out_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pocketsphinx", reason="the extra `ears` is not installed")
    with caplog.at_level(logging.WARNING, "cmir"):
        half_deaf = SphinxEar({"car": ("car", "Kraftfahrzeug"), "river": ("Fluss",)})
        assert half_deaf.listen(spoken("car")).labels == ("car",)
        half_deaf.listen(spoken("car"))
    [told] = caplog.messages
    assert "has no words for 2 of 3 spoken forms, left out: kraftfahrzeug, fluss" in told
    assert told.endswith("labels are never heard by it: river")


def test_a_vocabulary_of_another_language_is_refused() -> None:
    pytest.importorskip("pocketsphinx", reason="the extra `ears` is not installed")
    with pytest.raises(ConfigError, match="knows none of the spoken forms: seen fluss, expected words of an English"):
        open_ear("pocketsphinx", {"river": ("Fluss",)})


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ConfigError, match=r"pip install 'cmir\[ears\]'"):
        open_ear("pocketsphinx", {"sea": ("sea",)})
