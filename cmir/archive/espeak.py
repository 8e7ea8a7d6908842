"""espeak-ng through ctypes: a text, a voice and its settings -> PCM samples; no program, no system package.

The wheel `espeakng-loader` carries the library and its voices. The library keeps its state (voice, flutter, noise) in
static memory that no call of it resets, so that the same text sounds a little different the second time. It is loaded
afresh for every text (0.7 ms beside 10 ms of synthesis) under a lock: samples depend on the arguments alone.
Constants and signatures: espeak-ng's speak_lib.h (version 1.52).
"""

import _ctypes
import ctypes
import threading
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cmir.errors import DataError

_SYNCHRONOUS: Final = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the call returns when the last sample was handed over
_DONT_EXIT: Final = 0x8000  # espeakINITIALIZE_DONT_EXIT: report missing data instead of ending the process
_CHARS_UTF8: Final = 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_ON_SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_LOCK: Final = threading.Lock()


def espeak_samples(
    text: str, *, voice: str, words_per_minute: int, pitch: int, pitch_range: int
) -> tuple[npt.NDArray[np.int16], int]:
    """The text spoken as i16[T], and its sample rate in Hz.

    `voice` is a base voice with an optional variant (`en-us+f3`), `pitch` and `pitch_range` 0..100 with 50 the voice's
    own. Raises DataError for a voice that espeak-ng does not have.
    """
    import espeakng_loader

    blocks: list[npt.NDArray[np.int16]] = []

    def on_samples(samples: Any, num_samples: int, events: object) -> int:
        if samples and num_samples > 0:
            blocks.append(np.ctypeslib.as_array(samples, shape=(num_samples,)).copy())
        return 0  # go on

    callback = _ON_SAMPLES(on_samples)  # stays referenced until the last call

    with _LOCK:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        try:
            rate_hz = int(
                library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), _DONT_EXIT)
            )
            if rate_hz <= 0:
                raise DataError("espeak-ng does not start", seen=rate_hz, where=espeakng_loader.get_data_path())
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise DataError("espeak-ng has no such voice", seen=voice)
            for parameter, value in ((_RATE, words_per_minute), (_PITCH, pitch), (_RANGE, pitch_range)):
                library.espeak_SetParameter(parameter, value, 0)
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            data = text.encode() + b"\0"
            library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 1, 0, _CHARS_UTF8, None, None)
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16), rate_hz
