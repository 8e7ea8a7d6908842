"""A filled gallery becomes a searchable one: indexed, tuned to a target recall, published, rolled back, kept in order.

Runs in this process, without Ray: Lance's own threads do the work. What was tried is printed to stderr as a table.
"""

if __name__ == "__main__":  # before anything that jobs/ could shadow is imported
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from dataclasses import asdict

from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Column, Table

from cmir.archive.storage import join
from cmir.errors import ConfigError, GalleryError
from cmir.gallery import publish, tuning, upkeep
from cmir.gallery.publish import POINTER_NAME, Pointer
from cmir.gallery.table import Gallery, SpaceTable
from cmir.gallery.thumbnails import table_uri as thumbnails_uri
from jobs import entrypoint
from jobs.entrypoint import JobConfig, JobResult

LOG_WIDTH = 160  # characters of a table that goes to a log
_ACTIONS = ("publish", "rollback", "status", "check", "clean")


class IndexConfig(JobConfig):
    """Index a gallery so that it meets a target recall; publish it, roll it back, or look after it."""

    gallery: str = Field(description="Gallery that jobs/embed.py filled.")
    space: str | None = Field(None, description="Space to work on; needed where the gallery holds several.")
    target_recall: float = Field(0.99, gt=0, le=1, description="recall@10 against exact search, in every case.")
    publish: bool = Field(False, description="Build, tune, and serve the result from now on.")
    no_build: bool = Field(False, description="With --publish: take the index that stands, exact search without one.")
    rollback: bool = Field(False, description="Serve what was served before.")
    status: bool = Field(False, description="Print the spaces, their versions, rows, recall, age and size.")
    check: bool = Field(False, description="Look for item_ids that stand more than once.")
    clean: bool = Field(False, description="Remove old versions and files that nobody reads.")

    @model_validator(mode="after")
    def _one_action(self) -> "IndexConfig":
        asked = [name for name in _ACTIONS if getattr(self, name)]
        if len(asked) > 1:
            raise ValueError(f"one at a time: --{' or --'.join(asked)}")
        if self.no_build and not self.publish:
            raise ValueError("--no-build goes with --publish")
        return self


def run(config: IndexConfig) -> JobResult:
    """Do the one thing the flags ask for; building and tuning without publishing where they ask for none."""
    with entrypoint.before_work():
        gallery = Gallery.open(config.gallery)
    if config.rollback:
        return _roll_back(gallery.uri)
    if config.status:
        return _status(gallery.uri)
    if config.check:
        return _check(gallery.uri, [gallery.space(name) for name in _spaces(gallery, config.space)])
    if config.clean:
        return _clean(gallery)
    chosen = _spaces(gallery, config.space)
    if len(chosen) > 1:
        raise ConfigError("--space is missing", seen=f"{len(chosen)} spaces", expected=f"one of {', '.join(chosen)}")
    return _index(config, gallery.space(chosen[0]))


def _spaces(gallery: Gallery, asked: str | None) -> list[str]:
    known = gallery.space_ids()
    if asked is not None and asked not in known:
        raise ConfigError("--space is not in the gallery", seen=asked, expected=", ".join(known), where=gallery.uri)
    return [asked] if asked else known


def _index(config: IndexConfig, space: SpaceTable) -> JobResult:
    if not space.count_rows():
        raise ConfigError("the space holds no rows", seen=space.space_id, where=config.gallery, fix="run jobs/embed.py")
    if config.no_build:
        result = tuning.measure(space, config.target_recall)
    else:
        upkeep.compact(space)
        space.gallery.compact_thumbnails()
        columns = {**upkeep.ID_COLUMN, **upkeep.FILTER_COLUMNS}
        upkeep.index_columns(space.uri, columns, tuning.EXACT_BELOW_ROWS)
        upkeep.index_columns(thumbnails_uri(config.gallery), upkeep.ID_COLUMN, tuning.EXACT_BELOW_ROWS)
        result = tuning.tune(space, config.target_recall)
    _print_trials(result)
    chosen = result.chosen
    counts: dict[str, int | float] = {"num_rows": space.count_rows(), "recall_at_10": round(chosen.recall_at_10, 4)}
    details = {"space_id": space.space_id, "index": chosen.index.model_dump(), "search": chosen.search.model_dump()}
    if not config.publish:
        return JobResult({"gallery": space.gallery.uri}, counts, details)
    if not result.is_met:
        seen = f"{chosen.recall_at_10:.4f} ({chosen.worst_case})"
        fix = "lower --target-recall, or publish without --no-build"
        raise GalleryError("recall below target, not published", seen=seen, expected=config.target_recall, fix=fix)
    pointer = publish.publish(
        space.gallery.uri,
        space.space_id,
        table_version=result.table_version,
        index=chosen.index,
        search=chosen.search,
        recall_at_10=chosen.recall_at_10,
        tuning=result.record(),
    )
    return _pointed(space.gallery.uri, pointer, counts)


def _roll_back(gallery_uri: str) -> JobResult:
    with entrypoint.before_work():
        pointer = publish.rollback(gallery_uri)
    return _pointed(gallery_uri, pointer, {})


def _pointed(gallery_uri: str, pointer: Pointer, counts: dict[str, int | float]) -> JobResult:
    outputs = {"gallery": gallery_uri, "pointer": join(gallery_uri, POINTER_NAME)}
    details = pointer.model_dump(mode="json", include={"space_id", "table_version", "tag", "index", "search"})
    return JobResult(outputs, {**counts, "sequence": pointer.sequence}, details)


def _status(gallery_uri: str) -> JobResult:
    with entrypoint.before_work():
        spaces = upkeep.status(gallery_uri)
    table = _table(
        "space", "served", "versions", "rows", "unindexed", "quarantined", "index", "recall@10", "age", "size"
    )
    for space in spaces:
        table.add_row(
            space.space_id,
            f"v{space.published_version}, {space.published_rows} rows" if space.is_published else "no",
            f"{space.num_versions}, newest v{space.table_version}",
            str(space.num_rows),
            str(space.num_rows_unindexed),
            str(space.num_quarantined),
            space.index_kind or "-",
            "-" if space.recall_at_10 is None else f"{space.recall_at_10:.4f}",
            "-" if space.age_s is None else _age(space.age_s),
            f"{space.num_bytes / 2**20:.1f} MiB",
        )
    _print(table)
    return JobResult(
        {"gallery": gallery_uri}, {"num_spaces": len(spaces)}, {"spaces": [asdict(space) for space in spaces]}
    )


def _check(gallery_uri: str, spaces: list[SpaceTable]) -> JobResult:
    table, num_found = _table("space", "item_id", "times", "pieces"), 0
    for space in spaces:
        for doubled in upkeep.doubled_ids(space):
            table.add_row(space.space_id, doubled.item_id, str(doubled.num_rows), ", ".join(doubled.piece_ids))
            num_found += 1
    if num_found:
        _print(table)
        fix = "the pieces named hold the same items: take one of their shards out and run jobs/embed.py --prune"
        raise GalleryError("item_ids stand more than once", seen=f"{num_found} or more", where=gallery_uri, fix=fix)
    return JobResult(
        {"gallery": gallery_uri}, {"num_rows": sum(space.count_rows() for space in spaces), "num_doubled": 0}
    )


def _clean(gallery: Gallery) -> JobResult:
    report = upkeep.clean(gallery)
    counts: dict[str, int | float] = {
        "num_versions_removed": report.num_versions,
        "num_tags_removed": report.num_tags,
        "num_bytes_removed": report.num_bytes,
        "num_files_pending": report.num_files_pending,
        "num_bytes_pending": report.num_bytes_pending,
    }
    if report.num_files_pending:
        text = "%d files (%.1f MiB) of no version are left, of jobs at work or dead; once seven days old they go too"
        entrypoint.log.warning(text, report.num_files_pending, report.num_bytes_pending / 2**20)
    return JobResult({"gallery": gallery.uri}, counts)


def _print_trials(result: tuning.TuningResult) -> None:
    title = f"recall@10, worst of all directions and filters; target {result.target_recall}"
    table = _table(
        "",
        "index",
        "partitions",
        "nprobes",
        "filtered",
        "refine",
        "recall@10",
        "worst case",
        "ms a query",
        "filtered",
        "built in s",
        title=title,
    )
    for trial in result.trials:
        filtered_ms = trial.latency_filtered_ms
        table.add_row(
            "*" if trial == result.chosen else "",
            trial.index.kind,
            str(trial.index.params.get("num_partitions", "-")),
            str(trial.search.nprobes or "-"),
            str(trial.search.filtered_nprobes or "-"),
            str(trial.search.refine_factor or "-"),
            f"{trial.recall_at_10:.4f}",
            trial.worst_case,
            f"{trial.latency_ms:.1f}",
            "-" if filtered_ms is None else f"{filtered_ms:.1f}",
            f"{trial.build_s:.1f}",
        )
    _print(table)


def _age(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _table(*headers: str, title: str | None = None) -> Table:
    return Table(*(Column(header, overflow="fold") for header in headers), title=title)


def _print(table: Table) -> None:
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = LOG_WIDTH
    console.print(table)


if __name__ == "__main__":
    entrypoint.main("index", IndexConfig, run)
