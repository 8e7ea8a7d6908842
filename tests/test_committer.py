import threading
import time

import pyarrow as pa
import pytest

from cmir.archive.schema import THUMBNAIL_SCHEMA
from cmir.errors import GalleryError
from cmir.gallery.table import CommitReport, CommittedPiece
from jobs.committer import Committer
from tests.gallery_rows import piece_name, piece_rows

EMPTY = THUMBNAIL_SCHEMA.empty_table()


class Table:
    """Stands in for a SpaceTable: remembers what was committed when, `beaten` pieces were there before."""

    def __init__(self, beaten: frozenset[str] = frozenset(), error: Exception | None = None) -> None:
        self.commits: list[list[str]] = []
        self.num_merges = 0
        self.beaten, self.error, self.threads = beaten, error, set[str]()

    def commit(self, pieces: list[CommittedPiece]) -> CommitReport:
        if self.error:
            raise self.error
        self.threads.add(threading.current_thread().name)
        self.commits.append([piece.piece_id for piece in pieces])
        new = [piece for piece in pieces if piece.piece_id not in self.beaten]
        return CommitReport(sum(len(piece.rows) for piece in new), len(new), len(pieces) - len(new), 1)

    def merge(self) -> None:
        self.num_merges += 1


class Gallery:
    """Stands in for a Gallery: remembers the pieces of every addition of thumbnails."""

    def __init__(self) -> None:
        self.additions: list[list[str]] = []
        self.num_merges = 0

    def add_thumbnails(self, pieces: dict[str, pa.Table]) -> int:
        self.additions.append(list(pieces))
        return sum(map(len, pieces.values()))

    def merge_thumbnails(self) -> None:
        self.num_merges += 1


def _piece(i: int, num_rows: int = 3, num_quarantined: int = 1) -> CommittedPiece:
    name = piece_name("a", i)
    return CommittedPiece(name, piece_rows(name, num_rows), num_quarantined)


def _committer(table: Table, interval_s: float = 60.0) -> Committer:
    return Committer(Gallery(), table, interval_s=interval_s)  # type: ignore[arg-type]


def test_everything_is_committed_together_at_the_end_and_counted() -> None:
    table = Table(beaten=frozenset({piece_name("a", 1)}))
    with _committer(table) as committer:
        for i in range(4):
            committer.put(_piece(i), EMPTY)
    assert table.commits == [[piece_name("a", i) for i in range(4)]]
    tally = committer.tally
    assert (tally.num_rows_committed, tally.num_rows_beaten, tally.num_rows_quarantined) == (9, 3, 4)
    assert table.threads == {"cmir-commit"}


def test_thumbnails_of_a_commit_are_added_together() -> None:
    gallery, table = Gallery(), Table()
    with Committer(gallery, table, interval_s=60) as committer:  # type: ignore[arg-type]
        for i in range(3):
            committer.put(_piece(i), EMPTY)
    assert gallery.additions == table.commits == [[piece_name("a", i) for i in range(3)]]
    assert (gallery.num_merges, table.num_merges) == (1, 1)


def test_a_finished_piece_does_not_wait_for_the_next_one() -> None:
    table = Table()
    with _committer(table, interval_s=0.05) as committer:
        committer.put(_piece(0), EMPTY)
        deadline = time.monotonic() + 10
        while not table.commits and time.monotonic() < deadline:
            time.sleep(0.01)
        assert table.commits == [[piece_name("a", 0)]]
        committer.put(_piece(1), EMPTY)
    assert table.commits == [[piece_name("a", 0)], [piece_name("a", 1)]]


def test_thumbnails_of_many_pieces_are_added_at_once_before_their_rows() -> None:
    gallery, table, seen = Gallery(), Table(), []
    thumbnail = pa.Table.from_pylist([{"item_id": "a", "webp": b"x"}], schema=THUMBNAIL_SCHEMA)
    gallery.add_thumbnails = lambda thumbnails: seen.append((len(thumbnails), len(table.commits)))  # type: ignore[assignment, method-assign, return-value]
    with Committer(gallery, table, interval_s=60.0) as committer:  # type: ignore[arg-type]
        for i in range(4):
            committer.put(_piece(i), thumbnail)
    assert seen == [(4, 0)]
    assert len(table.commits) == 1


@pytest.mark.parametrize("error", [GalleryError("no room"), OSError("no room"), RuntimeError("no room")])
def test_a_commit_that_fails_fails_the_job_and_loses_nothing_silently(error: Exception) -> None:
    committer = _committer(Table(error=error))

    def put_many() -> None:
        with committer:
            for i in range(200):  # more than the queue holds: whoever puts must never wait for a thread that is gone
                committer.put(_piece(i), EMPTY)

    with pytest.raises(type(error), match="no room"):
        put_many()
    assert committer.tally.num_rows_committed == 0


def test_what_is_finished_is_committed_even_where_the_job_fails() -> None:
    table = Table()

    def break_down() -> None:
        with _committer(table) as committer:
            committer.put(_piece(0), EMPTY)
            raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke"):
        break_down()
    assert table.commits == [[piece_name("a", 0)]]
