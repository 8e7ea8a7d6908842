"""Milliseconds of a training step by stage, on the true feed, learner and objective; the job beside a plain loop.

Nothing is rebuilt for the measurement: hooks on the learner's own modules and optimiser tell where a step stands, and
the time since the last of them belongs to the stage that just ended. On CUDA every hook waits for the device, which
costs the overlap of copies and kernels: a step by itself is a little faster than the sum.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from pydantic import Field

from cmir.archive import storage
from cmir.network.augment import VariedBatch
from cmir.network.embedder import Device, resolve_device
from cmir.network.feed import TrainingFeed
from cmir.network.learner import Learner
from cmir.network.new_learner import build_learner
from cmir.network.training import feed_settings
from cmir.network.training_data import read_training_data
from cmir.network.training_settings import Preset, TrainSettings
from jobs import entrypoint
from jobs.benchmarks.material import world_rows, write_archive
from jobs.benchmarks.plain_loop import RateFigures
from jobs.benchmarks.record import BenchmarkConfig, Findings, Run
from jobs.entrypoint import JobResult

_NUM_SCENES: Final = 64
_NUM_UTTERANCES: Final = 48
_STAGES: Final = ("feed wait", "augment", "forward", "backward", "optimiser")


class TrainBenchmark(BenchmarkConfig):
    """Measure training: milliseconds of a step by stage, samples per second, the job beside a plain loop."""

    shards: tuple[str, ...] = Field((), description="Archive, folder or shard; a rendered world otherwise.")
    preset: Preset = Field("all", description="Which modalities are trained.")
    dim: int = Field(128, ge=2, le=4096, description="Components of an embedding.")
    steps: int = Field(20, gt=0, description="Steps to measure.")
    warmup_steps: int = Field(3, ge=0, description="Steps before, which are not counted.")
    device: Device = Field("auto", description="What trains.")
    cache_mb: float = Field(2048, gt=0, description="What a worker may keep decoded, 10^6 bytes.")
    rounds: int = Field(2, gt=0, description="How often the job and each plain loop are measured; the best counts.")
    job_steps: int = Field(100, gt=0, description="Steps of each of these.")
    skip_ray: bool = Field(False, description="Measure in this process only: no job, no plain loop.")


class StageFigures(Findings):
    """One stage of a step; the median would not add up, so these are means."""

    stage: str
    ms_per_step: float
    share: float


class TrainFigures(Findings):
    """The whole step. The first batch waits for the decoding of its window of the archive."""

    num_steps: int
    items_per_step: float
    ms_per_step: float
    median_ms_per_step: float
    samples_per_s: float
    parameters_m: float
    read_s: float
    first_batch_s: float


@dataclass
class _Laps:
    """Seconds by stage, from lap to lap."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    last_s: float = field(default_factory=time.perf_counter)

    def end(self, stage: str) -> float:
        """What passed since the last lap belongs to `stage`; returns it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        passed, self.last_s = now - self.last_s, now
        self.seconds[stage] += passed
        return passed


def run(config: TrainBenchmark) -> JobResult:
    """Prepare, train so many steps, write."""
    with tempfile.TemporaryDirectory(prefix="cmir-benchmark-") as folder:
        with entrypoint.before_work():
            running = Run("train", config)
            device = resolve_device(config.device)
        uris = [storage.absolute(uri) for uri in config.shards]
        if not uris:
            uris = [write_archive(world_rows(_NUM_SCENES, _NUM_UTTERANCES), storage.join(folder, "archive"))]
        settings = TrainSettings(preset=config.preset, dim=config.dim, cache_bytes=int(config.cache_mb * 1e6))
        figures, stages = measure(settings, uris, device, num_steps=config.steps, num_warmup=config.warmup_steps)
        rates: list[RateFigures] = []
        if not config.skip_ray and device.type == "cpu":
            from jobs.benchmarks.training_job import compare  # late: it needs Ray, which the rest does not

            rates += compare(config.preset, config.dim, uris, folder, rounds=config.rounds, num_steps=config.job_steps)
    headline: dict[str, float | None] = {"ms_per_step": figures.ms_per_step, "samples_per_s": figures.samples_per_s}
    if rates:
        headline["job_to_plain_loop"] = rates[0].to_plain_loop
    return running.finish({"step": figures, "stages": stages, "rates": rates}, headline)


def measure(
    settings: TrainSettings, shard_uris: Sequence[str], device: torch.device, *, num_steps: int, num_warmup: int
) -> tuple[TrainFigures, list[StageFigures]]:
    """Train `num_warmup` and then `num_steps` steps; figures of the latter. Raises as `training.fit` does."""
    began = time.perf_counter()
    data = read_training_data(settings, shard_uris)
    read_s = time.perf_counter() - began
    learner = build_learner(settings, data, device)
    assert isinstance(learner, Learner)  # the benchmark trains the contrastive objective
    feed = TrainingFeed(data.catalogue, data.preprocessing, feed_settings(settings))
    laps = _Laps(device)
    hooks = _watch(learner, laps)
    num_all, num_items, steps_s, first_batch_s = num_warmup + num_steps, 0, [], 0.0
    batches = feed.batches(0, lambda batch, step: learner.prepare(batch, step=step, fraction=step / num_all))
    try:
        for step in range(num_all):
            if step == num_warmup:
                laps.seconds.clear()
            step_s, batch, waited_s = _one_step(learner, batches, laps, step, num_all)
            first_batch_s = first_batch_s or waited_s
            if step >= num_warmup:
                steps_s.append(step_s)
                num_items += batch.num_items
    finally:
        batches.close()
        feed.close()
        for hook in hooks:
            hook.remove()
    total_s = sum(laps.seconds.values())
    figures = TrainFigures(
        num_steps=num_steps,
        items_per_step=num_items / num_steps,
        ms_per_step=1000 * total_s / num_steps,
        median_ms_per_step=1000 * sorted(steps_s)[num_steps // 2],
        samples_per_s=num_items / total_s,
        parameters_m=sum(p.numel() for p in learner.net.parameters()) / 1e6,
        read_s=read_s,
        first_batch_s=first_batch_s,
    )
    return figures, [_stage(name, laps.seconds[name], total_s, num_steps) for name in _STAGES]


def _one_step(
    learner: Learner, batches: Any, laps: _Laps, step: int, num_steps: int
) -> tuple[float, VariedBatch, float]:
    """Wait for a batch and learn from it: seconds of both, the batch, seconds of waiting."""
    began = laps.last_s = time.perf_counter()
    batch = next(batches)
    waited_s = laps.end("feed wait")
    learner.step(batch, step=step, fraction=step / num_steps)
    laps.end("optimiser")
    return laps.last_s - began, batch, waited_s


def _watch(learner: Learner, laps: _Laps) -> list[Any]:
    """Hooks that end laps: what lies before the first layer of a tower is augmentation, up to the objective's end it is
    forward, up to the optimiser backward (clipping of gradients included), and the rest of the step the optimiser and
    the average."""
    net = learner.net
    stems = [] if net.image_tower is None else list(net.image_tower.stems.values())
    firsts = [*stems, *([net.speech_tower] if net.speech_tower is not None else [])]
    heads = [getattr(net, name) for name in ("image_head", "speech_head") if hasattr(net, name)]
    hooks: list[Any] = []
    for module in firsts:
        hooks.append(module.register_forward_pre_hook(lambda module, inputs: _nothing(laps.end("augment"))))
    for module in [*stems, *heads, learner.objective]:
        hooks.append(module.register_forward_hook(lambda module, inputs, output: _nothing(laps.end("forward"))))
    first = learner.optimizer.adamw
    hooks.append(first.register_step_pre_hook(lambda optimizer, args, kwargs: _nothing(laps.end("backward"))))
    return hooks


def _nothing(seconds: float) -> None:
    """What a hook returns that changes nothing."""


def _stage(name: str, seconds: float, total_s: float, num_steps: int) -> StageFigures:
    return StageFigures(stage=name, ms_per_step=1000 * seconds / num_steps, share=seconds / total_s)
