"""Rows become Parquet shards, and shards become pieces: one row group of one version of one shard, the unit of work.

A file holds one modality and one split. Its version is the digest of its footer and its size; the footer carries a
digest of all rows, so a change of any value changes the version and writing the same rows again does not.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from cmir.archive import storage
from cmir.archive.schema import (
    MODALITIES,
    QUARANTINE_SCHEMA,
    SHARD_SCHEMA,
    SPLITS,
    Media,
    Modality,
    ShardRow,
    Split,
    content_hash,
)
from cmir.archive.shard_file import digest_of, open_parquet, read_file, read_footer, version_of
from cmir.errors import DataError

ROW_GROUP_BYTES: Final = 64 * 2**20
_SHARDS_NAMED: Final = 20  # in one error
SMALL_BYTES: Final = 64 * 2**10  # quarantined bytes up to this size are kept beside the reason
_DICTIONARY_COLUMNS: Final = [
    *("modality", "split", "encoding", "dtype", "sensor", "scene_class", "crs"),
    *("bands.list.element", "labels.list.element"),
]
_GEO: Final = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {
        "geometry": {
            "encoding": "WKB",
            "geometry_types": [],
            "covering": {"bbox": {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}},
        }
    },
}
GEO_METADATA: Final = {b"geo": json.dumps(_GEO).encode()}  # GeoParquet 1.1, for the columns geometry and bbox
_SCHEMA_ON_FILE: Final = SHARD_SCHEMA.with_metadata({**GEO_METADATA, b"cmir.shard": b"1"})


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One shard as its footer tells it; `row_groups` holds the number of rows of each."""

    uri: str
    modality: Modality
    split: Split
    version: str
    row_groups: tuple[int, ...]
    shard_id: str = field(init=False)  # names the place, not the content: 16 hex digits

    def __post_init__(self) -> None:
        object.__setattr__(self, "shard_id", shard_id_of(self.uri))  # asks the file system: once is enough

    @property
    def num_rows(self) -> int:
        return sum(self.row_groups)

    @property
    def is_current(self) -> bool:
        """False where the file is another by now, or gone. Raises OSError where it cannot be reached."""
        filesystem, path = storage.arrow_filesystem(self.uri)
        try:
            with filesystem.open_input_file(path) as file:
                return version_of(file) == self.version
        except FileNotFoundError:
            return False


def shard_id_of(uri: str) -> str:
    """The id of the shard at a URI, the same by whatever relative path or link it is reached."""
    place = storage.absolute(uri) if storage.is_s3(uri) else os.path.realpath(storage.local_path(uri))
    return hashlib.sha256(place.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Piece:
    """One row group of one version of one shard; `piece_id` is `<shard_id>.<version>.<row_group>`."""

    piece_id: str
    shard_uri: str
    shard_id: str
    row_group: int
    num_rows: int

    @property
    def version(self) -> str:
        """The version of the shard that was listed."""
        return self.piece_id.split(".")[1]


class ShardFileWriter:
    """Writes one shard: rows gather into row groups in a local temporary file, which is put whole at `close`."""

    def __init__(self, uri: str, split: Split) -> None:
        self.uri, self.split, self.num_rows = uri, split, 0
        self._rows: list[ShardRow] = []
        self._hashes: list[str] = []
        self._num_bytes = 0
        self._digest = hashlib.sha256()
        self._folder = tempfile.TemporaryDirectory(prefix="cmir-shard-")
        self._path = Path(self._folder.name) / "part.parquet"
        self._writer = pq.ParquetWriter(
            self._path,
            _SCHEMA_ON_FILE,
            compression="zstd",
            write_page_checksum=True,  # incompressible pixels are stored as they are: nothing else would notice damage
            use_dictionary=_DICTIONARY_COLUMNS,
            write_statistics=[name for name in SHARD_SCHEMA.names if name != "data"],
        )

    def add(self, row: ShardRow) -> None:
        """Append a row; a full row group goes to disk."""
        self._rows.append(row)
        self._hashes.append(content_hash(row.media.data))
        self._num_bytes += len(row.media.data)
        if self._num_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Finish the file and put it at its URI, whole or not at all. Raises OSError where that cannot be written."""
        self._flush()
        self._writer.add_key_value_metadata({"cmir.rows": self._digest.hexdigest()})
        self._writer.close()
        storage.upload(self._path, self.uri)
        self._folder.cleanup()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._writer.close()
        self._folder.cleanup()

    def _flush(self) -> None:
        if not self._rows:
            return
        table = table_of_rows(self._rows, self.split, self._hashes)
        with pa.BufferOutputStream() as sink, pa.ipc.new_stream(sink, table.drop_columns("data").schema) as stream:
            stream.write_table(table.drop_columns("data"))
        self._digest.update(sink.getvalue())
        self._writer.write_table(table, row_group_size=len(table))
        self.num_rows += len(table)
        self._rows, self._hashes, self._num_bytes = [], [], 0


def table_of_rows(rows: Sequence[ShardRow], split: Split, hashes: Sequence[str] | None = None) -> pa.Table:
    """Rows as an Arrow table of SHARD_SCHEMA."""
    digests = hashes or [content_hash(row.media.data) for row in rows]
    records = [_record(row, split, digest) for row, digest in zip(rows, digests, strict=True)]
    return pa.Table.from_pylist(records, schema=SHARD_SCHEMA)


def list_shards(
    uris: str | Sequence[str],
    *,
    modalities: Iterable[str] | None = None,
    splits: Iterable[str] | None = None,
    broken: list[tuple[str, DataError]] | None = None,
) -> list[ShardFile]:
    """The shards below the URIs, sorted by URI, each once; folders beginning with `_` are passed over.

    A damaged shard is appended to `broken` where that is given. Raises DataError where a URI is missing, holds no
    shard, cannot be reached, or (without `broken`) holds a damaged one.
    """
    files: dict[str, storage.FileInfo] = {}
    for uri in [uris] if isinstance(uris, str) else uris:
        root = storage.absolute(uri)
        listed = storage.list_files(root, ".parquet")
        found = [file for file in listed if "/_" not in file.uri.removeprefix(root)]
        if not found:
            fix = "make some with jobs/shard.py"
            raise DataError("no shards found", seen="no .parquet file", expected="a shard", where=uri, fix=fix)
        files.update((storage.absolute(file.uri), file) for file in found)
    wanted_modalities, wanted_splits = set(modalities or MODALITIES), set(splits or SPLITS)
    chosen = [file for _, file in sorted(files.items()) if _may_hold(file.uri, wanted_modalities, wanted_splits)]
    with ThreadPoolExecutor(16) as pool:  # reading footers waits for storage, not for a core
        outcomes = list(pool.map(_describe, chosen))
    failures = [
        (file.uri, outcome) for file, outcome in zip(chosen, outcomes, strict=True) if isinstance(outcome, DataError)
    ]
    if failures and broken is None:
        raise failures[0][1] if len(failures) == 1 else _several(failures)
    if broken is not None:
        broken.extend(failures)
    shards = [outcome for outcome in outcomes if isinstance(outcome, ShardFile)]
    return [shard for shard in shards if shard.modality in wanted_modalities and shard.split in wanted_splits]


def _several(failures: Sequence[tuple[str, DataError]]) -> DataError:
    """One error for all damaged shards, of which the first few are named."""
    named = ", ".join(uri for uri, _ in failures[:_SHARDS_NAMED])
    more = f" and {len(failures) - _SHARDS_NAMED} more" if len(failures) > _SHARDS_NAMED else ""
    what, fix = f"{len(failures)} shards are damaged", "make them anew with jobs/shard.py, or take them away"
    return DataError(what, seen=failures[0][1].seen, expected="whole shards", where=named + more, fix=fix)


def pieces(shard: ShardFile) -> list[Piece]:
    """The pieces of one shard, in order."""
    shard_id, uri = shard.shard_id, storage.absolute(shard.uri)
    return [
        Piece(f"{shard_id}.{shard.version}.{i}", uri, shard_id, i, num_rows)
        for i, num_rows in enumerate(shard.row_groups)
    ]


def read_piece(piece: Piece, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a piece as an Arrow table of SHARD_SCHEMA (or the named columns).

    Raises DataError where the shard cannot be read or has changed since the piece was listed.
    """
    return read_row_group(piece.shard_uri, piece.row_group, columns, version=piece.version)


def read_row_group(
    shard_uri: str, row_group: int, columns: Sequence[str] | None = None, *, version: str | None = None
) -> pa.Table:
    """One row group of a shard, of this version of it where one is given.

    Raises DataError where its bytes can be had but make no table (damaged: the same again would fail again) or are
    of another version, OSError where storage does not give them.
    """
    where = f"{shard_uri}, row group {row_group}"

    def read(file: pa.NativeFile) -> pa.Table:
        if version is not None and (seen := version_of(file)) != version:
            fix = "start the job again"
            raise DataError("shard changed while it was read", seen=seen, expected=version, where=where, fix=fix)
        return open_parquet(file).read_row_group(row_group, columns=columns)

    return read_file(shard_uri, read, where)


def medias(table: pa.Table) -> list[Media]:
    """The media of all rows of a SHARD_SCHEMA table."""
    names = ("modality", "encoding", "dtype", "shape", "bands", "wavelength_nm", "sensor", "gsd_m", "sample_rate_hz")
    columns = zip(*(table[name].to_pylist() for name in names), strict=True)
    return [
        Media(
            modality=modality,
            data=data.as_py(),
            encoding=encoding,
            dtype=dtype,
            shape=None if shape is None else tuple(shape),
            bands=tuple(bands or ()),
            wavelength_nm=tuple(wavelengths or ()),
            sensor=sensor,
            gsd_m=gsd_m,
            sample_rate_hz=rate,
        )
        for data, (modality, encoding, dtype, shape, bands, wavelengths, sensor, gsd_m, rate) in zip(
            table["data"], columns, strict=True
        )
    ]


def media_of(table: pa.Table, i: int) -> Media:
    """The media of row `i`."""
    return medias(table.slice(i, 1))[0]


def quarantine_table(entries: Sequence[tuple[str, str | None, str, bytes | None]]) -> pa.Table:
    """Rejected rows as an Arrow table: (source_uri, item_id, reason, data); data over 64 kB is left out."""
    records = [
        {"source_uri": uri, "item_id": item_id, "reason": reason, "data": _if_small(data)}
        for uri, item_id, reason, data in entries
    ]
    return pa.Table.from_pylist(records, schema=QUARANTINE_SCHEMA)


def write_quarantine(table: pa.Table, uri: str) -> None:
    """Put rejected rows at a URI as one Parquet file, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.put_atomic(uri, sink.getvalue().to_pybytes())


def _if_small(data: bytes | None) -> bytes | None:
    return data if data is not None and len(data) <= SMALL_BYTES else None


def _record(row: ShardRow, split: Split, digest: str) -> dict[str, object]:
    media = row.media
    return {
        "item_id": row.item_id,
        "modality": media.modality,
        "split": split,
        "data": media.data,
        "encoding": media.encoding,
        "dtype": media.dtype,
        "shape": media.shape,
        "bands": media.bands or None,
        "wavelength_nm": media.wavelength_nm or None,
        "sensor": media.sensor,
        "gsd_m": media.gsd_m,
        "sample_rate_hz": media.sample_rate_hz,
        "labels": row.labels,
        "scene_class": row.scene_class,
        "pair_id": row.pair_id,
        "scene_id": row.scene_id,
        "acquired_at": row.acquired_at,
        "cloud_cover": row.cloud_cover,
        "crs": row.crs,
        "bbox": None if row.bbox is None else dict(zip(("xmin", "ymin", "xmax", "ymax"), row.bbox, strict=True)),
        "geometry": row.geometry,
        "source_uri": row.source_uri,
        "window": row.window,
        "content_hash": digest,
        "attributes": row.attributes,
    }


def _may_hold(uri: str, modalities: set[str], splits: set[str]) -> bool:
    """False only where the folder names already rule a file out."""
    parts = uri.split("/")
    modality, split = (parts[-3], parts[-2]) if len(parts) >= 3 else ("", "")
    if modality not in MODALITIES or split not in SPLITS:
        return True
    return modality in modalities and split in splits


def _describe(file: storage.FileInfo) -> ShardFile | DataError:
    def read(source: pa.NativeFile) -> ShardFile:
        metadata, footer = read_footer(source, file.num_bytes)
        columns = metadata.schema.to_arrow_schema()
        if not columns.equals(SHARD_SCHEMA):
            seen = f"columns {', '.join(columns.names[:8])}, ..."
            raise DataError("not a shard of ours", seen=seen, expected="the shard schema", where=file.uri)
        modality, split = _head_by_statistics(metadata) or _head(source)
        groups = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        return ShardFile(file.uri, modality, split, digest_of(footer, file.num_bytes), groups)

    try:
        return read_file(file.uri, read, file.uri)
    except DataError as error:
        return error
    except OSError as unreachable:  # nothing is known of its rows: not a damaged shard, but a missing input
        fix = "see to it that the place can be read, and start again"
        raise DataError("shard cannot be reached", seen=unreachable, where=file.uri, fix=fix) from unreachable


def _head_by_statistics(metadata: pq.FileMetaData) -> tuple[Modality, Split] | None:
    """Modality and split where the footer tells that the first row group has one of each."""
    if not metadata.num_row_groups:
        return None
    group = metadata.row_group(0)  # its first leaf columns are those of the schema, none of them nested
    told = [group.column(SHARD_SCHEMA.get_field_index(name)).statistics for name in ("modality", "split")]
    if any(one is None or not one.has_min_max or one.min != one.max for one in told):
        return None
    return cast(Modality, told[0].min), cast(Split, told[1].min)


def _head(source: pa.NativeFile) -> tuple[Modality, Split]:
    """Modality and split of a shard, from its first row."""
    source.seek(0)
    first = next(pq.ParquetFile(source).iter_batches(batch_size=1, columns=["modality", "split"]), None)
    if first is None or not len(first):
        return "rgb", "train"  # a shard without rows has no pieces either
    return cast(Modality, first["modality"][0].as_py()), cast(Split, first["split"][0].as_py())
