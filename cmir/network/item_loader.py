"""Items of an archive -> decoded items for the cache, a little above the tower's working size.

Chips are cached as `Preprocessing` makes them, so training sees exactly what inference sees, before augmentation.
"""

import logging
import threading
from typing import Final

import numpy as np

from cmir.archive.imagery import decode_chip
from cmir.archive.schema import MODALITIES, Media
from cmir.archive.shards import medias, read_row_group
from cmir.archive.speech import decode_features, decode_speech, is_features
from cmir.errors import DataError
from cmir.network.batches import CACHE_MARGIN, CachedChip, CachedItem, CachedSpeech, quantise
from cmir.network.catalogue import Array, Catalogue
from cmir.network.preprocessing import Preprocessing

log = logging.getLogger("cmir")

MEDIA_COLUMNS: Final = [
    *("data", "encoding", "dtype", "shape", "bands", "wavelength_nm", "sensor", "gsd_m", "modality", "sample_rate_hz"),
]


class ItemLoader:
    """Decodes items and shrinks them for the cache; an item that cannot be read is left out, with a log line."""

    def __init__(self, catalogue: Catalogue, preprocessing: Preprocessing, *, margin: float = CACHE_MARGIN) -> None:
        self.catalogue, self.preprocessing = catalogue, preprocessing
        self.num_loaded = self.num_rejected = 0
        self._counting = threading.Lock()
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

    def by_piece(self, items: Array) -> list[Array]:
        """The items, divided by the row group they lie in."""
        pieces = self.catalogue.piece[items]
        return [items[pieces == number] for number in np.unique(pieces).tolist()]

    def load(self, items: Array) -> dict[int, CachedItem]:
        """Item number -> decoded, shrunk item; reads every row group once. May be called by several threads."""
        loaded: dict[int, CachedItem] = {}
        for members in self.by_piece(items):
            piece = self.catalogue.pieces[self.catalogue.piece[members[0]]]
            table = read_row_group(piece.shard_uri, piece.row_group, MEDIA_COLUMNS)
            found = medias(table.take(self.catalogue.row[members]))
            for item, media in zip(members.tolist(), found, strict=True):
                try:
                    loaded[item] = self.decode(item, media)
                except DataError as error:
                    row = int(self.catalogue.row[item])
                    log.warning("left out of training: %s, row %d: %s", piece.shard_uri, row, error)
        with self._counting:
            self.num_loaded += len(loaded)
            self.num_rejected += len(items) - len(loaded)
        return loaded

    def decode(self, item: int, media: Media) -> CachedItem:
        """One item, shrunk for the cache. Raises DataError where it cannot be read."""
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
