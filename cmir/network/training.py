"""Shards -> bundle: plain torch, alone or as one of several workers of an initialised torch.distributed group.

Every worker reads the same catalogue and the same sample for the statistics, so they agree without talking; each trains
on its own part and only gradients and embeddings travel. Rank 0 keeps the clock, validates, and writes. What is
written at the end are the averaged weights with the best figures on the val split.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from cmir.archive.schema import IMAGE_MODALITIES
from cmir.errors import ConfigError, DataError
from cmir.network.bundle import load_bundle, save_bundle
from cmir.network.cmirnet_learner import CmirNetLearner, published_config
from cmir.network.cmirnet_model import CmirNet
from cmir.network.feed import FeedSettings, TrainingFeed
from cmir.network.image_tower import ImageTowerConfig
from cmir.network.learner import Learner
from cmir.network.model import NetworkConfig, SharedSpaceNet
from cmir.network.objectives.contrastive import ContrastiveObjective
from cmir.network.pretrained_training import (
    check_towers,
    fill_towers,
    image_checkpoint,
    sized_for_towers,
    speech_checkpoint,
)
from cmir.network.progress import TrainingProgress
from cmir.network.speech_tower import SpeechTowerConfig
from cmir.network.training_data import TrainingData, read_training_data
from cmir.network.training_settings import TrainSettings
from cmir.network.validation import Validation, main_figure

log = logging.getLogger("cmir")

SaveState = Callable[[Path], None]
AnyLearner: TypeAlias = Learner | CmirNetLearner
# Told after each validation on every worker: the figures, and on rank 0 what writes a resumable state to a file.
OnCheckpoint = Callable[[Mapping[str, float], SaveState | None], None]


@dataclass(frozen=True)
class FitResult:
    """What training made: the space, the figures of the weights kept, steps in all and before a resume, the time."""

    space_id: str
    figures: dict[str, float]
    num_steps: int
    num_steps_before: int
    seconds: float


@dataclass
class Clock:
    """Where training stands: steps done, seconds spent before a resume, the best weights so far."""

    step: int = 0
    spent_s: float = 0.0
    best_score: float = -1.0
    best_figures: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        return self.spent_s + time.monotonic() - self.started_s


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
) -> FitResult:
    """Train on the train split below `shard_uris` and write a bundle to `bundle_uri` (rank 0).

    Args:
        init_from: a bundle whose tensors of equal name and shape are the starting point.
        resume_from: a state that `on_checkpoint` was given, of the same settings and shards.
        log_dir: where TensorBoard scalars go (rank 0).

    Raises ConfigError where a modality that the preset needs is missing, DataError where shards cannot be used.
    """
    clock, settings = Clock(), sized_for_towers(settings)
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    data = read_training_data(settings, shard_uris)
    learner = build_learner(settings, data, device, init_from)
    if resume_from is not None:
        _load_state(resume_from, learner, clock)
    num_steps_before = clock.step
    validation = Validation(data.validation, data.preprocessing) if rank == 0 and data.validation else None
    feed = TrainingFeed(data.catalogue, data.preprocessing, feed_settings(settings), rank=rank, world_size=world_size)
    with TrainingProgress(log_dir=log_dir if rank == 0 else None, is_quiet=rank > 0) as progress:
        loop = Loop(settings, learner, feed, validation, clock, progress, on_checkpoint, rank)
        loop.run()
    if rank > 0:
        return FitResult("", {}, clock.step, num_steps_before, clock.elapsed_s)
    if clock.best_weights:
        learner.average.load_state_dict(clock.best_weights)
    space_id = save_bundle(
        bundle_uri,
        learner.average,
        data.preprocessing,
        metrics={"validation": dict(clock.best_figures), "num_steps": clock.step, "seconds": clock.elapsed_s},
        training=settings.recorded(),
        data=data.counts(),
    )
    return FitResult(space_id, dict(clock.best_figures), clock.step, num_steps_before, clock.elapsed_s)


@dataclass(frozen=True)
class Loop:
    """Steps, validations and checkpoints until the settings' end."""

    settings: TrainSettings
    learner: AnyLearner
    feed: TrainingFeed
    validation: Validation | None
    clock: Clock
    progress: TrainingProgress
    on_checkpoint: OnCheckpoint | None
    rank: int

    def run(self) -> None:
        """Train to the end; the last validation and checkpoint come after the last step."""
        fraction, last_check_s = self._agreed_fraction()[0], time.monotonic()
        batches = self.feed.batches(self.clock.step)
        try:
            while fraction < 1.0:
                batch = next(batches)
                values = self.learner.step(batch, step=self.clock.step, fraction=fraction, rank=self.rank)
                if not math.isfinite(values["loss"]):
                    raise DataError("training diverged", seen=f"loss {values['loss']} at step {self.clock.step}",
                                    fix="look for extreme values in the items")  # fmt: skip
                self.clock.step += 1
                due = time.monotonic() - last_check_s >= self.settings.validate_every_s
                fraction, check = self._agreed_fraction(due)
                self.progress.step(self.clock.step, min(1.0, fraction), self._remaining_s(fraction), values)
                if check or fraction >= 1.0:
                    self._check()
                    last_check_s = time.monotonic()
        finally:
            batches.close()
            self.feed.close()

    def _agreed_fraction(self, is_check_due: bool = False) -> tuple[float, bool]:
        """How much of the training has passed and whether to validate now, as rank 0 sees it, on every worker."""
        fraction = self.clock.elapsed_s / (60.0 * self.settings.max_minutes)
        if self.settings.max_steps is not None:
            fraction = max(self.clock.step / self.settings.max_steps, math.floor(fraction))
        told = torch.tensor([fraction, float(is_check_due)], dtype=torch.float64, device=self.learner.device)
        if dist.is_initialized():
            dist.broadcast(told, 0)
        return float(told[0]), bool(told[1])

    def _remaining_s(self, fraction: float) -> float:
        if fraction <= 0:
            return 0.0
        return max(0.0, self.clock.elapsed_s * (1.0 / fraction - 1.0))

    def _check(self) -> None:
        """Measure, keep the best weights, hand out a state."""
        figures: dict[str, float] = {}
        if self.validation is not None and not self.validation.is_empty:
            figures = self.validation.figures(self.learner.average, self.learner.device)
            self.progress.figures(self.clock.step, figures, main_figure(figures))
            if figures["score"] > self.clock.best_score:
                self.clock.best_score, self.clock.best_figures = figures["score"], figures
                state = self.learner.average.state_dict()
                self.clock.best_weights = {name: tensor.detach().clone() for name, tensor in state.items()}
        if self.on_checkpoint is not None:
            self.on_checkpoint(figures, self._save_state if self.rank == 0 else None)

    def _save_state(self, path: Path) -> None:
        clock = self.clock
        state = {
            "step": clock.step,
            "spent_s": clock.elapsed_s,
            "best_score": clock.best_score,
            "best_figures": clock.best_figures,
            "best_weights": clock.best_weights,
            "learner": self.learner.state(),
        }
        torch.save(state, path)


def build_learner(
    settings: TrainSettings, data: TrainingData, device: torch.device, init_from: str | None = None
) -> AnyLearner:
    """A network for the data's modalities and labels, its objective and optimiser; the same for the same seed.

    Raises ConfigError where the objective or a pretrained tower does not fit the data, or cannot start from a bundle.
    """
    if settings.objective == "cmirnet":
        return _published_learner(settings, data, device, init_from)
    images = tuple(name for name in data.modalities if name in IMAGE_MODALITIES)
    speech = SpeechTowerConfig()
    if data.preprocessing.features is not None:
        speech = SpeechTowerConfig(kind="features", input_dim=len(data.preprocessing.features.mean))
    check_towers(settings, data.modalities)
    seen, heard = image_checkpoint(settings), speech_checkpoint(settings, longest_s=data.preprocessing.max_speech_s)
    if heard is not None and speech.kind == "features":
        fix = "leave --speech-tower out, or use shards of sound"
        raise ConfigError("a pretrained speech tower takes sound", seen="speech as features", fix=fix)
    config = NetworkConfig(
        modalities=data.modalities,
        dim=settings.dim,
        labels=data.catalogue.label_names,
        image=ImageTowerConfig(
            modalities=images or IMAGE_MODALITIES, width=settings.image_width, depths=settings.image_depths
        ),
        speech=speech,
        pretrained_image=seen.config if seen else None,
        pretrained_speech=heard.config if heard else None,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        net = SharedSpaceNet(config)
        objective = ContrastiveObjective(
            settings.term_weights, dim=settings.dim, num_classes=len(data.catalogue.class_names)
        )
    fill_towers(net, seen, heard, tune=settings.tune_towers)
    labels = data.catalogue.labels
    if labels.any():  # start at the labels' prevalence: the first steps need not learn that most labels are absent
        share = float(labels[labels.any(axis=1)].mean())
        torch.nn.init.constant_(net.logit_bias, math.log(share / (1.0 - share + 1e-6)) - 1.0)
    if init_from is not None:
        _start_from(net, init_from)
    return Learner(net, objective, settings, device)


def _published_learner(
    settings: TrainSettings, data: TrainingData, device: torch.device, init_from: str | None
) -> CmirNetLearner:
    if init_from is not None:
        raise ConfigError("objective cmirnet starts from random weights", seen=init_from, fix="leave --init-from out")
    config = published_config(data.modalities, data.catalogue, data.preprocessing, dim=settings.dim)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(settings.seed)
        net = CmirNet(config)
    return CmirNetLearner(net, settings.published_settings, settings.augmentation, seed=settings.seed, device=device)


def feed_settings(settings: TrainSettings) -> FeedSettings:
    """What the feed needs of the settings."""
    return FeedSettings(settings.grounds_per_batch, settings.utterances_per_batch, settings.seed, settings.cache_bytes)


def _start_from(net: SharedSpaceNet, bundle_uri: str) -> None:
    """Copy what has the same name and shape; prototypes by their label."""
    other = load_bundle(bundle_uri).net
    mine, theirs = net.state_dict(), other.state_dict()
    same = {k: v for k, v in theirs.items() if k in mine and v.shape == mine[k].shape and k != "prototypes"}
    net.load_state_dict(same, strict=False)
    if other.config.dim == net.config.dim:
        for place, label in enumerate(net.config.labels):
            if label in other.config.labels:
                net.prototypes.data[place] = theirs["prototypes"][other.config.labels.index(label)]
    log.info("started from %d of %d tensors of %s", len(same), len(mine), bundle_uri)


def _load_state(path: Path, learner: AnyLearner, clock: Clock) -> None:
    state: dict[str, Any] = torch.load(path, map_location=learner.device, weights_only=True)
    learner.load_state(state["learner"])
    for name in ("step", "spent_s", "best_score", "best_figures", "best_weights"):
        setattr(clock, name, state[name])
