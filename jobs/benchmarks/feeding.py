"""What feeding a network takes of a core: a chip of 256 px and four bands read, decoded and drawn small.

In seconds of one core, so that others at work on the machine change little; pixels are textures with noise, which
compress about as badly as imagery.
"""

import time
from collections.abc import Callable
from typing import Final, Literal

import numpy as np

from cmir.archive import shards, storage
from cmir.archive.imagery import decode_chip, raw_media, thumbnail
from cmir.archive.schema import ShardRow, make_item_id
from cmir.archive.shards import ShardFileWriter
from jobs.benchmarks.record import Findings

SIDE_PX: Final = 256
_BANDS: Final = ("blue", "green", "red", "nir")
_NUM_LOOKS: Final = 16  # different chips
_FIELD_PX: Final = 16  # side of fields of one value
_LARGEST: Final[dict[str, int]] = {"uint8": 255, "uint16": 4000}
_NOISE: Final = 0.01  # of the largest value
_ROUNDS: Final = 3

Depth = Literal["uint8", "uint16"]


class FeedFigures(Findings):
    """One depth: bytes of a row in memory and on disk, milliseconds of one core, rows of a piece."""

    dtype: str
    num_rows: int
    rows_per_piece: int
    raw_bytes: int
    disk_bytes: float
    read_cpu_ms: float
    decode_cpu_ms: float
    thumbnail_cpu_ms: float
    thumbnail_bytes: float


def measure_feeding(uri: str, num_rows: int) -> list[FeedFigures]:
    """Both depths, each on a shard of so many rows below a folder; the quickest of three rounds counts."""
    return [_measured(storage.join(uri, dtype), dtype, num_rows) for dtype in ("uint8", "uint16")]


def _measured(uri: str, dtype: Depth, num_rows: int) -> FeedFigures:
    place = storage.join(uri, "ms", "train", "part-00000.parquet")
    writer, looks = ShardFileWriter(place, "train"), _looks(dtype)
    for number in range(num_rows):
        media = raw_media("ms", looks[number % len(looks)], bands=_BANDS)
        item_id = make_item_id("benchmark", f"{dtype} {number}", "ms")
        writer.add(ShardRow(item_id=item_id, media=media, scene_id=item_id, source_uri="made up"))
    writer.close()
    [file] = shards.list_shards(uri)
    tables = [shards.read_piece(piece) for piece in shards.pieces(file)]
    medias = [media for table in tables for media in shards.medias(table)]
    chips = [decode_chip(media) for media in medias[: 4 * _NUM_LOOKS]]
    webps = [thumbnail(chip) for chip in chips]
    return FeedFigures(
        dtype=dtype,
        num_rows=num_rows,
        rows_per_piece=file.row_groups[0],
        raw_bytes=len(medias[0].data),
        disk_bytes=sum(one.num_bytes for one in storage.list_files(place)) / num_rows,
        read_cpu_ms=_cpu_ms(lambda: [shards.read_piece(piece) for piece in shards.pieces(file)]) / num_rows,
        decode_cpu_ms=_cpu_ms(lambda: [decode_chip(media) for table in tables for media in shards.medias(table)])
        / num_rows,
        thumbnail_cpu_ms=_cpu_ms(lambda: [thumbnail(chip) for chip in chips]) / len(chips),
        thumbnail_bytes=sum(map(len, webps)) / len(webps),
    )


def _looks(dtype: Depth) -> np.ndarray:
    """[K,4,256,256], fields of random values and noise."""
    draw, num_fields = np.random.default_rng(0), SIDE_PX // _FIELD_PX
    fields = draw.random((_NUM_LOOKS, len(_BANDS), num_fields, num_fields)).repeat(_FIELD_PX, 2).repeat(_FIELD_PX, 3)
    values = fields + draw.normal(0, _NOISE, fields.shape)
    return (np.clip(values, 0, 1) * _LARGEST[dtype]).astype(dtype)


def _cpu_ms(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        work()
        taken.append(1000 * (time.process_time() - began))
    return min(taken)
