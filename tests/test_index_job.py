"""jobs/index.py from its flags to its exit code, its last line and what the gallery then serves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmir.gallery import commits, publish, tuning
from cmir.gallery.search import Searcher
from cmir.gallery.table import CommittedPiece, Gallery
from jobs.entrypoint import run_command
from jobs.index import IndexConfig, run
from tests.gallery_rows import DIM, SPACE, piece_name, piece_rows, rows, vector_of

ROOT = Path(__file__).resolve().parent.parent


def commit(uri: Path, *pieces: str, space_id: str = SPACE) -> None:
    space = Gallery.create(str(uri)).space(space_id, DIM, "bundle")
    space.commit([CommittedPiece(name, piece_rows(name, 30)) for name in pieces])


class Job:
    """Runs the job in this process; keeps the exit code, the last line of stdout and stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.error = ""

    def __call__(self, *flags: str) -> tuple[int, dict[str, Any]]:
        code = run_command("index", IndexConfig, run, list(flags))
        printed = self._capsys.readouterr()
        self.error = printed.err
        return code, json.loads(printed.out.splitlines()[-1])


@pytest.fixture
def job(capsys: pytest.CaptureFixture[str]) -> Job:
    return Job(capsys)


def test_publish_makes_the_gallery_searchable(tmp_path: Path, job: Job) -> None:
    commit(tmp_path, piece_name("a", 0))
    code, line = job("--gallery", str(tmp_path), "--publish")
    assert code == 0
    assert (line["job"], line["status"], line["sequence"], line["num_rows"]) == ("index", "ok", 1, 30)
    assert line["recall_at_10"] == 1
    assert line["index"] == {"kind": "exact", "params": {}}
    assert line["outputs"]["pointer"] == f"{tmp_path}/published.json"
    assert "recall@10" in job.error
    tuned = json.loads((tmp_path / "published.json").read_bytes())["tuning"]
    assert (tuned["target_recall"], tuned["recall_by_case"], len(tuned["tried"])) == (0.99, {"ms_to_ms": 1.0}, 1)
    assert Searcher.open(str(tmp_path)).search(vector_of("a-0-3")[None], k=1)[0][0].item_id == "a-0-3"


def test_rollback_and_status(tmp_path: Path, job: Job) -> None:
    commit(tmp_path, piece_name("a", 0))
    job("--gallery", str(tmp_path), "--publish", "--no-build")
    commit(tmp_path, piece_name("a", 1))
    job("--gallery", str(tmp_path), "--publish")
    assert Searcher.open(str(tmp_path)).num_rows == 60
    code, line = job("--gallery", str(tmp_path), "--rollback")
    assert (code, line["sequence"]) == (0, 3)
    assert Searcher.open(str(tmp_path)).num_rows == 30
    code, line = job("--gallery", str(tmp_path), "--status")
    assert code == 0
    assert [(space["space_id"], space["num_rows"], space["published_rows"]) for space in line["spaces"]] == [
        (SPACE, 60, 30)
    ]
    assert SPACE in job.error
    code, line = job("--gallery", str(tmp_path), "--rollback")
    assert (code, line["status"]) == (2, "refused")
    assert "nothing to roll back to" in line["error"]


def test_indexing_alone_publishes_nothing(tmp_path: Path, job: Job) -> None:
    commit(tmp_path, piece_name("a", 0))
    code, line = job("--gallery", str(tmp_path))
    assert (code, line["recall_at_10"]) == (0, 1)
    assert publish.find_pointer(str(tmp_path)) is None


def test_space_is_needed_where_there_are_several(tmp_path: Path, job: Job) -> None:
    commit(tmp_path, piece_name("a", 0))
    commit(tmp_path, piece_name("a", 0), space_id="s2")
    code, line = job("--gallery", str(tmp_path), "--publish")
    assert (code, line["status"]) == (2, "refused")
    assert f"{SPACE}, s2" in line["error"]
    assert job("--gallery", str(tmp_path), "--publish", "--space", "s3")[0] == 2
    code, line = job("--gallery", str(tmp_path), "--publish", "--space", "s2")
    assert (code, line["space_id"]) == (0, "s2")


def test_check_fails_where_an_id_stands_twice(tmp_path: Path, job: Job) -> None:
    commit(tmp_path, piece_name("a", 0))
    code, line = job("--gallery", str(tmp_path), "--check")
    assert (code, line["num_doubled"], line["num_rows"]) == (0, 0, 30)
    other = piece_name("b", 0)
    space = Gallery.open(str(tmp_path)).space(SPACE)
    space.commit([CommittedPiece(other, rows(other, [{"item_id": "a-0-7"}]))])
    code, line = job("--gallery", str(tmp_path), "--check")
    assert (code, line["status"]) == (1, "failed")
    assert "a-0-7" in job.error


def test_recall_below_target_is_not_published(tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    name = piece_name("a", 0)
    space.commit([CommittedPiece(name, piece_rows(name, 600))])
    tuning.build(space, publish.IndexSettings(kind="IVF_FLAT", params={"num_partitions": 24}))
    one_partition = publish.SearchSettings(nprobes=1)
    monkeypatch.setattr(tuning, "_ladder", lambda bench, index, *_: [bench.trial(index, one_partition, 0.0)])
    code, line = job("--gallery", str(tmp_path), "--publish", "--no-build", "--target-recall", "0.99")
    assert (code, line["status"]) == (1, "failed")
    assert "recall below target" in line["error"]
    assert "(ms_to_ms" in line["error"], "names the case that misses"
    assert publish.find_pointer(str(tmp_path)) is None
    code, line = job("--gallery", str(tmp_path), "--publish", "--no-build", "--target-recall", "0.05")
    assert code == 0
    assert line["index"] == {"kind": "IVF_FLAT", "params": {"num_partitions": 24}}
    assert line["search"]["nprobes"] == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--publish"], "no gallery here"),
        (["--publish", "--rollback"], "one at a time: --publish or --rollback"),
        (["--no-build"], "--no-build goes with --publish"),
        (["--target-recall", "1.5"], "--target-recall"),
        (["--publsh"], "did you mean --publish"),
    ],
)
def test_refusals_name_the_flag(tmp_path: Path, job: Job, flags: list[str], message: str) -> None:
    code, line = job("--gallery", str(tmp_path), *flags)
    assert (code, line["status"]) == (2, "refused")
    assert message in line["error"]
    assert not any(tmp_path.iterdir())


def test_empty_space_is_refused(tmp_path: Path, job: Job) -> None:
    Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    code, line = job("--gallery", str(tmp_path), "--publish")
    assert code == 2
    assert "holds no rows" in line["error"]


def test_clean_tells_what_it_removed(tmp_path: Path, job: Job) -> None:
    commit(tmp_path, piece_name("a", 0))
    code, line = job("--gallery", str(tmp_path), "--clean")
    assert (code, line["num_versions_removed"], line["num_bytes_removed"]) == (0, 0, 0)
    assert (line["num_files_pending"], line["num_bytes_pending"]) == (0, 0)


def test_clean_tells_what_a_dead_job_left(tmp_path: Path, job: Job, caplog: pytest.LogCaptureFixture) -> None:
    commit(tmp_path, piece_name("a", 0))
    table = Gallery.open(str(tmp_path)).space(SPACE)
    commits._write(table.dataset(), piece_rows(piece_name("b", 0), 30))
    (orphan,) = {path for path in Path(table.uri).rglob("data/*")} - {
        Path(table.uri) / "data" / file.path for one in table.dataset().get_fragments() for file in one.metadata.files
    }
    code, line = job("--gallery", str(tmp_path), "--clean")
    assert (code, line["num_bytes_removed"]) == (0, 0)
    assert (line["num_files_pending"], line["num_bytes_pending"]) == (1, orphan.stat().st_size)
    assert "1 files (0.0 MiB) of no version are left" in caplog.text
    assert orphan.exists()


def test_script_runs_by_itself_without_ray(tmp_path: Path) -> None:
    commit(tmp_path, piece_name("a", 0))
    command = [sys.executable, str(ROOT / "jobs" / "index.py"), "--gallery", str(tmp_path), "--publish"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
    assert "ray" not in done.stderr.lower()
