"""The training job on a cluster beside plain loops over the same archive: samples per second of each."""

import os
from collections.abc import Sequence

from cmir.archive import storage
from cmir.network.training_settings import Preset, TrainSettings
from jobs import cluster, train
from jobs.benchmarks.plain_loop import PlainLoop, RateFigures


def compare(
    preset: Preset, dim: int, shard_uris: Sequence[str], folder: str, *, rounds: int, num_steps: int
) -> list[RateFigures]:
    """The training job beside plain loops with all the ways to use these cores, by turns; chips have their whole size.

    The job's samples per second are those it says itself: steps and waiting for batches, without the cluster's start.
    """
    settings = TrainSettings(preset=preset, dim=dim, growth=(), max_minutes=60.0)
    cores = len(os.sched_getaffinity(0))
    loops = {PlainLoop(0, cores), *(PlainLoop(loaders, threads) for loaders in (1, cores) for threads in (1, cores))}
    plain = {f"plain loop, {loop.num_loaders} loaders, {loop.num_threads} threads": loop for loop in loops}
    best: dict[str, float] = {}
    for number in range(rounds):
        rate = job_samples_per_s(settings, shard_uris, num_steps, storage.join(folder, f"job-{number}"))
        best["training job"] = max(best.get("training job", 0.0), rate)
        for name, loop in sorted(plain.items()):
            best[name] = max(best.get(name, 0.0), loop.samples_per_s(settings, shard_uris, num_steps))
    plain_rate = max(rate for name, rate in best.items() if name in plain)
    return [RateFigures(way=name, samples_per_s=rate, to_plain_loop=rate / plain_rate) for name, rate in best.items()]


def job_samples_per_s(settings: TrainSettings, shard_uris: Sequence[str], num_steps: int, output_uri: str) -> float:
    """What jobs/train.py says of its own speed, on its own cluster."""
    cluster.connect(for_training=True)
    told = {"shards": tuple(shard_uris), "output": output_uri, "preset": settings.preset, "dim": settings.dim}
    config = train.TrainConfig.model_validate(told)
    changed = settings.model_copy(update={"max_steps": num_steps})
    return float(train.train_group(config, changed, output_uri)["speed"]["samples_per_s"])
