"""Rows per second into and out of shards by encoding of the pixels, with the bytes each takes and what it loses.

The same RGB chips every time. `write` is the encoding of the file's bytes and the shard's own (zstd, checksums), `read`
brings them back to pixels; the shards lie in the page cache when they are read, so reading is bound by the processor.
"""

import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import Final

import numpy as np
from PIL import Image
from pydantic import Field

from cmir.archive import shards, storage
from cmir.archive.imagery import decode_chip
from cmir.archive.raster import Pixels
from cmir.archive.schema import ShardRow
from cmir.archive.shards import ShardFileWriter
from jobs import entrypoint
from jobs.benchmarks.material import first_shards, pieces_of, repeated, world_rows
from jobs.benchmarks.record import BenchmarkConfig, Findings, Run
from jobs.entrypoint import JobResult

ENCODINGS: Final = ("raw", "png", "jpeg", "webp")
_QUALITY: Final = 90  # of jpeg and webp
_NUM_SCENES: Final = 32


class ShardBenchmark(BenchmarkConfig):
    """Measure shards: rows per second written and read, by encoding."""

    shards: tuple[str, ...] = Field((), description="Archive whose RGB chips are used; rendered scenes otherwise.")
    num_rows: int = Field(512, gt=0, description="Rows of a shard.")
    rounds: int = Field(3, gt=0, description="How often each is measured; the median counts.")


class EncodingFigures(Findings):
    """One encoding: `encode` pixels to bytes, `store` rows to a shard, `fetch` a shard to rows, `decode` to pixels.

    `psnr_db` compares what is read with what was written, None where it is the same.
    """

    encoding: str
    quality: int | None
    write_rows_per_s: float
    read_rows_per_s: float
    encode_ms_per_row: float
    store_ms_per_row: float
    fetch_ms_per_row: float
    decode_ms_per_row: float
    kb_per_row: float
    psnr_db: float | None


def run(config: ShardBenchmark) -> JobResult:
    """Prepare, write and read by turns, write the figures."""
    with tempfile.TemporaryDirectory(prefix="cmir-benchmark-") as folder:
        with entrypoint.before_work():
            running = Run("shard", config)
            chips = _chips(config)
        figures = measure(chips, folder, rounds=config.rounds)
    headline = {f"{found.encoding}_read_rows_per_s": found.read_rows_per_s for found in figures}
    return running.finish({"encodings": figures}, headline)


def measure(chips: Sequence[ShardRow], folder: str, *, rounds: int) -> list[EncodingFigures]:
    """Figures of every encoding, measured by turns."""
    found: dict[str, list[EncodingFigures]] = {encoding: [] for encoding in ENCODINGS}
    for number in range(rounds):
        for encoding in ENCODINGS:
            uri = storage.join(folder, f"{encoding}-{number}", "rgb", "train", "part-00000.parquet")
            found[encoding].append(_round(chips, encoding, uri))
    return [_median(rounds_of) for rounds_of in found.values()]


def _chips(config: ShardBenchmark) -> list[ShardRow]:
    """Rows of raw uint8 pixels."""
    if not config.shards:
        rows = [row for row in world_rows(_NUM_SCENES) if row.media.modality == "rgb"]
        return list(repeated(rows, config.num_rows))
    rows = []
    for piece in pieces_of(first_shards(config.shards, "rgb", config.num_rows)):
        table = shards.read_piece(piece).slice(0, config.num_rows - len(rows))
        names = ("item_id", "scene_id", "source_uri")
        columns = zip(*(table[name].to_pylist() for name in names), shards.medias(table), strict=True)
        rows += [ShardRow(item_id, media, scene_id, uri) for item_id, scene_id, uri, media in columns]
    return list(repeated([_as_raw(row) for row in rows], config.num_rows))


def _as_raw(row: ShardRow) -> ShardRow:
    pixels = decode_chip(row.media).pixels
    media = replace(
        row.media, data=pixels.tobytes(), encoding="raw", dtype=str(pixels.dtype), shape=tuple(pixels.shape)
    )
    return replace(row, media=media)


def _round(chips: Sequence[ShardRow], encoding: str, uri: str) -> EncodingFigures:
    pixels = [decode_chip(row.media).pixels for row in chips]
    began = time.perf_counter()
    rows = [_encoded(row, plane, encoding) for row, plane in zip(chips, pixels, strict=True)]
    encoded = time.perf_counter()
    writer = ShardFileWriter(uri, "train")
    for row in rows:
        writer.add(row)
    writer.close()
    stored = time.perf_counter()
    (file,) = shards.list_shards(uri)
    medias = [media for piece in shards.pieces(file) for media in shards.medias(shards.read_piece(piece))]
    fetched = time.perf_counter()
    seen = [decode_chip(media).pixels for media in medias]
    ended = time.perf_counter()
    ms = 1000 / len(chips)
    return EncodingFigures(
        encoding=encoding,
        quality=_QUALITY if encoding in ("jpeg", "webp") else None,
        write_rows_per_s=len(chips) / (stored - began),
        read_rows_per_s=len(chips) / (ended - stored),
        encode_ms_per_row=ms * (encoded - began),
        store_ms_per_row=ms * (stored - encoded),
        fetch_ms_per_row=ms * (fetched - stored),
        decode_ms_per_row=ms * (ended - fetched),
        kb_per_row=storage.list_files(uri)[0].num_bytes / len(chips) / 1000,
        psnr_db=_psnr_db(pixels, seen),
    )


def _encoded(row: ShardRow, pixels: Pixels, encoding: str) -> ShardRow:
    """The row with its pixels [3,H,W] in another encoding."""
    if encoding == "raw":
        return replace(row, media=replace(row.media, data=pixels.tobytes()))
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.save(buffer, encoding.upper(), quality=_QUALITY)
    media = replace(row.media, data=buffer.getvalue(), encoding=encoding, dtype=None, shape=None)
    return replace(row, media=media)


def _psnr_db(written: Sequence[Pixels], read: Sequence[Pixels]) -> float | None:
    """Peak signal-to-noise ratio over all chips, 20 log10(255 / rms error)."""
    pairs = zip(written, read, strict=True)
    error = float(np.mean([np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2) for a, b in pairs]))
    return None if error == 0 else float(20 * np.log10(255 / np.sqrt(error)))


def _median(found: Sequence[EncodingFigures]) -> EncodingFigures:
    """Field by field."""
    names = [name for name in EncodingFigures.model_fields if name not in ("encoding", "quality", "psnr_db")]
    return found[0].model_copy(update={name: median(getattr(one, name) for one in found) for name in names})
