"""What is committed: the piece_id column of the rows themselves, and beside it the pieces of which no row survived.

The rows are the truth, so a piece and its rows cannot disagree and clean-up or compaction cannot lose the record. Three
small places hold what rows cannot tell: `_ledger` (pieces with quarantined rows, also those with no row left),
`_shards` (where a shard lay, for pruning) and `_spaces/<space_id>.json` (dimension and bundle). The two tables are only
appended to and read as sets, so a record written twice changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import lance
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from cmir.archive import storage
from cmir.archive.patience import patient
from cmir.errors import DataError, GalleryError
from cmir.gallery import commits
from cmir.gallery.compaction import Merger

LEDGER_SCHEMA: Final = pa.schema(
    [
        pa.field("space_id", pa.string(), nullable=False),
        pa.field("piece_id", pa.string(), nullable=False),
        pa.field("num_rows", pa.int64(), nullable=False),  # that survived
        pa.field("num_quarantined", pa.int64(), nullable=False),
        pa.field("recorded_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
SHARDS_SCHEMA: Final = pa.schema(
    [pa.field("shard_id", pa.string(), nullable=False), pa.field("shard_uri", pa.string(), nullable=False)]
)
_ROW_BITS: Final = 32  # of a row address, the lower ones; above them is the fragment id


class SpaceRecord(BaseModel):
    """What a gallery knows of a space before any row: written when its first job starts."""

    model_config = ConfigDict(frozen=True)

    space_id: str
    dim: int
    bundle_uri: str
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A piece that left rows in quarantine; `num_rows` of it survived."""

    piece_id: str
    num_rows: int
    num_quarantined: int


def shard_of(piece_id: str) -> tuple[str, str]:
    """(shard_id, version) of a piece_id, `<shard_id>.<version>.<row_group>`.

    >>> shard_of("ab12.9f.3")
    ('ab12', '9f')
    """
    parts = piece_id.split(".")
    if len(parts) != 3:
        raise GalleryError("not a piece_id", seen=piece_id, expected="<shard_id>.<version>.<row_group>")
    return parts[0], parts[1]


class PieceIndex:
    """The pieces that have rows in a table, kept up to date by reading only fragments that are new or changed."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[str, list[str]]] = {}  # fragment id -> what is deleted of it, its pieces
        self._pieces: dict[str, int] = {}  # piece -> number of fragments that hold it

    def at(self, dataset: lance.LanceDataset) -> AbstractSet[str]:
        """Pieces with at least one row in this version of the table, as they are until this is called again.

        Reads one string column of fragments not seen before, and of those of which rows were deleted since.
        """
        fragments = {fragment.fragment_id: fragment for fragment in dataset.get_fragments()}
        state = {number: str(fragment.metadata.deletion_file) for number, fragment in fragments.items()}
        for number in [number for number, (deleted, _) in self._held.items() if state.get(number) != deleted]:
            self._release(number)
        fresh = [number for number in fragments if number not in self._held]
        self._held |= {number: (state[number], []) for number in fresh}
        if fresh:
            scanner = dataset.scanner(
                columns=["piece_id"], with_row_address=True, fragments=[fragments[number] for number in fresh]
            )
            for batch in scanner.to_batches():
                self._hold(batch)
        return self._pieces.keys()

    def _hold(self, batch: pa.RecordBatch) -> None:
        """Take in rows of one fragment: a batch of a scan does not reach over the border of two."""
        if not len(batch):
            return
        number, last = (batch["_rowaddr"][i].as_py() >> _ROW_BITS for i in (0, len(batch) - 1))
        assert number == last
        held = self._held[number][1]
        for piece_id in pc.unique(batch["piece_id"]).to_pylist():
            if not held or held[-1] != piece_id:  # a piece that the last batch began
                held.append(piece_id)
                self._pieces[piece_id] = self._pieces.get(piece_id, 0) + 1

    def _release(self, number: int) -> None:
        for piece_id in self._held.pop(number)[1]:
            self._pieces[piece_id] -= 1
            if not self._pieces[piece_id]:
                del self._pieces[piece_id]


class Ledger:
    """The records of a gallery that are not rows of a space."""

    def __init__(self, gallery_uri: str) -> None:
        self._gallery_uri = gallery_uri
        self._ledger_uri = storage.join(gallery_uri, "_ledger.lance")
        self._shards_uri = storage.join(gallery_uri, "_shards.lance")
        self._mergers = [Merger(uri) for uri in (self._ledger_uri, self._shards_uri)]

    def record_space(self, space_id: str, dim: int, bundle_uri: str) -> None:
        """Remember a space and where its bundle lies; the newest bundle URI is kept."""
        record = SpaceRecord(space_id=space_id, dim=dim, bundle_uri=bundle_uri, recorded_at=datetime.now(UTC))
        storage.put_atomic(self._space_uri(space_id), record.model_dump_json(indent=1).encode())

    def space(self, space_id: str) -> SpaceRecord:
        """The record of a space. Raises GalleryError where the gallery holds none of that name."""
        uri = self._space_uri(space_id)
        try:
            return SpaceRecord.model_validate_json(storage.read_bytes(uri))
        except DataError as error:
            known = ", ".join(self.space_ids()) or "none"
            raise GalleryError(
                "space not in gallery", seen=space_id, expected=known, where=self._gallery_uri
            ) from error
        except ValidationError as error:
            raise GalleryError("space record not readable", seen=error, where=uri, fix="run jobs/embed.py") from error

    def space_ids(self) -> list[str]:
        """All spaces of the gallery, sorted."""
        folder = storage.join(self._gallery_uri, "_spaces")
        if not storage.exists(folder):
            return []
        return sorted(storage.name_of(file.uri).removesuffix(".json") for file in storage.list_files(folder, ".json"))

    def add(self, space_id: str, entries: Sequence[LedgerEntry]) -> None:
        """Append entries; writing one twice changes nothing."""
        if not entries:
            return
        now = datetime.now(UTC)
        rows = [
            {
                "space_id": space_id,
                "piece_id": entry.piece_id,
                "num_rows": entry.num_rows,
                "num_quarantined": entry.num_quarantined,
                "recorded_at": now,
            }
            for entry in entries
        ]
        commits.append(self._ledger_uri, pa.Table.from_pylist(rows, schema=LEDGER_SCHEMA))

    @patient
    def entries(self, space_id: str) -> list[LedgerEntry]:
        """The newest entry of every piece that left rows in quarantine, or has no rows at all."""
        ledger = commits.find_table(self._ledger_uri)
        if ledger is None:
            return []
        wanted = commits.is_one_of("space_id", [space_id])
        table = ledger.to_table(filter=wanted).sort_by("recorded_at")
        columns = (table[name].to_pylist() for name in ("piece_id", "num_rows", "num_quarantined"))
        return list({entry[0]: LedgerEntry(*entry) for entry in zip(*columns, strict=True)}.values())

    def forget(self, space_id: str, piece_ids: Iterable[str]) -> None:
        """Remove the entries of pieces whose shard changed or is gone."""
        if (ledger := commits.find_table(self._ledger_uri)) is not None:
            commits.delete(ledger, "piece_id", sorted(piece_ids), commits.is_one_of("space_id", [space_id]))

    def record_shards(self, shard_uris: Mapping[str, str]) -> None:
        """Remember where shards lie (shard_id -> URI); those known already are not written again."""
        known = self.shards()
        fresh = [{"shard_id": key, "shard_uri": uri} for key, uri in shard_uris.items() if known.get(key) != uri]
        if fresh:
            commits.append(self._shards_uri, pa.Table.from_pylist(fresh, schema=SHARDS_SCHEMA))

    def merge(self) -> None:
        """Merge small fragments of the two tables, where there are many."""
        for merger in self._mergers:
            merger.merge()

    @patient
    def shards(self) -> dict[str, str]:
        """Where every shard lay that was ever embedded here: shard_id -> URI."""
        shards = commits.find_table(self._shards_uri)
        if shards is None:
            return {}
        table = shards.to_table()
        return dict(zip(table["shard_id"].to_pylist(), table["shard_uri"].to_pylist(), strict=True))

    def _space_uri(self, space_id: str) -> str:
        return storage.join(self._gallery_uri, "_spaces", f"{space_id}.json")
