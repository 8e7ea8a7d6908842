"""The embedding that a Ray Data tutorial leads to, for comparison: read Parquet, decode, predict in actors, append.

Decoding, preprocessing, network, number format and batch size are those of the embedding job, threads as many in all,
and only ids and vectors are carried. What it lacks is what the job is for: rows are appended as they come, so a run
that was killed and starts again doubles them, two at once double everything, and one bad row ends it.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

import lancedb
import numpy as np
import pyarrow as pa

from cmir.archive import shards, storage
from cmir.archive.imagery import Chip, decode_chip
from cmir.archive.schema import Modality
from cmir.network.embedder import Device, Embedder, resolve_device

_BATCH_ROWS: Final = 64
_APPENDED_ROWS: Final = 1024
_MEDIA_COLUMNS: Final = [
    *("item_id", "modality", "data", "encoding", "dtype", "shape", "bands", "wavelength_nm", "sensor", "gsd_m"),
    "sample_rate_hz",
]


class Predictor:
    """An actor with the network; chips are of one form."""

    def __init__(self, bundle_uri: str, device: Device, modality: Modality, first: Chip) -> None:
        self._embedder = Embedder.open(bundle_uri, device=device, precision="bf16", num_threads=1)
        self._modality, self._first = modality, first

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        bundle, device, layout = self._embedder.bundle, self._embedder.device, self._embedder.layout
        reading = bundle.preprocessing.reading(self._modality, self._first)
        with torch.inference_mode(), self._embedder.autocast():
            chips = torch.from_numpy(batch["pixels"].copy()).to(device)
            pixels = bundle.preprocessing.stacked_input(self._modality, chips, reading)
            told = bundle.preprocessing.stacked_conditions(reading, batch["gsd_m"].tolist())
            vectors = bundle.net.encode_image(
                self._modality, pixels.contiguous(memory_format=layout), *(numbers.to(device) for numbers in told)
            )
        return {"item_id": batch["item_id"], "vector": vectors.float().cpu().numpy()}


def decode(batch: pa.Table) -> dict[str, Any]:
    """A task: rows of chips as arrays."""
    chips = [decode_chip(media) for media in shards.medias(batch)]
    gsd_m = np.array([chip.gsd_m for chip in chips], np.float32)
    return {"item_id": batch["item_id"].to_numpy(), "pixels": np.stack([chip.pixels for chip in chips]), "gsd_m": gsd_m}


def embed_by_template(
    bundle_uri: str, files: Sequence[shards.ShardFile], database_uri: str, *, num_actors: int, device: Device
) -> float:
    """Seconds for all rows of the files, on the cluster that is connected. Their chips must be of one form.

    On CUDA there is one actor, with a GPU of its own.
    """
    import ray.data

    on_gpu = resolve_device(device).type == "cuda"

    first = decode_chip(shards.media_of(shards.read_piece(shards.pieces(files[0])[0]), 0))
    began = time.perf_counter()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    dataset = ray.data.read_parquet([storage.local_path(file.uri).as_posix() for file in files], columns=_MEDIA_COLUMNS)
    dataset = dataset.map_batches(decode, batch_size=_BATCH_ROWS, batch_format="pyarrow").map_batches(
        Predictor,
        fn_constructor_args=(bundle_uri, device, files[0].modality, first),
        batch_size=_BATCH_ROWS,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=1 if on_gpu else num_actors),
        num_cpus=0.5,  # decoding needs a share of the same cores
        num_gpus=1 if on_gpu else 0,
    )
    database, table = lancedb.connect(database_uri), None
    for batch in dataset.iter_batches(batch_size=_APPENDED_ROWS, batch_format="numpy"):
        dim = batch["vector"].shape[1]
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch["vector"].ravel()), dim)
        rows = pa.table({"item_id": pa.array(batch["item_id"].tolist()), "vector": vectors})
        if table is None:
            table = database.create_table("items", rows)
        else:
            table.add(rows)
    return time.perf_counter() - began
