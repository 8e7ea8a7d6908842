"""SVOX Pico through `ttspico`: a text and a language's voice -> PCM samples; an engine that need not be installed.

The package builds the engine and carries one voice for each language (`pip install ttspico`, a C compiler is needed).
An engine that has spoken says the same text a little differently the second time, so each text gets a new one (14 ms
beside 45 ms of synthesis): samples depend on the arguments alone.
"""

from importlib.util import find_spec
from typing import Final

import numpy as np
import numpy.typing as npt

from cmir.errors import DataError

SAMPLE_RATE_HZ: Final = 16_000


def pico_is_installed() -> bool:
    """Whether the engine can be loaded here."""
    return find_spec("ttspico") is not None


def pico_samples(text: str, *, language: str, rate_percent: int, pitch_percent: int) -> npt.NDArray[np.int16]:
    """The text spoken as i16[T] at 16 kHz; rate and pitch are per cent of the voice's own (20..500, 50..200).

    Raises DataError where the engine is missing or has no voice for the language (`en-US`).
    """
    try:
        import ttspico
    except ImportError as error:
        fix = "pip install ttspico"
        raise DataError("cannot speak", seen="no package ttspico", expected="the engine Pico", fix=fix) from error
    try:
        engine = ttspico.TtsEngine(language)
    except RuntimeError as error:
        raise DataError("Pico has no voice for this language", seen=language) from error
    engine.rate, engine.pitch = rate_percent, pitch_percent
    spoken: bytes | None = engine.speak(text)
    return np.frombuffer(spoken or b"", np.int16)
