"""The embedding job on a cluster, timed: what its workers do per second once they have started."""

import logging
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
import torch

from cmir.archive import shards, storage
from cmir.archive.shards import Piece, ShardFile
from cmir.loopback import HOST
from cmir.network.embedder import Device
from jobs import cluster
from jobs.benchmarks.material import pieces_of
from jobs.embed import EmbedConfig
from jobs.embed import run as run_embed_job


@dataclass(frozen=True)
class EmbedInput:
    """What is embedded, by which bundle, and a folder for galleries."""

    bundle_uri: str
    files: list[ShardFile]
    work_uri: str

    @property
    def pieces(self) -> list[Piece]:
        return pieces_of(self.files)

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)


@dataclass(frozen=True)
class JobSeconds:
    """Seconds of a job over all rows, of one over a single row, and of the cluster's start."""

    num_rows: int
    seconds: float
    seconds_for_one_row: float
    cluster_start_s: float

    @property
    def rows_per_s(self) -> float:
        """Of the rows beyond the first, so that planning and the workers' start are left out."""
        return (self.num_rows - 1) / max(self.seconds - self.seconds_for_one_row, 1e-9)


def measure_job(given: EmbedInput, device: Device) -> JobSeconds:
    """The embedding job over one row, then over all: the difference is the rows', without the workers' start."""
    began = time.perf_counter()
    _start_cluster()
    started_s = time.perf_counter() - began
    one = storage.join(given.work_uri, "one-row", "shard", "train", "part-00000.parquet")
    storage.local_path(one).parent.mkdir(parents=True)
    pq.write_table(shards.read_piece(given.pieces[0]).slice(0, 1), storage.local_path(one))
    for_one_s = _job_seconds(given, device, [one], "gallery-one")
    seconds = _job_seconds(given, device, [file.uri for file in given.files], "gallery-job")
    return JobSeconds(given.num_rows, seconds, for_one_s, started_s)


def _job_seconds(given: EmbedInput, device: Device, uris: Sequence[str], gallery: str) -> float:
    began = time.perf_counter()
    gallery_uri = storage.join(given.work_uri, gallery)
    told = {"bundle": given.bundle_uri, "shards": tuple(uris), "gallery": gallery_uri, "device": device}
    run_embed_job(EmbedConfig.model_validate(told))
    return time.perf_counter() - began


def _start_cluster() -> None:
    """The cluster of RAY_ADDRESS, else one of as many cores as the network alone has threads."""
    if os.environ.get("RAY_ADDRESS"):
        cluster.connect()
        return
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lance is not fork-safe")  # what Ray forks runs exec at once
        ray.init(
            address="local",
            num_cpus=torch.get_num_threads(),
            include_dashboard=False,
            logging_level=logging.WARNING,
            _node_ip_address=HOST,
        )
