"""The memory curve of a job: peaks are those of the samples, processes are found below their driver."""

import subprocess
import sys

from jobs.benchmarks import memory_curve
from jobs.benchmarks.memory_curve import MemorySample, descendants, peaks


def sample(num_rows: int, at_s: float, driver_mb: float, workers_mb: float) -> MemorySample:
    total = driver_mb + workers_mb + 5
    return MemorySample(num_rows=num_rows, at_s=at_s, driver_mb=driver_mb, workers_mb=workers_mb, all_mb=total)


def test_peaks_are_of_every_part_by_itself_and_compared_with_the_smallest() -> None:
    small, large = peaks(
        [[sample(10, 0, 30, 60), sample(10, 1, 40, 20)], [sample(20, 0, 50, 50), sample(20, 2.5, 10, 135)]]
    )
    assert (small.driver_peak_mb, small.workers_peak_mb, small.all_peak_mb, small.of_smallest) == (40, 60, 95, 1)
    assert (large.num_rows, large.seconds, large.all_peak_mb) == (20, 2.5, 150)
    assert large.of_smallest == 150 / 95


def test_memory_of_a_process_and_of_those_it_started_is_seen() -> None:
    held = "x = bytes(50_000_000).replace(bytes(1), b'1'); print('ready', flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {held!r}])"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        family = descendants(parent.pid)
        assert family[0] == parent.pid
        assert len(family) == 2
        seen = memory_curve._sample(1, 0.0, parent.pid)
        parent.stdin.write("\n")
        parent.stdin.flush()
    assert seen.all_mb > 50 > seen.driver_mb > 0
    assert seen.workers_mb == 0
    assert memory_curve._memory_mb(parent.pid) == 0
