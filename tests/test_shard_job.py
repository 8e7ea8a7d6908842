import gc
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmir.archive import shards
from jobs import shard
from jobs.entrypoint import run_command
from tests.conftest import RayCluster

pytestmark = pytest.mark.cluster


def _job(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict]:
    code = run_command("shard", shard.ShardConfig, shard.run, list(arguments))
    gc.collect()  # a process that ends lets go of its output
    return code, json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def _images(folder: Path, num_good: int, num_bad: int) -> None:
    for i in range(num_good):
        (folder / "river").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "river" / f"{i:03d}.png")
    for i in range(num_bad):
        (folder / "river" / f"bad{i}.png").write_bytes(b"not an image")


def test_a_folder_becomes_shards_and_one_bad_file_does_not_stop_it(
    tmp_path: Path, on_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    _images(tmp_path / "in", 30, 1)
    output = str(tmp_path / "out")
    flags = ("--source", "folder", "--input", str(tmp_path / "in"), "--output", output)
    code, line = _job(capsys, *flags)
    assert code == 0
    assert (line["num_rows_input"], line["num_rows_committed"], line["num_rows_quarantined"]) == (31, 30, 1)
    found = shards.list_shards(output)
    assert sum(shard_file.num_rows for shard_file in found) == 30
    assert {shard_file.split for shard_file in found} == {"train", "val", "test"}
    assert [path.name for path in (tmp_path / "out" / "_quarantine").iterdir()]
    assert not (tmp_path / "out" / "_tasks").exists()

    versions = {shard_file.uri: shard_file.version for shard_file in found}
    assert _job(capsys, *flags)[0] == 2, "an output that exists is refused"
    assert _job(capsys, *flags, "--overwrite")[0] == 0
    assert {again.uri: again.version for again in shards.list_shards(output)} == versions


def test_too_many_bad_files_fail_and_resume_goes_on(
    tmp_path: Path, on_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    _images(tmp_path / "in", 4, 4)
    flags = ("--source", "folder", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
    code, line = _job(capsys, *flags)
    assert code == 1
    assert "too many rows rejected: seen 4 of 8 (50.0%)" in line["error"]
    assert not (tmp_path / "out").exists()
    assert line["outputs"] == {}
    code, line = _job(capsys, *flags)
    assert code == 2
    assert "--resume" in line["error"]
    code, line = _job(capsys, *flags, "--split", "test", "--resume")
    assert code == 2, "resumed with other settings"
    Image.new("RGB", (32, 32)).save(tmp_path / "in" / "river" / "bad0.png")  # mended: it is read again
    code, line = _job(capsys, *flags, "--resume")
    assert "too many rows rejected: seen 3 of 8 (37.5%)" in line["error"]
    code, line = _job(capsys, *flags, "--max-reject-ratio", "0.6", "--resume")
    assert (code, line["num_rows_skipped"], line["num_rows_quarantined"]) == (0, 5, 3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--source", "folder"), "needs --input"),
        (("--source", "tts", "--input", "x"), "takes no --input"),
        (("--source", "folder", "--input", "/nowhere/at/all"), "/nowhere/at/all"),
        (("--source", "folders", "--input", "x"), "--source does not fit"),
        (("--source", "folder", "--input", "x", "--split", "official"), "no official split"),
        (("--source", "tts", "--labels", "nosuch.txt"), "--labels names a file that is not there"),
    ],
)
def test_wrong_input_is_refused_before_work(
    flags: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = _job(capsys, *flags, "--output", str(tmp_path / "out"))
    assert code == 2
    assert message in line["error"]
    assert list(tmp_path.iterdir()) == []
