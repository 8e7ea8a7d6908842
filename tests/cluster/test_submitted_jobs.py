"""The job scripts through `ray job submit --working-dir .` on a cluster started by `ray start --head`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cmir.archive.shards import ShardFileWriter
from cmir.gallery.table import Gallery
from cmir.network.bundle import read_config
from tests.conftest import MakeRow, RayCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What `--working-dir .` would upload of a clean checkout: the three packages and no more."""
    import shutil

    for name in ("cmir", "jobs", "serve"):
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "checkout"


def _submit(cluster: RayCluster, checkout: Path, *command: str) -> tuple[int, str]:
    ray = str(Path(sys.executable).parent / "ray")
    environment = {**os.environ, "RAY_API_SERVER_ADDRESS": cluster.dashboard_url}
    environment.pop("RAY_ADDRESS", None)
    line = [ray, "job", "submit", "--working-dir", ".", "--", "python", *command]
    done = subprocess.run(line, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def _last_json(output: str) -> dict:
    lines = [line for line in output.splitlines() if line.startswith('{"job"')]
    return json.loads(lines[-1])


@pytest.fixture
def archive(tmp_path: Path, make_row: MakeRow) -> str:
    archive = tmp_path / "archive"
    for split, numbers in (("train", range(24)), ("val", range(24, 32)), ("test", range(32, 40))):
        writer = ShardFileWriter(str(archive / "rgb" / split / "part-00000.parquet"), split)  # type: ignore[arg-type]
        for i in numbers:
            writer.add(make_row(i, size_px=32, labels=(("sea", "ship")[i % 2],)))
        writer.close()
    return str(archive)


def test_train_and_embed_run_as_submitted_jobs(
    ray_cluster: RayCluster, checkout: Path, tmp_path: Path, archive: str
) -> None:
    bundle, gallery = str(tmp_path / "bundle"), str(tmp_path / "gallery")

    code, output = _submit(
        ray_cluster, checkout, "jobs/train.py", "--shards", archive, "--output", bundle, "--max-steps", "3"
    )
    assert code == 0, output[-3000:]
    line = _last_json(output)
    assert (line["status"], line["num_steps"]) == ("ok", 3)
    assert read_config(bundle).space_id == line["outputs"]["space_id"]

    flags = ("--bundle", bundle, "--shards", archive, "--gallery", gallery)
    code, output = _submit(ray_cluster, checkout, "jobs/embed.py", *flags)
    assert code == 0, output[-3000:]
    assert _last_json(output)["num_rows_committed"] == 40
    (space_id,) = Gallery.open(gallery).space_ids()
    assert space_id == line["outputs"]["space_id"]


def test_a_relative_place_is_refused_in_a_submitted_job(ray_cluster: RayCluster, checkout: Path) -> None:
    code, output = _submit(ray_cluster, checkout, "jobs/train.py", "--shards", "archive", "--output", "/tmp/bundle")
    assert code != 0
    assert "relative URI in a submitted job" in output


@pytest.mark.long
def test_training_here_does_not_ask_the_cluster_that_was_started_last(tmp_path: Path, archive: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # Ray's sockets need a short path
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")  # as a killed `ray start` leaves it
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment["RAY_TMPDIR"] = folder
        flags = ["--shards", archive, "--output", str(tmp_path / "bundle"), "--max-minutes", "0.8"]
        command = [sys.executable, "jobs/train.py", *flags]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stdout + done.stderr
