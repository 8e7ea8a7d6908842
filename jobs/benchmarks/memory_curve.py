"""Memory of the embedding job while it runs: the driver, its workers, and all of its cluster, sampled over time.

The job is a process of its own with a cluster of its own, as `python jobs/embed.py` makes it. Shares of memory that
processes have in common (Ray's object store) are counted once: what is summed is proportional set size. Linux only.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cmir.archive import storage
from cmir.errors import CmirError
from jobs.benchmarks.material import TOWERS, Tower, repeated, untrained_bundle, world_rows, write_archive
from jobs.benchmarks.record import Findings

_NUM_SCENES = 16  # rendered, then repeated
_INTERVAL_S = 0.5
_MOST_SAMPLES = 24  # told of one size


class MemorySample(Findings):
    """Megabytes at one moment after the start."""

    num_rows: int
    at_s: float
    driver_mb: float
    workers_mb: float
    all_mb: float


class MemoryFigures(Findings):
    """Peaks of one archive; the last column is that of `all` over the smallest archive's."""

    num_rows: int
    seconds: float
    driver_peak_mb: float
    workers_peak_mb: float
    all_peak_mb: float
    of_smallest: float


def measure_memory(folder: str, sizes: Sequence[int], tower: Tower) -> tuple[list[MemoryFigures], list[MemorySample]]:
    """Embed archives of so many rows, the smallest first."""
    rows = [row for row in world_rows(_NUM_SCENES) if row.media.modality == "rgb"]
    bundle = untrained_bundle(
        storage.join(folder, "bundle"), [write_archive(rows, storage.join(folder, "few"))], TOWERS[tower]
    )
    curves = []
    for num_rows in sorted(sizes):
        archive = write_archive(repeated(rows, num_rows), storage.join(folder, f"archive-{num_rows}"))
        curves.append(_sampled_job(num_rows, bundle, archive, storage.join(folder, f"gallery-{num_rows}")))
    return peaks(curves), [sample for curve in curves for sample in curve[:: -(-len(curve) // _MOST_SAMPLES)]]


def peaks(curves: Sequence[Sequence[MemorySample]]) -> list[MemoryFigures]:
    """The peaks of every curve, the smallest archive's first."""
    smallest = max(sample.all_mb for sample in curves[0])
    return [
        MemoryFigures(
            num_rows=curve[0].num_rows,
            seconds=curve[-1].at_s,
            driver_peak_mb=max(sample.driver_mb for sample in curve),
            workers_peak_mb=max(sample.workers_mb for sample in curve),
            all_peak_mb=max(sample.all_mb for sample in curve),
            of_smallest=max(sample.all_mb for sample in curve) / smallest,
        )
        for curve in curves
    ]


def _sampled_job(num_rows: int, bundle: str, archive: str, gallery: str) -> list[MemorySample]:
    """Run jobs/embed.py and look at it until it ends. Raises CmirError where it fails."""
    command = [sys.executable, "-m", "jobs.embed", "--bundle", bundle, "--shards", archive, "--gallery", gallery]
    began, samples = time.monotonic(), []
    with subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, text=True) as job:
        while job.poll() is None:
            samples.append(_sample(num_rows, time.monotonic() - began, job.pid))
            time.sleep(_INTERVAL_S)
        said = job.stdout.read().strip() if job.stdout else ""
    if job.returncode != 0:
        raise CmirError("embed ended with an error", seen=said or f"exit {job.returncode}")
    return samples


def _sample(num_rows: int, at_s: float, driver: int) -> MemorySample:
    megabytes = {pid: _memory_mb(pid) for pid in descendants(driver)}
    workers = sum(mb for pid, mb in megabytes.items() if _command(pid).startswith(b"ray::"))
    return MemorySample(
        num_rows=num_rows,
        at_s=at_s,
        driver_mb=megabytes[driver],
        workers_mb=workers,
        all_mb=sum(megabytes.values()),
    )


def descendants(pid: int) -> list[int]:
    """A process and all that it and they started and that still run below it."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended meanwhile
            continue
        children.setdefault(parent, []).append(int(place.parent.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, []))
    return found


def _memory_mb(pid: int) -> float:
    """Proportional set size of a process, 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
