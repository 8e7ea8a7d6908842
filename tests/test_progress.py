"""What a job over pieces says of itself: lines of JSON, a bar on a terminal, metrics that Ray's endpoint shows."""

import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from jobs import progress
from jobs.progress import PieceProgress
from tests.conftest import RayCluster

KEYS = {"job", "elapsed_s", "rows_per_s", "eta_s", "pieces_done", "pieces_total", "rows_committed", "rows_quarantined"}


class Outcome:
    """What the job did by then, as the committer's tally is."""

    def __init__(self) -> None:
        self.rows = (0, 0)

    def __call__(self) -> tuple[int, int]:
        return self.rows


def _lines(text: str) -> list[dict[str, float | None]]:
    return [json.loads(line) for line in text.splitlines()]


def test_lines_of_json_come_by_the_clock_and_once_more_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome()
    job = {"num_rows": 40, "num_pieces": 5, "num_pieces_skipped": 1}
    with PieceProgress("embed", **job, outcome=outcome, json_every_s=0.1) as told:
        time.sleep(0.35)  # no piece is finished, the lines come all the same
        told.advance(10)
        outcome.rows = (7, 3)
        time.sleep(0.15)
        for _ in range(3):
            told.advance(10)
        outcome.rows = (37, 3)
    printed = capsys.readouterr()
    lines = _lines(printed.err)
    assert printed.out == ""
    assert all(line.keys() == KEYS for line in lines)
    assert len(lines) >= 4
    assert (lines[0]["pieces_done"], lines[0]["rows_per_s"], lines[0]["eta_s"]) == (1, 0, None)
    assert {"job": "embed", "pieces_done": 2, "rows_committed": 7, "rows_quarantined": 3}.items() <= lines[-2].items()
    last = lines[-1]
    assert (last["pieces_done"], last["pieces_total"], last["eta_s"]) == (5, 5, 0)
    assert (last["rows_committed"], last["rows_quarantined"]) == (37, 3)
    assert last["rows_per_s"] == pytest.approx(40 / float(last["elapsed_s"] or 0), rel=0.05)


def test_time_left_follows_from_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    told = PieceProgress("embed", num_rows=400, num_pieces=4, num_pieces_skipped=0, outcome=lambda: (90, 10))
    told.advance(100)
    now[0] += 20
    figures = told.figures()
    assert (figures.elapsed_s, figures.rows_per_s, figures.eta_s) == (20, 5, 60)


def test_a_job_that_fails_says_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    job = {"num_rows": 40, "num_pieces": 4, "num_pieces_skipped": 0}
    told = PieceProgress("embed", **job, outcome=lambda: (10, 0))

    def fail() -> None:
        with told:
            told.advance(10)
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk"):
        fail()
    (line,) = _lines(capsys.readouterr().err)
    assert (line["pieces_done"], line["rows_committed"]) == (1, 10)


def test_a_terminal_has_a_bar_and_no_json(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=160)
    monkeypatch.setattr(progress, "Console", lambda stderr: terminal)
    job = {"num_rows": 40, "num_pieces": 4, "num_pieces_skipped": 0}
    with PieceProgress("embed", **job, outcome=lambda: (35, 5)) as told:
        for _ in range(4):
            told.advance(10)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"4/4 pieces +\d+ rows/s +35 committed +5 quarantined +0:00 left", shown)
    assert "{" not in shown


DRIVER = """
import ray
from jobs import cluster
from jobs.progress import PieceProgress

cluster.connect()
job = {"num_rows": 40, "num_pieces": 4, "num_pieces_skipped": 0}
with PieceProgress("told_once", **job, outcome=lambda: (36, 4)) as told:
    for _ in range(4):
        told.advance(10)
print(ray.nodes()[0]["MetricsExportPort"], flush=True)
input()
"""


@pytest.mark.cluster
def test_ray_exports_the_same_figures(on_cluster: RayCluster) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-c", DRIVER]  # where a process has joined a cluster ten times, Ray counts ten times
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        assert driver.stderr is not None
        port = int(driver.stdout.readline())
        told = next(line for line in driver.stderr if line.startswith('{"job"'))
        wanted = {name: value for name, value in json.loads(told).items() if name != "job"}
        deadline, found = time.monotonic() + 60, dict[str, float]()
        while found != wanted and time.monotonic() < deadline:
            time.sleep(1)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                page = answer.read().decode()
            for name in wanted:  # a gauge is told once for each report
                shown = re.search(rf"^ray_cmir_told_once_{name}(?:_total)?\{{.*\}} (\S+)$", page, re.MULTILINE)
                if shown:
                    found[name] = float(shown[1])
        driver.stdin.close()
    assert found == wanted


def test_every_metric_is_named_after_its_job_and_key() -> None:
    metrics = progress._Metrics("shard")
    names = {metric.info["name"] for metric in [*metrics._gauges.values(), *metrics._counters.values()]}
    assert names == {f"cmir_shard_{key}" for key in KEYS - {"job"}}
