"""Rows per second from Parquet to committed table, against the bare network on tensors in memory with as many threads.

By turns: the network alone, the embedding code in this process, the embedding job on a cluster, and what a Ray Data
tutorial leads to. Workers start anew each time, so their rates are those of the rows beyond a first quarter, which is
run by itself before.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Final, Literal

import torch
from pydantic import Field
from torch.utils.flop_counter import FlopCounterMode

from cmir.archive import shards, storage
from cmir.archive.imagery import Chip, thumbnail
from cmir.archive.shards import Piece
from cmir.gallery.piece_embedder import PieceEmbedder
from cmir.gallery.table import CommittedPiece, Gallery
from cmir.network.embedder import Device, Embedder, Prepared
from jobs import entrypoint
from jobs.benchmarks.embed_input import EmbedInput, RunSeconds
from jobs.benchmarks.material import TOWERS, Tower, first_shards, repeated, untrained_bundle, world_rows
from jobs.benchmarks.material import write_archive as write_rows
from jobs.benchmarks.record import BenchmarkConfig, Findings, Run
from jobs.entrypoint import JobResult

if TYPE_CHECKING:
    from jobs.benchmarks.embedding_job import Runs

NETWORK: Final = "network alone"
PROCESS: Final = "this process, with thumbnails"
JOB: Final = "embedding job"
TEMPLATE: Final = "Ray Data template"
JOB_WITH_THUMBNAILS: Final = "embedding job, with thumbnails"
_NUM_SCENES: Final = 48  # rendered, then repeated
_SAMPLE_ROWS: Final = 256  # rows that the network alone and the stages are timed on


class EmbedBenchmark(BenchmarkConfig):
    """Measure embedding: rows per second from Parquet to committed table, against the network alone."""

    bundle: str | None = Field(None, description="Trained bundle; an untrained one of --tower otherwise.")
    shards: tuple[str, ...] = Field((), description="Archive, folder or shard; rendered scenes, repeated, otherwise.")
    modality: Literal["pan", "ms", "rgb"] = Field("rgb", description="Which rows are embedded.")
    tower: Tower = Field("default", description="Size of the untrained network.")
    max_rows: int = Field(4096, gt=0, description="Rows to embed, about; whole shards are taken.")
    rounds: int = Field(3, gt=0, description="How often each is measured; the median counts.")
    device: Device = Field("auto", description="Where the network runs.")
    skip_ray: bool = Field(False, description="Measure in this process only, start no cluster.")


class StageFigures(Findings):
    """Where a row's time goes, in one process."""

    stage: str
    ms_per_row: float
    share: float


class EmbedFigures(Findings):
    """What the rates of the ways are compared with."""

    num_rows: int
    num_pieces: int
    gflop_per_row: float
    bare_gflop_per_s: float
    cluster_start_s: float | None = None


class WayFigures(Findings):
    """Rows per second of one way, Parquet to table unless it is the network alone; medians of the rounds.

    `start_s` is what a run takes beyond its rows: planning and the workers' start.
    """

    way: str
    rows_per_s: float
    to_network: float
    to_template: float | None
    start_s: float | None = None


@dataclass
class _Seconds:
    """Seconds of each round of one alternative."""

    bare_per_row: list[float] = field(default_factory=list)
    process: list[float] = field(default_factory=list)
    thumbnail_writes: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)


def run(config: EmbedBenchmark) -> JobResult:
    """Prepare, measure by turns, write."""
    with tempfile.TemporaryDirectory(prefix="cmir-benchmark-") as folder:
        with entrypoint.before_work():
            running = Run("embed", config)
            given = _input(config, folder)
        figures, ways, stages = measure(given, config)
    headline: dict[str, float | None] = {f"{_key(one.way)}_to_network": one.to_network for one in ways[1:]}
    for one in ways:
        if one.to_template is not None:
            headline[f"{_key(one.way)}_to_template"] = one.to_template
    return running.finish({"what": figures, "ways": ways, "stages": stages}, headline)


def _key(way: str) -> str:
    return way.replace(",", "").replace(" ", "_")


def measure(given: EmbedInput, config: EmbedBenchmark) -> tuple[EmbedFigures, list[WayFigures], list[StageFigures]]:
    """The figures, the ways side by side, and where the time goes in one process."""
    embed = PieceEmbedder(given.bundle_uri, config.device, precision="bf16")  # as the job; CPUs have fp32
    sample = _sample(embed.embedder, given.pieces)
    calls = _bare_calls(embed.embedder, sample)
    gflop = _gflop_of(calls) / len(sample)
    seconds = _Seconds()
    runs = None if config.skip_ray else _runs(given, config)
    found: dict[str, list[RunSeconds]] = defaultdict(list)
    for number in range(config.rounds):
        seconds.bare_per_row.append(_timed(embed.embedder, calls) / len(sample))
        _embed_here(embed, given, number, seconds)
        if runs is not None:
            found[JOB].append(runs.job(thumbnails=False))
            found[TEMPLATE].append(runs.template())
            found[JOB_WITH_THUMBNAILS].append(runs.job(thumbnails=True))
    seconds.bare_per_row.append(_timed(embed.embedder, calls) / len(sample))  # has the machine changed?
    rates = {NETWORK: 1 / median(seconds.bare_per_row), PROCESS: given.num_rows / median(seconds.process)}
    rates |= {way: median(one.rows_per_s for one in measured) for way, measured in found.items()}
    figures = EmbedFigures(
        num_rows=given.num_rows,
        num_pieces=len(given.pieces),
        gflop_per_row=gflop,
        bare_gflop_per_s=rates[NETWORK] * gflop,
        cluster_start_s=None if runs is None else runs.cluster_start_s,
    )
    ways = [
        WayFigures(
            way=way,
            rows_per_s=rate,
            to_network=rate / rates[NETWORK],
            to_template=rate / rates[TEMPLATE] if TEMPLATE in rates else None,
            start_s=median(one.start_s for one in found[way]) if way in found else None,
        )
        for way, rate in rates.items()
    ]
    return figures, ways, _stages(embed.embedder, given, seconds, sample)


def _runs(given: EmbedInput, config: EmbedBenchmark) -> "Runs":
    from jobs.benchmarks.embedding_job import Runs  # late: it needs Ray

    return Runs(given, config.device)


def _input(config: EmbedBenchmark, folder: str) -> EmbedInput:
    uris = [storage.absolute(uri) for uri in config.shards]
    if not uris:
        rows = [row for row in world_rows(_NUM_SCENES) if row.media.modality == config.modality]
        uris = [write_rows(repeated(rows, config.max_rows), storage.join(folder, "archive"))]
    files = first_shards(uris, config.modality, config.max_rows)
    bundle_uri = config.bundle
    if bundle_uri is None:
        bundle_uri = untrained_bundle(storage.join(folder, "bundle"), uris, TOWERS[config.tower])
    return EmbedInput(storage.absolute(bundle_uri), files, folder)


def _sample(embedder: Embedder, pieces: Sequence[Piece]) -> list[Prepared]:
    """The first rows, decoded."""
    sample: list[Prepared] = []
    for piece in pieces:
        table = shards.read_piece(piece).slice(0, _SAMPLE_ROWS - len(sample))
        sample += [embedder.pre(media) for media in shards.medias(table)]
        if len(sample) >= _SAMPLE_ROWS:
            break
    return sample


def _bare_calls(embedder: Embedder, sample: Sequence[Prepared]) -> list[Callable[[], torch.Tensor]]:
    """A call of the network per batch, its input made beforehand and on the device."""
    groups: dict[object, list[Prepared]] = {}
    for item in sample:
        groups.setdefault(item.form, []).append(item)
    preprocessing, net, device = embedder.bundle.preprocessing, embedder.bundle.net, embedder.device
    calls: list[Callable[[], torch.Tensor]] = []
    for items in groups.values():
        for start in range(0, len(items), embedder.max_batch):
            chips = [
                item.content for item in items[start : start + embedder.max_batch] if isinstance(item.content, Chip)
            ]
            modality = items[0].modality
            pixels = preprocessing.image_input(modality, chips, device=device).contiguous(memory_format=embedder.layout)
            told = [tensor.to(device) for tensor in preprocessing.conditions(modality, chips)]
            calls.append(partial(net.encode_image, modality, pixels, *told))
    return calls


def _timed(embedder: Embedder, calls: Sequence[Callable[[], torch.Tensor]]) -> float:
    """Seconds of all calls, results brought to the CPU."""
    with torch.inference_mode(), embedder.autocast():
        calls[0]().cpu()  # allocations
        began = time.perf_counter()
        for call in calls:
            call().cpu()
        return time.perf_counter() - began


def _gflop_of(calls: Sequence[Callable[[], torch.Tensor]]) -> float:
    """1e9 operations of convolutions and matrix products, a multiply-add being two."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for call in calls:
            call()
    return float(counter.get_total_flops()) / 1e9


def _embed_here(embed: PieceEmbedder, given: EmbedInput, number: int, seconds: _Seconds) -> None:
    """Read, embed and commit every piece in this process, into a new gallery."""
    gallery = Gallery.create(storage.join(given.work_uri, f"gallery-{number}"))
    space = gallery.space(embed.embedder.space_id, embed.embedder.dim, given.bundle_uri)
    waiting, thumbnails, began = [], {}, time.perf_counter()
    for piece in given.pieces:
        done = embed(piece)
        thumbnails[piece.piece_id] = done.thumbnails
        waiting.append(CommittedPiece(piece.piece_id, done.rows, len(done.rejected)))
    writing = time.perf_counter()
    gallery.add_thumbnails(thumbnails)
    committing = time.perf_counter()
    space.commit(waiting)
    ended = time.perf_counter()
    seconds.process.append(ended - began)
    seconds.thumbnail_writes.append(committing - writing)
    seconds.commits.append(ended - committing)


def _stages(embedder: Embedder, given: EmbedInput, seconds: _Seconds, sample: Sequence[Prepared]) -> list[StageFigures]:
    """Each stage by itself on the same rows; what the whole took beyond their sum is `other`."""
    num_rows, total = given.num_rows, 1000 * median(seconds.process) / given.num_rows
    began = time.perf_counter()
    tables = [shards.read_piece(piece) for piece in given.pieces]
    read = time.perf_counter()
    medias = shards.medias(tables[0].slice(0, _SAMPLE_ROWS))
    decoding = time.perf_counter()
    decoded = [embedder.pre(media) for media in medias]
    encoding = time.perf_counter()
    embedder.post(embedder.core(decoded))
    drawing = time.perf_counter()
    for item in decoded:
        if isinstance(item.content, Chip):
            thumbnail(item.content)
    ended = time.perf_counter()
    forward = 1000 * median(seconds.bare_per_row)
    ms = {
        "read": 1000 * (read - began) / num_rows,
        "decode": 1000 * (encoding - decoding) / len(decoded),
        "resize and normalise": max(0.0, 1000 * (drawing - encoding) / len(decoded) - forward),
        "network": forward,
        "draw thumbnails": 1000 * (ended - drawing) / len(decoded),
        "write thumbnails": 1000 * median(seconds.thumbnail_writes) / num_rows,
        "commit": 1000 * median(seconds.commits) / num_rows,
    }
    ms["other"] = total - sum(ms.values())
    rows = [StageFigures(stage=name, ms_per_row=value, share=value / total) for name, value in ms.items()]
    return [*rows, StageFigures(stage="all", ms_per_row=total, share=1.0)]
