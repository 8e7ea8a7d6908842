"""Rows that end the process that embeds them are named, the others become what they become in a batch."""

from pathlib import Path

import numpy as np
import pytest

from cmir.archive import shards
from cmir.archive.shards import ShardFileWriter
from cmir.errors import GalleryError
from cmir.gallery.piece_embedder import PieceEmbedder
from cmir.gallery.row_by_row import HowToEmbed, RowByRow
from tests.deadly_chips import make_deadly, png_row


def _piece(folder: Path, *sensors: str | None) -> shards.Piece:
    writer = ShardFileWriter(str(folder / "in" / "part.parquet"), "train")
    for i, sensor in enumerate(sensors):
        writer.add(png_row(i, sensor))
    writer.close()
    (piece,) = shards.pieces(shards.list_shards(str(folder / "in"))[0])
    return piece


def test_the_row_that_ends_processes_is_rejected_and_the_others_are_as_in_a_batch(
    tmp_path: Path, tiny_bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = _piece(tmp_path, None, "frail", "deadly", None)
    embed = PieceEmbedder(tiny_bundle, "cpu")
    batch = embed(piece)  # in this process nothing is deadly
    make_deadly(monkeypatch, tmp_path / "tally", frail_deaths=2)
    apart = embed(piece, row_by_row=True)
    [rejected] = apart.rejected.to_pylist()
    assert rejected["item_id"] == png_row(2).item_id
    assert rejected["reason"] == "the process that embeds it ends: seen 3 deaths, expected an embedding or an error"
    assert (tmp_path / "tally").stat().st_size == 2, "who dies twice is not the row"
    kept = [0, 1, 3]
    assert apart.rows["item_id"].to_pylist() == [png_row(i).item_id for i in kept]
    expected = np.array(batch.rows["vector"].to_pylist())[kept]
    np.testing.assert_allclose(np.array(apart.rows["vector"].to_pylist()), expected, atol=1e-5)
    assert apart.thumbnails.equals(batch.thumbnails.take(kept))


def test_a_bundle_that_ends_the_process_is_no_fault_of_the_rows(tmp_path: Path, tiny_bundle: str) -> None:
    piece = _piece(tmp_path, None)
    apart = RowByRow(HowToEmbed(str(tmp_path / "none"), "cpu", "fp32", with_thumbnails=False))
    with pytest.raises(GalleryError, match=r"a process cannot open the bundle: seen its end .*none.*more memory"):
        apart.embed(shards.read_piece(piece), 16)
