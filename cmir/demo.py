"""The whole path as one run: a source becomes shards, a network, a gallery, a report, a service, and answered queries.

Every step is the command a user would type, started as a process of its own and shown before it runs; nothing here
knows more than those commands and the HTTP interface. Run again, it replaces shards, bundle and report when
their successors are whole and publishes into the same gallery.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from cmir.client import Client
from cmir.errors import ConfigError, StepError
from cmir.evaluation.report import read_report, summary_table
from cmir.live_queries import LiveAnswer, ask, choose_queries, hits_table, write_live_report
from cmir.loopback import HOST, free_port

SERVICE_START_S: Final = 120
_NUM_SCENES: Final = 400
_REAL_MINUTES: Final = 20.0  # of training on a UC Merced folder
_WORLD_MINUTES: Final = 7.5  # the whole demo on the generated world, on two cores; eight are allowed
_MOST_TRAINING_MINUTES: Final = 5.0  # of them
_LEAST_TRAINING_MINUTES: Final = 2.5  # in less, spoken words are not learnt
_OTHER_STEPS: Final = 2.0  # seconds of all steps after the shards but training itself, to those that the shards took


@dataclass(frozen=True)
class DemoSettings:
    """What the demo is run on: the generated world, or a UC Merced folder; and how long it may train."""

    output: Path
    data: str | None = None
    scenes: int = _NUM_SCENES
    voices: int | None = None
    max_minutes: float | None = None
    seed: int = 0

    def training_minutes(self, shard_s: float) -> float:
        """How long to train; Ray Train's own start comes on top.

        On the generated world it takes what the other steps leave of the demo's minutes, told by the seconds that the
        shards took: a slow machine trains for a shorter time.
        """
        if self.max_minutes or self.data:
            return self.max_minutes or _REAL_MINUTES
        usual_shard_s = shard_s * _NUM_SCENES / self.scenes  # a larger world is not a slower machine
        left = _WORLD_MINUTES - (1.0 + _OTHER_STEPS) * usual_shard_s / 60.0
        return round(min(_MOST_TRAINING_MINUTES, max(_LEAST_TRAINING_MINUTES, left)), 2)

    def is_cut_short(self, shard_s: float) -> bool:
        """Whether a slow machine, and nobody's wish, leaves the training less time than it usually has."""
        return not (self.max_minutes or self.data) and self.training_minutes(shard_s) < _MOST_TRAINING_MINUTES

    def training(self, shard_s: float) -> tuple[str, ...]:
        """Flags of the training."""
        # the small world has three chips of each place, and its words take longer to learn than its pictures
        batch = () if self.data else ("--grounds-per-batch", "12", "--utterances-per-batch", "48")
        return ("--max-minutes", str(self.training_minutes(shard_s)), *batch, "--seed", str(self.seed))


@dataclass
class Demo:
    """One run; `say` writes to stderr, `timings_s` keeps the seconds of each step."""

    settings: DemoSettings
    console: Console = field(default_factory=lambda: Console(stderr=True))
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def archive(self) -> Path:
        return self.settings.output / "archive"

    def run(self) -> Path:
        """All steps; returns the report's path. Raises StepError where one fails."""
        started = time.monotonic()
        self.settings.output.mkdir(parents=True, exist_ok=True)
        for step in self._shard_steps():
            self._step("shard", *step)
        self._step("train", *self._shards(), "--output", self._at("bundle"), "--preset", "all", "--overwrite",
                   *self.settings.training(self.timings_s["shard"]))  # fmt: skip
        embedded = self._step(
            "embed", "--bundle", self._at("bundle"), *self._shards(), "--gallery", self._at("gallery")
        )
        space_id = embedded["outputs"]["space_id"]  # an earlier demo's space may stand in the same gallery
        self._step("index", "--gallery", self._at("gallery"), "--space", space_id, "--publish")
        evaluations = {"evaluation": ("labels", self._shards()), "evaluation-pairs": ("pair", self._paired_shards())}
        for name, (relevance, measured) in evaluations.items():
            self._step("evaluate", "--bundle", self._at("bundle"), *measured, "--relevance", relevance,
                       "--output", self._at(name), "--overwrite")  # fmt: skip
        answers = self._ask()
        reports = {f"{name}/report.html": read_report(self._at(name)) for name in evaluations}
        for report in reports.values():
            self.console.print(summary_table(report))
        for answer in answers:
            self.console.print(hits_table(answer))
        path = self.settings.output / "report.html"
        write_live_report(path, answers, reports, self.timings_s)
        minutes = (time.monotonic() - started) / 60
        self.console.print(f"Done in {minutes:.1f} minutes. Pictures of queries and hits: [bold]{path}[/bold]")
        shard_s = self.timings_s["shard"]
        if self.settings.is_cut_short(shard_s):
            self.console.print(
                f"The machine is slow today: trained {self.settings.training_minutes(shard_s):g} minutes, not "
                f"{_MOST_TRAINING_MINUTES:g}. More time finds more, spoken words above all: cmir demo "
                f"--output {self.settings.output} --max-minutes {2 * _MOST_TRAINING_MINUTES:g}"
            )
        return path

    def _shard_steps(self) -> Iterator[tuple[str, ...]]:
        seed = ("--seed", str(self.settings.seed))
        voices = str(self.settings.voices or (64 if self.settings.data else 48))
        if self.settings.data is None:
            counts = ("--scenes", str(self.settings.scenes), "--voices", voices)
            yield "--source", "synthetic", *counts, *seed, "--output", str(self.archive / "world"), "--overwrite"
            return
        data = ("--input", self.settings.data)
        yield "--source", "ucmerced", *data, "--output", str(self.archive / "ucmerced"), "--overwrite"
        yield "--source", "wald", *data, "--hard", *seed, "--output", str(self.archive / "wald"), "--overwrite"
        yield "--source", "tts", "--voices", voices, *seed, "--output", str(self.archive / "speech"), "--overwrite"

    def _shards(self) -> list[str]:
        names = ("world",) if self.settings.data is None else ("ucmerced", "wald", "speech")
        return [part for name in names for part in ("--shards", str(self.archive / name))]

    def _paired_shards(self) -> list[str]:
        """Chips of which another modality shows the same ground."""
        name = "world" if self.settings.data is None else "wald"
        return [part for modality in ("pan", "ms") for part in ("--shards", str(self.archive / name / modality))]

    def _at(self, name: str) -> str:
        return str(self.settings.output / name)

    def _step(self, job: str, *arguments: str) -> dict[str, Any]:
        """Run one job as its command; its progress goes through, its last line is read."""
        self.console.rule(f"[bold]{job}", align="left")
        self.console.print(
            f"$ python jobs/{job}.py {' '.join(arguments)}", style="dim", soft_wrap=True, highlight=False
        )
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", f"jobs.{job}", *arguments], stdout=subprocess.PIPE, text=True, check=False
        )
        lines = done.stdout.strip().splitlines()
        if done.returncode != 0 or not lines:
            raise StepError(f"{job} ended with an error", seen=f"exit {done.returncode}", fix="see its message above")
        self.timings_s[job] = self.timings_s.get(job, 0.0) + time.monotonic() - began
        line: dict[str, Any] = json.loads(lines[-1])
        self.console.print(json.dumps(line), style="green", soft_wrap=True, highlight=False)
        return line

    def _ask(self) -> list[LiveAnswer]:
        """Start the service, ask one query of each of four directions over HTTP, stop the service."""
        self.console.rule("[bold]serve and ask", align="left")
        queries = choose_queries([part for part in self._shards() if part != "--shards"])
        began = time.monotonic()
        with running_service(self._at("gallery"), free_port(), self.console) as url:
            client = Client(url, timeout_s=30)
            answers = [ask(client, query) for query in queries]
        self.timings_s["serve"] = time.monotonic() - began
        return answers


@contextmanager
def running_service(gallery_uri: str, port: int, console: Console) -> Iterator[str]:
    """The service as a process of its own, ready, at the yielded address; it is ended by its process id."""
    url = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "serve", "--gallery", gallery_uri, "--port", str(port)]
    console.print(f"$ cmir serve --gallery {gallery_uri} --port {port}", style="dim", soft_wrap=True, highlight=False)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_ready(url, process)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_ready(url: str, process: "subprocess.Popen[bytes]", timeout_s: float = SERVICE_START_S) -> None:
    """Wait until an end-to-end query works. Raises StepError where the process ends or time runs out."""
    deadline = time.monotonic() + timeout_s
    client = Client(url, timeout_s=5)
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StepError("the service ended at its start", seen=f"exit {process.returncode}", fix="see above")
        if client.is_ready():
            return
        time.sleep(0.5)
    raise StepError("the service is not ready", seen=f"{timeout_s:.0f} s of waiting", where=f"{url}/readyz")


def run_demo(settings: DemoSettings) -> None:
    """The demo as `cmir demo` runs it: the report's path and what to try next are the last lines on stdout."""
    if settings.data is not None and not Path(settings.data).is_dir():
        fix = "give the folder that holds Images/ and multilabels.csv"
        raise ConfigError("--data is no folder", seen=settings.data, expected="a UC Merced folder", fix=fix)
    path = Demo(settings).run()
    print(f"report: {path}")
    print("next:   make serve   (keeps the service of this demo up; open its page and speak to it)")
