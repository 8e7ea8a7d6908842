from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmir.archive import shards
from cmir.archive.imagery import decode_chip
from cmir.archive.schema import Media, gallery_schema
from cmir.archive.shards import ShardFileWriter
from cmir.gallery.piece_embedder import PieceEmbedder
from tests.conftest import MakeRow


def _pieces(folder: Path, rows: list) -> list[shards.Piece]:
    writer = ShardFileWriter(str(folder / "part.parquet"), "train")
    for row in rows:
        writer.add(row)
    writer.close()
    return shards.pieces(shards.list_shards(str(folder))[0])


def test_a_piece_becomes_rows_thumbnails_and_rejections(tmp_path: Path, make_row: MakeRow, tiny_bundle: str) -> None:
    nan = np.full((1, 16, 16), np.nan, np.float32)
    bad = replace(make_row(7), media=Media("pan", nan.tobytes(), "raw", "float32", nan.shape, ("pan",)), item_id="bad")
    rows = [make_row(1, labels=("sea",)), bad, make_row(2), make_row(1)]
    (piece,) = _pieces(tmp_path, rows)
    done = PieceEmbedder(tiny_bundle, "cpu")(piece)
    assert done.rows.schema.equals(gallery_schema(16))
    assert done.rows["item_id"].to_pylist() == [rows[0].item_id, rows[2].item_id]
    assert done.rows["labels"].to_pylist() == [["sea"], []]
    assert set(done.rows["piece_id"].to_pylist()) == {piece.piece_id}
    assert done.thumbnails["item_id"].to_pylist() == done.rows["item_id"].to_pylist()
    assert [entry["item_id"] for entry in done.rejected.to_pylist()] == ["bad", rows[0].item_id]
    assert "stands twice" in done.rejected["reason"][1].as_py()


def test_the_vectors_are_the_embedders(tmp_path: Path, make_row: MakeRow, tiny_bundle: str) -> None:
    rows = [make_row(i) for i in range(70)]
    (piece,) = _pieces(tmp_path, rows)
    embedder = PieceEmbedder(tiny_bundle, "cpu")
    got = np.array(embedder(piece).rows["vector"].to_pylist(), np.float32)
    np.testing.assert_allclose(got, embedder.embedder.embed([row.media for row in rows]), atol=1e-5)
    assert decode_chip(rows[0].media).pixels.shape == (3, 16, 16)


def test_of_a_doubled_id_the_first_row_group_wins(
    tmp_path: Path, make_row: MakeRow, tiny_bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 2 * 3 * 16 * 16)
    first, second = _pieces(tmp_path, [make_row(1), make_row(2), make_row(2), make_row(3)])
    embed = PieceEmbedder(tiny_bundle, "cpu")
    later = embed(second)
    assert later.rows["item_id"].to_pylist() == [make_row(3).item_id]
    assert len(embed(first).rows) == 2


def test_values_that_overflow_are_rejected_and_not_committed(
    tmp_path: Path, make_row: MakeRow, tiny_bundle: str
) -> None:
    wild = np.full((1, 16, 16), 3.4e38, np.float32)
    wild[0, ::2] *= -1
    bad = replace(
        make_row(7), media=Media("pan", wild.tobytes(), "raw", "float32", wild.shape, ("pan",)), item_id="bad"
    )
    (piece,) = _pieces(tmp_path, [bad, make_row(8)])
    done = PieceEmbedder(tiny_bundle, "cpu")(piece)
    assert np.isfinite(np.array(done.rows["vector"].to_pylist())).all()
    assert len(done.rows) + len(done.rejected) == 2


def test_damage_in_an_earlier_row_group_does_not_stop_the_later_ones(
    tmp_path: Path, make_row: MakeRow, tiny_bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 2 * 3 * 16 * 16)
    pieces = _pieces(tmp_path, [make_row(i) for i in range(4)])
    path = tmp_path / "part.parquet"
    data = bytearray(path.read_bytes())
    data[4:1500] = bytes(1496)
    path.write_bytes(bytes(data))
    embed = PieceEmbedder(tiny_bundle, "cpu")
    assert len(embed(pieces[0]).rejected) == 2
    assert len(embed(pieces[1]).rows) == 2


def test_a_damaged_piece_is_rejected_whole(tmp_path: Path, make_row: MakeRow, tiny_bundle: str) -> None:
    (piece,) = _pieces(tmp_path, [make_row(i) for i in range(50)])
    path = tmp_path / "part.parquet"
    data = bytearray(path.read_bytes())
    data[3000:6000] = bytes(3000)
    path.write_bytes(bytes(data))
    done = PieceEmbedder(tiny_bundle, "cpu")(piece)
    assert len(done.rows) == 0
    assert len(done.rejected) == 50
    assert "shard is damaged" in done.rejected["reason"][0].as_py()
