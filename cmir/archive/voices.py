"""Synthetic voices: a text and a voice -> a waveform f32[T] at 16 kHz, the same for the same voice and text.

espeak-ng has few base voices, one per accent, and many variants that change pitch, formants and breathiness of one
base: splits go by base voice. Three engines with other base voices and other ways of making sound speak where they are
installed: Pico (SVOX's, a Python package), flite (Carnegie Mellon's) and Festival (Edinburgh's), both programs.
"""

import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from cmir.archive.espeak import espeak_samples
from cmir.archive.festival import festival_is_installed, festival_wav
from cmir.archive.pico import pico_is_installed, pico_samples
from cmir.archive.speech import F32, SAMPLE_RATE_HZ, decode_speech, file_media, resample
from cmir.errors import DataError

ESPEAK_BASES: Final[dict[str, tuple[str, ...]]] = {
    "en": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc"),
    "de": ("de",),
    "fr": ("fr", "fr-be", "fr-ch"),
}
PICO_BASES: Final[dict[str, tuple[str, ...]]] = {"en": ("en-US", "en-GB"), "de": ("de-DE",), "fr": ("fr-FR",)}
FLITE_BASES: Final[dict[str, tuple[str, ...]]] = {"en": ("slt", "rms", "awb", "kal16")}
FESTIVAL_BASES: Final[dict[str, tuple[str, ...]]] = {"en": ("slt", "ked", "kal")}
# One voice in so many speaks by the engine, where it is installed. espeak-ng has any number of voices, all made by
# formula; the few of the others are made of recordings of people.
SHARES: Final = {"flite": 4, "festival": 8, "pico": 8}
NORMAL_WORDS_PER_MINUTE: Final = 165

# Variants that sound like people. Left out: robots, demons, whisperers, and two whose noise differs each time.
VARIANTS: Final = (
    "",
    *("f1", "f2", "f3", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky"),
    *("Lee", "Marco", "Mario", "Michael", "Mike", "Nguyen", "adam", "anika", "antonio", "aunty", "belinda"),
    *("benjamin", "boris", "david", "ed", "edward", "edward2", "grandma", "grandpa", "gustave", "ian"),
    *("iven", "iven2", "iven3", "iven4", "john", "kaukovalta", "klatt", "klatt2", "klatt3", "klatt4", "linda"),
    *("marcelo", "max", "michel", "miguel", "mike2", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert"),
    *("sandro", "shelby", "steph", "steph2", "steph3", "travis", "victor", "zac"),
)
_FLITE_PITCH_HZ: Final = {"slt": 185.0, "rms": 90.0, "awb": 130.0, "kal16": 95.0}  # their own means


@dataclass(frozen=True, slots=True)
class Voice:
    """One way of speaking: an engine's base voice, a variant of it, speed, pitch and liveliness.

    `rate` multiplies the normal speed; `pitch` and `pitch_range` are 0..100 with 50 the base voice's own.
    """

    engine: str
    base: str
    variant: str = ""
    rate: float = 1.0
    pitch: int = 50
    pitch_range: int = 50

    @property
    def base_voice(self) -> str:
        """Engine and base voice, what a split must keep together: `espeak-ng/en-us`."""
        return f"{self.engine}/{self.base}"

    @property
    def name(self) -> str:
        """A readable name that no two different voices share."""
        variant = f"+{self.variant}" if self.variant else ""
        return f"{self.base_voice}{variant}-r{self.rate:.2f}-p{self.pitch}-i{self.pitch_range}"


def flite_is_installed() -> bool:
    """Whether the program `flite` can be run here."""
    return shutil.which("flite") is not None


def installed_engines() -> tuple[str, ...]:
    """The engines that can speak here; espeak-ng always can."""
    others = {"pico": pico_is_installed(), "flite": flite_is_installed(), "festival": festival_is_installed()}
    return ("espeak-ng", *(name for name, is_here in others.items() if is_here))


def draw_voices(
    num_voices: int, seed: int, *, language: str = "en", engines: Sequence[str] | None = None
) -> tuple[Voice, ...]:
    """`num_voices` different voices, the same for the same arguments; base voices of an engine get equal shares.

    `engines`: which may speak beside espeak-ng (default: all that are installed), each where it knows the language.
    Raises DataError for a language without voices, fewer than one voice, or an unknown engine.
    """
    if language not in ESPEAK_BASES:
        known = ", ".join(ESPEAK_BASES)
        raise DataError("no voices for this language", seen=language, expected=f"one of {known}")
    if num_voices < 1:
        raise DataError("too few voices", seen=num_voices, expected="at least 1")
    speaking = installed_engines() if engines is None else tuple(engines)
    if unknown := set(speaking) - {"espeak-ng", *SHARES}:
        raise DataError("unknown engine", seen=", ".join(sorted(unknown)), expected=f"espeak-ng, {', '.join(SHARES)}")
    drawer = random.Random(f"voices {language} {seed}")
    bases = list(ESPEAK_BASES[language])
    drawer.shuffle(bases)
    others = {
        name: max(1, num_voices // share)
        for name, share in SHARES.items()
        if name in speaking and base_names(name, language) and num_voices > len(SHARES)
    }
    voices = _draw("espeak-ng", bases, VARIANTS, num_voices - sum(others.values()), drawer)
    for name, num in others.items():
        voices += _draw(name, base_names(name, language), ("",), num, drawer)
    return voices


def base_names(engine: str, language: str) -> tuple[str, ...]:
    """The base voices of an engine, none where it does not know the language."""
    known = {"espeak-ng": ESPEAK_BASES, "pico": PICO_BASES, "flite": FLITE_BASES, "festival": FESTIVAL_BASES}
    return known[engine].get(language, ())


def speak(voice: Voice, text: str) -> F32:
    """The text spoken by a voice: f32[T] at 16 kHz with the silence at both ends cut to 50 ms.

    Raises DataError where the engine is missing, does not know the voice, or says nothing.
    """
    waveform = _SPEAKERS[voice.engine](voice, text)
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.abs(waveform).max(initial=0.0))
    if len(loud) == 0:
        raise DataError("the voice said nothing", seen=repr(text), where=voice.name)
    margin = SAMPLE_RATE_HZ // 20
    return waveform[max(0, loud[0] - margin) : loud[-1] + margin]


def _draw(
    engine: str, bases: Sequence[str], variants: Sequence[str], num: int, drawer: random.Random
) -> tuple[Voice, ...]:
    chosen: dict[str, Voice] = {}
    while len(chosen) < num:
        base = bases[len(chosen) % len(bases)]
        voice = Voice(
            engine=engine,
            base=base,
            variant=drawer.choice(variants),
            rate=round(drawer.uniform(0.75, 1.35), 2),
            pitch=drawer.randint(25, 75),
            pitch_range=drawer.randint(30, 90),
        )
        chosen.setdefault(voice.name, voice)
    return tuple(chosen.values())


def _speak_espeak(voice: Voice, text: str) -> F32:
    samples, rate_hz = espeak_samples(
        text,
        voice=f"{voice.base}+{voice.variant}" if voice.variant else voice.base,
        words_per_minute=round(voice.rate * NORMAL_WORDS_PER_MINUTE),
        pitch=voice.pitch,
        pitch_range=voice.pitch_range,
    )
    return resample(samples.astype(np.float32) / np.float32(32_768.0), rate_hz)


def _speak_festival(voice: Voice, text: str) -> F32:
    pitch = 2.0 ** ((voice.pitch - 50) / 75)
    return decode_speech(file_media(festival_wav(text, voice=voice.base, stretch=1 / voice.rate, pitch=pitch)))


def _speak_pico(voice: Voice, text: str) -> F32:
    pitch_percent = round(100 * 2.0 ** ((voice.pitch - 50) / 75))
    samples = pico_samples(text, language=voice.base, rate_percent=round(100 * voice.rate), pitch_percent=pitch_percent)
    return samples.astype(np.float32) / np.float32(32_768.0)


def _speak_flite(voice: Voice, text: str) -> F32:
    stretch, pitch_hz = 1.0 / voice.rate, _FLITE_PITCH_HZ[voice.base] * 2.0 ** ((voice.pitch - 50) / 75)
    command = ["flite", "-voice", voice.base, "--setf", f"duration_stretch={stretch:.3f}"]
    command += ["--setf", f"int_f0_target_mean={pitch_hz:.1f}", "-t", text, "-o", "/dev/stdout"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    except FileNotFoundError as error:
        raise DataError("cannot speak", seen="no program flite", where=voice.name, fix="install flite") from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise DataError("flite failed", seen=str(error), where=voice.name) from error
    return decode_speech(file_media(done.stdout))


_SPEAKERS: Final[dict[str, Callable[[Voice, str], F32]]] = {
    "espeak-ng": _speak_espeak,
    "pico": _speak_pico,
    "flite": _speak_flite,
    "festival": _speak_festival,
}
