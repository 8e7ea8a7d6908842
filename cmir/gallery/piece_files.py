"""Where the rows of a piece may be in a table that does not name pieces: from the notes of its files, kept up to date.

Only notes of files not seen before are read. What they tell counts no longer for pieces in a file of which rows were
removed: those are known to be there, not how many of them.
"""

from collections.abc import Iterable

import lance
from lance.fragment import FragmentMetadata

from cmir.gallery.file_records import UNKNOWN_ROWS, FileRecords, files_of
from cmir.gallery.ledger import shard_of


class PieceFiles:
    """The pieces of one table, version by version, each newer than the one before."""

    def __init__(self, records: FileRecords) -> None:
        self._records = records
        self._emptied = set[str]()  # files that may be gone because their rows were removed
        self._forget()

    def _forget(self) -> None:
        self._records.forget_read()
        self.unnoted = set[str]()  # files of which no pieces are known
        self._seen = set[str]()
        self._thinned = set[str]()  # files of which rows were removed
        self._pieces = dict[str, dict[str, int]]()  # file -> piece_id -> rows
        self._num_rows = dict[str, int]()  # piece_id -> rows
        self._uncertain = set[str]()  # pieces that may have fewer rows than that
        self._files = dict[str, set[tuple[str, str]]]()  # shard_id -> version, file

    def look(self, dataset: lance.LanceDataset) -> dict[str, lance.LanceFragment]:
        """Take in a version of the table; returns its fragments by their file."""
        standing = dataset.get_fragments()
        metadata = [fragment.metadata for fragment in standing]
        fragments = dict(zip(files_of(metadata), standing, strict=True))
        if not self._seen - self._emptied <= fragments.keys():
            self._forget()  # compacted
        for file in self._seen - fragments.keys():
            self._drop(file)
        self._emptied.clear()
        thinned = thinned_files(metadata)
        for file in (thinned & self._seen) - self._thinned:
            self._uncertain |= self._pieces.get(file, {}).keys()
        fresh = fragments.keys() - self._seen
        notes = self._records.take(fresh)
        self.unnoted |= fresh - notes.keys()
        for file, pieces in notes.items():
            self._hold(file, pieces, is_thinned=file in thinned)
        self._seen |= fresh
        self._thinned = thinned
        return fragments

    def is_whole(self, piece_id: str, num_rows: int) -> bool:
        """True where that many rows of a piece are known to be there."""
        return piece_id not in self._uncertain and self._num_rows.get(piece_id, 0) >= num_rows

    def doubtful(self, piece_ids: Iterable[str]) -> set[str]:
        """The files that may hold items of pieces which are not whole: of other versions of their shards too."""
        return self.unnoted | {file for piece_id in piece_ids for file in self._doubtful(piece_id)}

    def may_empty(self, files: Iterable[str]) -> None:
        """Be told of files from which rows are being removed, all of them perhaps: such a file goes without a trace."""
        self._emptied.update(files)

    def _doubtful(self, piece_id: str) -> set[str]:
        shard_id, version = shard_of(piece_id)
        is_begun = piece_id in self._num_rows
        return {file for other, file in self._files.get(shard_id, ()) if other != version or is_begun}

    def _hold(self, file: str, pieces: dict[str, int], *, is_thinned: bool) -> None:
        self._pieces[file] = pieces
        for piece_id, num_rows in pieces.items():
            self._num_rows[piece_id] = self._num_rows.get(piece_id, 0) + num_rows
            if is_thinned or num_rows == UNKNOWN_ROWS:
                self._uncertain.add(piece_id)
            shard_id, version = shard_of(piece_id)
            self._files.setdefault(shard_id, set()).add((version, file))

    def _drop(self, file: str) -> None:
        """Forget a file of which all rows were removed."""
        for piece_id in self._pieces.pop(file, {}):
            self._uncertain.add(piece_id)
            shard_id, version = shard_of(piece_id)
            self._files[shard_id].discard((version, file))
        self._seen.discard(file)
        self.unnoted.discard(file)


def thinned_files(fragments: Iterable[FragmentMetadata]) -> set[str]:
    """The files of those fragments of which rows were removed."""
    return set(files_of(fragment for fragment in fragments if fragment.deletion_file is not None))
