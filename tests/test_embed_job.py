import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmir.archive import shards
from cmir.archive.schema import Media
from cmir.archive.shards import ShardFileWriter
from cmir.gallery.table import Gallery
from cmir.network.embedder import Embedder
from jobs import embed
from jobs.entrypoint import run_command
from tests.conftest import MakeRow, RayCluster, make_tiny_bundle

pytestmark = pytest.mark.cluster


def _job(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = run_command("embed", embed.EmbedConfig, embed.run, list(arguments))
    return code, json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def _shard(uri: str, rows: list, split: str = "train") -> None:
    writer = ShardFileWriter(uri, split)  # type: ignore[arg-type]
    for row in rows:
        writer.add(row)
    writer.close()


@pytest.fixture
def archive(tmp_path: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 rgb rows in two shards and 10 pan rows, in pieces of a few rows."""
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 6 * 3 * 16 * 16)
    _shard(str(tmp_path / "in/rgb/train/part-00000.parquet"), [make_row(i, labels=("sea",)) for i in range(20)])
    _shard(str(tmp_path / "in/rgb/test/part-00001.parquet"), [make_row(i) for i in range(20, 30)], "test")
    _shard(str(tmp_path / "in/pan/train/part-00002.parquet"), [make_row(i, modality="pan") for i in range(10)])
    return tmp_path / "in"


def _rows(gallery: Path) -> list[dict[str, Any]]:
    opened = Gallery.open(str(gallery))
    (space_id,) = opened.space_ids()
    return opened.space(space_id).dataset().to_table().to_pylist()


def test_every_row_is_embedded_once_and_a_second_run_embeds_nothing(
    archive: Path, tmp_path: Path, tiny_bundle: str, on_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--bundle", tiny_bundle, "--shards", str(archive), "--gallery", str(tmp_path / "gallery"))
    code, line = _job(capsys, *flags, "--modalities", "rgb", "--num-workers", "2")
    assert code == 0, line
    assert (line["num_rows_input"], line["num_rows_committed"], line["num_pieces_total"]) == (30, 30, 6)
    code, line = _job(capsys, *flags)
    assert (line["num_rows_committed"], line["num_rows_skipped"], line["num_pieces_skipped"]) == (10, 30, 6)
    code, line = _job(capsys, *flags)
    assert (code, line["num_rows_committed"], line["num_rows_skipped"]) == (0, 0, 40)

    rows = _rows(tmp_path / "gallery")
    assert len({row["item_id"] for row in rows}) == len(rows) == 40
    embedder = Embedder.open(tiny_bundle, device="cpu")
    vectors = {row["item_id"]: row["vector"] for row in rows}
    for file in shards.list_shards(str(archive)):
        table = shards.read_piece(shards.pieces(file)[-1])
        expected = embedder.embed(shards.medias(table))
        got = np.array([vectors[item_id] for item_id in table["item_id"].to_pylist()])
        np.testing.assert_allclose(got, expected, atol=1e-5)
    thumbnails = Gallery.open(str(tmp_path / "gallery")).table_uri("thumbnails")
    import lance

    assert lance.dataset(thumbnails).count_rows() == 40


def test_bad_rows_are_quarantined_with_their_reason(
    archive: Path,
    tmp_path: Path,
    make_row: MakeRow,
    tiny_bundle: str,
    on_cluster: RayCluster,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dataclasses import replace

    cut = replace(make_row(100), media=Media("rgb", b"12345", "raw", "uint8", (3, 16, 16), ("red", "green", "blue")))
    good = [make_row(i) for i in range(101, 115)]
    _shard(str(archive / "rgb/val/part-00009.parquet"), [good[0], cut, *good, good[3]], "val")
    (archive / "rgb/val/part-00010.parquet").write_bytes(b"PAR1 no shard PAR1")
    flags = ("--bundle", tiny_bundle, "--shards", str(archive), "--gallery", str(tmp_path / "gallery"))
    code, line = _job(capsys, *flags, "--max-reject-ratio", "0.2")  # of five shards one is damaged
    assert code == 0, line
    assert (line["num_rows_committed"], line["num_rows_quarantined"]) == (54, 4)
    entries = [row for path in (tmp_path / "gallery/_quarantine").iterdir() for row in pq.read_table(path).to_pylist()]
    reasons = sorted(entry["reason"] for entry in entries)
    assert len(reasons) == 4
    assert sum("stands twice in its shard" in reason for reason in reasons) == 2
    assert any("part-00010" in reason for reason in reasons)
    code, line = _job(capsys, *flags, "--max-reject-ratio", "0.0")
    assert (code, line["status"], line["num_rows_committed"]) == (1, "failed", 0)
    assert "seen 4 of 58" in line["error"], "what the first run rejected still counts"


def test_changed_shards_are_replaced_and_removed_ones_pruned(
    archive: Path,
    tmp_path: Path,
    make_row: MakeRow,
    tiny_bundle: str,
    on_cluster: RayCluster,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ("--bundle", tiny_bundle, "--shards", str(archive), "--gallery", str(tmp_path / "gallery"))
    assert _job(capsys, *flags)[0] == 0
    changed = archive / "rgb/train/part-00000.parquet"
    changed.unlink()
    _shard(str(changed), [make_row(i, labels=("ship",)) for i in range(15)])
    code, line = _job(capsys, *flags)
    assert (code, line["num_rows_committed"], line["num_rows_replaced"]) == (0, 15, 20)
    rows = _rows(tmp_path / "gallery")
    assert len({row["item_id"] for row in rows}) == len(rows) == 35
    assert sum(row["labels"] == ["ship"] for row in rows) == 15

    (archive / "pan/train/part-00002.parquet").unlink()
    code, line = _job(capsys, *flags, "--prune")
    assert code == 2
    assert "seen 10 of 35 rows" in line["error"]
    assert len(_rows(tmp_path / "gallery")) == 35
    damaged = archive / "rgb/test/part-00001.parquet"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-30])
    code, line = _job(capsys, *flags, "--prune", "--yes", "--max-reject-ratio", "1")
    assert (code, line["num_rows_pruned"]) == (0, 10), "a damaged shard is there all the same"
    damaged.write_bytes(whole)
    code, line = _job(capsys, *flags, "--prune", "--yes")
    assert (code, line["num_rows_pruned"]) == (0, 0)
    assert len(_rows(tmp_path / "gallery")) == 25


def test_what_cannot_be_embedded_is_refused_before_work(
    archive: Path, tmp_path: Path, tiny_bundle: str, make_row: MakeRow, capsys: pytest.CaptureFixture[str]
) -> None:
    gallery = str(tmp_path / "gallery")
    _shard(str(archive / "ms/train/part-00003.parquet"), [make_row(1, modality="ms")])
    base = ("--gallery", gallery, "--shards", str(archive))
    code, line = _job(capsys, "--bundle", tiny_bundle, *base)
    assert code == 2
    assert "seen ms, expected pan,rgb" in line["error"]
    assert "--modalities pan,rgb" in line["error"]
    assert _job(capsys, "--bundle", str(tmp_path / "none"), *base)[0] == 2
    assert _job(capsys, "--bundle", tiny_bundle, *base, "--modalities", "sar")[0] == 2
    assert _job(capsys, "--bundle", tiny_bundle, "--gallery", gallery, "--shards", str(tmp_path / "none"))[0] == 2
    assert not Path(gallery).exists()
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, damaged)
    tensors = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(tensors[:-100])
    code, line = _job(capsys, "--bundle", str(damaged), *base, "--modalities", "pan,rgb")
    assert code == 2
    assert "bundle file is broken" in line["error"]
    assert not Path(gallery).exists()
    (tmp_path / "file").write_text("no folder")
    given = ("--bundle", tiny_bundle, "--shards", str(archive), "--modalities", "pan,rgb")
    code, line = _job(capsys, *given, "--gallery", str(tmp_path / "file"))
    assert code == 2
    assert "a file stands where the gallery would be" in line["error"]
    for place, what in ((archive, "an archive"), (tiny_bundle, "a bundle")):
        before = sorted(path.name for path in Path(place).iterdir())
        code, line = _job(capsys, *given, "--gallery", str(place))
        assert code == 2
        assert f"{what} stands where the gallery would be" in line["error"]
        assert sorted(path.name for path in Path(place).iterdir()) == before


def test_two_bundles_are_two_spaces_of_one_gallery(
    archive: Path, tmp_path: Path, tiny_bundle: str, on_cluster: RayCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_tiny_bundle(str(tmp_path / "other"), seed=1)
    for bundle in (tiny_bundle, other):
        flags = ("--bundle", bundle, "--shards", str(archive), "--gallery", str(tmp_path / "gallery"))
        assert _job(capsys, *flags, "--modalities", "pan")[1]["num_rows_committed"] == 10
    assert len(Gallery.open(str(tmp_path / "gallery")).space_ids()) == 2
