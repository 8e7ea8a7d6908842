"""Where curves of a training go beside the log: TensorBoard files by default, an MLflow server as an option."""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from cmir.archive import storage
from cmir.errors import ConfigError

log = logging.getLogger("cmir")
_FLUSH_EVERY_S: Final = 15.0
_MAX_METRICS: Final = 1000  # of one request, MLflow's own limit
_MAX_PARAM_CHARS: Final = 500
_OUTPUT_TAG: Final = "cmir.output"


class Tracker(Protocol):
    """Takes numbers with their step."""

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Values of one step, named `group/name`."""

    def flush(self) -> None:
        """Have all of them where they can be looked at."""

    def close(self, *, failed: bool) -> None:
        """The training ended."""


class TensorBoard:
    """Event files in a folder; a resumed training adds its own.

    What cannot be written is told once and left out, as by MLflow.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # late: half a second, and only rank 0 writes

        self._folder = folder
        self._writer: Any = None
        with self._left_out_where_it_fails():
            self._writer = SummaryWriter(str(folder))

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Values of one step, named `group/name`."""
        with self._left_out_where_it_fails():
            for name, value in values.items():
                if self._writer is not None:
                    self._writer.add_scalar(f"{group}/{name}", value, step)

    def flush(self) -> None:
        """Have all of them in the files."""
        with self._left_out_where_it_fails():
            if self._writer is not None:
                self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """The training ended."""
        with self._left_out_where_it_fails():
            if self._writer is not None:
                self._writer.close()

    @contextlib.contextmanager
    def _left_out_where_it_fails(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            log.warning("curves are no longer written to %s: %s", self._folder, error)
            self._writer = None


class MLflow:
    """A run on an MLflow server, named by the output; a resumed training goes on with its run.

    What the server does not take is told once and left out: curves are not worth the training.
    """

    def __init__(self, tracking_uri: str, output_uri: str, params: Mapping[str, Any], *, is_resumed: bool) -> None:
        self._client = mlflow_client(tracking_uri)
        self._waiting: list[Any] = []
        self._last_flush_s = time.monotonic()
        self._run_id = self._open_run(output_uri, params, is_resumed)

    def scalars(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Values of one step, named `group/name`; sent together with others every few seconds."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._waiting += [Metric(f"{group}/{name}", value, now_ms, step) for name, value in values.items()]
        if time.monotonic() - self._last_flush_s >= _FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        from mlflow.exceptions import MlflowException

        self._last_flush_s = time.monotonic()
        waiting, self._waiting = self._waiting, []
        try:
            for start in range(0, len(waiting), _MAX_METRICS):
                self._client.log_batch(self._run_id, metrics=waiting[start : start + _MAX_METRICS])
        except MlflowException as error:
            log.warning("%d values did not reach MLflow: %s", len(waiting), str(error).splitlines()[0])

    def close(self, *, failed: bool) -> None:
        """Send what waits and say how the training ended."""
        from mlflow.exceptions import MlflowException

        self.flush()
        try:
            self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")
        except MlflowException as error:
            log.warning("MLflow was not told of the end: %s", str(error).splitlines()[0])

    def _open_run(self, output_uri: str, params: Mapping[str, Any], is_resumed: bool) -> str:
        from mlflow.entities import Param

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "cmir")
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        output_id = hashlib.sha256(output_uri.encode()).hexdigest()[:16]  # which no character of a path disturbs
        found = self._client.search_runs([experiment_id], f"tags.`{_OUTPUT_TAG}_id` = '{output_id}'", max_results=1)
        if is_resumed and found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return str(found[0].info.run_id)
        tags = {"mlflow.runName": storage.name_of(output_uri), _OUTPUT_TAG: output_uri, f"{_OUTPUT_TAG}_id": output_id}
        run = self._client.create_run(experiment_id, tags=tags)
        told = [Param(key, str(value)[:_MAX_PARAM_CHARS]) for key, value in params.items()]
        self._client.log_batch(run.info.run_id, params=told)
        return str(run.info.run_id)


def mlflow_client(tracking_uri: str) -> Any:
    """A client of the server or database at a URI that has answered. Raises ConfigError where there is none."""
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise ConfigError("MLflow is not installed", seen=error, fix="pip install 'cmir[mlflow]'") from error
    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        client.search_experiments(max_results=1)
    except MlflowException as error:
        fix = "give http(s)://host:port of a server, or sqlite:////absolute/path.db"
        seen = str(error).splitlines()[0]
        raise ConfigError("MLflow does not answer", seen=seen, where=tracking_uri, fix=fix) from error
    return client
