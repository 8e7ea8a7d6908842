"""The page in a real browser: an analyst's afternoon, by mouse, by keyboard, by voice.

Needs chromium, node and npm's playwright-core: in the folder named by CMIR_PLAYWRIGHT (it holds node_modules), or
installed into a temporary folder where npm can.
"""

import json
import os
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest

from serve.asgi import create_app
from tests.serve_doubles import FakeGallery, pixels, png, running, tone

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parent / "page.mjs"


@pytest.fixture(scope="module")
def playwright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose node_modules holds playwright-core, or a skip that says what is missing."""
    missing = [name for name in ("chromium", "node", "npm") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: the page is not driven in a browser")
    if folder := os.environ.get("CMIR_PLAYWRIGHT"):
        return Path(folder)
    folder_path = tmp_path_factory.mktemp("playwright")
    if reason := why_not_installed(folder_path, timeout_s=120):
        pytest.skip(f"npm cannot install playwright-core here ({reason}): the page is not driven in a browser")
    return folder_path


def why_not_installed(folder: Path, *, timeout_s: float) -> str | None:
    """Install playwright-core into a folder; None, or why npm did not."""
    command = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=0", "--prefix", str(folder)]
    try:
        done = subprocess.run(
            [*command, "playwright-core@1"], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {timeout_s:g} s"
    return None if done.returncode == 0 else f"exit {done.returncode}: {done.stderr.strip()[-200:]}"


@pytest.fixture(scope="module")
def told(playwright: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What the browser saw, step by step."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "chip.png").write_bytes(png(pixels("rgb", 2)))
    with wave.open(str(folder / "voice.wav"), "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes((tone(1, 2.0) * 32_768).astype(np.int16).tobytes())
    shutil.copy(SCRIPT, playwright / "page.mjs")  # modules are found beside the script
    with running(create_app(FakeGallery().engine())) as http:
        command = [
            "node",
            str(playwright / "page.mjs"),
            str(http.base_url),
            str(folder),
            shutil.which("chromium") or "",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return seen


@pytest.mark.parametrize(
    ("does", "reason"), [("exec sleep 20", "no answer in 0.5 s"), ("echo offline >&2; exit 3", "exit 3: offline")]
)
def test_an_npm_that_does_not_install_is_a_reason_to_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, reason: str
) -> None:
    (tmp_path / "npm").write_text(f"#!/bin/sh\n{does}\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert why_not_installed(tmp_path / "modules", timeout_s=0.5) == reason


def test_the_page_says_what_is_served_and_offers_its_words(told: dict[str, object]) -> None:
    assert told["served"] == "6 pan · 6 ms · 6 rgb · 6 speech"
    assert told["labels"] == ["a word…", "airplane", "pavement", "water"]
    assert told["targets"] == ["pan", "ms", "rgb", "speech"]


def test_an_image_is_searched_and_a_hit_leads_on(told: dict[str, object]) -> None:
    assert told["by_image"] == ["rgb-2", "rgb"]
    assert told["only_ms"] == ["ms"]
    assert told["parts_after_click"] == 1
    assert told["first_after_click"] == told["clicked"]
    assert told["sent_with_minus"] == [1, -1]


def test_a_word_and_the_voice_are_parts(told: dict[str, object]) -> None:
    assert told["by_label_parts"] == ["label"]
    assert told["voice_kind"] == "speech"
    assert told["voice_status"] == 200
    assert told["voice_pressed"] == ["true", "false"]


def test_speech_hits_show_their_words(told: dict[str, object]) -> None:
    assert told["said"] == "“airplane”"


def test_an_error_is_shown_kindly_and_goes_away(told: dict[str, object]) -> None:
    assert "bbox" in str(told["problem"])
    assert told["problem_after"] is True


def test_the_keyboard_reaches_everything_and_nothing_breaks_the_policy(told: dict[str, object]) -> None:
    assert told["keyboard_hit"] is True
    assert told["unlabelled"] == []
    assert told["violations"] == []
    assert told["overflow_phone"] is False
