"""Compare-and-set on a Lance table: what conflicts, what does not, and that a loser looks again."""

from pathlib import Path

import lance
import pyarrow as pa
import pytest

from cmir.errors import GalleryError
from cmir.gallery import commits
from cmir.gallery.commits import Addition
from tests.gallery_rows import piece_rows

ROWS = piece_rows("a.1.0", 80)


def filled(uri: Path, num_fragments: int) -> str:
    place = str(uri / "t.lance")
    commits.ensure_table(place, ROWS.schema)
    for i in range(num_fragments):
        commits.add_absent(place, lambda dataset, i=i: Addition((str(i),), piece_rows(f"a.1.{i}", 80)))
    return place


def test_loser_of_a_race_looks_again_and_adds_only_what_is_missing(tmp_path: Path) -> None:
    uri, looks = filled(tmp_path, 0), []

    def choose(dataset: lance.LanceDataset) -> Addition:
        looks.append(dataset.count_rows())
        if len(looks) == 1:  # another writer commits the same rows between our look and our commit
            commits.add_absent(uri, lambda newer: Addition(("a",), ROWS))
        return Addition(("a",), ROWS if looks[-1] == 0 else ROWS.schema.empty_table())

    assert commits.add_absent(uri, choose).count_rows() == len(ROWS)
    assert looks == [0, len(ROWS)]


def test_rows_written_before_a_lost_race_are_committed_after_it(tmp_path: Path) -> None:
    uri, looks = filled(tmp_path, 0), []

    def choose(dataset: lance.LanceDataset) -> Addition:
        looks.append(dataset.count_rows())
        if len(looks) == 1:
            commits.add_absent(uri, lambda newer: Addition(("b",), piece_rows("b.1.0", 5)))
        return Addition(("a",), ROWS)

    assert commits.add_absent(uri, choose).count_rows() == len(ROWS) + 5
    assert looks == [0, 5]
    assert len(list((tmp_path / "t.lance" / "data").iterdir())) == 2  # nothing was written twice


def test_writer_that_always_loses_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, names = filled(tmp_path, 0), iter(range(10))
    monkeypatch.setattr(commits, "MAX_ATTEMPTS", 3)

    def choose(dataset: lance.LanceDataset) -> Addition:
        name = f"b.1.{next(names)}"
        lance.write_dataset(piece_rows(name, 1), uri, mode="append")
        return Addition(("a",), ROWS)

    with pytest.raises(GalleryError, match="lost every race: seen 3 attempts"):
        commits.add_absent(uri, choose)
    assert commits.open_table(uri).count_rows() == 3


def test_commit_passes_an_index_build_both_ways(tmp_path: Path) -> None:
    uri = filled(tmp_path, 4)
    stale = commits.open_table(uri)
    commits.open_table(uri).create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=2)
    commits._commit(stale, commits._write(stale, ROWS))
    stale = commits.open_table(uri)
    commits.add_absent(uri, lambda dataset: Addition(("c",), piece_rows("c.1.0", 7)))
    stale.create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=2, replace=True)
    assert commits.open_table(uri).count_rows() == 5 * 80 + 7


@pytest.mark.parametrize("change", ["compaction", "deletion", "append"])
def test_commit_conflicts_with_every_change_of_rows(tmp_path: Path, change: str) -> None:
    uri = filled(tmp_path, 4)
    stale, newer = commits.open_table(uri), commits.open_table(uri)
    new = commits._write(stale, ROWS)
    if change == "compaction":
        newer.optimize.compact_files()
    elif change == "deletion":
        newer.delete("item_id = 'a-1-3'")
    else:
        lance.write_dataset(piece_rows("c.1.0", 1), newer, mode="append")
    with pytest.raises(OSError, match=r"(?i)conflict") as raised:
        commits._commit(stale, new)
    assert commits.is_conflict(raised.value)


def test_compaction_that_lost_a_race_is_a_conflict_too(tmp_path: Path) -> None:
    uri = filled(tmp_path, 4)
    stale = commits.open_table(uri)
    commits.add_absent(uri, lambda dataset: Addition(("c",), piece_rows("c.1.0", 7)))
    with pytest.raises(OSError, match=r"(?i)conflict") as raised:
        stale.optimize.compact_files()
    assert commits.is_conflict(raised.value)
    assert commits.open_table(uri).count_rows() == 4 * 80 + 7


def test_ids_of_deleted_fragments_are_not_used_again(tmp_path: Path) -> None:
    uri = filled(tmp_path, 2)
    commits.open_table(uri).delete("piece_id = 'a.1.1'")
    commits.add_absent(uri, lambda dataset: Addition(("c",), piece_rows("c.1.0", 7)))
    assert [fragment.fragment_id for fragment in commits.open_table(uri).get_fragments()] == [0, 2]


def test_missing_table_and_missing_tag_are_named(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="seen no table"):
        commits.open_table(str(tmp_path / "t.lance"))
    uri = filled(tmp_path, 1)
    with pytest.raises(GalleryError, match="seen no version 'gone'"):
        commits.open_table(uri, "gone")
    assert not commits.exists_table(str(tmp_path / "other.lance"))


def test_condition_without_values_holds_for_no_row(tmp_path: Path) -> None:
    dataset = commits.open_table(filled(tmp_path, 1))
    assert dataset.count_rows(commits.is_one_of("item_id", [])) == 0
    assert dataset.count_rows(commits.is_one_of("item_id", ["a-0-1", "a' OR '1'='1"])) == 1


def test_add_absent_of_nothing_commits_nothing(tmp_path: Path) -> None:
    uri = filled(tmp_path, 1)
    version = commits.open_table(uri).version
    empty: pa.Table = ROWS.schema.empty_table()
    assert commits.add_absent(uri, lambda dataset: Addition((), empty)).version == version


def test_commit_whose_answer_was_lost_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that did as asked but could not say so is asked again, and then tells of a conflict."""
    uri, commit = filled(tmp_path, 1), commits._commit

    def unanswered(dataset: lance.LanceDataset, new: list) -> lance.LanceDataset:
        commit(dataset, new)
        raise OSError("Commit conflict for version 3")

    monkeypatch.setattr(commits, "_commit", unanswered)
    looks = []
    committed = commits.add_absent(uri, lambda dataset: looks.append(1) or Addition(("b",), ROWS))
    assert (committed.count_rows(), len(looks)) == (160, 1)
