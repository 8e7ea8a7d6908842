"""What the defaults learn: the commands themselves, from source to report, and the figures the project is held to.

Every step is a process of its own, as a user would type it: shard, train, evaluate by labels, and evaluate by pair on
the two sensors' chips, with the ranking without learning beside it. Data: a UC Merced folder (PAN and MS made of it by
`wald --hard`, labels spoken by synthetic voices), else the generated world.
"""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from cmir.archive import storage
from cmir.errors import CmirError, ConfigError
from cmir.evaluation.figures import DirectionFigures
from cmir.evaluation.report import read_report
from cmir.network.training_settings import Preset
from jobs import entrypoint
from jobs.benchmarks.record import BenchmarkConfig, Findings, Run
from jobs.entrypoint import JobResult

log = logging.getLogger("cmir")

# What each preset trains on: UC Merced's images, its PAN and MS, the spoken labels.
_PARTS: Final[dict[Preset, tuple[str, ...]]] = {
    "all": ("ucmerced", "wald", "speech"),
    "image-speech": ("ucmerced", "speech"),
    "pan-ms": ("wald",),
}
_FLOORS: Final = {"speech_to_rgb": 0.85, "rgb_to_speech": 0.85, "pan_to_ms": 0.8}  # on real UC Merced


class QualityBenchmark(BenchmarkConfig):
    """Measure what training reaches: shard, train and evaluate by the commands, and compare with the floors."""

    data: str | None = Field(None, description="UC Merced folder; a generated world otherwise.")
    work: str | None = Field(None, description="Folder for archive, bundle and reports; beside --output otherwise.")
    preset: Preset = Field("all", description="Which modalities are trained.")
    max_minutes: float = Field(17.0, gt=0, description="Minutes of training.")
    voices: int = Field(24, gt=0, description="Synthetic voices.")
    scenes: int = Field(400, gt=0, description="Scenes of the generated world.")
    seed: int = Field(0, ge=0, description="Seed of data and training.")

    def uris(self) -> list[str]:
        return [*super().uris(), *(uri for uri in (self.data, self.work) if uri is not None)]


class QualityFigures(Findings):
    """One direction on held-out items.

    `baseline` is the same figure of a ranking without learning, `floor` what is to be reached on real UC Merced, None
    on other data.
    """

    direction: str
    relevance: str
    figure: str
    value: float | None
    ci95: str | None
    chance: float | None
    baseline: float | None
    num_queries: int
    gallery_size: int
    floor: float | None
    is_met: bool | None


class StepFigures(Findings):
    """Seconds of a command."""

    step: str
    seconds: float


@dataclass(frozen=True)
class Step:
    """A command to run: the job and its flags; `name` is what it makes."""

    job: str
    name: str
    flags: tuple[str, ...]


def run(config: QualityBenchmark) -> JobResult:
    """Run the commands, read their reports, write."""
    with entrypoint.before_work():
        running = Run("quality", config)
        if config.data is not None and not storage.exists(config.data):
            raise ConfigError("--data not found", seen=config.data, expected="a UC Merced folder")
        steps = list(steps_of(config))
    seconds = [StepFigures(step=f"{step.job} {step.name}", seconds=run_step(step)) for step in steps]
    work = Path(work_folder(config.work, config.output))
    made = {step.name for step in steps}
    figures = []
    if "by-labels" in made:
        report = read_report(str(work / "by-labels"))
        for name in ("speech_to_rgb", "rgb_to_speech"):
            if name in report.directions:
                figures.append(_map_figures(name, report.directions[name], is_held=config.data is not None))
    if "by-pair" in made:
        report = read_report(str(work / "by-pair"))
        for name in ("pan_to_ms", "ms_to_pan"):
            figures.append(_hit_figures(name, report.directions[name], is_held=config.data is not None))
    headline = {one.direction: one.value for one in figures}
    return running.finish({"quality": figures, "steps": seconds}, headline)


def steps_of(config: QualityBenchmark) -> Iterator[Step]:
    """The commands, in order; run again, each replaces what it made before."""
    work, seed = Path(work_folder(config.work, config.output)), ("--seed", str(config.seed))
    sources = dict(_sources(config))
    for name, flags in sources.items():
        yield Step("shard", name, (*flags, "--output", str(work / "archive" / name), "--overwrite"))
    archives = [part for name in sources for part in ("--shards", str(work / "archive" / name))]
    yield Step("train", "bundle", (*archives, *seed, "--output", str(work / "bundle"), "--overwrite",
               "--preset", config.preset, "--max-minutes", str(config.max_minutes)))  # fmt: skip
    bundle = ("--bundle", str(work / "bundle"))
    if config.preset != "pan-ms":
        yield Step("evaluate", "by-labels", (*bundle, *archives, "--output", str(work / "by-labels"), "--overwrite"))
    if config.preset != "image-speech":
        paired = str(work / "archive" / ("world" if config.data is None else "wald"))
        yield Step("evaluate", "by-pair", (*bundle, "--shards", paired, "--relevance", "pair",
                   "--output", str(work / "by-pair"), "--overwrite"))  # fmt: skip


def work_folder(work: str | None, output: str) -> str:
    """Where the commands put what they make: --work, else a folder named after the output file."""
    if work is not None:
        return str(storage.local_path(work).absolute())
    if storage.is_s3(output):
        raise ConfigError("--work is missing", seen=output, expected="a local folder to work in")
    return str(storage.local_path(output).absolute().with_suffix("")) + "-work"


def _sources(config: QualityBenchmark) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and flags of each archive."""
    seed, voices = ("--seed", str(config.seed)), ("--voices", str(config.voices))
    if config.data is None:
        yield "world", ("--source", "synthetic", "--scenes", str(config.scenes), *voices, *seed)
        return
    data = ("--input", config.data)
    flags: dict[str, tuple[str, ...]] = {
        "ucmerced": ("--source", "ucmerced", *data),
        "wald": ("--source", "wald", *data, "--hard", *seed),
        "speech": ("--source", "tts", *voices, *seed),
    }
    yield from ((name, flags[name]) for name in _PARTS[config.preset])


def run_step(step: Step) -> float:
    """Run a command, its progress going through; returns its seconds. Raises CmirError where it fails."""
    command = [sys.executable, "-m", f"jobs.{step.job}", *step.flags]
    log.info("python jobs/%s.py %s", step.job, " ".join(step.flags))
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines()
        told: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        raise CmirError(
            f"{step.job} ended with an error",
            seen=str(told.get("error", f"exit {done.returncode}")).splitlines()[0],
            where=step.name,
        )
    return time.monotonic() - began


def _map_figures(name: str, found: DirectionFigures, *, is_held: bool) -> QualityFigures:
    interval = None if found.map_ci95 is None else "{:.3f} .. {:.3f}".format(*found.map_ci95)
    baseline = found.baseline.map if found.baseline else None
    return _figures(name, found, "map", (found.map, interval, found.chance_map, baseline), is_held)


def _hit_figures(name: str, found: DirectionFigures, *, is_held: bool) -> QualityFigures:
    baseline = found.baseline.hit_at.get("1") if found.baseline else None
    chance = 1 / found.gallery_size if found.gallery_size else None  # one chip of the gallery is the right one
    return _figures(name, found, "hit@1", (found.hit_at.get("1"), None, chance, baseline), is_held)


def _figures(
    name: str,
    found: DirectionFigures,
    figure: str,
    values: tuple[float | None, str | None, float | None, float | None],
    is_held: bool,
) -> QualityFigures:
    value, interval, chance, baseline = values
    floor = _FLOORS.get(name) if is_held else None
    return QualityFigures(
        direction=name,
        relevance=found.relevance,
        figure=figure,
        value=value,
        ci95=interval,
        chance=chance,
        baseline=baseline,
        num_queries=found.num_queries,
        gallery_size=found.gallery_size,
        floor=floor,
        is_met=None if floor is None else value is not None and value >= floor,
    )
