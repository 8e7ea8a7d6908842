"""Curves reach TensorBoard's files and an MLflow database; a resumed training goes on with its MLflow run."""

import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cmir.errors import ConfigError
from cmir.network.trackers import MLflow, TensorBoard, mlflow_client
from cmir.network.training import fit
from tests.tiny_archives import chip_row, tiny_settings, write_archive

# sqlalchemy deprecates what MLflow uses
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore:.*noload.*")]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/runs.db"


def test_curves_that_cannot_be_written_do_not_end_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    curves = TensorBoard(tmp_path)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(curves._writer, "add_scalar", full)
    curves.scalars("train", 1, {"loss": 1.0})
    curves.scalars("train", 2, {"loss": 1.0})
    curves.flush()
    curves.close(failed=False)
    assert caplog.text.count("curves are no longer written") == 1
    (tmp_path / "file").write_text("no folder")
    TensorBoard(tmp_path / "file" / "curves").scalars("train", 1, {"loss": 1.0})
    assert caplog.text.count("curves are no longer written") == 2


def test_a_training_is_told_to_tensorboard_and_to_mlflow(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = write_archive(tmp_path / "a", [chip_row(i, "rgb") for i in range(6)])
    write_archive(tmp_path / "a", [chip_row(50 + i, "rgb") for i in range(3)], split="val")
    output = str(tmp_path / "it's a bundle")
    settings, cpu = tiny_settings(max_steps=50), torch.device("cpu")
    result = fit(settings, [uri], output, device=cpu, log_dir=tmp_path / "curves", mlflow_uri=database)

    curves = EventAccumulator(str(tmp_path / "curves")).Reload()
    losses = {event.step: event.value for event in curves.Scalars("train/loss")}
    assert sorted(losses) == list(range(1, 51))
    assert curves.Scalars("val/score")[-1].value == pytest.approx(result.figures["score"])
    assert curves.Scalars("speed/samples_per_s")[0].value > 0
    assert 0 <= curves.Scalars("speed/feed_wait_share")[0].value <= 1

    client = mlflow_client(database)
    experiment = client.get_experiment_by_name("cmir").experiment_id
    (run,) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("it's a bundle", "FINISHED")
    assert run.data.params["dim"] == "16"
    history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")}
    assert history == pytest.approx(losses)

    again = MLflow(database, output, {}, is_resumed=True)
    again.scalars("train", 51, {"loss": 0.5})
    again.close(failed=True)
    (run,) = client.search_runs([experiment])
    assert (run.data.metrics["train/loss"], run.info.status) == (0.5, "FAILED")
    MLflow(database, output, {}, is_resumed=False).close(failed=False)
    assert len(client.search_runs([experiment])) == 2, "a fresh start is a run of its own"


def test_a_server_that_goes_away_costs_curves_and_no_training(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException

    tracker = MLflow(database, "/out", {}, is_resumed=False)

    def gone(*arguments: object, **named: object) -> None:
        raise MlflowException("connection refused")

    monkeypatch.setattr(tracker._client, "log_batch", gone)
    tracker.scalars("train", 1, {"loss": 1.0, "labels": 0.5})
    tracker.flush()
    assert "2 values did not reach MLflow: connection refused" in caplog.text


def test_an_mlflow_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="MLflow does not answer"):
        mlflow_client("carrier-pigeon://loft")
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(ConfigError, match=r"MLflow is not installed: .* pip install 'cmir\[mlflow\]'"):
        mlflow_client("http://127.0.0.1:1")
