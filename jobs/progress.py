"""How far a job over pieces is: one live line on a terminal, a line of JSON now and then elsewhere, metrics in Ray.

The figures are the same in all three, their keys in the JSON the names of the metrics behind `cmir_<job>_`. Prometheus
finds these at the metrics endpoint of the job's node, where Ray puts `ray_` before each and `_total` behind a counter.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Final, Self

from ray.util.metrics import Counter, Gauge
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

JSON_EVERY_S: Final = 10.0
_LIVE_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """A job at one moment; `eta_s` is None until a row is done, pieces done include those of earlier runs."""

    elapsed_s: float
    rows_per_s: float
    eta_s: float | None
    pieces_done: int
    pieces_total: int
    rows_committed: int
    rows_quarantined: int


class PieceProgress:
    """Count finished pieces (`advance`) and tell of them while its `with` block runs, once more at its end.

    `num_rows` are those still to do, `outcome` gives the rows committed and quarantined so far and is asked from a
    thread of this object's own, so that figures come also while no piece is finished.
    """

    def __init__(
        self,
        job: str,
        *,
        num_rows: int,
        num_pieces: int,
        num_pieces_skipped: int,
        outcome: Callable[[], tuple[int, int]],
        json_every_s: float = JSON_EVERY_S,
    ) -> None:
        self._job, self._num_rows, self._outcome = job, num_rows, outcome
        self._num_pieces, self._num_pieces_done, self._num_rows_done = num_pieces, num_pieces_skipped, 0
        self._started_s = time.monotonic()
        self._console = Console(stderr=True)
        self._is_live = self._console.is_terminal
        self._every_s = _LIVE_EVERY_S if self._is_live else json_every_s
        columns = (TextColumn(job), BarColumn(24), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._is_live)
        self._line = self._bar.add_task("starting", total=num_rows)
        self._metrics = _Metrics(job)
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="cmir-progress", daemon=True)

    def __enter__(self) -> Self:
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._tell()
        self._bar.stop()

    def advance(self, num_rows: int) -> None:
        """A piece of that many rows, the bad ones counted in, is finished."""
        with self._lock:
            self._num_pieces_done += 1
            self._num_rows_done += num_rows

    def figures(self) -> Figures:
        """The job as it stands."""
        with self._lock:
            num_rows_done, num_pieces_done = self._num_rows_done, self._num_pieces_done
        elapsed_s = time.monotonic() - self._started_s
        rows_per_s = num_rows_done / max(elapsed_s, 1e-9)
        rows_committed, rows_quarantined = self._outcome()
        return Figures(
            elapsed_s=round(elapsed_s, 2),
            rows_per_s=round(rows_per_s, 2),
            eta_s=round((self._num_rows - num_rows_done) / rows_per_s, 1) if num_rows_done else None,
            pieces_done=num_pieces_done,
            pieces_total=self._num_pieces,
            rows_committed=rows_committed,
            rows_quarantined=rows_quarantined,
        )

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._tell()

    def _tell(self) -> None:
        figures = self.figures()
        self._metrics.set(figures)
        if self._is_live:
            self._bar.update(self._line, completed=self._num_rows_done, description=_text(figures))
        else:
            print(json.dumps({"job": self._job, **asdict(figures)}), file=sys.stderr, flush=True)


class _Metrics:
    """The figures as metrics of Ray: rows are counters, which only grow, all else are gauges."""

    def __init__(self, job: str) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"cmir_{job}_{name}", text)

        self._gauges = {
            "elapsed_s": gauge("elapsed_s", "Seconds since the work began"),
            "rows_per_s": gauge("rows_per_s", "Rows finished a second since the work began"),
            "eta_s": gauge("eta_s", "Seconds left at that rate"),
            "pieces_done": gauge("pieces_done", "Pieces finished, by earlier runs too"),
            "pieces_total": gauge("pieces_total", "Pieces in all"),
        }
        self._counters = {
            "rows_committed": Counter(f"cmir_{job}_rows_committed", "Rows committed"),
            "rows_quarantined": Counter(f"cmir_{job}_rows_quarantined", "Rows put into quarantine"),
        }
        self._counted = dict.fromkeys(self._counters, 0)

    def set(self, figures: Figures) -> None:
        for name, gauge in self._gauges.items():
            value = getattr(figures, name)
            if value is not None:
                gauge.set(value)
        for name, counter in self._counters.items():
            value = getattr(figures, name)
            if value > self._counted[name]:
                counter.inc(value - self._counted[name])
                self._counted[name] = value


def _text(figures: Figures) -> str:
    left = "-:--" if figures.eta_s is None else f"{int(figures.eta_s) // 60}:{int(figures.eta_s) % 60:02d}"
    return (
        f"{figures.pieces_done}/{figures.pieces_total} pieces  {figures.rows_per_s:.0f} rows/s  "
        f"{figures.rows_committed} committed  {figures.rows_quarantined} quarantined  {left} left"
    )
