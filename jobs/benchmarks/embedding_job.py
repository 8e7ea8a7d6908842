"""The embedding job on a cluster and the template beside it, timed: rows per second once workers have started."""

import logging
import os
import time
import warnings
from collections.abc import Sequence
from typing import Final

import pyarrow.parquet as pq
import torch

from cmir.archive import shards, storage
from cmir.archive.shards import ShardFile
from cmir.loopback import HOST
from cmir.network.embedder import Device
from jobs import cluster
from jobs.benchmarks.embed_input import EmbedInput, RunSeconds
from jobs.benchmarks.embedding_template import embed_by_template
from jobs.embed import EmbedConfig
from jobs.embed import run as run_embed_job

_FIRST_PART: Final = 4  # one row in so many
_FIRST_PIECES: Final = 4


class Runs:
    """The embedding job and the template on one cluster, over the same rows: over a part of them first, then all."""

    def __init__(self, given: EmbedInput, device: Device) -> None:
        self._given, self._device, self._number = given, device, 0
        began = time.perf_counter()
        _start_cluster()
        self.cluster_start_s = time.perf_counter() - began
        self._num_first_rows = max(1, given.num_rows // _FIRST_PART)
        self._first = _first_part(given, self._num_first_rows)

    def job(self, *, thumbnails: bool) -> RunSeconds:
        """The embedding job, Parquet to committed table."""
        first_s, all_s = (self._job_seconds(files, thumbnails) for files in (self._first, self._given.files))
        return RunSeconds(self._given.num_rows, all_s, self._num_first_rows, first_s)

    def template(self) -> RunSeconds:
        """The template, Parquet to appended rows."""
        first_s, all_s = (
            embed_by_template(
                self._given.bundle_uri, files, self._place(), num_actors=torch.get_num_threads(), device=self._device
            )
            for files in (self._first, self._given.files)
        )
        return RunSeconds(self._given.num_rows, all_s, self._num_first_rows, first_s)

    def _job_seconds(self, files: Sequence[ShardFile], thumbnails: bool) -> float:
        began = time.perf_counter()
        told = {"bundle": self._given.bundle_uri, "shards": tuple(file.uri for file in files), "device": self._device}
        run_embed_job(EmbedConfig.model_validate({**told, "gallery": self._place(), "thumbnails": thumbnails}))
        return time.perf_counter() - began

    def _place(self) -> str:
        self._number += 1
        return storage.join(self._given.work_uri, f"run-{self._number}")


def _first_part(given: EmbedInput, num_rows: int) -> list[ShardFile]:
    """The first rows as a shard of their own, of as many pieces as keep several workers busy."""
    path = storage.local_path(storage.join(given.work_uri, "first-part", "shard", "train", "part-00000.parquet"))
    path.parent.mkdir(parents=True)
    left = num_rows
    with pq.ParquetWriter(path, shards.read_piece(given.pieces[0]).schema, compression="zstd") as writer:
        for piece in given.pieces:
            table = shards.read_piece(piece).slice(0, left)
            writer.write_table(table, row_group_size=max(1, num_rows // _FIRST_PIECES))
            left -= len(table)
            if not left:
                break
    return shards.list_shards([path.as_posix()])


def _start_cluster() -> None:
    """The cluster of RAY_ADDRESS, else one of as many cores as the network alone has threads, and of two at least: with
    one, the template's network would wait for ever for decoding, and decoding for a core."""
    if os.environ.get("RAY_ADDRESS"):
        cluster.connect()
        return
    import ray

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lance is not fork-safe")  # what Ray forks runs exec at once
        ray.init(
            address="local",
            num_cpus=max(2, torch.get_num_threads()),
            include_dashboard=False,
            logging_level=logging.WARNING,
            _node_ip_address=HOST,
        )
