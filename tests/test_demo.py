"""The demo itself, on a tiny setting: every step is the real command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmir.cli import app
from cmir.demo import DemoSettings, run_demo
from cmir.errors import ConfigError
from cmir.live_queries import DIRECTIONS, NUM_HITS


def test_a_missing_data_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data is no folder: seen .*nowhere"):
        run_demo(DemoSettings(tmp_path, data=str(tmp_path / "nowhere")))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_goes_from_nothing_to_answered_queries(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cmir.cli", "demo", "--output", str(tmp_path / "demo")]
    command += ["--scenes", "40", "--voices", "4", "--max-minutes", "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.strip().splitlines()[-1].startswith("next:   make serve")
    page = (tmp_path / "demo" / "report.html").read_text()
    for title in ("PAN → MS", "speech → RGB", "RGB → speech", "MS → PAN"):
        assert title in page
        assert title in done.stderr
    # too little training for speech: that query is answered with hits or with what was not heard, never with nothing
    assert page.count("data:image/webp") == 3 * NUM_HITS + len(DIRECTIONS) - NUM_HITS * ("no known label heard" in page)
    assert "<audio" in page
    report = json.loads((tmp_path / "demo" / "evaluation" / "report.json").read_text())
    assert {"pan_to_ms", "speech_to_rgb", "rgb_to_speech", "ms_to_pan"} <= report["directions"].keys()
    pairs = json.loads((tmp_path / "demo" / "evaluation-pairs" / "report.json").read_text())
    assert pairs["relevance"] == "pair"
    assert pairs["directions"]["pan_to_ms"]["baseline"]["hit_at"]["1"] is not None
    assert (tmp_path / "demo" / "evaluation" / "report.html").stat().st_size > 10_000


def test_the_demo_trains_as_its_help_says() -> None:
    told = " ".join(CliRunner().invoke(app, ["demo", "--help"], terminal_width=200).stdout.split())
    assert "5 or what the other steps leave of 8, 20 with --data" in told
    flags = DemoSettings(Path("out")).training(20.0)
    assert flags[:2] == ("--max-minutes", "5.0")
    assert "--utterances-per-batch" in flags
    assert DemoSettings(Path("out"), data="images", seed=3).training(900.0) == ("--max-minutes", "20.0", "--seed", "3")
    assert DemoSettings(Path("out"), max_minutes=0.3).training(20.0)[1] == "0.3"


def test_on_a_slow_machine_the_demo_trains_for_a_shorter_time_and_on_a_larger_world_it_does_not() -> None:
    def minutes(shard_s: float, scenes: int = 400) -> float:
        return float(DemoSettings(Path("out"), scenes=scenes).training(shard_s)[1])

    assert 5.0 > minutes(60.0) > minutes(80.0) > minutes(600.0) == 2.5
    assert minutes(600.0, scenes=4000) == minutes(60.0)
    assert [DemoSettings(Path("out")).is_cut_short(shard_s) for shard_s in (20.0, 60.0)] == [False, True]
    assert not DemoSettings(Path("out"), data="images").is_cut_short(600.0)
    assert not DemoSettings(Path("out"), max_minutes=0.3).is_cut_short(600.0), "as was wished"
