"""SIGTERM, as Kubernetes and `ray job stop` send it: a job says that it was interrupted, and goes on from there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_archives import chip_row, write_archive

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
ROOT = Path(__file__).parent.parent.parent


def interrupted(awaited: Path, pattern: str, *command: str) -> tuple[int, dict[str, object], str]:
    """Start a job with a cluster of its own, send SIGTERM once a file is there; exit code, last line, stderr."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    script = [sys.executable, *command]
    with subprocess.Popen(
        script, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            end = time.monotonic() + 120
            while not list(awaited.rglob(pattern)):
                assert process.poll() is None, process.communicate()[1][-2000:]
                assert time.monotonic() < end, "the job never got that far"
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            out, errors = process.communicate(timeout=90)
        finally:
            process.kill()  # one that has ended is left alone
    return process.returncode, json.loads(out.strip().splitlines()[-1]), errors


def test_a_shard_job_says_that_it_was_interrupted_and_goes_on(tmp_path: Path) -> None:
    flags = ["jobs/shard.py", "--source", "tts", "--voices", "64", "--output", str(tmp_path / "out")]
    code, line, errors = interrupted(tmp_path, "_tasks/*.json", *flags)
    assert (code, line["status"]) == (1, "interrupted"), errors[-2000:]
    assert "Traceback" not in errors
    again = subprocess.run([sys.executable, *flags, "--resume"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(again.stdout.strip().splitlines()[-1])["num_pieces_skipped"] >= 1


def test_a_train_job_says_that_it_was_interrupted(tmp_path: Path) -> None:
    rows = [chip_row(i, "rgb") for i in range(30)]
    archive = write_archive(tmp_path / "archive", rows)
    flags = ["jobs/train.py", "--shards", archive, "--output", str(tmp_path / "out"), "--num-workers", "1"]
    code, line, errors = interrupted(
        tmp_path, "events.out.*", *flags, "--chip-size-px", "16", "--device", "cpu", "--max-minutes", "3"
    )
    assert (code, line["status"]) == (1, "interrupted"), errors[-2000:]
    assert "Traceback" not in errors
