"""How planning, resuming and committing grow with the number of pieces: seconds, memory, bytes and fitted exponents.

On metadata alone: shards, rows and thumbnails are made up (`scaling_steps`), so that a million pieces fit a small
machine; what comes before the plan, listing shards and reading their footers, is timed on few real files. An exponent
of 1 is linear. That of the small sizes is flattered by what costs the same at any size.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import Field

from cmir.archive import storage
from cmir.archive.shards import list_shards
from jobs import entrypoint
from jobs.benchmarks import scaling_steps as steps
from jobs.benchmarks.feeding import measure_feeding
from jobs.benchmarks.material import Tower
from jobs.benchmarks.memory_curve import measure_memory
from jobs.benchmarks.record import BenchmarkConfig, Figures, Findings, Run, Sizes, sizes_of
from jobs.benchmarks.scaling_steps import Given, in_own_process
from jobs.entrypoint import JobResult, log

_LEAST_MB: Final = 1.0  # a process's memory comes and goes by that much


class ScalingBenchmark(BenchmarkConfig):
    """Measure how planning, resume and commits grow with the number of pieces, on made-up metadata."""

    pieces: Sizes = Field("10000,100000,1000000", description="Archive sizes, in pieces, as a,b,c.")
    rows_per_piece: int = Field(1, ge=1, description="Rows of a piece; a real one has about 128.")
    pieces_per_commit: int = Field(1000, ge=1, description="Pieces of a commit; 64 MiB hold 500 to 1000 real ones.")
    shard_files: int = Field(400, ge=2, description="Real files that listing and footers are timed on.")

    chips: int = Field(256, ge=1, description="Chips of 256 px and four bands that feeding a network is timed on.")

    rows: Sizes | None = Field(None, description="Instead, memory of the embedding job over so many rows, as a,b,c.")
    tower: Tower = Field("light", description="Size of the untrained network of --rows.")


class StepFigures(Findings):
    """One step on an archive of that size: seconds, of them those of cores, and memory beyond what was held before.

    `plan` is of a new gallery, `resume` of one that holds everything; `all commits` filled it, `first` and `last
    commits` are medians of its ends, `commit` one of a process that has just read what is committed.
    """

    num_pieces: int
    step: str
    seconds: float
    cpu_s: float
    peak_mb: float


class GalleryFigures(Findings):
    """The gallery when it was full and more had been committed."""

    num_pieces: int
    num_rows: int
    num_fragments: int
    num_fragments_compacted: int


class PlaceFigures(Findings):
    """Bytes on disk of a part of the full gallery, old versions included."""

    num_pieces: int
    place: str
    megabytes: float
    bytes_per_piece: float


class ListingFigures(Findings):
    """Listing real shards and reading their footers."""

    num_files: int
    seconds: float
    ms_per_file: float


class Exponents(Findings):
    """The slopes of log figure on log pieces, by least squares; of cores where others were at work meanwhile."""

    step: str
    of_seconds: float
    of_cpu_s: float
    of_peak_mb: float | None


def run(config: ScalingBenchmark) -> JobResult:
    """Measure the sizes one after the other, write after each."""
    with tempfile.TemporaryDirectory(prefix="cmir-benchmark-") as folder:
        with entrypoint.before_work():
            running = Run("scaling", config)
        if config.rows is not None:
            memory, curve = measure_memory(folder, sizes_of(config.rows), config.tower)
            headline = {"peak_of_smallest": memory[-1].of_smallest}
            return running.finish({"memory": memory, "curve": curve}, headline)
        with entrypoint.before_work():
            listing = measure_listing(storage.join(folder, "archive"), config.shard_files)
            feeding = measure_feeding(storage.join(folder, "chips"), config.chips)
        found: list[StepFigures] = []
        galleries: list[GalleryFigures] = []
        places: list[PlaceFigures] = []
        for num_pieces in sizes_of(config.pieces):
            gallery_uri = storage.join(folder, f"gallery-{num_pieces}")
            given = Given(num_pieces, config.rows_per_piece, config.pieces_per_commit, gallery_uri)
            told, gallery, held = measure_size(given)
            found, galleries, places = [*found, *told], [*galleries, gallery], [*places, *held]
            figures: Figures = {
                "steps": found,
                "galleries": galleries,
                "places": places,
                "listing": listing,
                "feeding": feeding,
            }
            running.write(figures)
            shutil.rmtree(gallery_uri)
    exponents = fit(found)
    headline = {f"exponent_{one.step}": one.of_cpu_s for one in exponents if one.step in ("plan", "resume")}
    return running.finish({**figures, "exponents": exponents}, headline)


def measure_size(given: Given) -> tuple[list[StepFigures], GalleryFigures, list[PlaceFigures]]:
    """Every step of one size, in processes of their own."""
    planned, filled = in_own_process(steps.plan, given), in_own_process(steps.fill, given)
    places = measure_places(given)
    resumed, worked = in_own_process(steps.plan, given), in_own_process(steps.at_work, given)
    found = [
        StepFigures(
            num_pieces=given.num_pieces, step=step.name, seconds=step.seconds, cpu_s=step.cpu_s, peak_mb=step.peak_mb
        )
        for part in (planned, filled, resumed, worked)
        for step in part.steps
    ]
    for step in found:
        log.info("%d pieces, %s: %.2f s, %.2f s of cores", step.num_pieces, step.step, step.seconds, step.cpu_s)
    gallery = GalleryFigures(
        num_pieces=given.num_pieces,
        num_rows=filled.num_rows,
        num_fragments=filled.num_fragments,
        num_fragments_compacted=worked.num_fragments,
    )
    return found, gallery, places


def measure_places(given: Given) -> list[PlaceFigures]:
    """Bytes of the gallery's tables, and of the manifests of the rows' table apart."""
    found: dict[str, int] = {}
    for file in storage.list_files(given.gallery_uri):
        table, _, inside = file.uri.removeprefix(given.gallery_uri).strip("/").partition("/")
        name = f"{table}, manifests" if inside.startswith("_versions/") else table
        found[name] = found.get(name, 0) + file.num_bytes
    return [
        PlaceFigures(
            num_pieces=given.num_pieces,
            place=name,
            megabytes=num_bytes / 1e6,
            bytes_per_piece=num_bytes / given.num_pieces,
        )
        for name, num_bytes in sorted(found.items())
    ]


def measure_listing(uri: str, num_files: int) -> list[ListingFigures]:
    """Half of the files, then all of them."""
    figures = []
    for written in (num_files // 2, num_files):
        steps.write_shard_files(uri, written)
        began = time.perf_counter()
        found = list_shards(uri)
        seconds = time.perf_counter() - began
        figures.append(ListingFigures(num_files=len(found), seconds=seconds, ms_per_file=1000 * seconds / len(found)))
    return figures


def fit(found: Sequence[StepFigures]) -> list[Exponents]:
    """The exponents of every step, none where there is but one size."""
    by_step: dict[str, list[StepFigures]] = {}
    for figures in found:
        by_step.setdefault(figures.step, []).append(figures)
    exponents = []
    for name, told in by_step.items():
        sizes = [one.num_pieces for one in told]
        if len(set(sizes)) < 2:
            continue
        peaks = [one.peak_mb for one in told]
        exponents.append(
            Exponents(
                step=name,
                of_seconds=exponent_of(sizes, [one.seconds for one in told]),
                of_cpu_s=exponent_of(sizes, [one.cpu_s for one in told]),
                of_peak_mb=exponent_of(sizes, peaks) if min(peaks) > _LEAST_MB else None,
            )
        )
    return exponents


def exponent_of(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope of log values on log sizes, by least squares.

    >>> round(exponent_of([10, 100, 1000], [3.0, 30.0, 300.0]), 6)
    1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])
