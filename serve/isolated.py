"""Queries decoded in processes of their own: a file that makes native code fault, loop or swell costs its own request.

What comes back is raw pixels or samples, so nothing that an asker sent reaches native decoders in the replica. The
processes import decoders and no network, are started anew when one ends, and end with their parent.
"""

import asyncio
import importlib
import logging
import resource
import sys
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Final

from cmir.archive.imagery import decode_chip, raw_media
from cmir.archive.schema import Media
from cmir.archive.speech import SAMPLE_RATE_HZ, decode_speech
from cmir.errors import DataError
from cmir.lone_process import LoneProcess
from serve.limits import Limits
from serve.media import ImageBytes, SpeechBytes, image_media, speech_media
from serve.problems import ProblemError, too_large

_ATTEMPTS: Final = 2  # a process may be ended by others than the bytes
_RESTART_S: Final = 1.0  # between tries to start one
_LATE_IMPORTS: Final = ("av", "scipy.signal")  # by cmir.archive.speech, where a format or a sample rate asks for it
_log = logging.getLogger(__name__)


class DecodingProcesses:
    """`num_processes` of them; use from one event loop."""

    def __init__(self, num_processes: int, limits: Limits) -> None:
        self._num_processes, self._limits = num_processes, limits
        self._idle: asyncio.Queue[LoneProcess] = asyncio.Queue()
        self._living: set[LoneProcess] = set()
        self._restarts: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    async def start(self) -> None:
        """Have all processes up, their decoders imported. Raises BrokenProcessPool where one ends over that."""
        await asyncio.gather(*(self._begin_one() for _ in range(self._num_processes)))

    async def stop(self) -> None:
        """End them, whatever they do."""
        self._is_stopped = True
        for restart in self._restarts:
            restart.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        for process in self._living:
            process.kill()
        self._living.clear()

    async def decode(self, source: ImageBytes | SpeechBytes) -> Media:
        """The pixels or samples in the bytes of a query, as raw media; a caller that goes away ends its decoding.

        Raises as `decoded` does; DataError where the bytes end two processes or take longer than
        `limits.max_decode_s`, ProblemError 413 where they need more memory than `limits.max_decode_bytes`, 503 where
        the processes were stopped.
        """
        what, fix = "media cannot be decoded", "write the file anew, in another format"
        for attempt in range(_ATTEMPTS):
            try:
                return await self._decode_once(source, await self._next(is_asked_first=attempt > 0))
            except BrokenProcessPool as error:
                ended = error
            except TimeoutError as error:
                limit = f"at most {self._limits.max_decode_s:g} s"
                raise DataError(what, seen="no end of it", expected=limit, fix=fix) from error
            except MemoryError as error:
                limit = f"{self._limits.max_decode_bytes} bytes of memory"
                raise too_large("decoded query", seen="more than fits", limit=limit) from error
        seen = "the end of the process that tried"
        raise DataError(what, seen=seen, expected="pixels or samples", fix=fix) from ended

    async def _next(self, *, is_asked_first: bool) -> LoneProcess:
        """An idle process; it may have been killed since, unless it is asked whether it lives."""
        while True:
            if self._is_stopped:
                raise ProblemError(503, "decoding has been stopped")
            process = await self._idle.get()
            if not is_asked_first:
                return process
            try:
                async with asyncio.timeout(self._limits.max_decode_s):
                    await asyncio.wrap_future(process.submit(_is_ready))
                return process
            except (BrokenProcessPool, TimeoutError):
                self._replace(process)
            except asyncio.CancelledError:
                self._replace(process)
                raise

    async def _decode_once(self, source: ImageBytes | SpeechBytes, process: LoneProcess) -> Media:
        try:
            async with asyncio.timeout(self._limits.max_decode_s):
                media = await asyncio.wrap_future(process.submit(decoded, source, self._limits))
        except (BrokenProcessPool, TimeoutError, asyncio.CancelledError):
            self._replace(process)
            raise
        except BaseException:  # the decoder's own words, and the process goes on
            self._idle.put_nowait(process)
            raise
        self._idle.put_nowait(process)
        return media

    def _replace(self, process: LoneProcess) -> None:
        process.kill()
        self._living.discard(process)
        if not self._is_stopped:
            restart = asyncio.get_running_loop().create_task(self._begin_another())
            self._restarts.add(restart)
            restart.add_done_callback(self._restarts.discard)

    async def _begin_another(self) -> None:
        while True:
            try:
                await self._begin_one()
                return
            except (BrokenProcessPool, OSError) as error:
                _log.error("a decoding process cannot be started, it is tried again: %s", error, exc_info=error)
                await asyncio.sleep(_RESTART_S)

    async def _begin_one(self) -> None:
        process = LoneProcess(_make_ready, self._limits.max_decode_bytes)
        self._living.add(process)
        try:
            await asyncio.wrap_future(process.submit(_is_ready))
        except BaseException:
            self._living.discard(process)
            process.kill()
            raise
        self._idle.put_nowait(process)


def media_of(source: ImageBytes | SpeechBytes, limits: Limits) -> Media:
    """The bytes of a query as media, still encoded. Raises as `image_media` and `speech_media` do."""
    if isinstance(source, SpeechBytes):
        return speech_media(source.data, limits)
    return image_media(source.data, source.hints, limits)


def decoded(source: ImageBytes | SpeechBytes, limits: Limits) -> Media:
    """Raw media of what is in the bytes of a query. Raises as `media_of` and the decoders do."""
    media = media_of(source, limits)
    if media.modality == "speech":
        waveform = decode_speech(media)
        raw = {"data": waveform.tobytes(), "encoding": "raw", "dtype": "float32", "shape": waveform.shape}
        return replace(media, **raw, sample_rate_hz=SAMPLE_RATE_HZ)  # type: ignore[arg-type]
    chip = decode_chip(media)
    return raw_media(
        media.modality,
        chip.pixels,
        bands=chip.bands,
        wavelength_nm=chip.wavelength_nm,
        sensor=chip.sensor,
        gsd_m=chip.gsd_m,
    )


def _make_ready(num_bytes: int) -> None:
    """Import what decoders import late, which takes longer than any query; then let this process take so many bytes
    beyond what it has (Linux alone counts all of them: RLIMIT_DATA)."""
    for name in _LATE_IMPORTS:
        importlib.import_module(name)
    if sys.platform == "linux":
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        taken = int(status["VmData"].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (taken + num_bytes, taken + num_bytes))


def _is_ready() -> bool:
    return True  # since calls come after `_make_ready`
