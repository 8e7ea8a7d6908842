"""Multi-band images -> PAN and MS chips of the same ground by Wald's protocol, `sensor` = synthesised.

PAN is a spectral-response-weighted mean at full resolution, MS the bands averaged down 4x: DSRSID's 256/64 geometry.
Labels, scene_class and scene_id are those of the source folder (with the table of UC Merced where one lies there), so
an image and the chips made of it fall into the same split. `hard` spoils each side by itself (see `degradation`), from
a generator seeded by the seed and the item's key: the same chips in any order of work.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely

from cmir.archive.class_folders import list_images, scene_ids
from cmir.archive.degradation import RATIO, wald_pair
from cmir.archive.imagery import Chip, raw_media, read_raster
from cmir.archive.label_table import find_table, plain_name, read_labels
from cmir.archive.raster import Pixels
from cmir.archive.schema import Media, ShardRow, make_group_id, make_item_id
from cmir.archive.sensors import SYNTHESISED, US_SURVEY_FOOT_M, pan_weights
from cmir.archive.sources import Item
from cmir.errors import DataError

CHIP_SIZE_PX: Final = 256
MAX_WHOLE_PX: Final = 2 * CHIP_SIZE_PX - 1  # an image of twice the chip's side is cut into chips


@dataclass(frozen=True)
class WaldSource:
    """Source `wald`: a folder of multi-band images, GeoTIFFs or class folders."""

    uri: str
    hard: bool = False
    seed: int = 0

    def items(self) -> Iterator[Item]:
        """One item per image. Raises DataError: no folder, no image, a label table that cannot be read."""
        images = list_images(self.uri)
        table_uri = find_table(self.uri)
        table = read_labels(table_uri) if table_uri else None
        grounds = scene_ids(images)
        for image in images:
            detail = {
                "labels": () if table is None else table.get(plain_name(image.key)),
                "scene_class": image.scene_class,
                "gsd_m": US_SURVEY_FOOT_M if table else None,  # the table is that of UC Merced
            }
            size = max(image.num_bytes, CHIP_SIZE_PX**2)
            yield Item(image.key, grounds[image.key], size, source_uri=image.uri, detail=detail)

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """PAN and MS of the image, or of each of its chips. Raises DataError: unreadable, one band, no labels."""
        if item.detail["labels"] is None:
            raise DataError(
                "image is not in the label table", seen=plain_name(item.key), expected="a row", where=self.uri
            )
        chip = read_raster(item.source_uri)
        bands, height, width = chip.pixels.shape
        if bands < 2:
            raise DataError("wrong band count", seen="1 band", expected="2 or more", where=item.source_uri)
        if max(height, width) <= MAX_WHOLE_PX:
            yield from self._pair(item, chip, None)
            return
        for row in range(0, height - CHIP_SIZE_PX + 1, CHIP_SIZE_PX):
            for column in range(0, width - CHIP_SIZE_PX + 1, CHIP_SIZE_PX):
                yield from self._pair(item, chip, (column, row, CHIP_SIZE_PX, CHIP_SIZE_PX))

    def _pair(self, item: Item, chip: Chip, window: tuple[int, int, int, int] | None) -> Iterator[ShardRow]:
        column, row, width, height = window or (0, 0, chip.pixels.shape[2], chip.pixels.shape[1])
        cut = chip.pixels[:, row : row + height, column : column + width]
        pan, ms = wald_pair(cut, pan_weights(chip.wavelength_nm), self._generator(item, window))
        place = chip.georeference.moved(column, row) if chip.georeference else None
        ring = place.polygon_lonlat(pan.shape[2], pan.shape[1]) if place else None
        for media in _media(chip, pan, ms, chip.gsd_m or item.detail["gsd_m"]):
            yield ShardRow(
                item_id=make_item_id("wald", item.key, media.modality, window),
                media=media,
                scene_id=item.scene_id,
                source_uri=item.source_uri,
                labels=item.detail["labels"],
                scene_class=item.detail["scene_class"],
                pair_id=make_group_id("wald pair", item.key, str(window)),
                crs=place.crs if place else None,
                bbox=place.bbox_lonlat(pan.shape[2], pan.shape[1]) if place else None,
                geometry=shapely.to_wkb(shapely.Polygon(ring)) if ring else None,
                window=window,
            )

    def _generator(self, item: Item, window: tuple[int, int, int, int] | None) -> np.random.Generator | None:
        if not self.hard:
            return None
        digest = hashlib.sha256(f"{item.key}{window}".encode()).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest[:8], "big")])


def _media(chip: Chip, pan: Pixels, ms: Pixels, gsd_m: float | None) -> Iterator[Media]:
    centres = [
        (w, c) for w, c in zip(pan_weights(chip.wavelength_nm), chip.wavelength_nm, strict=True) if c is not None
    ]
    pan_centre = sum(w * c for w, c in centres) if centres else None
    yield raw_media("pan", pan, bands=("pan",), wavelength_nm=(pan_centre,), sensor=SYNTHESISED.name, gsd_m=gsd_m)
    yield raw_media(
        "ms",
        ms,
        bands=chip.bands,
        wavelength_nm=chip.wavelength_nm,
        sensor=SYNTHESISED.name,
        gsd_m=gsd_m * RATIO if gsd_m else None,
    )
