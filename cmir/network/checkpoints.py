"""Where a training stands, as a file to go on from, and its two bundles: the best weights and the last."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from cmir.archive import storage
from cmir.network.build import Network
from cmir.network.bundle import read_config, read_train_scenes, save_bundle
from cmir.network.scenes import Digests
from cmir.network.training_data import TrainingData
from cmir.network.training_settings import TrainSettings
from cmir.network.validation import HEARD_THRESHOLD

_KEPT: Final = ("step", "spent_s", "best_score", "best_figures", "best_weights", "num_checks_without_better")


@dataclass
class Clock:
    """Steps done, seconds spent before a resume, the best weights so far, and how many validations ago they were."""

    step: int = 0
    fraction: float = 0.0
    spent_s: float = 0.0
    best_score: float = -1.0
    best_figures: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    num_checks_without_better: int = 0
    started_s: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.spent_s + time.monotonic() - self.started_s

    def judge(self, figures: Mapping[str, float], weights: Mapping[str, Tensor]) -> bool:
        """Keep the weights where the figures' `score` is the best so far, and say whether it is."""
        self.num_checks_without_better += 1
        if figures["score"] <= self.best_score:
            return False
        self.best_score, self.best_figures, self.num_checks_without_better = figures["score"], dict(figures), 0
        self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        return True

    def save(self, path: Path, learner_state: Mapping[str, Any]) -> None:
        """Write what `load` goes on from."""
        kept = {name: getattr(self, name) for name in _KEPT} | {"spent_s": self.elapsed_s}
        torch.save({**kept, "learner": dict(learner_state)}, path)

    def load(self, path: Path, device: torch.device) -> dict[str, Any]:
        """Stand where a saved one stood; returns the learner's state."""
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        for name in _KEPT:
            setattr(self, name, state[name])
        learner_state: dict[str, Any] = state["learner"]
        return learner_state


def scenes_learnt(data: TrainingData, init_from: str | None) -> Digests | None:
    """Those of split train and of the bundle started from; None where that one does not say which it learnt."""
    if init_from is None:
        return data.catalogue.scenes
    before = read_train_scenes(init_from, read_config(init_from))
    return None if before is None else np.union1d(data.catalogue.scenes, before)


@dataclass(frozen=True)
class Bundles:
    """`best` and `last` below the place of the bundle while training goes on; at the end the best is the bundle."""

    uri: str
    settings: TrainSettings
    data: TrainingData
    train_scenes: Digests | None

    def write(self, name: str, net: Network, clock: Clock, figures: Mapping[str, float]) -> None:
        """Replace `best` or `last`."""
        self._save(storage.join(self.uri, name), net, clock, figures)

    def finish(self, net: Network, clock: Clock, speed: Mapping[str, float]) -> str:
        """Write the bundle itself; returns its space_id."""
        space_id = self._save(self.uri, net, clock, clock.best_figures, speed=dict(speed))
        storage.delete_tree(storage.join(self.uri, "best"))
        return space_id

    def _save(
        self, uri: str, net: Network, clock: Clock, figures: Mapping[str, float], **more: dict[str, JsonValue]
    ) -> str:
        return save_bundle(
            uri,
            net,
            self.data.preprocessing,
            metrics={"validation": dict(figures), "num_steps": clock.step, "seconds": clock.elapsed_s, **more},
            training=self.settings.recorded(),
            data=self.data.counts(),
            heard_threshold=figures.get(HEARD_THRESHOLD),
            spoken_forms=self.data.spoken_forms,
            unspoken_labels=self.data.unspoken_labels,
            train_scenes=self.train_scenes,
        )
