"""A bundle and shards become figures: every direction between the modalities of the held-out items, as report.json and
report.html, with chance, the ranking without learning and the ceiling beside each figure."""

if __name__ == "__main__":  # before anything that jobs/ could shadow is imported
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cmir.archive import shards
from cmir.archive.output import Output
from cmir.archive.schema import SPLITS
from cmir.archive.storage import absolute, delete_tree, join
from cmir.errors import ConfigError, DataError
from cmir.evaluation import collection
from cmir.evaluation.collection import Advance, PieceRows, Rejected
from cmir.evaluation.figures import Report
from cmir.evaluation.listening import listen_items
from cmir.evaluation.measurement import Evaluation, evaluate
from cmir.evaluation.naming import HeardItems
from cmir.evaluation.page import FAILURES_NAME, shown_items
from cmir.evaluation.protocol import Prototypes, Relevance, check_relevance
from cmir.evaluation.report import HTML_NAME, JSON_NAME, summary_table, write_report
from cmir.network.bundle import read_train_scenes
from cmir.network.ear_opening import open_ear_of
from cmir.network.embedder import Embedder
from cmir.network.second_ear import SecondEar
from jobs import entrypoint
from jobs.entrypoint import JobConfig, JobResult

log = logging.getLogger("cmir")


class EvaluateConfig(JobConfig):
    """Measure a bundle on held-out shards: every direction between their modalities."""

    bundle: str = Field(description="Trained bundle.")
    shards: tuple[str, ...] = Field(min_length=1, description="Archive, folder or shard; may be given several times.")
    output: str = Field(description="Where report.json and report.html go; must not exist yet.")
    query_split: str = Field("test", description="Splits the queries are taken from, as a,b.")
    gallery_split: str = Field("test", description="Splits the gallery is made of, as a,b.")
    relevance: Relevance = Field("labels", description="What makes an answer right.")
    compare: str | None = Field(None, description="Another bundle, measured on the same items and set beside it.")
    second_ear: str | None = Field(
        None, description="Recogniser reported beside the speech tower: pocketsphinx, a folder or a hub id."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the network runs.")
    seed: int = Field(0, description="Seed of the bootstrap intervals and of the map of the space.")
    resume: bool = Field(False, description="Go on with a partial output of the same command.")
    overwrite: bool = Field(False, description="Replace an existing output once the new one is whole.")

    @field_validator("query_split", "gallery_split")
    @classmethod
    def _known_splits(cls, value: str) -> str:
        unknown = sorted(set(_names(value)) - set(SPLITS))
        if unknown or not _names(value):
            raise ValueError(f"unknown split {', '.join(unknown)}; known: {', '.join(SPLITS)}")
        return ",".join(_names(value))


@dataclass(frozen=True)
class _Plan:
    """What will be measured: the bundles, opened, and the items, listed."""

    embedder: Embedder
    compared: Embedder | None
    listed: list[PieceRows]
    left_out: tuple[str, ...]
    output: Output
    ear: SecondEar | None

    @property
    def num_items(self) -> int:
        """Items to embed, once for each bundle."""
        known = [self.embedder.modalities, self.compared.modalities if self.compared else ()]
        return sum(len(rows.rows) for modalities in known for rows in self.listed if rows.modality in modalities)


def run(config: EvaluateConfig) -> JobResult:
    """List, check, embed, measure, write."""
    with entrypoint.before_work():
        plan = _plan(config)
    work_uri = join(plan.output.working_uri, "_embedded")
    with _progress(plan.num_items) as advance:
        heard = None
        if plan.ear is not None:
            splits = _names(config.query_split)
            heard = HeardItems(plan.ear.name, listen_items(plan.listed, plan.ear, splits=splits, work_uri=work_uri))
        evaluation, rejected = _evaluate(config, config.bundle, plan.embedder, plan, work_uri, advance, heard)
        compared = None
        if plan.compared is not None and config.compare is not None:
            compared, _ = _evaluate(config, config.compare, plan.compared, plan, work_uri, advance)
    pictures = collection.pictures(plan.listed, shown_items(evaluation))
    report = write_report(evaluation, plan.output.working_uri, pictures=pictures, compared=compared)
    if rejected:
        entries = [(item.source_uri, item.item_id, item.reason, None) for item in rejected]
        table = shards.quarantine_table(entries)
        shards.write_quarantine(table, join(plan.output.working_uri, "_quarantine", "rejected.parquet"))
    delete_tree(work_uri)
    plan.output.finish()
    if not report.asked:
        log.warning("no query of any direction has a right answer in the gallery: there is nothing to rank")
    Console(stderr=True).print(summary_table(report))
    outputs = {name: join(plan.output.uri, name) for name in (JSON_NAME, HTML_NAME, FAILURES_NAME)}
    counts = {"num_items": sum(report.num_items.values()), "num_items_rejected": len(rejected)}
    details: dict[str, Any] = {
        "space_id": report.space_id,
        "map": {name: found.map for name, found in report.directions.items()},
    }
    if report.met_in_training:
        met = report.met_in_training.items()
        details["trained_on"] = {name: share.model_dump() for name, share in met}
        log.warning("the bundle was trained on ground or voices of these items: %s", _shares(report))
    return JobResult({"evaluation": plan.output.uri, **outputs}, {**counts}, details)


def _plan(config: EvaluateConfig) -> _Plan:
    splits = {*_names(config.query_split), *_names(config.gallery_split)}
    files = shards.list_shards(config.shards, splits=splits)
    embedder = Embedder.open(config.bundle, device=config.device)
    compared = Embedder.open(config.compare, device=config.device) if config.compare else None
    present = {file.modality for file in files}
    left_out = tuple(sorted(present - set(embedder.modalities)))
    files = [file for file in files if file.modality in embedder.modalities]
    if left_out:
        log.warning("the bundle has no tower for %s: left out", ", ".join(left_out))
    for flag, wanted in (("--query-split", config.query_split), ("--gallery-split", config.gallery_split)):
        if not any(file.num_rows for file in files if file.split in _names(wanted)):
            raise ConfigError(
                f"no items in {flag} {wanted}",
                seen=f"only {', '.join(left_out)}" if left_out else "none",
                expected=f"items of {', '.join(embedder.modalities)}",
                where=", ".join(config.shards),
                fix=f"choose other --shards or another {flag}",
            )
    listed = collection.list_items(files)
    check_relevance(collection.metadata_of(listed), config.relevance)
    if compared is not None:
        _check_compared(config, listed, compared)
    ear = None
    if config.second_ear is not None:
        ear = open_ear_of(config.second_ear, embedder.bundle.config, device=embedder.device)
    settings = config.model_dump(mode="json", exclude={"resume", "overwrite"})
    output = Output.claim(config.output, settings, resume=config.resume, overwrite=config.overwrite)
    return _Plan(embedder, compared, listed, left_out, output, ear)


def _check_compared(config: EvaluateConfig, listed: list[PieceRows], compared: Embedder) -> None:
    """Refuse to compare with a bundle that can answer none of it."""
    shared = [rows for rows in listed if rows.modality in compared.modalities]
    if not shared:
        raise ConfigError(
            "nothing to compare: the other bundle has no tower for any of the items",
            seen=", ".join(compared.modalities),
            expected="one of " + ", ".join(sorted({rows.modality for rows in listed})),
            where=compared.bundle.uri,
            fix="choose another --compare",
        )
    check_relevance(collection.metadata_of(shared), config.relevance)


def _evaluate(
    config: EvaluateConfig,
    bundle: str,
    embedder: Embedder,
    plan: _Plan,
    work_uri: str,
    advance: Advance,
    heard: HeardItems | None = None,
) -> tuple[Evaluation, list[Rejected]]:
    items, rejected = collection.embed_items(plan.listed, embedder, work_uri=work_uri, advance=advance)
    if rejected:
        log.warning("%d items could not be embedded, the first: %s", len(rejected), rejected[0].reason)
    try:
        check_relevance(items.metadata, config.relevance)
    except ConfigError as error:  # it passed before the bad items were left out
        first = f", the first: {rejected[0].reason}" if rejected else ""
        raise DataError(
            f"nothing is left to judge by with relevance {config.relevance}",
            seen=f"{len(rejected)} items could not be embedded{first}",
            expected="readable items of modalities and bands the bundle knows",
        ) from error
    evaluation = evaluate(
        items,
        space_id=embedder.space_id,
        bundle_uri=absolute(bundle),
        relevance=config.relevance,
        query_splits=_names(config.query_split),
        gallery_splits=_names(config.gallery_split),
        prototypes=_prototypes(embedder),
        num_rejected=len(rejected),
        modalities_left_out=plan.left_out,
        seed=config.seed,
        heard=heard,
        train_scenes=read_train_scenes(embedder.bundle.uri, embedder.bundle.config),
    )
    return evaluation, rejected


def _shares(report: Report) -> str:
    told = report.met_in_training.items()
    return ", ".join(f"{name} {share.queries:.1%} of queries, {share.gallery:.1%} of gallery" for name, share in told)


def _prototypes(embedder: Embedder) -> Prototypes | None:
    if not embedder.labels:
        return None
    return Prototypes(embedder.labels, embedder.prototypes, embedder.bundle.config.heard_threshold)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@contextmanager
def _progress(num_items: int) -> Iterator[Advance]:
    """A bar of items embedded, on stderr."""
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("embedding", total=num_items)
        yield lambda num_rows: progress.advance(task, num_rows)


if __name__ == "__main__":
    entrypoint.main("evaluate", EvaluateConfig, run)
