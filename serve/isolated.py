"""Queries decoded in processes of their own: a file that makes native code fault, loop or swell costs its own request.

What comes back is raw pixels or samples, so nothing that an asker sent reaches native decoders in the replica. The
processes import decoders and no network, are started anew when one ends, and end with their parent. A query goes
straight from the event loop to a process and back, over a socket: the threads and locks of a process pool cost as much
as the decoding of a chip. What takes more memory than a small query is decoded once the replica has room for it.
"""

import asyncio
import contextlib
import importlib
import io
import logging
import multiprocessing
import pickle
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from cmir.archive.imagery import decode_chip, raw_media
from cmir.archive.schema import Media
from cmir.archive.speech import SAMPLE_RATE_HZ, LongSpeechError, decode_speech
from cmir.errors import DataError
from cmir.lone_process import end_with_parent
from serve.limits import Limits
from serve.media import ImageBytes, SpeechBytes, sized_media
from serve.problems import ProblemError, too_large

_ATTEMPTS: Final = 3  # the first process may have been dead before, another be ended by others than the bytes
_RESTART_S: Final = 1.0  # between tries to start one
_LATE_IMPORTS: Final = ("av", "scipy.signal")  # by cmir.archive.speech, where a format or a sample rate asks for it
_LENGTH_BYTES: Final = 8  # before every message, big-endian
_READ_AHEAD_BYTES: Final = 2**22
_SMALL_BYTES: Final = 2**21  # decoded; what is larger costs a question and an answer more
_YES, _NO = b"\1", b"\0"
_log = logging.getLogger(__name__)


class ProcessEndedError(RuntimeError):
    """A decoding process ended before or during a call."""


class DecodingProcesses:
    """`num_processes` of them; use from one event loop."""

    def __init__(self, num_processes: int, limits: Limits) -> None:
        self._num_processes, self._limits = num_processes, limits
        self._idle: asyncio.Queue[_Process] = asyncio.Queue()
        self._living: set[_Process] = set()
        self._restarts: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    async def start(self) -> None:
        """Have all processes up, their decoders imported. Raises ProcessEndedError where one ends over that."""
        await asyncio.gather(*(self._begin_one() for _ in range(self._num_processes)))

    async def stop(self) -> None:
        """End them, whatever they do."""
        self._is_stopped = True
        for restart in self._restarts:
            restart.cancel()
        await asyncio.gather(*self._restarts, return_exceptions=True)
        await asyncio.gather(*(process.end() for process in self._living))
        self._living.clear()

    async def decode(
        self, source: ImageBytes | SpeechBytes, take: Callable[[int], None] = lambda num_bytes: None
    ) -> Media:
        """The pixels or samples in the bytes of a query, as raw media; a caller that goes away ends its decoding.

        `take` is told, before they are decoded, how many bytes they take at most; what it raises ends the call. Raises
        as `decoded` does; DataError where the bytes end three processes or take longer
        than `limits.max_decode_s`, ProblemError 413 where they need more memory than `limits.max_decode_bytes`, and 503
        where the processes were stopped.
        """
        what, fix = "media cannot be decoded", "write the file anew, in another format"
        for attempt in range(_ATTEMPTS):
            try:
                return await self._decode_once(source, take, await self._next(is_asked_first=attempt > 0))
            except ProcessEndedError as error:
                ended = error
            except TimeoutError as error:
                limit = f"at most {self._limits.max_decode_s:g} s"
                raise DataError(what, seen="no end of it", expected=limit, fix=fix) from error
            except MemoryError as error:
                limit = f"{self._limits.max_decode_bytes} bytes of memory"
                raise too_large("decoded query", seen="more than fits", limit=limit) from error
        seen = "the end of the process that tried"
        raise DataError(what, seen=seen, expected="pixels or samples", fix=fix) from ended

    async def _next(self, *, is_asked_first: bool) -> "_Process":
        """An idle process; it may have been killed since, unless it is asked whether it lives."""
        while True:
            if self._is_stopped:
                raise ProblemError(503, "decoding has been stopped")
            process = await self._idle.get()
            if not is_asked_first:
                return process
            try:
                async with asyncio.timeout(self._limits.max_decode_s):
                    await process.check()
                return process
            except (ProcessEndedError, TimeoutError):
                self._replace(process)
            except asyncio.CancelledError:
                self._replace(process)
                raise

    async def _decode_once(
        self, source: ImageBytes | SpeechBytes, take: Callable[[int], None], process: "_Process"
    ) -> Media:
        try:
            async with asyncio.timeout(self._limits.max_decode_s):
                media = await process.decode(source, take)
        except (ProcessEndedError, TimeoutError, asyncio.CancelledError):
            self._replace(process)
            raise
        except BaseException:  # the decoder's own words, or those of `take`, and the process goes on
            self._idle.put_nowait(process)
            raise
        self._idle.put_nowait(process)
        return media

    def _replace(self, process: "_Process") -> None:
        process.kill()
        if not self._is_stopped:
            restart = asyncio.get_running_loop().create_task(self._begin_another(process))
            self._restarts.add(restart)
            restart.add_done_callback(self._restarts.discard)

    async def _begin_another(self, ended: "_Process") -> None:
        await ended.end()
        self._living.discard(ended)
        while True:
            try:
                await self._begin_one()
                return
            except (ProcessEndedError, OSError) as error:
                _log.error("a decoding process cannot be started, it is tried again: %s", error, exc_info=error)
                await asyncio.sleep(_RESTART_S)

    async def _begin_one(self) -> None:
        process = _Process(self._limits)
        self._living.add(process)
        try:
            await process.begin()
        except (ProcessEndedError, OSError):
            await process.end()
            self._living.discard(process)
            raise
        self._idle.put_nowait(process)


class _Process:
    """One of them; it answers one call after the other."""

    def __init__(self, limits: Limits) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._process = multiprocessing.get_context("spawn").Process(
            target=_answer_calls, args=(self._theirs, limits), name="cmir-decode", daemon=True
        )

    async def begin(self) -> None:
        """Have it up. Raises ProcessEndedError where it ends over that, OSError where it cannot be started."""
        await asyncio.to_thread(self._start)
        self._reader, self._writer = await asyncio.open_connection(sock=self._ours, limit=_READ_AHEAD_BYTES)
        await self.check()

    async def check(self) -> None:
        """See that it answers. Raises ProcessEndedError where it ended."""
        await self._say(_message(None))

    async def decode(self, source: ImageBytes | SpeechBytes, take: Callable[[int], None]) -> Media:
        """`decoded`, there, once `take` has agreed to its size.

        Raises ProcessEndedError where it ended, else whatever was raised there or by `take`.
        """
        take(_SMALL_BYTES)
        answer = await self._say(_message(source))
        if isinstance(answer, int):
            try:
                take(answer)
            except BaseException:
                await self._say(_NO)
                raise
            answer = await self._say(_YES)
        assert isinstance(answer, Media)
        return answer

    async def _say(self, message: bytes) -> Media | int | None:
        assert self._reader is not None, "begin comes first"
        assert self._writer is not None
        try:
            self._writer.write(message)
            await self._writer.drain()
            length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES))
            answer: Media | BaseException | int | None = pickle.loads(await self._reader.readexactly(length))
        except (
            asyncio.IncompleteReadError,
            ConnectionError,
            pickle.UnpicklingError,
        ) as error:  # or what it says is no answer
            raise ProcessEndedError(f"exit code {self._process.exitcode}") from error
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def kill(self) -> None:
        """End it, whatever it does; `end` must follow."""
        if self._process.pid is not None:
            self._process.kill()

    async def end(self) -> None:
        """Kill it and see it gone."""
        self.kill()
        if self._writer is None:
            self._ours.close()  # it may be starting, and ends when it finds nobody there
        else:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        if self._process.pid is not None:
            await asyncio.to_thread(self._process.join)

    def _start(self) -> None:
        with self._theirs:
            self._process.start()


def decoded(source: ImageBytes | SpeechBytes, limits: Limits) -> Media:
    """Raw media of what is in the bytes of a query. Raises as `sized_media` and `raw_media_of` do."""
    return raw_media_of(sized_media(source, limits).media, limits)


def raw_media_of(media: Media, limits: Limits) -> Media:
    """The same media decoded.

    Raises as the decoders do, and ProblemError 413 where a recording is longer than `limits.max_audio_s`.
    """
    if media.modality == "speech":
        try:
            waveform = decode_speech(media, max_seconds=limits.max_audio_s)
        except LongSpeechError as error:
            raise too_large("recording", seen=error.seen, limit=f"{limits.max_audio_s:g} s") from error
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


def _answer_calls(calls: socket.socket, limits: Limits) -> None:
    """What a process does: read a source, answer with what is in it, until the other end is closed."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a whole terminal; whoever began it ends it
    make_ready(limits.max_decode_bytes)
    with calls, calls.makefile("rwb") as stream:
        while length := stream.read(_LENGTH_BYTES):
            try:
                source = pickle.loads(stream.read(int.from_bytes(length)))
                answer = _message(None if source is None else _agreed(source, limits, stream))
            except Exception as error:  # the border of the process: it is raised at the other end
                answer = _told(error)
            stream.write(answer)
            stream.flush()


def _agreed(source: ImageBytes | SpeechBytes, limits: Limits, stream: io.BufferedRWPair) -> Media | None:
    """`decoded`, unless the other end has no room for it."""
    sized = sized_media(source, limits)
    if sized.num_bytes > _SMALL_BYTES:
        stream.write(_message(sized.num_bytes))
        stream.flush()
        if stream.read(len(_YES)) != _YES:
            return None
    return raw_media_of(sized.media, limits)


def _told(error: Exception) -> bytes:
    """An exception as a message, its traceback here among its notes."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        return _message(error)
    except Exception:  # of a library, and not made for travelling
        return _message(RuntimeError(repr(error)))


def _message(content: object) -> bytes:
    packed = pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
    return len(packed).to_bytes(_LENGTH_BYTES) + packed


def make_ready(num_bytes: int) -> None:
    """Import what decoders import late, which takes longer than any query; then let this process take so many bytes
    beyond what it has (Linux alone counts all of them: RLIMIT_DATA)."""
    for name in _LATE_IMPORTS:
        importlib.import_module(name)
    if sys.platform == "linux":
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        taken = int(status["VmData"].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (taken + num_bytes, taken + num_bytes))
