"""Decoding in processes: the same answers as in threads, and a file that ends one costs its own request."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pytest

from cmir.archive.imagery import decode_chip
from cmir.archive.schema import Media
from cmir.archive.speech import decode_speech
from cmir.errors import DataError
from cmir.lone_process import LoneProcess
from serve.isolated import DecodingProcesses, decoded, make_ready
from serve.limits import Limits
from serve.media import ImageBytes, ImageHints, SpeechBytes, image_media, speech_media
from serve.problems import ProblemError
from tests.deadly_chips import make_deadly
from tests.serve_doubles import pixels, png, tone, wav
from tests.test_media import SCENE, recorded, tiff

T = TypeVar("T")
LIMITS = Limits(max_decode_s=3.0)


def picture(seed: int, sensor: str | None = None) -> ImageBytes:
    return ImageBytes(png(pixels("rgb", seed)), ImageHints(sensor=sensor))


def run(
    talk: Callable[[DecodingProcesses], Coroutine[Any, Any, T]], num_processes: int = 2, limits: Limits = LIMITS
) -> T:
    async def whole() -> T:
        processes = DecodingProcesses(num_processes, limits)
        await processes.start()
        try:
            return await talk(processes)
        finally:
            await processes.stop()

    try:
        return asyncio.run(whole())
    finally:
        _, left = psutil.wait_procs(decoders(), timeout=10)
        assert not left, "processes end with the pool"


@pytest.mark.parametrize(
    ("data", "hints"),
    [
        (png(pixels("rgb", 1)), ImageHints(gsd_m=0.5)),
        (png(pixels("pan", 1)), ImageHints(sensor="GF-1-PMS")),
        (tiff(SCENE), ImageHints(window=(8, 16, 64, 32))),
        (tiff(SCENE[:3].astype(np.float32)), ImageHints("ms", ("red", "green", "nir"))),
    ],
)
def test_what_comes_out_of_a_process_is_what_the_decoder_gives(data: bytes, hints: ImageHints) -> None:
    given, expected = (
        decode_chip(decoded(ImageBytes(data, hints), LIMITS)),
        decode_chip(image_media(data, hints, LIMITS)),
    )
    np.testing.assert_array_equal(given.pixels, expected.pixels)
    assert given.pixels.dtype == expected.pixels.dtype
    for name in ("bands", "wavelength_nm", "gsd_m", "sensor"):
        assert getattr(given, name) == getattr(expected, name), name


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_recording_is_the_same_too(kind: str) -> None:
    data = wav(tone(3), kind)
    expected = decode_speech(speech_media(data, LIMITS))
    np.testing.assert_array_equal(decode_speech(decoded(SpeechBytes(data), LIMITS)), expected)


def test_refusals_are_the_decoders_own() -> None:
    async def talk(processes: DecodingProcesses) -> None:
        with pytest.raises(ProblemError) as refused:
            await processes.decode(SpeechBytes(b"not a sound"))
        assert (refused.value.status_code, refused.value.title) == (415, _refusal(b"not a sound").title)
        with pytest.raises(DataError, match="image cannot be decoded: seen OSError"):
            await processes.decode(ImageBytes(png(pixels("rgb", 0))[:60], ImageHints()))

    run(talk, 1)


def _refusal(data: bytes) -> ProblemError:
    with pytest.raises(ProblemError) as refused:
        decoded(SpeechBytes(data), LIMITS)
    return refused.value


def test_room_is_asked_for_before_decoding_and_a_refusal_leaves_the_process_free() -> None:
    image = np.zeros((3, 1000, 1200), np.uint8)
    large, small = ImageBytes(png(image), ImageHints()), picture(1)
    asked: list[int] = []

    def refuse_large(num_bytes: int) -> None:
        asked.append(num_bytes)
        if num_bytes >= image.nbytes:
            raise ProblemError(429, "no room")

    async def talk(processes: DecodingProcesses) -> list[Media]:
        before = [child.pid for child in decoders()]
        answers = []
        for _ in range(2):
            with pytest.raises(ProblemError, match="no room"):
                await processes.decode(large, refuse_large)
            answers.append(await processes.decode(small, refuse_large))
        answers.append(await processes.decode(large, asked.append))
        assert [child.pid for child in decoders()] == before
        return answers

    *smalls, whole = run(talk, 1)
    for answer in smalls:
        np.testing.assert_array_equal(decode_chip(answer).pixels, pixels("rgb", 1))
    np.testing.assert_array_equal(decode_chip(whole).pixels, image)
    few = asked[0]
    assert few < image.nbytes
    assert asked == [few, image.nbytes, few] * 2 + [few, image.nbytes]


def test_the_first_query_of_a_process_waits_for_no_import() -> None:
    with LoneProcess(make_ready, LIMITS.max_decode_bytes) as process:
        assert process.submit(_has_imported_late_modules).result()


def _has_imported_late_modules() -> bool:
    before = set(sys.modules)
    for kind, rate in (("WAV", 8000), ("MP3", 16_000)):
        decoded(SpeechBytes(wav(tone(3), kind, rate)), LIMITS)
    decoded(SpeechBytes(recorded("webm", "libopus")), LIMITS)
    heavy = {"scipy", "av", "torch"}
    return not {name for name in set(sys.modules) - before if name.split(".")[0] in heavy}


def test_a_file_that_ends_its_process_costs_its_own_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_deadly(monkeypatch, tmp_path / "tally")

    async def talk(processes: DecodingProcesses) -> list[Any]:
        sources = [picture(i, {3: "deadly", 7: "greedy", 11: "endless"}.get(i)) for i in range(20)]
        answers = await asyncio.gather(*map(processes.decode, sources), return_exceptions=True)
        return [*answers, await processes.decode(picture(21))]

    answers = run(talk)
    dead, greedy, endless = (answers[i] for i in (3, 7, 11))
    assert isinstance(dead, DataError)
    assert "seen the end of the process that tried" in str(dead)
    assert isinstance(endless, DataError)
    assert "expected at most 3 s" in str(endless)
    assert isinstance(greedy, ProblemError)
    assert greedy.status_code == 413
    for i in {*range(21)} - {3, 7, 11}:
        np.testing.assert_array_equal(decode_chip(answers[i]).pixels, pixels("rgb", i if i < 20 else 21))


@pytest.mark.parametrize("how_often", [1, 3])
def test_processes_killed_while_they_wait_or_work_cost_nobody_an_answer(how_often: int) -> None:
    async def talk(processes: DecodingProcesses) -> list[Any]:
        answers: list[Any] = []
        for _ in range(how_often):
            for child in decoders():
                child.kill()  # idle
            await asyncio.sleep(0.5)
            asked = [asyncio.ensure_future(processes.decode(picture(i))) for i in range(40)]
            await asked[0]
            decoders()[0].kill()  # at work, or between two pieces of it
            answers += await asyncio.gather(*asked)
        return answers

    for i, answer in enumerate(run(talk)):
        np.testing.assert_array_equal(decode_chip(answer).pixels, pixels("rgb", i % 40))


def decoders() -> list[psutil.Process]:
    """The living processes that this one has spawned."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_a_process_that_is_held_up_costs_one_answer_and_is_replaced() -> None:
    async def talk(processes: DecodingProcesses) -> list[Any]:
        await processes.decode(picture(0))
        decoders()[0].suspend()
        asked = [processes.decode(picture(i)) for i in range(20)]
        answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 30)
        return answers + [await processes.decode(picture(i)) for i in range(20, 24)]

    answers = run(talk)
    [held] = [answer for answer in answers if isinstance(answer, Exception)]
    assert "no end of it" in str(held)
    for i, answer in enumerate(answers):
        if answer is not held:
            np.testing.assert_array_equal(decode_chip(answer).pixels, pixels("rgb", i))


def test_who_goes_away_frees_the_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_deadly(monkeypatch, tmp_path / "tally")

    async def talk(processes: DecodingProcesses) -> Media:
        waiting = asyncio.ensure_future(processes.decode(picture(0, "endless")))
        await asyncio.sleep(0.3)
        waiting.cancel()
        return await asyncio.wait_for(processes.decode(picture(1)), 60)

    answer = run(talk, 1, Limits(max_decode_s=600.0))
    np.testing.assert_array_equal(decode_chip(answer).pixels, pixels("rgb", 1))


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, psutil\n"
        "from serve.isolated import DecodingProcesses\n"
        "from serve.limits import Limits\n"
        "async def main():\n"
        "    await DecodingProcesses(2, Limits()).start()\n"
        "    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(children) >= 2
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
