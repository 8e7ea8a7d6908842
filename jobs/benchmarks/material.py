"""What a benchmark needs and was not given: rows of the generated world, an untrained bundle.

Speed does not depend on what a network has learnt, so an untrained one of the true architecture measures it; rows
are rendered scenes, repeated under other ids where more are asked for than were rendered.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final, Literal

import torch

from cmir.archive import shards, storage
from cmir.archive.schema import Modality, ShardRow, Split, make_item_id
from cmir.archive.shards import Piece, ShardFile, ShardFileWriter
from cmir.archive.sources import Source
from cmir.archive.sources.synthetic import SyntheticSource
from cmir.archive.splits import draw_splits
from cmir.errors import DataError
from cmir.network.bundle import save_bundle
from cmir.network.new_learner import build_learner
from cmir.network.training_data import read_training_data
from cmir.network.training_settings import TrainSettings

Tower = Literal["default", "light"]
TOWERS: Final[dict[Tower, TrainSettings]] = {
    "default": TrainSettings(),
    # a quarter of the work, so that feeding it counts
    "light": TrainSettings(image_width=128, image_depths=(1, 1), chip_size_px={"pan": 64, "ms": 64, "rgb": 80}),
}


def world_rows(num_scenes: int, num_utterances: int = 0, seed: int = 0) -> list[ShardRow]:
    """PAN, MS and RGB of so many rendered scenes, and the first utterances of one synthetic voice."""
    source = SyntheticSource(scenes=num_scenes, voices=1, seed=seed)
    items = itertools.islice(source.items(), num_scenes + num_utterances)
    return [row for item in items for row in source.rows(item)]


def repeated(rows: Sequence[ShardRow], num_rows: int) -> Iterator[ShardRow]:
    """The rows again and again, each time under other item_ids, until there are `num_rows`."""
    for number in range(num_rows):
        row = rows[number % len(rows)]
        yield replace(row, item_id=make_item_id("benchmark", f"{number}", row.media.modality))


def write_archive(rows: Iterable[ShardRow], uri: str, split: Split = "train") -> str:
    """Write rows as one shard per modality; returns the archive's URI."""
    writers: dict[Modality, ShardFileWriter] = {}
    for row in rows:
        modality = row.media.modality
        if modality not in writers:
            place = storage.join(uri, modality, split, "part-00000.parquet")
            writers[modality] = ShardFileWriter(place, split)
        writers[modality].add(row)
    for writer in writers.values():
        writer.close()
    return uri


def write_divided_archive(source: Source, uri: str, seed: int = 0) -> str:
    """Write a source's rows as one shard per modality and split, divided by scene and speaker; returns the URI."""
    writers: dict[tuple[Modality, Split], ShardFileWriter] = {}
    for item, split in draw_splits(source.items(), seed):
        for row in source.rows(item):
            key = (row.media.modality, split)
            if key not in writers:
                writers[key] = ShardFileWriter(storage.join(uri, *key, "part-00000.parquet"), split)
            writers[key].add(row)
    for writer in writers.values():
        writer.close()
    return uri


def untrained_bundle(uri: str, shard_uris: Sequence[str], settings: TrainSettings) -> str:
    """A network for the train split of the shards, with random weights and their statistics; returns its URI."""
    data = read_training_data(settings, shard_uris)
    learner = build_learner(settings, data, torch.device("cpu"))
    net, training = learner.average, settings.model_dump(mode="json")
    save_bundle(uri, net, data.preprocessing, metrics={}, training=training, data=data.counts())
    return uri


def pieces_of(files: Sequence[ShardFile]) -> list[Piece]:
    """The pieces of shards, in order."""
    return [piece for file in files for piece in shards.pieces(file)]


def first_shards(shard_uris: Sequence[str], modality: Modality, max_rows: int) -> list[ShardFile]:
    """Whole shards of a modality up to about `max_rows`, at least one. Raises DataError where there is none."""
    found = [file for file in shards.list_shards(shard_uris, modalities=[modality]) if file.num_rows]
    if not found:
        raise DataError(f"no {modality} rows to measure with", seen="none", where=", ".join(shard_uris))
    before = itertools.accumulate((file.num_rows for file in found), initial=0)
    return [file for file, num_before in zip(found, before, strict=False) if num_before < max_rows]
