"""What runs on every training worker, in a module of its own: workers cannot find a function of `__main__`."""

import dataclasses
import logging
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch
from pydantic import BaseModel, ConfigDict
from ray.train import Checkpoint
from ray.train.torch import get_device

from cmir.archive import storage
from cmir.errors import ConfigError
from cmir.network.learner import DivergedError
from cmir.network.training import SaveState, UnwritableError, fit
from cmir.network.training_settings import TrainSettings

_STATE_FILE = "state.pt"


class WorkerTask(BaseModel):
    """What the driver tells every worker; `bundle_uri` is where rank 0 writes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: TrainSettings
    shard_uris: tuple[str, ...]
    bundle_uri: str
    init_from: str | None = None
    num_threads: int = 1
    device: str = "cpu"
    mlflow_uri: str | None = None

    def loop_config(self) -> dict[str, Any]:
        """As Ray Train carries it. What was not chosen stays so: sizes of chips then follow from the network."""
        return self.model_dump(mode="json", exclude_unset=True)


def train_worker(task: dict[str, Any]) -> dict[str, Any]:
    """Train as one worker of Ray Train's group, going on from the run's last checkpoint where there is one.

    Returns the FitResult's fields, or under `error` what all workers raised alike: raised here, Ray would try it again.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    _quieten_ray()
    todo = WorkerTask.model_validate(task)
    torch.set_num_threads(todo.num_threads)
    device = get_device() if todo.device == "cuda" else torch.device("cpu")
    checkpoint = ray.train.get_checkpoint()
    with tempfile.TemporaryDirectory(prefix="cmir-train-") as folder:
        curves = _Curves(storage.join(todo.bundle_uri, "tensorboard"), Path(folder) / "tensorboard")

        def report(figures: Mapping[str, float], save_state: SaveState | None) -> None:
            curves.publish()
            _report(figures, save_state)

        try:
            result = fit(
                todo.settings,
                todo.shard_uris,
                todo.bundle_uri,
                device=device,
                init_from=todo.init_from,
                resume_from=None if checkpoint is None else Path(checkpoint.to_directory(folder)) / _STATE_FILE,
                on_checkpoint=report,
                log_dir=curves.folder,
                mlflow_uri=todo.mlflow_uri,
            )
        except (ConfigError, DivergedError, UnwritableError) as error:
            return {"error": error}
        finally:
            curves.publish()
    return dataclasses.asdict(result)


def _quieten_ray() -> None:
    """Our own lines say what was reached and kept. One of Ray Train's loggers is named by its file, not its module."""
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    for name in list(logging.root.manager.loggerDict):
        if "/ray/train/" in name:
            logging.getLogger(name).setLevel(logging.WARNING)


class _Curves:
    """TensorBoard's files in the output: written there where it is a folder, copied there where it is on S3."""

    def __init__(self, uri: str, temporary: Path) -> None:
        self._uri, self._is_remote = uri, storage.is_s3(uri)
        self.folder = temporary if self._is_remote else storage.local_path(uri)

    def publish(self) -> None:
        """Have what was written so far in the output."""
        if self._is_remote and self.folder.exists():
            for file in self.folder.iterdir():
                storage.upload(file, storage.join(self._uri, file.name))


def _report(figures: Mapping[str, float], save_state: SaveState | None) -> None:
    """Hand a checkpoint to Ray Train; every worker must call it, only rank 0 brings a state."""
    if save_state is None:
        ray.train.report(dict(figures))
        return
    with tempfile.TemporaryDirectory(prefix="cmir-checkpoint-") as folder:
        save_state(Path(folder) / _STATE_FILE)
        ray.train.report(dict(figures), checkpoint=Checkpoint.from_directory(folder))
