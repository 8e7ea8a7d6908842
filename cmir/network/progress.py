"""Training as it is seen: one live line on a terminal, a plain line now and then elsewhere, scalars for trackers."""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cmir.network.pace import Pace
from cmir.network.trackers import Tracker

log = logging.getLogger("cmir")
_PLAIN_EVERY_S: Final = 15.0
_SPEED_EVERY_STEPS: Final = 50


class TrainingProgress:
    """Say step, loss, rate, figures and time left on stderr; hand all numbers to the trackers."""

    def __init__(self, trackers: Sequence[Tracker] = (), *, is_quiet: bool = False) -> None:
        self._trackers = trackers
        self._is_quiet = is_quiet
        self._is_live = sys.stderr.isatty() and not is_quiet
        columns = (TextColumn("training"), BarColumn(30), TextColumn("{task.description}"), TimeElapsedColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), disable=not self._is_live)
        self._line = self._bar.add_task("reading", total=1.0)
        self._last_plain_s = 0.0
        self._figures = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        for tracker in self._trackers:
            tracker.close(failed=kind is not None)

    def step(self, step: int, fraction: float, remaining_s: float, values: Mapping[str, float], pace: Pace) -> None:
        """After a step: `fraction` 0..1 of the training, the seconds left, the loss and its terms, how fast it goes."""
        text = f"step {step}  loss {values['loss']:.3f}  lr {values['learning_rate']:.1e}"
        text += f"  {pace.samples_per_s:.0f} samples/s  {self._figures}  {_clock(remaining_s)} left"
        self._bar.update(self._line, completed=fraction, description=text)
        now = time.monotonic()
        if not self._is_live and not self._is_quiet and now - self._last_plain_s >= _PLAIN_EVERY_S:
            self._last_plain_s = now
            log.info("training %3.0f%%  %s", 100 * fraction, text)
        self._scalars("train", step, values)
        if step % _SPEED_EVERY_STEPS == 0:
            self._scalars("speed", step, pace.figures())

    def figures(self, step: int, figures: Mapping[str, float], summary: str) -> None:
        """After a validation: all figures, and a short line of the main ones."""
        self._figures = f"val {figures['score']:.3f}"
        if not self._is_quiet:
            log.info("step %d  val  %s", step, summary)
        self._scalars("val", step, figures)
        for tracker in self._trackers:
            tracker.flush()

    def _scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.scalars(group, step, values)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
