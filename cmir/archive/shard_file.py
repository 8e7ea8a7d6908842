"""The bytes of a shard: told apart whether they are damaged, another version, or cannot be had at all."""

import hashlib
from collections.abc import Callable
from typing import Final, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from cmir.archive import storage
from cmir.archive.patience import patient
from cmir.errors import DataError

Found = TypeVar("Found")
_TAIL_BYTES: Final = 64 * 2**10  # of a file, read at once: the footer of a shard of four row groups has about 20 kB


def read_file(uri: str, read: Callable[[pa.NativeFile], Found], where: str) -> Found:
    """What `read` makes of a file; since a cut line can look like damage, damage must be seen twice.

    Raises DataError where the file's bytes can be had but not read so, OSError where storage does not give them.
    """
    filesystem, path = storage.arrow_filesystem(uri)
    try:
        return _opened(filesystem, path, read)
    except (OSError, pa.ArrowException):
        _read_through(filesystem, path, uri)
    try:
        return _opened(filesystem, path, read)
    except (OSError, pa.ArrowException) as error:
        _read_through(filesystem, path, uri)
        raise DataError(
            "shard is damaged", seen=f"{type(error).__name__}: {str(error).strip()}", where=where
        ) from error


@patient
def _opened(filesystem: pafs.FileSystem, path: str, read: Callable[[pa.NativeFile], Found]) -> Found:
    with filesystem.open_input_file(path) as file:
        return read(file)


@patient
def _read_through(filesystem: pafs.FileSystem, path: str, uri: str) -> None:
    """Read all bytes of a file. Raises the OSError of a place that cannot be read."""
    try:
        with filesystem.open_input_stream(path) as stream:
            while stream.read(2**24):
                pass
    except OSError as error:
        if isinstance(error, FileNotFoundError) or not storage.is_s3(uri):
            raise
        raise OSError(f"{uri} cannot be read: {error}") from error


def read_footer(file: pa.NativeFile, num_bytes: int) -> tuple[pq.FileMetaData, bytes]:
    """The footer of a Parquet file, parsed and as it is, by one read of its end: over a network each read is a wait."""
    footer = _footer(file, num_bytes)
    framed = b"".join((footer, len(footer).to_bytes(4, "little"), b"PAR1"))
    return pq.read_metadata(pa.BufferReader(framed)), footer


def version_of(file: pa.NativeFile) -> str:
    """The version of a shard: the digest of its footer and its size."""
    num_bytes = file.size()
    return digest_of(_footer(file, num_bytes), num_bytes)


def digest_of(footer: bytes, num_bytes: int) -> str:
    """16 hex digits of a footer and a file's size."""
    return hashlib.sha256(footer + str(num_bytes).encode()).hexdigest()[:16]


def open_parquet(file: pa.NativeFile) -> pq.ParquetFile:
    """A Parquet file whose pages are compared with their checksums."""
    return pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)


def _footer(file: pa.NativeFile, num_bytes: int) -> bytes:
    start = max(0, num_bytes - _TAIL_BYTES)
    file.seek(start)
    tail: bytes = file.read(num_bytes - start)
    length = int.from_bytes(tail[-8:-4], "little")
    if length + 8 > len(tail):
        file.seek(max(0, num_bytes - 8 - length))
        tail = file.read()
    return tail[-8 - length : -8]
