"""The embedding job on a cluster and the template beside it, timed: rows per second once workers have started."""

import logging
import os
import time
import warnings
from collections.abc import Sequence

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


class Runs:
    """The embedding job and the template over the same rows, on one cluster: over one row first, then over all.

    The difference is the rows', without the workers' start.
    """

    def __init__(self, given: EmbedInput, device: Device) -> None:
        self._given, self._device, self._number = given, device, 0
        began = time.perf_counter()
        _start_cluster()
        self.cluster_start_s = time.perf_counter() - began
        one = storage.join(given.work_uri, "one-row", "shard", "train", "part-00000.parquet")
        storage.local_path(one).parent.mkdir(parents=True)
        pq.write_table(shards.read_piece(given.pieces[0]).slice(0, 1), storage.local_path(one))
        self._one_row = shards.list_shards([one])

    def job(self, *, thumbnails: bool) -> RunSeconds:
        """The embedding job, Parquet to committed table."""
        for_one_s = self._job_seconds(self._one_row, thumbnails)
        return RunSeconds(self._given.num_rows, self._job_seconds(self._given.files, thumbnails), for_one_s)

    def template(self) -> RunSeconds:
        """The template, Parquet to appended rows."""
        actors = torch.get_num_threads()
        for_one_s = embed_by_template(self._given.bundle_uri, self._one_row, self._place(), actors, self._device)
        seconds = embed_by_template(self._given.bundle_uri, self._given.files, self._place(), actors, self._device)
        return RunSeconds(self._given.num_rows, seconds, for_one_s)

    def _job_seconds(self, files: Sequence[ShardFile], thumbnails: bool) -> float:
        began = time.perf_counter()
        told = {"bundle": self._given.bundle_uri, "shards": tuple(file.uri for file in files), "device": self._device}
        run_embed_job(EmbedConfig.model_validate({**told, "gallery": self._place(), "thumbnails": thumbnails}))
        return time.perf_counter() - began

    def _place(self) -> str:
        self._number += 1
        return storage.join(self._given.work_uri, f"run-{self._number}")


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
