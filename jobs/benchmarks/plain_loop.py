"""What the training job is compared with: a plain PyTorch loop over the same archive, in one process.

A map-style dataset over the shards' bytes in memory, `DataLoader` with so many processes that decode, shrink, collate
and vary the chips, and the loop that everybody writes. Network, loss, optimiser, batch size and the work on every item
are those of the job; what differs is the machinery: no cache (every item is decoded every time), no lanes, no cluster.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cmir.archive.schema import Media
from cmir.archive.shards import medias, read_row_group
from cmir.network.augment import VariedBatch, vary_batch
from cmir.network.batches import CachedItem, collate
from cmir.network.catalogue import Array
from cmir.network.item_loader import MEDIA_COLUMNS, ItemLoader
from cmir.network.learner import Learner
from cmir.network.new_learner import build_learner
from cmir.network.training_data import TrainingData, read_training_data
from cmir.network.training_settings import TrainSettings
from jobs.benchmarks.record import Findings


class RateFigures(Findings):
    """One way to train the same network on the same archive, decoding and augmentation included."""

    way: str
    samples_per_s: float
    to_plain_loop: float


@dataclass(frozen=True)
class PlainLoop:
    """Processes of the loader and threads of the loop."""

    num_loaders: int
    num_threads: int

    def samples_per_s(self, settings: TrainSettings, shard_uris: Sequence[str], num_steps: int) -> float:
        """Train so many steps on the CPU; the first wait for the loader counts, reading the shards does not."""
        data = read_training_data(settings, shard_uris)
        learner = build_learner(settings, data, torch.device("cpu"))
        assert isinstance(learner, Learner)
        threads = torch.get_num_threads()
        torch.set_num_threads(self.num_threads)
        loader: DataLoader[CachedItem] = DataLoader(
            _Items(data),
            batch_sampler=list(steps(data, settings, num_steps)),
            num_workers=self.num_loaders,
            prefetch_factor=4 if self.num_loaders else None,
            collate_fn=_Collate(data, settings),
        )
        try:
            began, num_samples = time.perf_counter(), 0
            for step, batch in enumerate(loader):
                learner.step(batch, step=step, fraction=step / num_steps)
                num_samples += batch.num_items
            return num_samples / (time.perf_counter() - began)
        finally:
            torch.set_num_threads(threads)


class _Items(Dataset[CachedItem]):
    """Item number -> decoded item, from bytes in memory."""

    def __init__(self, data: TrainingData) -> None:
        catalogue = data.catalogue
        self._loader = ItemLoader(catalogue, data.preprocessing)
        self._media: list[Media] = []
        for piece in catalogue.pieces:
            self._media += medias(read_row_group(piece.shard_uri, piece.row_group, MEDIA_COLUMNS))

    def __getitem__(self, item: int) -> CachedItem:
        return self._loader.decode(item, self._media[item])


def steps(data: TrainingData, settings: TrainSettings, num_steps: int) -> Iterator[list[int]]:
    """Items of each step: grounds and utterances, each in random order, again and again."""
    streams = [
        (_endless(groups), per_step)
        for groups, per_step in (
            (data.catalogue.grounds(), settings.grounds_per_batch),
            (data.catalogue.utterances(), settings.utterances_per_batch),
        )
        if groups
    ]
    for _ in range(num_steps):
        yield [item for groups, per_step in streams for _ in range(per_step) for item in next(groups)]


def _endless(groups: list[Array]) -> Iterator[list[int]]:
    random = np.random.default_rng(0)
    while True:
        for number in random.permutation(len(groups)).tolist():
            yield groups[number].tolist()


class _Collate:
    """Items -> a varied batch, in the loader's process."""

    def __init__(self, data: TrainingData, settings: TrainSettings) -> None:
        self._catalogue, self._preprocessing, self._settings = data.catalogue, data.preprocessing, settings
        self._generator = torch.Generator().manual_seed(settings.seed)

    def __call__(self, items: list[CachedItem]) -> VariedBatch:
        batch = collate(items, self._catalogue, self._preprocessing)
        sizes = {part.modality: self._settings.working_size_px[part.modality] for part in batch.images}
        return vary_batch(batch, sizes, self._settings.image_augmentation, self._generator, torch.device("cpu"))
