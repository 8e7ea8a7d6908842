"""Finished pieces become visible: one thread commits what has gathered, by time or by bytes, whatever else goes on.

It is the only writer of its table in this process, so that workers and the progress bar never wait for a commit, and a
finished piece never waits for the next one.
"""

import queue
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import pyarrow as pa

from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable

COMMIT_INTERVAL_S: Final = 10.0
COMMIT_BYTES: Final = 64 * 2**20


@dataclass
class Tally:
    """What the commits did: rows of this job, rows that another job had committed first, rows quarantined."""

    num_rows_committed: int = 0
    num_rows_beaten: int = 0
    num_rows_quarantined: int = 0


@dataclass
class _Gathered:
    pieces: list[CommittedPiece] = field(default_factory=list)
    thumbnails: dict[str, pa.Table] = field(default_factory=dict)
    num_bytes: int = 0
    since_s: float = 0.0


class Committer:
    """Takes pieces with their thumbnails (`put`) and commits them; leaving its `with` block commits the rest."""

    def __init__(self, gallery: Gallery, table: SpaceTable, *, interval_s: float = COMMIT_INTERVAL_S) -> None:
        self.tally = Tally()
        self._gallery, self._table, self._interval_s = gallery, table, interval_s
        self._queue: queue.Queue[tuple[CommittedPiece, pa.Table] | None] = queue.Queue(maxsize=64)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="cmir-commit", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """What is finished is committed even where the job fails. Raises the error of a commit that failed."""
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def put(self, piece: CommittedPiece, thumbnails: pa.Table) -> None:
        """Hand over a finished piece. Raises the error of a commit that failed before."""
        if self._error is not None:
            raise self._error
        self._queue.put((piece, thumbnails))

    def _run(self) -> None:
        gathered = _Gathered()
        is_open = True
        while is_open:
            wait_s = gathered.since_s + self._interval_s - time.monotonic() if gathered.pieces else None
            try:
                item = self._queue.get(timeout=None if wait_s is None else max(0.0, wait_s))
            except queue.Empty:
                gathered = self._commit(gathered)
                continue
            is_open = item is not None
            if item is not None and self._error is None:
                _gather(gathered, *item)
            if not is_open or gathered.num_bytes >= COMMIT_BYTES:
                gathered = self._commit(gathered)

    def _commit(self, gathered: _Gathered) -> _Gathered:
        """Commit what has gathered; returns an empty gathering."""
        if gathered.pieces and self._error is None:
            try:
                self._gallery.add_thumbnails(gathered.thumbnails)  # before the rows that show them
                report = self._table.commit(gathered.pieces)
                self.tally.num_rows_committed += report.num_rows
                self.tally.num_rows_beaten += sum(len(piece.rows) for piece in gathered.pieces) - report.num_rows
                self.tally.num_rows_quarantined += sum(piece.num_quarantined for piece in gathered.pieces)
                self._gallery.merge_thumbnails()
                self._table.merge()
            except Exception as error:  # the border of a thread: it is raised again where pieces are put
                self._error = error
        return _Gathered()


def _gather(gathered: _Gathered, piece: CommittedPiece, thumbnails: pa.Table) -> None:
    if not gathered.pieces:
        gathered.since_s = time.monotonic()
    gathered.pieces.append(piece)
    gathered.thumbnails[piece.piece_id] = thumbnails
    gathered.num_bytes += piece.rows.nbytes + thumbnails.nbytes
