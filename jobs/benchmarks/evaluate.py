"""Seconds and memory of an evaluation of full size, 5,000 queries in a gallery of 75,000 as on DSRSID, all synthetic.

Ranking is measured on drawn vectors around class centres, the thumbnails' baseline included; with --chips the whole job
as well, on an archive of chips of DSRSID's sizes and a small untrained network: what a network costs is another
benchmark's (embed). What the rankings find says nothing. Peaks are of the process, imports included.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pydantic import Field

from cmir.archive import storage
from cmir.archive.imagery import raw_media
from cmir.archive.schema import SHARD_SCHEMA, Modality, ShardRow, Split, make_group_id, make_item_id
from cmir.archive.sensors import GF1_PMS
from cmir.archive.shards import ShardFileWriter
from cmir.archive.sources.dsrsid import LAND_COVERS, MS_BANDS
from cmir.errors import CmirError
from cmir.evaluation import baseline, metrics
from cmir.evaluation.collection import F32
from cmir.evaluation.measurement import evaluate
from cmir.evaluation.protocol import ITEM_COLUMNS, Items, Judge, Scorer, directions
from cmir.network.training_settings import TrainSettings
from jobs import entrypoint
from jobs.benchmarks.material import untrained_bundle
from jobs.benchmarks.record import BenchmarkConfig, Findings, Run
from jobs.entrypoint import JobResult

_SPREAD: Final = 1.5  # deviation within a class, in that of the centres: classes overlap
_CHIPS: Final[dict[Modality, tuple[tuple[str, ...], int, float]]] = {
    "pan": (("pan",), 256, 2.0),
    "ms": (MS_BANDS, 64, 8.0),
}
_NUM_LOOKS: Final = 2  # different chips of a class
_FIELD_PX: Final = 8  # side of fields of one value, so that 80,000 pairs take little disk
_SMALL: Final = TrainSettings(preset="pan-ms", dim=64, image_width=64, image_depths=(1,))


class EvaluateBenchmark(BenchmarkConfig):
    """Measure an evaluation of full size, on synthetic data: seconds and peak memory."""

    num_queries: int = Field(5_000, gt=0, description="Pairs that ask.")
    gallery_size: int = Field(75_000, gt=0, description="Pairs that answer.")
    dim: int = Field(64, ge=2, le=4096, description="Components of an embedding.")
    chips: bool = Field(False, description="Also the whole job, on an archive of that many synthetic chips.")
    seed: int = Field(0, ge=0, description="Seed of what is drawn.")


class EvaluationStep(Findings):
    """What was done, and the highest memory of the process that did it, up to then."""

    step: str
    num_queries: int
    gallery_size: int
    seconds: float
    ms_per_query: float
    peak_memory_gb: float


def run(config: EvaluateBenchmark) -> JobResult:
    """Draw, rank, write; with chips the job too."""
    with entrypoint.before_work():
        running = Run("evaluate", config)
    steps = list(ranking_steps(config))
    if config.chips:
        with tempfile.TemporaryDirectory(prefix="cmir-benchmark-") as folder:
            steps.append(job_step(config, folder))
    headline = {"seconds_evaluation": steps[1].seconds, "peak_memory_gb": steps[-1].peak_memory_gb}
    return running.finish({"synthetic_evaluation": steps}, headline)


def ranking_steps(config: EvaluateBenchmark) -> Iterator[EvaluationStep]:
    """One direction ranked, then all four with their figures and the baseline's."""
    items = drawn_items(config)
    direction = next(one for one in directions(items, "class", ["test"], ["train"]) if one.name == "pan_to_ms")
    ids = [items.columns["item_id"][index] for index in direction.gallery]
    began = time.perf_counter()
    score, gain = Scorer(items.vectors, direction), Judge(items, direction, "class")
    metrics.measure(score, gain, item_ids=ids, own=direction.own)
    yield _step(config, "rank pan_to_ms", began, 1, resource.RUSAGE_SELF)
    began = time.perf_counter()
    evaluation = evaluate(
        items, space_id="s0", relevance="class", query_splits=["test"], gallery_splits=["train"], seed=config.seed
    )
    num_rankings = 2 * len(evaluation.results)  # the baseline's too
    yield _step(config, "figures of all directions, with baseline", began, num_rankings, resource.RUSAGE_SELF)


def job_step(config: EvaluateBenchmark, folder: str) -> EvaluationStep:
    """`jobs/evaluate.py` as a process of its own. Raises CmirError where it fails."""
    archive = chip_archive(config, storage.join(folder, "archive"))
    bundle = untrained_bundle(storage.join(folder, "bundle"), [archive], _SMALL)
    command = [sys.executable, "-m", "jobs.evaluate", "--bundle", bundle, "--shards", archive, "--relevance", "class"]
    command += ["--gallery-split", "train", "--output", storage.join(folder, "evaluation")]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise CmirError("evaluate ended with an error", seen=done.stdout.strip() or f"exit {done.returncode}")
    return _step(config, "evaluate.py on chips", began, 8, resource.RUSAGE_CHILDREN)


def drawn_items(config: EvaluateBenchmark) -> Items:
    """PAN and MS of as many pairs, classes in turn, queries in split test and gallery in train."""
    draw = np.random.default_rng(config.seed)
    num_pairs = config.num_queries + config.gallery_size
    place = np.arange(num_pairs) % len(LAND_COVERS)
    columns: dict[str, list[Any]] = {name: [] for name in ITEM_COLUMNS}
    for modality in _CHIPS:
        columns["item_id"] += [make_item_id("benchmark", str(pair), modality) for pair in range(num_pairs)]
        columns["modality"] += [modality] * num_pairs
        columns["split"] += [_split_of(config, pair) for pair in range(num_pairs)]
        columns["labels"] += [[]] * num_pairs
        columns["scene_class"] += [LAND_COVERS[code] for code in place]
        columns["pair_id"] += [make_group_id("benchmark pair", str(pair)) for pair in range(num_pairs)]
        columns["scene_id"] += [make_group_id("benchmark scene", str(pair)) for pair in range(num_pairs)]
        columns["sensor"] += [GF1_PMS.name] * num_pairs
        for name in ("attributes", "bbox", "window"):
            columns[name] += [None] * num_pairs
    classes = np.concatenate([place, place])
    vectors, grey = (_around_centres(draw, classes, dim) for dim in (config.dim, baseline.NUM_VALUES))
    arrays = {name: pa.array(columns[name], SHARD_SCHEMA.field(name).type) for name in ITEM_COLUMNS}
    return Items(pa.table(arrays), vectors, grey)


def chip_archive(config: EvaluateBenchmark, uri: str) -> str:
    """An archive of paired chips in the sizes of DSRSID, few different ones under as many ids; returns its URI."""
    draw = np.random.default_rng(config.seed)
    for modality, (bands, side_px, _) in _CHIPS.items():
        shape = (len(LAND_COVERS) * _NUM_LOOKS, len(bands), side_px // _FIELD_PX, side_px // _FIELD_PX)
        looks = draw.integers(0, 256, shape, dtype=np.uint8).repeat(_FIELD_PX, axis=2).repeat(_FIELD_PX, axis=3)
        writers: dict[Split, ShardFileWriter] = {}
        for pair in range(config.num_queries + config.gallery_size):
            split = _split_of(config, pair)
            if split not in writers:
                writers[split] = ShardFileWriter(storage.join(uri, modality, split, "part-00000.parquet"), split)
            writers[split].add(_chip_row(pair, modality, looks[pair % len(looks)]))
        for writer in writers.values():
            writer.close()
    return uri


def _chip_row(pair: int, modality: Modality, pixels: np.ndarray) -> ShardRow:
    bands, _, gsd_m = _CHIPS[modality]
    return ShardRow(
        item_id=make_item_id("benchmark", str(pair), modality),
        media=raw_media(modality, pixels, bands=bands, sensor=GF1_PMS.name, gsd_m=gsd_m),
        scene_id=make_group_id("benchmark", str(pair)),
        source_uri=f"synthetic:{pair}",
        scene_class=LAND_COVERS[pair % len(LAND_COVERS)],
        pair_id=make_group_id("benchmark pair", str(pair)),
    )


def _split_of(config: EvaluateBenchmark, pair: int) -> Split:
    return "test" if pair < config.num_queries else "train"


def _around_centres(draw: np.random.Generator, classes: np.ndarray, dim: int) -> F32:
    """Unit vectors f32[N,dim] around the centres of their classes."""
    centres = draw.standard_normal((len(LAND_COVERS), dim), dtype=np.float32)
    vectors = centres[classes] + draw.standard_normal((len(classes), dim), dtype=np.float32) * _SPREAD
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def _step(config: EvaluateBenchmark, name: str, began_s: float, num_rankings: int, who: int) -> EvaluationStep:
    seconds = time.perf_counter() - began_s
    return EvaluationStep(
        step=name,
        num_queries=config.num_queries,
        gallery_size=config.gallery_size,
        seconds=seconds,
        ms_per_query=1000 * seconds / (config.num_queries * num_rankings),
        peak_memory_gb=resource.getrusage(who).ru_maxrss * 1024 / 1e9,  # Linux counts in KiB
    )
