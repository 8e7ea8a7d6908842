from pathlib import Path

import pyarrow as pa
import pytest

from cmir.archive.shard_file import read_file, version_of
from cmir.errors import DataError


def test_a_cut_line_is_no_damage_and_damage_is_seen_twice(tmp_path: Path) -> None:
    path, reads = tmp_path / "part.parquet", []
    path.write_bytes(b"0123456789")

    def read(file: pa.NativeFile) -> bytes:
        reads.append(1)
        if len(reads) in (1, 3, 4):
            raise OSError("Unexpected end of stream")
        return bytes(file.read())

    assert read_file(str(path), read, "here") == b"0123456789"
    with pytest.raises(DataError, match=r"shard is damaged: seen OSError: Unexpected end.*here"):
        read_file(str(path), read, "here")
    assert len(reads) == 4


def test_what_cannot_be_had_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        read_file(str(tmp_path / "nothing"), lambda file: file.read(), "here")


def test_a_version_is_of_the_footer_and_the_size(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"

    def version(content: bytes) -> str:
        path.write_bytes(content)
        return read_file(str(path), version_of, "here")

    footer = b"foot" + (4).to_bytes(4, "little") + b"PAR1"
    assert version(b"body" + footer) == version(b"BODY" + footer)
    assert version(b"body" + footer) != version(b"longer body" + footer)
    assert version(b"body" + footer) != version(b"body" + b"F" + footer[1:])
    assert version(b"x") != version(b"")
