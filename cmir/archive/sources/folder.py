"""Images in class folders -> rgb, ms or pan rows, by their number of bands; the folder's name is scene_class.

Georeferenced files carry CRS, footprint, gsd_m and time of their tags. Grounds are found as in `class_folders`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import shapely

from cmir.archive.class_folders import list_images, scene_ids
from cmir.archive.imagery import raw_media
from cmir.archive.raster import load_raster
from cmir.archive.schema import ShardRow, make_item_id
from cmir.archive.sensors import band_wavelength, modality_of_bands
from cmir.archive.sources import Item
from cmir.archive.storage import read_bytes


@dataclass(frozen=True)
class FolderSource:
    """Source `folder`: `<class>/<file>` images of any raster format; images without a class folder have no class."""

    uri: str

    def items(self) -> Iterator[Item]:
        """One item per image. Raises DataError: no folder, or no image in it."""
        images = list_images(self.uri)
        grounds = scene_ids(images)
        for image in images:
            yield Item(
                key=image.key,
                scene_id=grounds[image.key],
                num_bytes=max(image.num_bytes, 256 * 256 * 3),
                source_uri=image.uri,
                detail={"scene_class": image.scene_class},
            )

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """The image as one row. Raises DataError: not an image, empty, cut short, NaN."""
        raster = load_raster(read_bytes(item.source_uri), where=item.source_uri)
        modality, height, width = modality_of_bands(raster.bands), *raster.pixels.shape[1:]
        place = raster.georeference
        ring = place.polygon_lonlat(width, height) if place else None
        yield ShardRow(
            item_id=make_item_id("folder", item.key, modality),
            media=raw_media(
                modality,
                raster.pixels,
                bands=raster.bands,
                wavelength_nm=[band_wavelength(band) for band in raster.bands],
                gsd_m=place.gsd_m() if place else None,
            ),
            scene_id=item.scene_id,
            source_uri=item.source_uri,
            scene_class=item.detail["scene_class"],
            acquired_at=raster.acquired_at,
            crs=place.crs if place else None,
            bbox=place.bbox_lonlat(width, height) if place else None,
            geometry=shapely.to_wkb(shapely.Polygon(ring)) if ring else None,
        )
