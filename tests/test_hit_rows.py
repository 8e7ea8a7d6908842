"""The columns of hits by row id: the same from memory and from the table, held from the second question on."""

from pathlib import Path

import numpy as np
import pytest

from cmir.gallery import hit_rows
from cmir.gallery.hit_rows import HitRows
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from tests.gallery_rows import DIM, SPACE, piece_name, piece_rows

COLUMNS = ["item_id", "labels", "bbox"]


@pytest.fixture
def space(tmp_path: Path) -> SpaceTable:
    """Three fragments, of the second of which a row is deleted."""
    space = Gallery.create(str(tmp_path)).space(SPACE, DIM, "bundle")
    for i in range(3):
        name = piece_name("a", i)
        space.commit([CommittedPiece(name, piece_rows(name, 4))])
    space.dataset().delete("item_id = 'a-1-0'")
    return space


def ids_of(space: SpaceTable, *item_ids: str) -> np.ndarray:
    table = space.dataset().to_table(columns=["_rowid", "item_id"])
    places = dict(zip(table["item_id"].to_pylist(), table["_rowid"].to_pylist(), strict=True))
    return np.array([places[item_id] for item_id in item_ids], dtype=np.uint64)


def test_memory_and_table_give_the_same_rows(space: SpaceTable) -> None:
    reader, wanted = HitRows(space.dataset(), COLUMNS), ids_of(space, "a-2-3", "a-0-1", "a-1-2")
    first, second, third = (reader.read(wanted) for _ in range(3))
    assert [first[row_id]["item_id"] for row_id in wanted.tolist()] == ["a-2-3", "a-0-1", "a-1-2"]
    assert first == second == third
    assert first.keys() == set(wanted.tolist())
    assert first[int(wanted[0])].keys() == {"_rowid", *COLUMNS}
    assert reader.read(wanted[:0]) == HitRows(space.dataset(), COLUMNS).read(wanted[:0]) == {}


def test_columns_are_held_from_the_second_read_and_only_where_they_are_small(
    space: SpaceTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ids_of(space, "a-0-1")
    reader = HitRows(space.dataset(), COLUMNS)
    reader.read(wanted)
    assert reader._held is None
    reader.read(wanted)
    assert reader._held is not None
    assert len(reader._held[1]) == 11
    monkeypatch.setattr(hit_rows, "HELD_BYTES", 100)
    large = HitRows(space.dataset(), COLUMNS)
    answers = [large.read(wanted) for _ in range(3)]
    assert large._held is None
    assert answers[0] == answers[2] == reader.read(wanted)
