"""Shards become rows of a gallery: pieces stream through a pool of embedding actors, one committer commits them.

Workers compute and report, only this process commits, many pieces at a time; what a killed job had committed is skipped
by the next. The row counts of gallery and input are compared before the job calls itself done.
"""

if __name__ == "__main__":  # before anything that jobs/ could shadow is imported
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal

import pyarrow as pa
from pydantic import Field, field_validator

from cmir.archive import shards
from cmir.archive.schema import MODALITIES, SPLITS
from cmir.archive.shards import Piece, ShardFile
from cmir.archive.storage import absolute, join
from cmir.errors import ConfigError, DataError
from cmir.gallery.ledger import shard_of
from cmir.gallery.table import CommittedPiece, Gallery, SpaceTable
from cmir.network.bundle import verify_bundle
from jobs import cluster, entrypoint
from jobs.committer import Committer, Tally
from jobs.entrypoint import JobConfig, JobResult
from jobs.progress import PieceProgress

PRUNE_LIMIT = 0.1
MAX_BLOCKS = 10_000
PIECES_AT_ONCE = 2  # of each worker: one is read while another is computed
PIECES_AT_ONCE_ON_GPU = 4  # reading and copying bind there: 1.5 times the rows of two, on an H200


class EmbedConfig(JobConfig):
    """Embed the shards of an archive into a gallery; what is there already is not embedded again."""

    bundle: str = Field(description="Trained bundle.")
    shards: tuple[str, ...] = Field(min_length=1, description="Archive, folder or shard; may be given several times.")
    gallery: str = Field(description="Gallery to add to; made where there is none.")
    modalities: str | None = Field(None, description="Only these, as a,b; every modality of the shards otherwise.")
    split: str | None = Field(None, description="Only these splits, as a,b; every split otherwise.")
    num_workers: int | None = Field(None, gt=0, description="Embedding workers; one per core, or per GPU, otherwise.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the network runs.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="bf16 on CUDA, or fp32; CPUs have fp32.")
    thumbnails: bool = Field(True, description="Keep a small picture of every chip.")
    prune: bool = Field(False, description="Drop rows whose shard lay under --shards and is gone.")
    yes: bool = Field(False, description="Let --prune drop more than 10% of the rows.")
    max_reject_ratio: float = Field(0.1, ge=0, le=1, description="Fail when more than this share of rows is rejected.")

    @field_validator("modalities")
    @classmethod
    def _known_modalities(cls, value: str | None) -> str | None:
        return _known(value, MODALITIES)

    @field_validator("split")
    @classmethod
    def _known_splits(cls, value: str | None) -> str | None:
        return _known(value, SPLITS)


@dataclass
class _Plan:
    """What is to be done: the shards found, pieces not yet committed, and what could not be read at all."""

    table: SpaceTable
    gallery: Gallery
    shards: list[ShardFile]
    todo: list[Piece]
    num_rows: int
    num_rows_skipped: int
    num_quarantined_before: int
    num_pieces_total: int
    broken: list[tuple[str, DataError]]
    gone_shard_ids: tuple[str, ...]


def run(config: EmbedConfig) -> JobResult:
    """Plan, embed, commit, replace what changed, prune what is gone."""
    with entrypoint.before_work():
        plan = _plan(config)
    _quarantine_broken(plan, config.gallery)
    tally = Tally()
    if plan.todo:
        cluster.connect()
        tally = _embed(config, plan)
    stale = plan.table.stale_pieces({shard.shard_id: shard.version for shard in plan.shards})
    _check_unchanged(plan, stale)
    _check_complete(plan, tally)
    num_replaced = plan.table.drop(stale)
    num_pruned = plan.table.prune(plan.gone_shard_ids)
    num_quarantined = tally.num_rows_quarantined + len(plan.broken)
    counts: dict[str, int | float] = {
        "num_rows_input": plan.num_rows + len(plan.broken),
        "num_rows_committed": tally.num_rows_committed,
        "num_rows_skipped": plan.num_rows_skipped + tally.num_rows_beaten,
        "num_rows_quarantined": num_quarantined,
        "num_pieces_total": plan.num_pieces_total,
        "num_pieces_skipped": plan.num_pieces_total - len(plan.todo),
        "num_rows_replaced": num_replaced,
        "num_rows_pruned": num_pruned,
    }
    result = JobResult({"gallery": absolute(config.gallery), "space_id": plan.table.space_id}, counts)
    place = join(config.gallery, "_quarantine")
    rejected, limit = num_quarantined + plan.num_quarantined_before, config.max_reject_ratio
    entrypoint.check_reject_ratio(rejected, plan.num_rows + len(plan.broken), limit, place, result)
    entrypoint.check_reject_ratio(len(plan.broken), len(plan.shards) + len(plan.broken), limit, place, result)
    return result


def _plan(config: EmbedConfig) -> _Plan:
    bundle = verify_bundle(config.bundle)
    modalities = bundle.network.modalities
    broken: list[tuple[str, DataError]] = []
    found = shards.list_shards(
        config.shards, modalities=_names(config.modalities), splits=_names(config.split), broken=broken
    )
    missing = sorted({shard.modality for shard in found} - set(modalities))
    if missing:
        have = ",".join(modalities)
        raise ConfigError(
            "the bundle has no tower for some modalities of the shards",
            seen=",".join(missing),
            expected=have,
            where=config.bundle,
            fix=f"leave them out with --modalities {have}",
        )
    gallery = Gallery.create(config.gallery)
    table = gallery.space(bundle.space_id, bundle.network.dim, absolute(config.bundle))
    return plan_of(config, gallery, table, found, broken)


def plan_of(
    config: EmbedConfig,
    gallery: Gallery,
    table: SpaceTable,
    found: list[ShardFile],
    broken: list[tuple[str, DataError]],
) -> _Plan:
    """What is to be done of the shards found; `broken` are those that could not be read at all."""
    committed = table.committed_pieces()
    everything = [piece for shard in found for piece in shards.pieces(shard)]
    todo = [piece for piece in everything if piece.piece_id not in committed]
    num_rows = sum(piece.num_rows for piece in everything)
    skipped = {piece.piece_id for piece in everything} & committed
    # what an earlier run rejected still counts: a job that failed by its ratio must not pass when started again
    entries = gallery.ledger.entries(table.space_id)
    num_quarantined_before = sum(entry.num_quarantined for entry in entries if entry.piece_id in skipped)
    num_rows_skipped = num_rows - sum(piece.num_rows for piece in todo) - num_quarantined_before
    gone = _gone_shards(config, table) if config.prune else ()
    gallery.ledger.record_shards({shard.shard_id: absolute(shard.uri) for shard in found})
    return _Plan(
        table=table,
        gallery=gallery,
        shards=found,
        todo=todo,
        num_rows=num_rows,
        num_rows_skipped=num_rows_skipped,
        num_quarantined_before=num_quarantined_before,
        num_pieces_total=len(everything),
        broken=broken,
        gone_shard_ids=gone,
    )


def _gone_shards(config: EmbedConfig, table: SpaceTable) -> tuple[str, ...]:
    """The shards that --prune drops; raises ConfigError where they hold more than the limit, without --yes."""
    broken: list[tuple[str, DataError]] = []
    present = {file.shard_id for file in shards.list_shards(config.shards, broken=broken)}  # of every modality, split
    present |= {shards.shard_id_of(uri) for uri, _ in broken}  # damaged is not gone
    gone = table.gone_shards(config.shards, present)
    entrypoint.log.info("--prune drops %d of %d rows", gone.num_rows, gone.num_rows_total)
    if gone.ratio > PRUNE_LIMIT and not config.yes:
        raise ConfigError(
            "--prune would drop too much",
            seen=f"{gone.num_rows} of {gone.num_rows_total} rows",
            expected=f"at most {PRUNE_LIMIT:.0%}",
            where=config.gallery,
            fix="check that --shards is the whole archive; give --yes if it is meant",
        )
    return gone.shard_ids


def _embed(config: EmbedConfig, plan: _Plan) -> Tally:
    num_rows = {piece.piece_id: piece.num_rows for piece in plan.todo}
    committer = Committer(plan.gallery, plan.table)
    progress = PieceProgress(
        "embed",
        num_rows=sum(num_rows.values()),
        num_pieces=plan.num_pieces_total,
        num_pieces_skipped=plan.num_pieces_total - len(plan.todo),
        outcome=lambda: (committer.tally.num_rows_committed, committer.tally.num_rows_quarantined),
    )
    with progress, committer:
        for piece, thumbnails in _embedded_pieces(config, plan):
            committer.put(piece, thumbnails)
            progress.advance(num_rows[piece.piece_id])
    return committer.tally


def _embedded_pieces(config: EmbedConfig, plan: _Plan) -> Iterator[tuple[CommittedPiece, pa.Table]]:
    """Pieces as the actor pool finishes them."""
    import ray.data

    from jobs.deaths import Deaths
    from jobs.workers import EmbedWork, EmbedWorker, from_ipc, storage_error

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    on_gpu = config.device == "cuda" or (config.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
    num_units = int(ray.cluster_resources().get("GPU", 0)) if on_gpu else cluster.num_cpus()
    num_workers = min(config.num_workers or max(1, num_units), len(plan.todo))
    num_threads = max(1, cluster.num_cpus() // num_workers)
    work = EmbedWork(
        bundle_uri=absolute(config.bundle),
        space_id=plan.table.space_id,
        gallery_uri=absolute(config.gallery),
        device=config.device,
        precision="fp32" if config.precision == "fp32" else "bf16",
        with_thumbnails=config.thumbnails,
        num_threads=num_threads,
    )
    dataset = ray.data.from_items(
        [asdict(piece) for piece in plan.todo], override_num_blocks=min(len(plan.todo), MAX_BLOCKS)
    )
    dataset = dataset.map_batches(
        EmbedWorker,
        fn_constructor_args=(work, Deaths()),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            max_size=num_workers,
            initial_size=num_workers,  # else the second starts when the first has been busy for a while
            max_concurrent_calls_per_actor=PIECES_AT_ONCE_ON_GPU if on_gpu else PIECES_AT_ONCE,
        ),
        num_cpus=1,
        num_gpus=1 if on_gpu else 0,
    )
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        for record in batch.to_pylist():
            if (error := storage_error(record)) is not None:
                raise error
            piece = CommittedPiece(record["piece_id"], from_ipc(record["rows"]), record["num_rejected"])
            yield piece, from_ipc(record["thumbnails"])


def _check_unchanged(plan: _Plan, stale: list[str]) -> None:
    """Raises DataError where a shard that was embedded now, or whose earlier rows are to go, is another by now.

    Whoever is late must not take what another job has put there since for the older version.
    """
    touched = {piece.shard_id for piece in plan.todo} | {shard_of(piece_id)[0] for piece_id in stale}
    chosen = [shard for shard in plan.shards if shard.shard_id in touched]
    with ThreadPoolExecutor(16) as pool:  # reading footers waits for storage, not for a core
        are_current = list(pool.map(_is_current, chosen))
    changed = [shard.uri for shard, is_current in zip(chosen, are_current, strict=True) if not is_current]
    if changed:
        fix = "start the same command again, it replaces their rows"
        seen = f"{len(changed)} of {len(chosen)}, first {changed[0]}"
        raise DataError("shards changed while the job ran", seen=seen, expected="the archive as it was", fix=fix)


def _is_current(shard: ShardFile) -> bool:
    return shard.is_current


def _check_complete(plan: _Plan, tally: Tally) -> None:
    """Raises DataError where a row of the input is neither in the gallery nor in quarantine."""
    expected = sum(piece.num_rows for piece in plan.todo)
    seen = tally.num_rows_committed + tally.num_rows_beaten + tally.num_rows_quarantined
    committed = plan.table.committed_pieces() if plan.todo else set()
    missing = [piece.piece_id for piece in plan.todo if piece.piece_id not in committed]
    if seen != expected or missing:
        seen_text = f"{seen} rows, {len(missing)} pieces not in the gallery"
        fix = "start the same command again"
        raise DataError("rows were lost on the way", seen=seen_text, expected=f"{expected} rows, all in", fix=fix)


def _quarantine_broken(plan: _Plan, gallery_uri: str) -> None:
    for uri, error in plan.broken:
        name = f"shard-{shards.shard_id_of(uri)}.parquet"
        table = shards.quarantine_table([(uri, None, str(error), None)])
        shards.write_quarantine(table, join(gallery_uri, "_quarantine", name))


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _known(text: str | None, known: tuple[str, ...]) -> str | None:
    unknown = sorted(set(_names(text) or ()) - set(known))
    if unknown:
        raise ValueError(f"{', '.join(unknown)} unknown, expected some of {', '.join(known)}")
    return text


if __name__ == "__main__":
    entrypoint.main("embed", EmbedConfig, run)
