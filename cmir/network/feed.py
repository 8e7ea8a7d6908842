"""Shards -> training batches, in an order that depends only on (seed, epoch): the same after a resume.

A rank owns a contiguous part of the grounds (see catalogue) and every n-th utterance. Its items are read window by
window: whole row groups are decoded once, shrunk to a little above the tower's working size and kept in a bounded
8-bit cache. Where all of it fits, as a set like UC Merced does, nothing is read twice; where not, windows and the
items within each are shuffled every epoch, and the next window is decoded while one is used. A thread prepares
batches ahead.

Chips are cached as `Preprocessing` makes them, so training sees exactly what inference sees, before augmentation.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np

from cmir.archive.imagery import decode_chip
from cmir.archive.schema import MODALITIES, Media
from cmir.archive.shards import medias, read_row_group
from cmir.archive.speech import decode_features, decode_speech, is_features
from cmir.errors import DataError
from cmir.network.batches import CACHE_MARGIN, Batch, CachedChip, CachedItem, CachedSpeech, collate, quantise
from cmir.network.catalogue import Array, Catalogue
from cmir.network.preprocessing import Preprocessing

log = logging.getLogger("cmir")

_MEDIA_COLUMNS: Final = [
    *("data", "encoding", "dtype", "shape", "bands", "wavelength_nm", "sensor", "gsd_m", "modality", "sample_rate_hz"),
]
_QUEUED_BATCHES: Final = 4
_WINDOWS_IN_CACHE: Final = 3  # the one in use, the one before (batches straddle), the next


@dataclass(frozen=True, slots=True)
class FeedSettings:
    """Grounds and utterances of a whole batch (all ranks together), the seed of the order, the cache of one rank."""

    grounds_per_batch: int
    utterances_per_batch: int
    seed: int
    cache_bytes: int = 2 * 2**30


class WindowedItems:
    """Groups of items in windows that fit the cache; `take` hands out the groups of a position in the endless order."""

    def __init__(self, groups: Sequence[Array], loader: "ItemLoader", *, cache_bytes: int, seed: int) -> None:
        self.groups = groups
        self._loader, self._seed = loader, seed
        sizes = np.array([loader.estimated_bytes(items) for items in groups], np.int64)
        fits = sizes.sum() <= cache_bytes
        window_bytes = cache_bytes if fits else max(1, cache_bytes // _WINDOWS_IN_CACHE)
        self._window_of_group = (np.cumsum(sizes) - sizes) // window_bytes
        self._windows: dict[int, Future[dict[int, CachedItem]]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cmir-decode")
        self._epoch: tuple[int, Array] | None = None

    def __len__(self) -> int:
        return len(self.groups)

    def take(self, start: int, count: int) -> list[CachedItem]:
        """The items of groups `start .. start + count` of the endless order; broken ones are left out."""
        taken: list[CachedItem] = []
        for position in range(start, start + count):
            epoch, place = divmod(position, len(self.groups))
            order = self.order(epoch)
            group = int(order[place])
            items = self._window(int(self._window_of_group[group]), order, place)
            taken += [items[item] for item in self.groups[group].tolist() if item in items]
        return taken

    def order(self, epoch: int) -> Array:
        """Group numbers in the order of an epoch, f(seed, epoch): windows shuffled, groups shuffled within each."""
        if self._epoch is None or self._epoch[0] != epoch:
            random = np.random.default_rng((self._seed, epoch))
            rank_of_window = random.permutation(int(self._window_of_group[-1]) + 1)
            within = random.permutation(len(self.groups))
            self._epoch = (epoch, np.lexsort((within, rank_of_window[self._window_of_group])))
        return self._epoch[1]

    def close(self) -> None:
        """Stop decoding ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _window(self, window: int, order: Array, place: int) -> dict[int, CachedItem]:
        upcoming = self._window_of_group[order[place:]]
        following = upcoming[upcoming != window][:1].tolist()
        for wanted in [window, *following]:
            if wanted not in self._windows:
                while len(self._windows) >= _WINDOWS_IN_CACHE:
                    self._windows.pop(next(iter(self._windows)))
                members = [self.groups[group] for group in np.flatnonzero(self._window_of_group == wanted).tolist()]
                self._windows[wanted] = self._pool.submit(self._loader.load, np.concatenate(members))
        self._windows[window] = self._windows.pop(window)  # most recently used last
        return self._windows[window].result()


class ItemLoader:
    """Decodes items and shrinks them for the cache; an item that cannot be read is left out, with a log line."""

    def __init__(self, catalogue: Catalogue, preprocessing: Preprocessing, *, margin: float = CACHE_MARGIN) -> None:
        self.catalogue, self.preprocessing = catalogue, preprocessing
        self.num_rejected = 0
        sizes = {modality: round(size_px * margin) for modality, size_px in preprocessing.chip_size_px.items()}
        self._shrinking = preprocessing.model_copy(update={"chip_size_px": sizes})

    def estimated_bytes(self, items: Array) -> int:
        """What the items will take in the cache, at most."""
        total = 0
        for item in items.tolist():
            modality = MODALITIES[self.catalogue.modality[item]]
            if modality == "speech":
                total += 2 * self.preprocessing.sample_rate_hz * 2  # two seconds, 16 bit
            else:
                total += self._shrinking.chip_size_px[modality] ** 2 * int(self.catalogue.num_bands[item])
        return total

    def load(self, items: Array) -> dict[int, CachedItem]:
        """Item number -> decoded, shrunk item; reads every row group once."""
        loaded: dict[int, CachedItem] = {}
        pieces = self.catalogue.piece[items]
        for number in np.unique(pieces).tolist():
            piece = self.catalogue.pieces[number]
            members = items[pieces == number]
            table = read_row_group(piece.shard_uri, piece.row_group, _MEDIA_COLUMNS)
            found = medias(table.take(self.catalogue.row[members]))
            for item, media in zip(members.tolist(), found, strict=True):
                try:
                    loaded[item] = self._decode(item, media)
                except DataError as error:
                    self.num_rejected += 1
                    row = int(self.catalogue.row[item])
                    log.warning("left out of training: %s, row %d: %s", piece.shard_uri, row, error)
        return loaded

    def _decode(self, item: int, media: Media) -> CachedItem:
        if media.modality == "speech":
            features = is_features(media)
            sound = decode_features(media) if features else decode_speech(media)
            if not features:
                sound = sound[: round(self.preprocessing.max_speech_s * self.preprocessing.sample_rate_hz)]
            # 16 bit is what speech is recorded in; features keep their precision
            return CachedSpeech(item, sound if features else (sound * 32767.0).round().astype(np.int16))
        chip = decode_chip(media)
        normalised = self._shrinking.image_input(media.modality, [chip])[0]
        wavelength_nm, gsd_m = self.preprocessing.conditions(media.modality, [chip])
        return CachedChip(item, media.modality, quantise(normalised), tuple(wavelength_nm.tolist()), float(gsd_m[0]))


class TrainingFeed:
    """Batches of one rank. `batches(start_step)` prepares them in a thread; leaving its loop stops the thread."""

    def __init__(
        self,
        catalogue: Catalogue,
        preprocessing: Preprocessing,
        settings: FeedSettings,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.catalogue, self.preprocessing = catalogue, preprocessing
        grounds, utterances = catalogue.grounds(), catalogue.utterances()
        share = -(-len(grounds) // world_size)
        mine = grounds[rank * share : (rank + 1) * share] or grounds
        spoken = utterances[rank::world_size] or utterances
        self.loader = ItemLoader(catalogue, preprocessing)
        ground_bytes = settings.cache_bytes * 3 // 4 if spoken else settings.cache_bytes
        self._streams = [
            (WindowedItems(groups, self.loader, cache_bytes=num_bytes, seed=seed), -(-per_batch // world_size))
            for groups, num_bytes, seed, per_batch in (
                (mine, ground_bytes, settings.seed, settings.grounds_per_batch),
                (spoken, settings.cache_bytes // 4, settings.seed + 1, settings.utterances_per_batch),
            )
            if groups and per_batch
        ]
        if not self._streams:
            raise DataError("no rows to train on", seen="0 rows", expected="chips or utterances")

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every ground of this rank (without grounds, every utterance) is seen once."""
        stream, per_step = self._streams[0]
        return -(-len(stream) // per_step)

    def batch(self, step: int) -> Batch:
        """The batch of a step. Raises DataError where none of its items could be read."""
        items = [item for stream, per_step in self._streams for item in stream.take(step * per_step, per_step)]
        if not items:
            raise DataError("no item of a batch could be read", where=f"step {step}", fix="see the log for the reasons")
        return collate(items, self.catalogue, self.preprocessing)

    def batches(self, start_step: int) -> Generator[Batch, None, None]:
        """Batches from a step on, without end, prepared in a thread."""
        ready: queue.Queue[Batch | Exception] = queue.Queue(_QUEUED_BATCHES)
        stopped = threading.Event()
        thread = threading.Thread(
            target=self._produce, args=(start_step, ready, stopped), name="cmir-feed", daemon=True
        )
        thread.start()
        try:
            while True:
                result = ready.get()
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            stopped.set()
            thread.join()

    def close(self) -> None:
        """Stop decoding ahead."""
        for stream, _ in self._streams:
            stream.close()

    def _produce(self, start_step: int, ready: "queue.Queue[Batch | Exception]", stopped: threading.Event) -> None:
        step = start_step
        while not stopped.is_set():
            result: Batch | Exception
            try:
                result = self.batch(step)
            except Exception as error:  # the border of a thread: it is raised again where the batches are used
                result = error
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(result, timeout=0.1)
                    break
            if isinstance(result, Exception):
                return
            step += 1
