"""Which pieces a data file holds, noted before the file becomes part of its table.

A data file never changes and its name is never used again, so a note can be trusted wherever the file is part of a
version, and means nothing elsewhere: commits that failed leave notes that nobody reads. What has no note (older files,
files that compaction made) is unknown, not empty. Where rows were removed from a file, it is no longer known how many
of each piece it holds. Only appended to, like the ledger.
"""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import lance
import pyarrow as pa
from lance.fragment import FragmentMetadata

from cmir.archive import storage
from cmir.gallery import commits

FILES_SCHEMA: Final = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("piece_id", pa.string(), nullable=False),
        pa.field("num_rows", pa.int64(), nullable=False),  # UNKNOWN_ROWS where some of them were removed
    ]
)
UNKNOWN_ROWS: Final = -1


class FileRecords:
    """The notes of one table; what was read stays in memory until it is taken."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._seen: set[int] = set()  # fragments of the notes that were read
        self._held: dict[str, dict[str, int]] = {}

    def note(self, files: Sequence[str], num_rows: Mapping[str, int]) -> None:
        """Note that these files hold so many rows of these pieces.

        Of several files, which hold them together, all are counted to the first and none to the others.
        """
        none = dict.fromkeys(num_rows, 0)
        told = {file: dict(none if i else num_rows) for i, file in enumerate(files)}
        records = [
            {"file": file, "piece_id": piece_id, "num_rows": number}
            for file, pieces in told.items()
            for piece_id, number in pieces.items()
        ]
        commits.append(self._uri, pa.Table.from_pylist(records, schema=FILES_SCHEMA))
        self._held.update(told)

    def carry(self, old: Sequence[str], new: Sequence[str], thinned: AbstractSet[str] = frozenset()) -> None:
        """Note that new files hold what the old ones hold, unless one of those has no note.

        Of pieces in the old files that are `thinned`, of which rows were removed, it is not known how much that is.
        """
        wanted = commits.is_one_of("file", sorted(old))
        notes = commits.find_table(self._uri)
        found = notes.to_table(filter=wanted) if notes is not None else None
        if found is None or set(found["file"].to_pylist()) != set(old):
            return
        num_rows: dict[str, int] = {}
        for file, piece_id, number in zip(*(found[name].to_pylist() for name in FILES_SCHEMA.names), strict=True):
            before = num_rows.get(piece_id, 0)
            is_known = file not in thinned and UNKNOWN_ROWS not in (before, number)
            num_rows[piece_id] = before + number if is_known else UNKNOWN_ROWS
        self.note(new, num_rows)

    def take(self, files: Iterable[str]) -> dict[str, dict[str, int]]:
        """The notes of files (piece_id -> rows), those without one left out. Reads only what was noted since."""
        wanted = set(files)
        if not wanted <= self._held.keys() and (notes := commits.find_table(self._uri)) is not None:
            self._read_on(notes)
        return {file: self._held.pop(file) for file in wanted if file in self._held}

    def forget_read(self) -> None:
        """Read everything again when asked next."""
        self._seen, self._held = set(), {}

    def _read_on(self, dataset: lance.LanceDataset) -> None:
        fragments = {fragment.fragment_id: fragment for fragment in dataset.get_fragments()}
        fresh = [fragment for number, fragment in fragments.items() if number not in self._seen]
        if not fresh:
            return
        for batch in dataset.scanner(fragments=fresh).to_batches():
            columns = (batch[name].to_pylist() for name in FILES_SCHEMA.names)
            for file, piece_id, num_rows in zip(*columns, strict=True):
                self._held.setdefault(file, {})[piece_id] = num_rows
        self._seen = set(fragments)


def files_of(fragments: Iterable[FragmentMetadata]) -> list[str]:
    """The name of each fragment's first data file."""
    return [str(fragment.files[0].path) for fragment in fragments]


def place(gallery_uri: str, table: str) -> str:
    """Where the notes of a table of a gallery lie."""
    return storage.join(gallery_uri, f"_files-{table}.lance")
