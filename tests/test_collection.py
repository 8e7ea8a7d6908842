"""Shards become embedded items: each id once, kept work not done again, pictures of the wanted only."""

from pathlib import Path

import numpy as np
import pytest

from cmir.archive import shards
from cmir.archive.shards import ShardFileWriter
from cmir.errors import DataError
from cmir.evaluation import collection
from cmir.network.embedder import Embedder
from tests.conftest import MakeRow


@pytest.fixture
def archive(tmp_path: Path, make_row: MakeRow) -> str:
    for name, numbers in (("a", range(5)), ("b", range(3, 8))):  # 3 and 4 stand in both
        writer = ShardFileWriter(str(tmp_path / "archive" / "rgb" / "test" / f"{name}.parquet"), "test")
        for i in numbers:
            writer.add(make_row(i, labels=("sea",)))
        writer.close()
    return str(tmp_path / "archive")


def test_of_equal_ids_the_first(archive: str) -> None:
    listed = collection.list_items(shards.list_shards(archive))
    assert [rows.rows.tolist() for rows in listed] == [[0, 1, 2, 3, 4], [2, 3, 4]]
    metadata = collection.metadata_of(listed)
    assert len(set(metadata["item_id"].to_pylist())) == metadata.num_rows == 8


def test_vectors_belong_to_their_items_and_kept_work_is_taken_up(
    archive: str, tmp_path: Path, tiny_bundle: str, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder.open(tiny_bundle, device="cpu")
    listed = collection.list_items(shards.list_shards(archive))
    done: list[int] = []
    items, rejected = collection.embed_items(listed, embedder, work_uri=str(tmp_path / "work"), advance=done.append)
    assert rejected == []
    assert done == [5, 3]
    assert items.grey is not None
    np.testing.assert_allclose(np.linalg.norm(items.grey, axis=1), 1, atol=1e-5)
    for i in range(8):
        row = make_row(i)
        place = items.columns["item_id"].index(row.item_id)
        np.testing.assert_allclose(items.vectors[place], embedder.embed([row.media])[0], atol=1e-5)
    monkeypatch.setattr(Embedder, "embed_each", None)  # whoever embeds again fails
    again, _ = collection.embed_items(listed, embedder, work_uri=str(tmp_path / "work"), advance=done.append)
    assert np.array_equal(again.vectors, items.vectors)


def test_pictures_of_the_wanted_only(archive: str, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = collection.list_items(shards.list_shards(archive))
    read: list[str] = []
    read_piece = shards.read_piece
    monkeypatch.setattr(shards, "read_piece", lambda piece: read.append(piece.piece_id) or read_piece(piece))
    wanted = {make_row(1).item_id, make_row(4).item_id}
    found = collection.pictures(listed, wanted)
    assert set(found) == wanted
    assert all(picture.startswith(b"RIFF") for picture in found.values())
    assert read == [listed[0].piece.piece_id]


def test_nothing_to_embed(archive: str, tmp_path: Path, tiny_bundle: str) -> None:
    embedder = Embedder.open(tiny_bundle, device="cpu")
    with pytest.raises(DataError, match="no item could be embedded"):
        collection.embed_items([], embedder, work_uri=str(tmp_path), advance=lambda _: None)
