import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from cmir.archive import shard_file, shards
from cmir.archive.schema import SHARD_SCHEMA
from cmir.archive.shards import ShardFileWriter
from cmir.errors import DataError
from tests.conftest import MakeRow


def _write(uri: str, rows: list) -> None:
    writer = ShardFileWriter(uri, "train")
    for row in rows:
        writer.add(row)
    writer.close()


def test_a_row_comes_back_as_it_was_written(tmp_path: Path, make_row: MakeRow) -> None:
    row = make_row(1, labels=("water", "ship"), bbox=(1.0, 2.0, 3.0, 4.0), window=(0, 0, 16, 16), cloud_cover=12.5)
    uri = str(tmp_path / "rgb" / "train" / "part-00000.parquet")
    _write(uri, [row, make_row(2)])
    (shard,) = shards.list_shards(str(tmp_path))
    (piece,) = shards.pieces(shard)
    table = shards.read_piece(piece)
    assert table.schema.equals(SHARD_SCHEMA)
    assert shards.media_of(table, 0) == row.media
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["item_id"], first["labels"], first["bbox"]["ymax"]) == (row.item_id, ["water", "ship"], 4.0)
    assert (first["split"], first["scene_class"], first["cloud_cover"]) == ("train", None, 12.5)


def test_the_version_follows_the_content_and_nothing_else(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(i, labels=("water",)) for i in range(5)]
    versions = []
    for name, content in (
        ("a", rows),
        ("b", rows),
        ("c", [*rows[:4], make_row(4, labels=("trees",))]),
        ("d", [*rows[:2], make_row(77), *rows[3:]]),
    ):
        _write(str(tmp_path / name / "part.parquet"), content)
        versions.append(shards.list_shards(str(tmp_path / name))[0].version)
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


def test_row_groups_become_pieces_by_size(tmp_path: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_BYTES", 3 * 16 * 16 * 2)
    _write(str(tmp_path / "part.parquet"), [make_row(i) for i in range(5)])
    (shard,) = shards.list_shards(str(tmp_path))
    assert shard.row_groups == (2, 2, 1)
    ids = [piece.piece_id for piece in shards.pieces(shard)]
    assert ids == [f"{shard.shard_id}.{shard.version}.{i}" for i in range(3)]


def test_data_has_neither_dictionary_nor_statistics_and_the_file_is_geoparquet(
    tmp_path: Path, make_row: MakeRow
) -> None:
    _write(str(tmp_path / "part.parquet"), [make_row(1)])
    metadata = pq.ParquetFile(tmp_path / "part.parquet").metadata
    columns = {metadata.row_group(0).column(i).path_in_schema: metadata.row_group(0).column(i) for i in range(5)}
    assert columns["data"].statistics is None
    assert columns["data"].dictionary_page_offset is None
    assert columns["data"].compression == "ZSTD"
    assert b"geo" in metadata.metadata


def test_selecting_is_by_file_and_quarantine_is_passed_over(tmp_path: Path, make_row: MakeRow) -> None:
    _write(str(tmp_path / "rgb/train/part-00000.parquet"), [make_row(1)])
    _write(str(tmp_path / "pan/train/part-00000.parquet"), [make_row(2, modality="pan")])
    shards.write_quarantine(
        shards.quarantine_table([("x", None, "bad", b"1")]), str(tmp_path / "_quarantine/p.parquet")
    )
    assert [shard.modality for shard in shards.list_shards(str(tmp_path))] == ["pan", "rgb"]
    assert [shard.modality for shard in shards.list_shards(str(tmp_path), modalities=["pan"])] == ["pan"]
    assert shards.list_shards(str(tmp_path), splits=["test"]) == []
    twice = shards.list_shards([str(tmp_path), str(tmp_path / "rgb")])
    assert len(twice) == 2, "a shard reached by two URIs is one shard"


def test_what_is_no_shard_is_refused_or_told_apart(tmp_path: Path, make_row: MakeRow) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing")
    with pytest.raises(DataError, match="no shards found"):
        shards.list_shards(str(tmp_path / "empty"))
    good = tmp_path / "set" / "a.parquet"
    _write(str(good), [make_row(1)])
    (tmp_path / "set" / "cut.parquet").write_bytes(good.read_bytes()[:-20])
    pq.write_table(pa.table({"x": [1]}), tmp_path / "set" / "other.parquet")
    with pytest.raises(DataError, match=r"2 shards are damaged.*cut\.parquet.*other\.parquet"):
        shards.list_shards(str(tmp_path / "set"))
    broken: list[tuple[str, DataError]] = []
    assert len(shards.list_shards(str(tmp_path / "set"), broken=broken)) == 1
    assert sorted(Path(uri).name for uri, _ in broken) == ["cut.parquet", "other.parquet"]
    assert "not a shard of ours" in str(dict(broken)[str(tmp_path / "set" / "other.parquet")])


def test_damage_inside_a_shard_is_a_data_error_and_absence_an_os_error(tmp_path: Path, make_row: MakeRow) -> None:
    path = tmp_path / "part.parquet"
    _write(str(path), [make_row(i) for i in range(50)])
    (piece,) = shards.pieces(shards.list_shards(str(tmp_path))[0])
    damaged = bytearray(path.read_bytes())
    damaged[3000:6000] = bytes(3000)
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match="shard is damaged"):
        shards.read_piece(piece)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="part"):
        shards.read_piece(piece)


def test_a_shard_written_anew_is_not_read_as_what_it_was(tmp_path: Path, make_row: MakeRow) -> None:
    path = tmp_path / "part.parquet"
    _write(str(path), [make_row(i) for i in range(3)])
    (file,) = shards.list_shards(str(tmp_path))
    (piece,) = shards.pieces(file)
    assert (file.is_current, piece.version, len(shards.read_piece(piece))) == (True, file.version, 3)
    _write(str(path), [make_row(i) for i in range(3, 6)])
    assert not file.is_current
    with pytest.raises(DataError, match=r"changed while it was read.*start the job again"):
        shards.read_piece(piece)
    path.unlink()
    assert not file.is_current


def test_an_aborted_writer_leaves_nothing(tmp_path: Path, make_row: MakeRow) -> None:
    writer = ShardFileWriter(str(tmp_path / "part.parquet"), "train")
    writer.add(make_row(1))
    writer.abort()
    assert list(tmp_path.iterdir()) == []


def test_a_shard_is_one_shard_by_whatever_path_and_quarantine_is_never_read(
    tmp_path: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(str(tmp_path / "set/rgb/train/part-00000.parquet"), [make_row(1)])
    shards.write_quarantine(
        shards.quarantine_table([("x", None, "bad", b"1")]), str(tmp_path / "set/_quarantine/p.parquet")
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    names = [
        "set",
        "set/",
        "./set",
        f"file://{tmp_path}/set",
        f"{tmp_path}/other/../set",
        "link",
        str(tmp_path / "set"),
    ]
    found = [shards.list_shards(name) for name in names]
    assert {len(files) for files in found} == {1}
    assert len({files[0].shard_id for files in found}) == 1


def test_all_damaged_shards_are_named_in_one_error(tmp_path: Path) -> None:
    folder = tmp_path / "rgb" / "train"
    folder.mkdir(parents=True)
    for i in range(23):
        (folder / f"part-{i:05d}.parquet").write_bytes(b"no shard")
    with pytest.raises(DataError, match="23 shards are damaged: seen") as caught:
        shards.list_shards(str(tmp_path))
    assert all(f"part-{i:05d}.parquet" in str(caught.value) for i in range(20))
    assert "part-00020.parquet" not in str(caught.value)
    assert "and 3 more" in str(caught.value)


def test_a_shard_that_cannot_be_reached_is_not_called_damaged(
    tmp_path: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(str(tmp_path / "part.parquet"), [make_row(1)])

    class Gone(pa.fs.LocalFileSystem):
        def open_input_file(self, path: str) -> None:
            raise OSError("connection reset")

        open_input_stream = open_input_file

    monkeypatch.setattr(shards.storage, "arrow_filesystem", lambda uri: (Gone(), uri))
    with pytest.raises(DataError, match="shard cannot be reached: seen connection reset"):
        shards.list_shards(str(tmp_path), broken=[])


def test_a_footer_larger_than_one_read_gives_the_same_shard(
    tmp_path: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(str(tmp_path / "part.parquet"), [make_row(1)])
    content = (tmp_path / "part.parquet").read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    digest = hashlib.sha256(content[-8 - length : -8] + str(len(content)).encode()).hexdigest()[:16]
    [at_once] = shards.list_shards(str(tmp_path))
    assert (at_once.version, at_once.row_groups) == (digest, (1,))
    for num_bytes in (8, length, length + 8):
        monkeypatch.setattr(shard_file, "_TAIL_BYTES", num_bytes)
        assert shards.list_shards(str(tmp_path)) == [at_once]


def test_modality_and_split_are_known_with_and_without_statistics(tmp_path: Path, make_row: MakeRow) -> None:
    table = shards.table_of_rows([make_row(1, modality="pan"), make_row(2, modality="pan")], "val")
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=1, write_statistics=False)
    found = shards.list_shards(str(tmp_path))
    assert [(file.modality, file.split, file.row_groups) for file in found] == [("pan", "val", (1, 1))] * 2
