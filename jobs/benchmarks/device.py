"""What a device does with an archive, without cluster or gallery: rows per second from Parquet to vectors in memory.

The network alone at several batch sizes, reading alone, and the embedding code of the job with several pieces at once,
as the job's worker has them; what of these is the slowest is what binds. Neither Ray nor Lance is needed.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from pydantic import Field

from cmir.archive import shards, storage
from cmir.archive.imagery import raw_media
from cmir.archive.schema import Modality, ShardRow, make_item_id
from cmir.archive.sensors import UCMERCED
from cmir.archive.shards import Piece
from cmir.gallery.piece_embedder import PieceEmbedder
from cmir.network.embedder import Device, Embedder, Precision, resolve_device
from cmir.network.model import ImageInput
from cmir.network.pace import gpu_use_of
from jobs import entrypoint
from jobs.benchmarks.material import TOWERS, Tower, first_shards, pieces_of, untrained_bundle, write_archive
from jobs.benchmarks.record import BenchmarkConfig, Findings, Run, Sizes, sizes_of
from jobs.entrypoint import JobResult


class DeviceBenchmark(BenchmarkConfig):
    """Measure one device: the network alone, reading alone, and embedding with several pieces at once."""

    bundle: str | None = Field(None, description="Trained bundle; an untrained one of --tower otherwise.")
    shards: tuple[str, ...] = Field((), description="Archive, folder or shard; noise of 256 x 256 x 3 uint8 otherwise.")
    tower: Tower = Field("default", description="Size of the untrained network.")
    max_rows: int = Field(4096, gt=0, description="Rows to embed, about; whole shards are taken.")
    batches: Sizes = Field("64,256,1024", description="Chips of a call of the network alone, a,b,c.")
    pieces_at_once: Sizes = Field("1,2,4,8", description="Pieces that are embedded at a time, a,b,c.")
    device: Device = Field("auto", description="Where the network runs.")
    thumbnails: bool = Field(False, description="Draw a small picture of every chip too.")


class NetworkFigures(Findings):
    """The network alone, on tensors that lie on the device."""

    precision: str
    batch: int
    chips_per_s: float


class RowFigures(Findings):
    """One way to go through the archive. `gpu_use_percent` is the share of time in which a kernel ran, at the end."""

    way: str
    precision: str
    pieces_at_once: int
    rows_per_s: float
    of_network: float | None
    gpu_use_percent: float | None


def run(config: DeviceBenchmark) -> JobResult:
    """Prepare, measure, write."""
    with tempfile.TemporaryDirectory(prefix="cmir-benchmark-") as folder:
        with entrypoint.before_work():
            running = Run("device", config)
            device = resolve_device(config.device)
            batches, at_once = sizes_of(config.batches), sizes_of(config.pieces_at_once)
            uris = [storage.absolute(uri) for uri in config.shards]
            uris = uris or [write_archive(_noise(config.max_rows), storage.join(folder, "archive"))]
            pieces = pieces_of(first_shards(uris, "rgb", config.max_rows))
            bundle_uri = config.bundle or untrained_bundle(storage.join(folder, "bundle"), uris, TOWERS[config.tower])
        precisions: Sequence[Precision] = ("fp32", "bf16") if device.type == "cuda" else ("fp32",)
        network: list[NetworkFigures] = []
        rows = [_reading(pieces, number) for number in at_once]
        for precision in precisions:
            embed = PieceEmbedder(bundle_uri, config.device, precision=precision, with_thumbnails=config.thumbnails)
            network += [_alone(embed.embedder, batch) for batch in batches]
            best = max(one.chips_per_s for one in network if one.precision == precision)
            embed(pieces[0])  # kernels are chosen, memory is taken
            rows += [_embedding(embed, pieces, number, best) for number in at_once]
    headline = {f"{one.way}_{one.precision}_rows_per_s": one.rows_per_s for one in sorted(rows, key=_rate)}
    return running.finish({"network": network, "rows": rows}, headline)


def _rate(figures: RowFigures) -> float:
    return figures.rows_per_s


def _noise(num_rows: int) -> Iterator[ShardRow]:
    """RGB chips of noise, which does not compress, as photographs do not."""
    drawer = np.random.default_rng(0)
    for i in range(num_rows):
        pixels = drawer.integers(0, 256, (3, 256, 256), np.uint8)
        media = raw_media("rgb", pixels, bands=("red", "green", "blue"), sensor=UCMERCED.name, gsd_m=0.3)
        item_id = make_item_id("benchmark", f"{i}", "rgb")
        yield ShardRow(item_id, media, scene_id=item_id, source_uri="noise", labels=("water",))


def _alone(embedder: Embedder, batch: int) -> NetworkFigures:
    modality: Modality = "rgb"
    preprocessing = embedder.bundle.preprocessing
    side_px = preprocessing.chip_size_px[modality]
    pixels = torch.randn(batch, 3, side_px, side_px, device=embedder.device).contiguous(memory_format=embedder.layout)
    told = torch.tensor([660.0, 560.0, 480.0]), torch.full((batch,), 0.3)
    given = ImageInput(modality, pixels, *(numbers.to(embedder.device) for numbers in told))
    with torch.inference_mode(), embedder.autocast():
        seconds = min(_timed_calls(embedder, given) for _ in range(3))
    return NetworkFigures(precision=embedder.precision, batch=batch, chips_per_s=batch / seconds)


def _timed_calls(embedder: Embedder, given: ImageInput, num_calls: int = 5) -> float:
    """Seconds of a call."""
    net = embedder.bundle.net
    net.encode_image(*given).sum().item()
    began = time.perf_counter()
    for _ in range(num_calls):
        vectors = net.encode_image(*given)
    vectors.sum().item()  # waits for the device
    return (time.perf_counter() - began) / num_calls


def _reading(pieces: Sequence[Piece], at_once: int) -> RowFigures:
    seconds = _through(shards.read_piece, pieces, at_once)[0]
    return _figures("reading", "", pieces, at_once, seconds, None, None)


def _embedding(embed: PieceEmbedder, pieces: Sequence[Piece], at_once: int, network_per_s: float) -> RowFigures:
    seconds, use = _through(embed, pieces, at_once)
    return _figures("embedding", embed.embedder.precision, pieces, at_once, seconds, network_per_s, use)


def _through(call: object, pieces: Sequence[Piece], at_once: int) -> tuple[float, float | None]:
    """Seconds for all pieces, and how much of the last of it a GPU was at work."""
    assert callable(call)
    with ThreadPoolExecutor(at_once) as pool:
        began = time.perf_counter()
        futures = [pool.submit(call, piece) for piece in pieces]
        for future in futures[: -max(1, len(futures) // 4)]:
            future.result()
        read = gpu_use_of(torch.device("cuda")) if torch.cuda.is_available() else None
        use = None if read is None else read()
        for future in futures:
            future.result()
        return time.perf_counter() - began, use


def _figures(
    way: str,
    precision: str,
    pieces: Sequence[Piece],
    at_once: int,
    seconds: float,
    network_per_s: float | None,
    use: float | None,
) -> RowFigures:
    rate = sum(piece.num_rows for piece in pieces) / seconds
    return RowFigures(
        way=way,
        precision=precision,
        pieces_at_once=at_once,
        rows_per_s=rate,
        of_network=None if network_per_s is None else rate / network_per_s,
        gpu_use_percent=use,
    )
