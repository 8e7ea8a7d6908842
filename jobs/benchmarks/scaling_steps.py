"""The steps of an embedding job that touch every piece, on a made-up archive: no pixels, no network, tiny vectors.

Each step runs in a process of its own, so that its peak of memory is its own; what a step needs stands on disk. Shards
are made up as their footers would tell them, hence nothing here depends on how fast storage lists or reads.
"""

import hashlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cmir.archive import shards, storage
from cmir.archive.imagery import raw_media
from cmir.archive.schema import SHARD_SCHEMA, THUMBNAIL_SCHEMA, ShardRow, gallery_schema, make_item_id
from cmir.archive.shards import Piece, ShardFile
from cmir.gallery import upkeep
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from jobs.embed import EmbedConfig, plan_of

DIM: Final = 8
PIECES_PER_SHARD: Final = 4  # row groups of 64 MiB in a file of 256 MiB
EMPTY_EVERY: Final = 100  # of so many pieces, one has no row that survived
_SPACE: Final = "s0000000000000000"
_MADE_AT_ONCE: Final = 10_000  # pieces
_EDGE: Final = 5  # commits whose median is told
_WEBP: Final = bytes(64)


@dataclass(frozen=True)
class Given:
    """An archive of so many pieces, and the gallery that it goes to."""

    num_pieces: int
    rows_per_piece: int
    pieces_per_commit: int
    gallery_uri: str


@dataclass(frozen=True)
class Step:
    """What a step took: seconds, of them those of cores (of all threads), and memory beyond what was held before."""

    name: str
    seconds: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Steps:
    """The steps of one process; `num_rows` and `num_fragments` are those of the gallery afterwards."""

    steps: tuple[Step, ...]
    num_rows: int = 0
    num_fragments: int = 0


class Clock:
    """Times steps one after the other."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        before_mb, began, began_cpu = _reset_peak_mb(), time.perf_counter(), time.process_time()
        yield
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
        self.steps.append(Step(name, seconds, cpu_s, _peak_mb() - before_mb))


def in_own_process(step: Callable[[Given], Steps], given: Given) -> Steps:
    """Run a step in a new process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(step, given).result()


def plan(given: Given) -> Steps:
    """What jobs/embed.py plans once it knows the shards: of a new gallery everything, of a full one nothing."""
    clock = Clock()
    config = EmbedConfig.model_validate({"bundle": "none", "shards": ["none"], "gallery": given.gallery_uri})
    gallery, space = _space(given)
    with clock.step("resume" if space.count_rows() else "plan"):
        plan_of(config, gallery, space, made_up_shards(given.num_pieces), [])
    return Steps(tuple(clock.steps))


def fill(given: Given) -> Steps:
    """Commit the archive as a job does; thumbnails before rows, so many pieces at once."""
    gallery, space = _space(given)
    pieces = (piece for file in made_up_shards(given.num_pieces) for piece in shards.pieces(file))
    made, clock = made_up_rows(pieces, given.rows_per_piece), Clock()
    while batch := list(islice(made, given.pieces_per_commit)):
        with clock.step("commit"):
            _commit(gallery, space, batch)
    told = [
        _sum("all commits", clock.steps),
        _median("first commits", clock.steps[:_EDGE]),
        _median("last commits", clock.steps[-_EDGE:]),
    ]
    return _steps(told, space)


def at_work(given: Given) -> Steps:
    """Read what is committed, commit more, compact, commit more."""
    gallery, space = _space(given)
    num_new, clock, timed = given.pieces_per_commit, Clock(), Clock()
    files = made_up_shards(given.num_pieces + 2 * _EDGE * num_new)[-(-given.num_pieces // PIECES_PER_SHARD) :]
    made = made_up_rows((piece for file in files for piece in shards.pieces(file)), given.rows_per_piece)
    batches = [list(islice(made, num_new)) for _ in range(2 * _EDGE)]
    with clock.step("read what is committed"):
        space.committed_pieces()
    gallery.add_thumbnails(_pictures(batches[0]))  # reads which thumbnails there are
    for name, part in (("commit", batches[:_EDGE]), ("commit, compacted", batches[_EDGE:])):
        for batch in part:
            with timed.step(name):
                _commit(gallery, space, batch)
        clock.steps.append(_median(name, timed.steps[-_EDGE:]))
        if name == "commit":
            with clock.step("compact"):
                upkeep.compact(space)
            space.committed_pieces()
    return _steps(clock.steps, space)


def made_up_shards(num_pieces: int) -> list[ShardFile]:
    """Shards that hold so many pieces, four in each."""
    groups = (128,) * PIECES_PER_SHARD
    return [
        ShardFile(
            f"/archive/rgb/train/part-{number:07d}.parquet",
            "rgb",
            "train",
            hashlib.sha256(str(number).encode()).hexdigest()[:16],
            groups[: num_pieces - number * PIECES_PER_SHARD],
        )
        for number in range(-(-num_pieces // PIECES_PER_SHARD))
    ]


def made_up_rows(pieces: Iterator[Piece], rows_per_piece: int) -> Iterator[CommittedPiece]:
    """Pieces as workers report them, one in a hundred with nothing but quarantined rows."""
    schema = gallery_schema(DIM)
    while names := [piece.piece_id for piece in islice(pieces, _MADE_AT_ONCE)]:
        table = _rows([name for name in names for _ in range(rows_per_piece)])
        for i, name in enumerate(names):
            if i % EMPTY_EVERY == EMPTY_EVERY - 1:
                yield CommittedPiece(name, schema.empty_table(), rows_per_piece)
            else:
                yield CommittedPiece(name, table.slice(i * rows_per_piece, rows_per_piece))


def _reset_peak_mb() -> float:
    """Begin a new peak of memory; returns what this process holds now, in MB. Linux only, as is the peak."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mb()


def _peak_mb() -> float:
    """The most memory this process has held since its start or the last reset, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6


def _sum(name: str, steps: list[Step]) -> Step:
    peak_mb = max(step.peak_mb for step in steps)
    return Step(name, sum(step.seconds for step in steps), sum(step.cpu_s for step in steps), peak_mb)


def _median(name: str, steps: list[Step]) -> Step:
    seconds, cpu_s = median(step.seconds for step in steps), median(step.cpu_s for step in steps)
    return Step(name, seconds, cpu_s, max(step.peak_mb for step in steps))


def _steps(steps: list[Step], space: SpaceTable) -> Steps:
    return Steps(tuple(steps), space.count_rows(), len(space.dataset().get_fragments()))


def _space(given: Given) -> tuple[Gallery, SpaceTable]:
    gallery = Gallery.create(given.gallery_uri)
    return gallery, gallery.space(_SPACE, DIM, "none")


def _commit(gallery: Gallery, space: SpaceTable, batch: list[CommittedPiece]) -> None:
    """As jobs/committer.py does."""
    gallery.add_thumbnails(_pictures(batch))
    space.commit(batch)
    gallery.merge_thumbnails()
    space.merge()


def _pictures(batch: list[CommittedPiece]) -> dict[str, pa.Table]:
    return {piece.piece_id: _thumbnails(piece.rows) for piece in batch}


def _thumbnails(rows: pa.Table) -> pa.Table:
    webps = pa.repeat(pa.scalar(_WEBP), len(rows))
    return pa.Table.from_arrays([rows["item_id"], webps], schema=THUMBNAIL_SCHEMA)


def _rows(piece_ids: list[str]) -> pa.Table:
    """A row for each piece_id."""
    num_rows, schema = len(piece_ids), gallery_schema(DIM)
    ids = [hashlib.sha256(f"{name} {i}".encode()).hexdigest()[:24] for i, name in enumerate(piece_ids)]
    vectors = np.zeros((num_rows, DIM), np.float32)
    vectors[np.arange(num_rows), np.arange(num_rows) % DIM] = 1
    told: dict[str, object] = {
        "item_id": ids,
        "scene_id": ids,
        "modality": ["rgb"] * num_rows,
        "split": ["train"] * num_rows,
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
        "piece_id": piece_ids,
        "labels": [[]] * num_rows,
        "source_uri": ["made up"] * num_rows,
        "content_hash": ids,
    }
    columns = [pa.array(told[f.name], f.type) if f.name in told else pa.nulls(num_rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)


def write_shard_files(uri: str, num_files: int) -> str:
    """So many real shards without pixels, four row groups of one row each; returns the folder's URI."""
    media = raw_media("rgb", np.zeros((3, 2, 2), np.uint8), bands=("red", "green", "blue"))
    for number in range(num_files):
        names = [make_item_id("benchmark", f"{number} {i}", "rgb") for i in range(PIECES_PER_SHARD)]
        rows = [ShardRow(item_id=name, media=media, scene_id=name, source_uri="made up") for name in names]
        place = storage.local_path(storage.join(uri, "rgb", "train", f"part-{number:05d}.parquet"))
        place.parent.mkdir(parents=True, exist_ok=True)
        table = shards.table_of_rows(rows, "train").cast(SHARD_SCHEMA)
        pq.write_table(table, place, row_group_size=1)
    return uri
