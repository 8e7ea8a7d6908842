"""The University of Edinburgh's Festival: a text and a voice -> a wave file; an engine that need not be installed.

Three Debian packages carry the voices: festvox-us-slt-hts (statistical, of a woman), festvox-kdlpc16k and
festvox-kallpc16k (diphones, of two men). The engine counts as installed where it has all three.
The program needs 200 ms for its own start and 10 to 70 for a word, so that one of it is kept for each voice and reads
its texts from a pipe. It ends when the pipe does, however this process ends.
"""

import atexit
import os
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Final

from cmir.errors import DataError

VOICES: Final = {"slt": "cmu_us_slt_arctic_hts", "ked": "ked_diphone", "kal": "kal_diphone"}
PACKAGES: Final = "festival festvox-us-slt-hts festvox-kdlpc16k festvox-kallpc16k"
_PITCH_HZ: Final = {"ked": 105.0, "kal": 105.0}  # what their models of melody aim at
_TIMEOUT_S: Final = 60.0
_SPOKEN: Final = b"spoken"


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
        manner = f'(set! hts_engine_params (append own_params \'(("-r" {1 / stretch:.3f}))))'
    return _program(voice, os.getpid()).wav(text, manner)


class _Program:
    """One running Festival with one voice; a text spoken twice, or after any other, has the same samples."""

    def __init__(self, voice: str) -> None:
        self._voice = voice
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def wav(self, text: str, manner: str) -> bytes:
        """The text spoken after `manner`, Scheme that sets speed and pitch. Raises DataError where it is not spoken."""
        quoted = " ".join(text.replace("\\", " ").replace('"', " ").split())
        with self._lock, tempfile.NamedTemporaryFile(prefix="cmir-festival-", suffix=".wav") as file:
            spoken = f'(utt.save.wave (utt.synth (Utterance Text "{quoted}")) "{file.name}" \'riff)'
            told = self._ask(f'(begin {manner} {spoken} (format t "{_SPOKEN.decode()}\\n") (fflush nil))')
            wav = Path(file.name).read_bytes()
            if _SPOKEN not in told or not wav:
                self.end()
                raise DataError("festival failed", seen=told.decode(errors="replace").strip(), where=self._voice)
            return wav

    def _ask(self, command: str) -> bytes:
        """The program's answer to one line; empty where it ended or took too long."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(_TIMEOUT_S, process.kill)
        watch.start()
        try:
            process.stdin.write(command.encode() + b"\n")
            process.stdin.flush()
            return process.stdout.readline()
        except BrokenPipeError:
            return b""
        finally:
            watch.cancel()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            self.end()  # closes the pipes of one that died
            try:
                self._process = subprocess.Popen(
                    ["festival", "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            except FileNotFoundError as error:
                fix = f"apt-get install {PACKAGES}"
                raise DataError("cannot speak", seen="no program festival", where=self._voice, fix=fix) from error
            assert self._process.stdin is not None
            own = " (set! own_params hts_engine_params)" if self._voice not in _PITCH_HZ else ""
            self._process.stdin.write(f"(begin (voice_{VOICES[self._voice]}){own})\n".encode())
        return self._process

    def end(self) -> None:
        """End the program; the next text starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@cache
def _program(voice: str, _process_id: int) -> _Program:  # a forked process must not read its parent's pipe
    program = _Program(voice)
    atexit.register(program.end)
    return program
