"""Shards -> bundle: plain torch, alone or as one of several workers of an initialised torch.distributed group.

Every worker reads the same catalogue and the same sample for the statistics, so they agree without talking; each trains
on its own part and only gradients and embeddings travel. Rank 0 keeps the clock, validates, and writes. What is
written at the end are the averaged weights with the best figures on the val split.
"""

import contextlib
import errno
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist

from cmir.errors import ConfigError, DataError
from cmir.network.augment import VariedBatch
from cmir.network.batches import Batch
from cmir.network.checkpoints import Bundles, Clock, scenes_learnt
from cmir.network.checks import can_judge, facts_of, together
from cmir.network.feed import FeedSettings, TrainingFeed
from cmir.network.learner import share_weights
from cmir.network.new_learner import AnyLearner, build_learner
from cmir.network.pace import Pace, gpu_use_of
from cmir.network.pretrained_training import sized_for_towers
from cmir.network.progress import TrainingProgress
from cmir.network.trackers import MLflow, TensorBoard, Tracker
from cmir.network.training_data import read_training_data
from cmir.network.training_settings import TrainSettings
from cmir.network.validation import Validation, main_figure

log = logging.getLogger("cmir")

SaveState = Callable[[Path], None]
# Told after each validation on every worker: the figures, and on rank 0 what writes a resumable state to a file.
OnCheckpoint = Callable[[Mapping[str, float], SaveState | None], None]


# What waiting does not mend: no space left, quota used up, no permission, a read-only file system.
_LASTING: Final = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


class UnwritableError(DataError):
    """The output of a training has no room or may not be written; what was kept before stands."""


@contextlib.contextmanager
def _written_to(uri: str) -> Iterator[None]:
    """What lasts of the errors of writing there is an UnwritableError; others, which may pass, stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LASTING:
            raise
        fix = "make room or allow writing, then give --resume, which goes on from the last checkpoint"
        raise UnwritableError("training cannot be written", seen=error.strerror, where=uri, fix=fix) from error


@dataclass(frozen=True)
class FitResult:
    """What training made: the space, the figures of the weights kept, steps in all and before a resume, the time,
    whether it ended because nothing got better, and how fast it went (see pace)."""

    space_id: str
    figures: dict[str, float]
    num_steps: int
    num_steps_before: int
    seconds: float
    stopped_early: bool
    speed: dict[str, float] = field(default_factory=dict, compare=False)


def fit(
    settings: TrainSettings,
    shard_uris: Sequence[str],
    bundle_uri: str,
    *,
    device: torch.device,
    init_from: str | None = None,
    resume_from: Path | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    log_dir: Path | None = None,
    mlflow_uri: str | None = None,
) -> FitResult:
    """Train on the train split below `shard_uris` and write a bundle to `bundle_uri` (rank 0).

    The bundle holds the best weights, the bundle `last` in it the last ones. While training goes on, `best` and `last`
    in it are what the validations so far have found.

    Args:
        init_from: a bundle whose tensors of equal name and shape are the starting point.
        resume_from: a state that `on_checkpoint` was given, of the same settings and shards.
        log_dir: where TensorBoard scalars go (rank 0).
        mlflow_uri: where they go as well.

    Raises ConfigError where the shards cannot train what was asked for (see checks), DivergedError where loss or
    gradient become infinite, and UnwritableError where the output has no room or may not be written, the same on every
    worker; DataError where shards cannot be read.
    """
    clock, settings = Clock(), sized_for_towers(settings)
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    data = together(lambda: read_training_data(settings, shard_uris), lambda data: facts_of(data.catalogue))
    learner = build_learner(settings, data, device, init_from)
    if resume_from is not None:
        learner.load_state(clock.load(resume_from, device))
    num_steps_before = clock.step
    validation = None
    if rank == 0 and data.validation is not None and can_judge(data.validation):
        validation = Validation(data.validation, data.preprocessing)
    feed = TrainingFeed(data.catalogue, data.preprocessing, feed_settings(settings), rank=rank, world_size=world_size)
    trackers = _trackers(settings, bundle_uri, log_dir, mlflow_uri, num_steps_before > 0) if rank == 0 else []
    bundles = Bundles(bundle_uri, settings, data, scenes_learnt(data, init_from))
    pace = Pace(device, gpu_use_of(device))
    if rank == 0:
        log.info("training by %d workers from step %d, %d steps an epoch", world_size, clock.step, feed.steps_per_epoch)
    with TrainingProgress(trackers, is_quiet=rank > 0) as progress:
        loop = Loop(
            settings, learner, feed, validation, clock, progress, bundles, on_checkpoint, pace, rank, world_size
        )
        stopped_early = loop.run()
    if rank > 0:
        return FitResult("", {}, clock.step, num_steps_before, clock.elapsed_s, stopped_early)
    if clock.best_weights:
        learner.average.load_state_dict(clock.best_weights)
    speed = pace.figures()
    with _written_to(bundle_uri):
        space_id = bundles.finish(learner.average, clock, speed)
    spent_s = clock.elapsed_s
    return FitResult(space_id, dict(clock.best_figures), clock.step, num_steps_before, spent_s, stopped_early, speed)


def _trackers(
    settings: TrainSettings, bundle_uri: str, log_dir: Path | None, mlflow_uri: str | None, is_resumed: bool
) -> list[Tracker]:
    trackers: list[Tracker] = [TensorBoard(log_dir)] if log_dir is not None else []
    if mlflow_uri is not None:
        try:
            trackers.append(MLflow(mlflow_uri, bundle_uri, settings.recorded(), is_resumed=is_resumed))
        except ConfigError as error:  # the job asked it before it began: it went away since
            log.warning("training goes on without MLflow: %s", error)
    return trackers


@dataclass(frozen=True)
class Loop:
    """Steps, validations and checkpoints until the settings' end."""

    settings: TrainSettings
    learner: AnyLearner
    feed: TrainingFeed
    validation: Validation | None
    clock: Clock
    progress: TrainingProgress
    bundles: Bundles
    on_checkpoint: OnCheckpoint | None
    pace: Pace
    rank: int
    world_size: int

    def run(self) -> bool:
        """Train to the end; the last validation and checkpoint come after the last step. Whether it stopped early."""
        clock, pace, is_exhausted, last_check_s = self.clock, self.pace, False, time.monotonic()
        clock.fraction = self._from_rank_0(self._fraction())[0]
        batches = self.feed.batches(clock.step, self._prepare)
        try:
            while clock.fraction < 1.0 and not is_exhausted:
                pace.begin()
                batch = next(batches)
                pace.have_batch()
                values = self.learner.step(batch, step=clock.step, fraction=clock.fraction, rank=self.rank)
                clock.step += 1
                is_due = time.monotonic() - last_check_s >= self.settings.validate_every_s
                clock.fraction, is_due = self._from_rank_0(self._fraction(), is_due)
                pace.end(batch.num_items * self.world_size)
                self.progress.step(clock.step, min(1.0, clock.fraction), self._remaining_s(), values, pace)
                if is_due or clock.fraction >= 1.0:
                    self._check()
                    is_exhausted = bool(self._from_rank_0(self._has_run_out_of_patience())[0])
                    last_check_s = time.monotonic()
        finally:
            batches.close()
            self.feed.close()
        return is_exhausted and clock.fraction < 1.0

    def _prepare(self, batch: Batch, step: int) -> VariedBatch:
        """Ahead of the step, in the feed's thread: by steps the fraction is known, by minutes it is the latest."""
        fraction = self.clock.fraction if self.settings.max_steps is None else step / self.settings.max_steps
        return self.learner.prepare(batch, step=step, fraction=min(1.0, fraction), rank=self.rank)

    def _fraction(self) -> float:
        """How much of the training has passed, 0..1 and beyond."""
        fraction = self.clock.elapsed_s / (60.0 * self.settings.max_minutes)
        if self.settings.max_steps is not None:
            fraction = max(self.clock.step / self.settings.max_steps, math.floor(fraction))
        return fraction

    def _from_rank_0(self, number: float, flag: bool = False) -> tuple[float, bool]:
        """What rank 0 says, on every worker."""
        told = torch.tensor([number, float(flag)], dtype=torch.float64, device=self.learner.device)
        if dist.is_initialized():
            dist.broadcast(told, 0)
        return float(told[0]), bool(told[1])

    def _remaining_s(self) -> float:
        if self.clock.fraction <= 0:
            return 0.0
        return max(0.0, self.clock.elapsed_s * (1.0 / self.clock.fraction - 1.0))

    def _has_run_out_of_patience(self) -> bool:
        patience = self.settings.patience
        if patience is None or self.clock.num_checks_without_better < patience:
            return False
        if self.rank == 0:
            log.info("step %d: no better score in %d validations, the last", self.clock.step, patience)
        return True

    def _check(self) -> None:
        """Measure, keep the best weights and the last, hand out a state.

        Raises UnwritableError, on every worker, where the output cannot be written for a reason that lasts.
        """
        figures: dict[str, float] = {}
        failure: UnwritableError | None = None
        share_weights(self.learner.net)
        if self.rank == 0:
            try:
                with _written_to(self.bundles.uri):
                    figures = self._measured_and_kept()
            except UnwritableError as error:
                failure = error
        if self._from_rank_0(0.0, failure is not None)[1]:
            raise failure or UnwritableError("the worker that writes could not", where=self.bundles.uri)
        if self.on_checkpoint is not None:
            self.on_checkpoint(figures, self._save_state if self.rank == 0 else None)

    def _measured_and_kept(self) -> dict[str, float]:
        """Figures of the average weights on val; the bundles `best`, where they are, and `last` are written.

        While the learner says that they are not to be judged, they neither are the best nor use up patience; at the end
        of the training they always count.
        """
        figures: dict[str, float] = {}
        average = self.learner.average
        if self.validation is not None and not self.validation.is_empty:
            figures = self.validation.figures(average, self.learner.device)
            self.progress.figures(self.clock.step, figures, main_figure(figures))
            if not self.learner.is_judged and self.clock.fraction < 1.0:
                log.info("step %d: not judged, what is searched by is not trained yet", self.clock.step)
            elif self.clock.judge(figures, average.state_dict()):
                self.bundles.write("best", average, self.clock, figures)
        self.bundles.write("last", average, self.clock, figures)
        return figures

    def _save_state(self, path: Path) -> None:
        self.clock.save(path, self.learner.state())


def feed_settings(settings: TrainSettings) -> FeedSettings:
    """What the feed needs of the settings."""
    return FeedSettings(settings.grounds_per_batch, settings.utterances_per_batch, settings.seed, settings.cache_bytes)
