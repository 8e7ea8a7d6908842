"""The comparison with the published CMIR-NET: its tables, trained and measured here, beside the published figures.

For PAN and MS, and for image and speech: objective `cmirnet` at the three published dimensions, each of its terms left
out (PAN to MS, the largest dimension), alpha 0 and 2 (image and speech), and objective `contrastive` at the largest
dimension, every one with the same split, seed and budget. A run is recorded when it ends; the same command goes on
where it was interrupted. What differs from what was published is said beside the tables (paper_tables.py).
"""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from pydantic import Field, ValidationError

from cmir.archive import storage
from cmir.archive.schema import Split
from cmir.archive.shards import ShardFile, list_shards
from cmir.archive.sources.synthetic import SyntheticSource
from cmir.errors import ConfigError
from cmir.evaluation.collection import embed_items, list_items, metadata_of
from cmir.evaluation.figures import DirectionFigures
from cmir.evaluation.measurement import evaluate
from cmir.evaluation.protocol import Relevance, check_relevance
from cmir.network.embedder import Device, Embedder, resolve_device
from cmir.network.training import FitResult, fit
from cmir.network.training_settings import Preset, TrainSettings, chosen_modalities, weight_settings
from jobs import entrypoint
from jobs.benchmarks import paper_tables
from jobs.benchmarks.material import write_divided_archive
from jobs.benchmarks.paper_tables import DIRECTIONS, RunFigures, Scenario
from jobs.benchmarks.record import BenchmarkConfig, Findings, Record, Run
from jobs.entrypoint import JobResult

log = logging.getLogger("cmir")

DIMS: Final[dict[Scenario, tuple[int, int, int]]] = {"pan-ms": (16, 32, 64), "image-speech": (32, 64, 128)}
RELEVANCE: Final[dict[Scenario, Relevance]] = {"pan-ms": "class", "image-speech": "labels"}
ABLATIONS: Final = ("latent", "decoder", "classifier", "norm", "regulariser", "orthogonality")
ALPHAS: Final = (0.0, 2.0)  # beside the default, 1
_PUBLISHED_BATCH: Final = 64  # PAPER, section 2
_NUM_SCENES: Final = 160
_NUM_VOICES: Final = 8


class PaperBenchmark(BenchmarkConfig):
    """Measure the published CMIR-NET, with all its terms and without each, beside its published figures and ours."""

    output: str = Field(description="JSON file for the figures; what it holds of the same runs is not run again.")
    shards: tuple[str, ...] = Field(
        (), description="Archive of pan and ms with classes, of rgb and speech; a generated world otherwise."
    )
    preset: Preset = Field("all", description="Which tables: PAN and MS, image and speech, or what the shards allow.")
    max_minutes: float = Field(17.0, gt=0, description="Minutes of each training.")
    max_steps: int | None = Field(None, ge=1, description="End each training after so many steps.")
    chip_size_px: int | None = Field(
        None, ge=16, le=256, description="Side of what cmirnet sees, where the published 256 (MS 64) is too slow."
    )
    query_split: Split = Field("test", description="Split of the queries of PAN and MS.")
    gallery_split: Split = Field("test", description="Split of their gallery; DSRSID's protocol: train.")
    device: Device = Field("auto", description="What trains.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every training.")


@dataclass(frozen=True)
class PlannedRun:
    """One training and what it stands for: `without` the ablated term, `alpha` where it is not the default."""

    scenario: Scenario
    settings: TrainSettings
    without: str | None = None
    alpha: float | None = None

    @property
    def name(self) -> str:
        changed = (
            f" without {self.without}" if self.without else f" alpha {self.alpha:g}" if self.alpha is not None else ""
        )
        return f"{self.scenario} {self.settings.objective} {self.settings.dim}{changed}"


@dataclass(frozen=True)
class Protocol:
    """What a run is measured on: files of the scenario's modalities, and the splits of queries and gallery."""

    files: tuple[ShardFile, ...]
    query_split: Split
    gallery_split: Split


def run(config: PaperBenchmark) -> JobResult:
    """Plan, train and measure what is not recorded yet, write after each, print the tables."""
    with tempfile.TemporaryDirectory(prefix="cmir-benchmark-") as folder:
        with entrypoint.before_work():
            running = Run("paper", config)
            device = resolve_device(config.device)
            uris = [storage.absolute(uri) for uri in config.shards]
            recorded = _recorded(config.output)
        if not uris:
            world = SyntheticSource(scenes=_NUM_SCENES, voices=_NUM_VOICES, seed=config.seed)
            uris = [write_divided_archive(world, storage.join(folder, "world"))]
        with entrypoint.before_work():
            protocols = {name: protocol_of(config, name, uris) for name in scenarios(config.preset, uris)}
        rows: list[RunFigures] = []
        for found in _runs(config, protocols, uris, recorded, device, folder):
            rows += found
            kept = {row.key for row in rows}
            running.write({"runs": [*rows, *(row for row in recorded if row.key not in kept)]})
        data = [paper_tables.data_of(name, protocol.files) for name, protocol in protocols.items()]
    tables: dict[str, Sequence[Findings]] = {"data": data, **paper_tables.tables_of(rows)}
    return running.finish({"runs": rows, **tables}, paper_tables.headline_of(rows), shown=tables)


def _runs(
    config: PaperBenchmark,
    protocols: Mapping[Scenario, Protocol],
    uris: Sequence[str],
    recorded: Sequence[RunFigures],
    device: torch.device,
    folder: str,
) -> Iterator[list[RunFigures]]:
    """The rows of each run in turn, from the file where it holds them."""
    planned = [one for scenario in protocols for one in planned_runs(config, scenario)]
    for number, one in enumerate(planned, 1):
        key = key_of(one, protocols[one.scenario])
        found = [row for row in recorded if row.key == key]
        log.info("run %d of %d: %s%s", number, len(planned), one.name, ", recorded before" if found else "")
        if not found:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                found = list(measure(one, protocols[one.scenario], uris, device, key, place))
        yield found


def scenarios(preset: Preset, uris: Sequence[str]) -> list[Scenario]:
    """The scenarios to run. Raises ConfigError where the shards lack a modality that the preset needs."""
    present = {file.modality for file in list_shards(uris, splits=["train"]) if file.num_rows}
    if preset != "all":
        chosen_modalities(preset, tuple(present))
        return [preset]
    found = [name for name, modalities in paper_tables.MODALITIES_OF.items() if set(modalities) <= present]
    if not found:
        expected = "pan and ms, or rgb and speech, in split train"
        raise ConfigError("nothing to compare", seen=", ".join(sorted(present)) or "none", expected=expected)
    return found


def protocol_of(config: PaperBenchmark, scenario: Scenario, uris: Sequence[str]) -> Protocol:
    """What the scenario is measured on. Raises ConfigError where a split is empty or carries nothing to judge by."""
    splits: tuple[Split, Split] = ("test", "test")
    if scenario == "pan-ms":
        splits = (config.query_split, config.gallery_split)
    files = tuple(list_shards(uris, modalities=paper_tables.MODALITIES_OF[scenario]))
    for split in splits:
        here = [file for file in files if file.split == split and file.num_rows]
        if {file.modality for file in here} != set(paper_tables.MODALITIES_OF[scenario]):
            seen, expected = sorted({file.modality for file in here}), paper_tables.MODALITIES_OF[scenario]
            raise ConfigError(f"no items of {scenario} in split {split}", seen=seen, expected=expected)
        check_relevance(metadata_of(list_items(here)), RELEVANCE[scenario])
    return Protocol(files, *splits)


def planned_runs(config: PaperBenchmark, scenario: Scenario) -> Iterator[PlannedRun]:
    """The published network by dimension, our objective, then what was changed about the published one."""
    largest = DIMS[scenario][-1]
    for dim in DIMS[scenario]:
        yield PlannedRun(scenario, published_settings(config, scenario, dim))
    ours = {"preset": scenario, "objective": "contrastive", "dim": largest, **_budget(config)}
    yield PlannedRun(scenario, TrainSettings.model_validate(ours))
    if scenario == "pan-ms":
        for term in ABLATIONS:
            yield PlannedRun(scenario, published_settings(config, scenario, largest, ablate=term), without=term)
    else:
        for alpha in ALPHAS:
            changed = weight_settings("cmirnet", {"alpha": alpha})
            yield PlannedRun(scenario, published_settings(config, scenario, largest, **changed), alpha=alpha)


def published_settings(config: PaperBenchmark, scenario: Scenario, dim: int, **changed: object) -> TrainSettings:
    """The published network with the published batch."""
    values: dict[str, object] = {
        "preset": scenario,
        "objective": "cmirnet",
        "dim": dim,
        "grounds_per_batch": _PUBLISHED_BATCH,
        "utterances_per_batch": _PUBLISHED_BATCH,
        **_budget(config),
        **changed,
    }
    if config.chip_size_px is not None:
        side_px = config.chip_size_px
        values["chip_size_px"] = {"pan": side_px, "ms": min(side_px, 64), "rgb": side_px}
    return TrainSettings.model_validate(values)


def measure(
    planned: PlannedRun, protocol: Protocol, uris: Sequence[str], device: torch.device, key: str, folder: str
) -> Iterator[RunFigures]:
    """Train below `folder`, embed the scenario's items and measure its directions. Raises as `training.fit`."""
    bundle = storage.join(folder, "bundle")
    result = fit(planned.settings, uris, bundle, device=device)
    embedder = Embedder.open(bundle, device="cuda" if device.type == "cuda" else "cpu")
    chosen = [file for file in protocol.files if file.split in (protocol.query_split, protocol.gallery_split)]
    work = storage.join(folder, "embedded")
    items, _ = embed_items(list_items(chosen), embedder, work_uri=work, advance=lambda num_rows: None)
    evaluation = evaluate(
        items,
        space_id=embedder.space_id,
        relevance=RELEVANCE[planned.scenario],
        query_splits=[protocol.query_split],
        gallery_splits=[protocol.gallery_split],
    )
    for direction in DIRECTIONS[planned.scenario]:
        if direction in evaluation.report.directions:
            yield _figures(planned, direction, evaluation.report.directions[direction], result, key)


def _figures(planned: PlannedRun, direction: str, found: DirectionFigures, result: FitResult, key: str) -> RunFigures:
    return RunFigures(
        scenario=planned.scenario,
        objective=planned.settings.objective,
        dim=planned.settings.dim,
        without=planned.without,
        alpha=planned.alpha,
        direction=direction,
        num_queries=found.num_queries,
        gallery_size=found.gallery_size,
        map=found.map,
        map_ci95=found.map_ci95,
        mean_precision_at_k=found.mean_precision_at_k,
        precision_at_10=found.precision_at.get("10"),
        chance_map=found.chance_map,
        ceiling_map=found.ceiling.map,
        ceiling_mean_precision_at_k=found.ceiling.mean_precision_at_k,
        ceiling_precision_at_10=found.ceiling.precision_at.get("10"),
        baseline_map=found.baseline.map if found.baseline else None,
        validation_score=result.figures.get("score"),
        num_steps=result.num_steps,
        seconds=round(result.seconds, 1),
        key=key,
    )


def _budget(config: PaperBenchmark) -> dict[str, object]:
    return {"max_minutes": config.max_minutes, "max_steps": config.max_steps, "seed": config.seed}


def key_of(planned: PlannedRun, protocol: Protocol) -> str:
    """Names a run by all that decides it: settings, the content of the shards, the splits."""
    shards = sorted((file.modality, file.split, file.version) for file in protocol.files)
    told = [planned.settings.model_dump(mode="json"), shards, protocol.query_split, protocol.gallery_split]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _recorded(output: str) -> list[RunFigures]:
    """What a file of an earlier start holds; nothing where there is none, or another benchmark's."""
    if not storage.exists(output):
        return []
    try:
        figures = Record.model_validate_json(storage.read_bytes(output)).figures
        rows = figures.get("runs") or []
        return [RunFigures.model_validate(row) for row in rows] if isinstance(rows, list) else []
    except ValidationError:
        return []
