"""A source becomes an archive of Parquet shards: listed once, splits drawn by ground, read and written by Ray tasks."""

if __name__ == "__main__":  # before anything that jobs/ could shadow is imported
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from typing import Literal

from pydantic import Field, model_validator

from cmir.archive import intake
from cmir.archive.output import Output
from cmir.archive.schema import Split
from cmir.archive.sources import Source
from cmir.archive.splits import draw_splits
from cmir.archive.storage import absolute, exists, is_s3, join, read_bytes
from cmir.archive.vocabulary import UCMERCED_LABELS, parse_labels, spoken_forms
from cmir.errors import DataError
from jobs import cluster, entrypoint
from jobs.entrypoint import JobConfig, JobResult
from jobs.progress import PieceProgress

SourceName = Literal[
    "ucmerced", "dsrsid", "pairs", "wald", "geotiff", "stac", "folder", "speech", "features", "tts", "synthetic"
]


class ShardConfig(JobConfig):
    """Turn a source of imagery or speech into Parquet shards."""

    source: SourceName = Field(description="Kind of source.")
    output: str = Field(description="Where the archive goes; must not exist yet.")
    input: str | None = Field(None, description="Folder, file or manifest of the source; s3:// too.")
    split: Literal["train", "val", "test", "official"] | None = Field(
        None, description="Put all rows into one split, or keep the source's official one; drawn 80/10/10 otherwise."
    )
    split_seed: int = Field(0, description="Seed of the drawn splits.")
    max_reject_ratio: float = Field(0.1, ge=0, le=1, description="Fail when more than this share of rows is rejected.")
    scenes: int = Field(300, gt=0, description="synthetic: number of scenes.")
    seed: int = Field(0, description="synthetic, tts, wald: seed of what is generated.")
    voices: int = Field(24, gt=0, description="tts, synthetic: number of voices.")
    labels: str | None = Field(
        None,
        description="tts: a,b,c or a file of labels, with `label: form, form` a line; the 17 of UC Merced otherwise.",
    )
    language: str = Field("en", description="tts: language of the voices, en, de or fr.")
    held_out_engine: str | None = Field(
        None, description="tts: the engine that stands in test alone, or none; pico, else flite, where several speak."
    )
    hard: bool = Field(False, description="wald: degrade each side by itself (shift, MTF, gain, haze, noise).")
    chip_size_px: int = Field(256, gt=15, description="pairs: side of a PAN chip in pixels; geotiff, stac: of a chip.")
    sensor: str | None = Field(None, description="geotiff, stac: sensor of scenes that do not tell theirs.")
    max_cloud_cover: float = Field(
        20.0, ge=0, le=100, description="geotiff, stac: leave chips out that a cloud mask calls cloudier, per cent."
    )
    resume: bool = Field(False, description="Go on with a partial output of the same command.")
    overwrite: bool = Field(False, description="Replace an existing output once the new one is whole.")

    @model_validator(mode="after")
    def _input_where_needed(self) -> "ShardConfig":
        generated = self.source in ("tts", "synthetic")
        if self.input is None and not generated:
            raise ValueError(f"--source {self.source} needs --input")
        if self.input is not None and generated:
            raise ValueError(f"--source {self.source} makes its rows and takes no --input")
        if self.split == "official" and self.source != "dsrsid":
            raise ValueError(f"--source {self.source} has no official split")
        return self


def source_of(config: ShardConfig) -> Source:
    """The reader that the settings name."""
    uri = absolute(config.input) if config.input else ""
    match config.source:
        case "ucmerced":
            from cmir.archive.sources.ucmerced import UcMercedSource

            return UcMercedSource(uri)
        case "wald":
            from cmir.archive.sources.wald import WaldSource

            return WaldSource(uri, hard=config.hard, seed=config.seed)
        case "pairs":
            from cmir.archive.sources.pairs import PairsSource

            return PairsSource(uri, chip_size_px=config.chip_size_px)
        case "dsrsid":
            from cmir.archive.sources.dsrsid import DsrsidSource

            return DsrsidSource(uri, official_split=config.split == "official")
        case "geotiff":
            from cmir.archive.sources.geotiff import GeotiffSource

            return GeotiffSource(uri, config.chip_size_px, config.sensor, config.max_cloud_cover)
        case "stac":
            from cmir.archive.sources.stac import StacSource

            return StacSource(uri, config.chip_size_px, config.sensor, config.max_cloud_cover)
        case "folder":
            from cmir.archive.sources.folder import FolderSource

            return FolderSource(uri)
        case "speech":
            from cmir.archive.sources.speech import SpeechSource

            return SpeechSource(uri)
        case "features":
            from cmir.archive.sources.features import FeaturesSource

            return FeaturesSource(uri)
        case "tts":
            from cmir.archive.sources.tts import TtsSource

            return TtsSource(
                _spoken_labels(config.labels),
                voices=config.voices,
                seed=config.seed,
                language=config.language,
                held_out_engine=config.held_out_engine,
            )
        case "synthetic":
            from cmir.archive.sources.synthetic import SyntheticSource

            return SyntheticSource(scenes=config.scenes, voices=config.voices, seed=config.seed)


def _spoken_labels(text: str | None) -> dict[str, tuple[str, ...]]:
    """Labels of a,b,c or of a file, or the 17 of UC Merced, with their spoken forms.

    Raises DataError for a file that is missing or no text.
    """
    if text is None:
        return spoken_forms(UCMERCED_LABELS)
    if not exists(text):
        if is_s3(text) or "/" in text or text.endswith((".txt", ".csv", ".tsv")):
            raise DataError("--labels names a file that is not there", seen=text, expected="a file, or labels as a,b,c")
        return parse_labels(text)
    try:
        return parse_labels(read_bytes(text).decode())
    except UnicodeDecodeError as error:
        raise DataError("--labels is not a text file", seen=error, expected="UTF-8 text", where=text) from error


def run(config: ShardConfig) -> JobResult:
    """List, draw splits, write shards; returns the archive's place and counts."""
    with entrypoint.before_work():
        source = source_of(config)
        only: Split | None = None if config.split in (None, "official") else config.split  # type: ignore[assignment]
        items = list(source.items())
        drawn = draw_splits(items, config.split_seed, only)
        tasks = list(intake.plan_tasks(drawn, intake.shard_bytes_for(items)))
        settings = config.model_dump(mode="json", exclude={"resume", "overwrite", "max_reject_ratio"})
        output = Output.claim(config.output, settings, resume=config.resume, overwrite=config.overwrite)
    done = [summary for task in tasks if (summary := intake.read_summary(output.working_uri, task))]
    num_skipped = sum(summary.num_rows_committed for summary in done)
    intake.drop_tasks_from(output.working_uri, len(tasks))
    summaries = _write(source, tasks, [summary.index for summary in done], output.working_uri)
    num_committed = sum(summary.num_rows_committed for summary in summaries)
    num_quarantined = sum(summary.num_quarantined for summary in summaries)
    counts: dict[str, int | float] = {
        "num_rows_input": num_committed + num_quarantined,
        "num_rows_committed": num_committed - num_skipped,
        "num_rows_skipped": num_skipped,
        "num_rows_quarantined": num_quarantined,
        "num_pieces_total": len(tasks),
        "num_pieces_skipped": len(done),
    }
    place, num_input = join(output.working_uri, "_quarantine"), num_committed + num_quarantined
    entrypoint.check_reject_ratio(num_quarantined, num_input, config.max_reject_ratio, place, JobResult({}, counts))
    intake.forget_tasks(output.working_uri)
    output.finish()
    return JobResult({"archive": output.uri}, counts)


def _write(source: Source, tasks: list[intake.Task], done: list[int], working_uri: str) -> list[intake.TaskSummary]:
    """Summaries of all tasks; those of index `done` an earlier run has finished, which takes no time now."""
    cluster.connect()
    summaries: list[intake.TaskSummary] = []
    fresh: list[intake.TaskSummary] = []
    sizes = {task.index: len(task.items) for task in tasks if task.index not in done}
    progress = PieceProgress(
        "shard",
        num_rows=sum(sizes.values()),
        num_pieces=len(tasks),
        num_pieces_skipped=len(done),
        outcome=lambda: (sum(one.num_rows_committed for one in fresh), sum(one.num_quarantined for one in fresh)),
    )
    with progress:
        calls = ((source, task, working_uri) for task in tasks)
        for summary in cluster.map_unordered(intake.write_task, calls, max_in_flight=2 * cluster.num_cpus()):
            summaries.append(summary)
            if summary.index in sizes:
                fresh.append(summary)
                progress.advance(sizes[summary.index])
    return summaries


if __name__ == "__main__":
    entrypoint.main("shard", ShardConfig, run)
