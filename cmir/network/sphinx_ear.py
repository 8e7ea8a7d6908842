"""pocketsphinx as a second ear: a grammar of the spoken forms, decoded by a model trained on people who speak English.

The package carries the model and a dictionary of 126,000 words; nothing is fetched. An utterance is one form, or two or
three joined by "and" or "with". How probably it is one at all is told by the score of the grammar against that of any
sounds at all (a loop of phones), both per frame of the words heard.

The decoder keeps the interpreter's lock while it runs, so it is fed a fifth of a second at a time. Normalising each
cepstral coefficient by its mean over the whole utterance would need all of it at once; the mean is measured first, by a
pass through a grammar of one word.
"""

import logging
import math
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cmir.archive.speech import SAMPLE_RATE_HZ
from cmir.errors import ConfigError
from cmir.network.second_ear import F32, Said, cut
from cmir.network.spoken_forms import FormIndex, Forms

POCKETSPHINX: Final = "pocketsphinx"
log = logging.getLogger("cmir")

_BLOCK_BYTES: Final = 2 * SAMPLE_RATE_HZ // 5
# What is heard: from the first to the last frame as loud as this share of the loudest, and a little more. Long silences
# would count in the mean that cepstra are normalised by, and much less is understood.
_LOUD: Final = 0.03
_FRAME: Final = SAMPLE_RATE_HZ // 100
_FRAMES_AROUND: Final = 5
_SILENCE_S: Final = (0.03, 0.2)  # added before and after
_HISS: Final = 3.0  # standard deviation, of 16 bits: digital silence has no logarithm
# The phones of its English model (mdef), silence and noises left out: those the decoder adds to any grammar itself.
_PHONES: Final = (
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH"),
    *("K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"),
)
# Words found in less than this share of what is loud are noises that a short word was pressed into.
_LEAST_SHARE: Final = 0.3
_LEVEL, _FORMS, _SOUNDS = "level", "forms", "sounds"
# Confidence from the mean score of a frame against any sounds, in the decoder's own units (logarithms to 1.0001, of
# 1,024ths): logistic regression on synthetic words, other words and noises, as told in docs/decisions.md.
_EVEN_SCORE: Final = -3.7
_SLOPE: Final = 0.231


def pocketsphinx_is_installed() -> bool:
    """Whether the ear can be opened here."""
    return find_spec(POCKETSPHINX) is not None


class SphinxEar:
    """Listens for English spoken forms; one utterance at a time, whatever thread asks."""

    name = POCKETSPHINX

    def __init__(self, forms: Forms) -> None:
        """Forms with a word that its dictionary lacks are left out, with one log line.

        Raises ConfigError where pocketsphinx is not installed, or knows none of the forms.
        """
        self._decoder = _open_decoder()
        self._busy = threading.Lock()
        self._index = FormIndex(forms)
        heard = [form for form in self._index.label_of if self._knows(form)]
        missing = [form for form in self._index.label_of if form not in heard]
        if not heard:
            fix = "give a recogniser of transformers that knows their language"
            seen, expected = _listed(missing), "words of an English dictionary"
            raise ConfigError(f"{self.name} knows none of the spoken forms", seen=seen, expected=expected, fix=fix)
        if missing:
            silent = sorted(set(forms) - {self._index.label_of[form] for form in heard})
            unheard = f"; so labels are never heard by it: {_listed(silent)}" if silent else ""
            of = f"{len(missing)} of {len(self._index.label_of)}"
            log.warning("%s has no words for %s spoken forms, left out: %s%s", self.name, of, _listed(missing), unheard)
        for phone in _PHONES:
            self._decoder.add_word(_sound(phone), phone, phone == _PHONES[-1])
        self._decoder.add_jsgf_string(_LEVEL, _grammar("a"))
        self._decoder.add_jsgf_string(_FORMS, _forms_grammar(heard))
        self._decoder.add_jsgf_string(_SOUNDS, _grammar(f"( {' | '.join(map(_sound, _PHONES))} )+"))
        self._first_mean = self._decoder.get_cmn(False)

    def listen(self, waveform: F32) -> Said:
        """What an utterance f32[T] at 16 kHz says."""
        loud = _loud_part(cut(waveform))
        samples = _samples(loud)
        with self._busy:
            mean = self._mean_of(samples)
            text, score, num_frames = self._decode(_FORMS, samples, mean)
            _, any_score, _ = self._decode(_SOUNDS, samples, mean)
        labels = self._index.labels_in(text)
        if not labels or score is None or any_score is None or num_frames < _LEAST_SHARE * len(loud) / _FRAME:
            return Said(text, labels, 0.0)
        return Said(text, labels, _confidence((score - any_score) / num_frames))

    def _knows(self, form: str) -> bool:
        return all(self._decoder.lookup_word(word) is not None for word in form.split())

    def _mean_of(self, samples: bytes) -> str:
        """The utterance's mean cepstrum, as the decoder writes it; 7 ms for a second of sound, at once."""
        self._begin(_LEVEL, self._first_mean)
        self._decoder.process_raw(samples, full_utt=True)
        self._decoder.end_utt()
        mean: str = self._decoder.get_cmn(False)
        return mean

    def _begin(self, grammar: str, mean: str) -> None:
        self._decoder.reinit_feat()  # else what it heard before is still in its estimate of the noise
        self._decoder.set_cmn(mean)
        self._decoder.activate_search(grammar)
        self._decoder.start_utt()

    def _decode(self, grammar: str, samples: bytes, mean: str) -> tuple[str, float | None, int]:
        """The words, their score (None where there is none), and the frames of 10 ms that are words."""
        decoder = self._decoder
        self._begin(grammar, mean)
        for start in range(0, len(samples), _BLOCK_BYTES):
            decoder.process_raw(samples[start : start + _BLOCK_BYTES])
        decoder.end_utt()
        best = decoder.hyp()
        if best is None:
            return "", None, 0
        words = [part for part in decoder.seg() if part.word[0] not in "<[(+"]  # not silence, noises, empty arcs
        num_frames = sum(part.end_frame - part.start_frame + 1 for part in words)
        return str(best.hypstr), float(decoder.logmath.log(best.best_score)) if words else None, num_frames


def _open_decoder() -> Any:
    try:
        import pocketsphinx
    except ImportError as error:
        fix = "pip install 'cmir[ears]', or build the image with --build-arg EXTRAS=ears"
        what, expected = f"{POCKETSPHINX} is a package that need not be there", "the extra `ears`"
        raise ConfigError(what, seen="not installed", expected=expected, fix=fix) from error
    # lw: grammars are weighed as they are, not as an n-gram model; the best path of a lattice heard fewer words right
    return pocketsphinx.Decoder(lm=None, lw=1.0, bestpath=False, samprate=SAMPLE_RATE_HZ, loglevel="FATAL")


def _forms_grammar(forms: Sequence[str]) -> str:
    one, joint = "<form>", "( and | with )"
    return _grammar(f"{one} [ {joint} {one} [ {joint} {one} ] ]") + f"<form> = {' | '.join(forms)};\n"


def _grammar(said: str) -> str:
    return f"#JSGF V1.0;\ngrammar cmir;\npublic <said> = {said};\n"


def _sound(phone: str) -> str:
    """The word that is nothing but a phone; no dictionary has it."""
    return f"_{phone.lower()}_"


def _samples(waveform: F32) -> bytes:
    """16-bit samples with a little silence around them, the same for the same waveform."""
    before, after = (np.zeros(round(seconds * SAMPLE_RATE_HZ), np.float32) for seconds in _SILENCE_S)
    levels: npt.NDArray[np.float64] = np.concatenate([before, waveform, after]) * 32_767.0
    levels = levels + np.random.default_rng(0).normal(0.0, _HISS, len(levels))
    return np.clip(np.round(levels), -32_768, 32_767).astype("<i2").tobytes()


def _loud_part(waveform: F32) -> F32:
    """f32[T] without the silence at both ends; all of it where it is shorter than a frame."""
    frames = waveform[: len(waveform) // _FRAME * _FRAME].reshape(-1, _FRAME)
    level = np.sqrt(np.square(frames).mean(axis=1))
    loud = np.flatnonzero(level >= _LOUD * level.max(initial=0.0))
    if not len(loud):
        return waveform
    first, last = max(0, loud[0] - _FRAMES_AROUND), loud[-1] + 1 + _FRAMES_AROUND
    return waveform[first * _FRAME : last * _FRAME]


def _confidence(score: float) -> float:
    """0..1, one half at `_EVEN_SCORE`.

    >>> _confidence(-3.7), round(_confidence(10.0), 2), _confidence(-1e9)
    (0.5, 0.96, 0.0)
    """
    odds = _SLOPE * (score - _EVEN_SCORE)
    return 1.0 / (1.0 + math.exp(-odds)) if odds > -700.0 else 0.0


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
