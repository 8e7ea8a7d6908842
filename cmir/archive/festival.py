"""The University of Edinburgh's Festival: a text and a voice -> a wave file; an engine that need not be installed.

Three Debian packages carry the voices: festvox-us-slt-hts (statistical, of a woman), festvox-kdlpc16k and
festvox-kallpc16k (diphones, of two men). The engine counts as installed where it has all three.
"""

import shutil
import subprocess
from functools import cache
from typing import Final

from cmir.errors import DataError

VOICES: Final = {"slt": "cmu_us_slt_arctic_hts", "ked": "ked_diphone", "kal": "kal_diphone"}
PACKAGES: Final = "festival festvox-us-slt-hts festvox-kdlpc16k festvox-kallpc16k"
_PITCH_HZ: Final = {"ked": 105.0, "kal": 105.0}  # what their models of melody aim at


@cache
def festival_is_installed() -> bool:
    """Whether the program and all three voices are here; asked once in a process."""
    if shutil.which("festival") is None:
        return False
    asked = ["festival", "--batch", "(print (voice.list))"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60).stdout
    return all(name in told for name in VOICES.values())


def festival_wav(text: str, *, voice: str, stretch: float, pitch: float) -> bytes:
    """The text spoken, as a wave file; `stretch` multiplies durations, `pitch` the voice's own (`slt` keeps its own).

    Raises DataError where the engine or the voice (`slt`, `ked`, `kal`) is missing, or it fails.
    """
    if voice not in VOICES:
        raise DataError("Festival has no such voice", seen=voice, expected=", ".join(VOICES))
    if voice in _PITCH_HZ:
        melody = f"(target_f0_mean {pitch * _PITCH_HZ[voice]:.1f}) (target_f0_std 15)"
        manner = f"(set! int_lr_params '({melody} (model_f0_mean 170) (model_f0_std 34)))"
        manner += f" (Parameter.set 'Duration_Stretch {stretch:.3f})"
    else:
        manner = f'(set! hts_engine_params (append hts_engine_params \'(("-r" {1 / stretch:.3f}))))'
    quoted = text.replace("\\", " ").replace('"', " ")
    spoken = f'(utt.save.wave (utt.synth (Utterance Text "{quoted}")) "/dev/stdout" \'riff)'
    command = ["festival", "--batch", f"(begin (voice_{VOICES[voice]}) {manner} {spoken})"]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    except FileNotFoundError as error:
        fix = f"apt-get install {PACKAGES}"
        raise DataError("cannot speak", seen="no program festival", where=voice, fix=fix) from error
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise DataError("festival failed", seen=str(error), where=voice) from error
    return done.stdout
