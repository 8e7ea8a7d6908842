"""Notes of what data files hold: read on, taken once, shared by processes."""

from pathlib import Path

from cmir.gallery import commits
from cmir.gallery.file_records import UNKNOWN_ROWS, FileRecords


def test_notes_are_found_by_the_file_and_those_without_one_are_left_out(tmp_path: Path) -> None:
    uri = str(tmp_path / "_files-t.lance")
    mine, other = FileRecords(uri), FileRecords(uri)
    assert mine.take(["f1"]) == {}
    mine.note(["f1", "f2"], {"a.1.0": 3, "a.1.1": 2})
    assert other.take(["f1", "f9"]) == {"f1": {"a.1.0": 3, "a.1.1": 2}}
    other.note(["f3"], {"b.1.0": 1})
    assert mine.take(["f2", "f3"]) == {"f2": {"a.1.0": 0, "a.1.1": 0}, "f3": {"b.1.0": 1}}


def test_notes_are_carried_to_the_file_that_others_became(tmp_path: Path) -> None:
    records = FileRecords(str(tmp_path / "_files-t.lance"))
    records.carry(["f1"], ["f2"])
    assert not any(tmp_path.iterdir()), "of what is not known nothing is noted"
    records.note(["f1"], {"a.1.0": 3, "a.1.1": 2})
    records.note(["f2"], {"a.1.1": 4})
    records.carry(["f1", "f2"], ["f3"])
    records.carry(["f1", "f9"], ["f4"])
    assert records.take(["f3", "f4"]) == {"f3": {"a.1.0": 3, "a.1.1": 6}}


def test_how_much_is_left_of_pieces_in_thinned_files_is_not_carried(tmp_path: Path) -> None:
    records = FileRecords(str(tmp_path / "_files-t.lance"))
    records.note(["f1"], {"a.1.0": 3, "a.1.1": 2})
    records.note(["f2"], {"a.1.1": 4, "a.1.2": 1})
    records.carry(["f1", "f2"], ["f3"], thinned={"f1"})
    assert records.take(["f3"]) == {"f3": {"a.1.0": UNKNOWN_ROWS, "a.1.1": UNKNOWN_ROWS, "a.1.2": 1}}
    records.note(["f4"], {"a.1.0": 5})
    records.carry(["f4", "f3"], ["f5"])
    assert records.take(["f5"])["f5"]["a.1.0"] == UNKNOWN_ROWS


def test_notes_are_read_once_until_they_are_to_be_read_again(tmp_path: Path) -> None:
    records = FileRecords(str(tmp_path / "_files-t.lance"))
    records.note(["f1"], {"a.1.0": 3})
    assert records.take(["f1"]) == {"f1": {"a.1.0": 3}}
    records.forget_read()
    assert records.take(["f1"]) == {"f1": {"a.1.0": 3}}


def test_compacted_notes_stay_what_they_were(tmp_path: Path) -> None:
    uri = str(tmp_path / "_files-t.lance")
    records = FileRecords(uri)
    for i in range(3):
        records.note([f"f{i}"], {f"a.1.{i}": i + 1})
    commits.open_table(uri).optimize.compact_files()
    assert FileRecords(uri).take(["f0", "f2"]) == {"f0": {"a.1.0": 1}, "f2": {"a.1.2": 3}}
