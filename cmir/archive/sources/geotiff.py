"""GeoTIFF scenes and COGs -> pan, ms or rgb chips, cut by windowed reads; nodata and clouds are left out.

Files of one folder whose names differ in a band code at the end alone (`..._B02.tif`, `..._B03.tif`) are layers of one
scene, as agencies deliver them, and those of one grid make one chip. A cloud mask lies beside them: Sentinel-2's
`..._SCL.tif`, Landsat's `..._QA_PIXEL.TIF`, or `<scene>_cloud.tif`, where what is not zero is cloud. Sensor and day are
those of the name where it tells them; listing reads headers only.
"""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from cmir.archive import storage
from cmir.archive.product_names import ProductName, parse_product_name
from cmir.archive.scenes import CloudMask, Layer, Scene, chip_items, chip_rows, scenes_of_layers
from cmir.archive.schema import ShardRow
from cmir.archive.sources import Item
from cmir.errors import DataError

SUFFIXES: Final = (".tif", ".tiff")
DEFAULT_MAX_CLOUD_COVER: Final = 20.0
_NUM_READERS: Final = 8  # threads; reading headers from object storage is waiting


@dataclass(frozen=True, slots=True)
class _File:
    uri: str
    folder: str  # below the input
    name: ProductName

    @property
    def scene(self) -> str:
        return f"{self.folder}/{self.name.scene}".lstrip("/")


@dataclass(frozen=True)
class GeotiffSource:
    """Source `geotiff`: a file, a folder, an s3 prefix, or a glob of them (`scenes/*.tif`).

    `sensor` is that of files whose names do not tell it, and names their bands; `max_cloud_cover` in per cent.
    """

    uri: str
    chip_size_px: int = 256
    sensor: str | None = None
    max_cloud_cover: float = DEFAULT_MAX_CLOUD_COVER

    def items(self) -> Iterator[Item]:
        """One item per chip, from headers; a scene whose files cannot be read is one item that fails.

        Raises DataError where nothing is found.
        """
        by_scene: dict[str, list[_File]] = defaultdict(list)
        for file in _files(self.uri):
            by_scene[file.scene].append(file)
        with ThreadPoolExecutor(_NUM_READERS) as readers:
            read = readers.map(self._scenes, by_scene.values())
            scenes = [scene for found in read for scene in found]
        yield from chip_items(scenes, self.chip_size_px)

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """The chip; none where it holds nodata or too much cloud. Raises DataError: unreadable."""
        yield from chip_rows("geotiff", item, self.max_cloud_cover)

    def _scenes(self, files: list[_File]) -> list[Scene]:
        """The scenes of one name: one for each grid, or one that tells what is wrong."""
        masks = [CloudMask(file.uri, file.name.clouds) for file in files if file.name.clouds is not None]
        pictures = [file for file in files if file.name.clouds is None]
        if not pictures:
            return []
        first = pictures[0]
        sensor = self.sensor or first.name.sensor
        described = Scene(first.scene, (), sensor=sensor, clouds=masks[0] if masks else None)
        try:
            layers = [Layer.read(file.uri, sensor=sensor, band=file.name.band(sensor)) for file in pictures]
        except DataError as error:
            return [described.failed(str(error))]
        found = scenes_of_layers(described, layers)
        return [replace(scene, acquired_at=scene.acquired_at or first.name.day) for scene in found]


def _files(uri: str) -> list[_File]:
    """The TIFF files of a file, folder, prefix or glob, by their path. Raises DataError where there is none."""
    parts = uri.split("/")
    first = next((i for i, part in enumerate(parts) if any(char in part for char in "*?[")), len(parts))
    root = "/".join(parts[:first])
    listed = storage.list_files(root)
    if first < len(parts):
        listed = [file for file in listed if fnmatchcase(file.uri, uri)]
    found = []
    for file in sorted(listed, key=lambda file: file.uri):
        if not file.uri.lower().endswith(SUFFIXES):
            continue
        below = file.uri[len(root) :].lstrip("/")
        folder, _, name = (below or storage.name_of(file.uri)).rpartition("/")
        found.append(_File(file.uri, folder, parse_product_name(name.rsplit(".", 1)[0])))
    if not found:
        seen, expected = f"{len(listed)} files of other kinds", f"names ending in {', '.join(SUFFIXES)}"
        raise DataError("no scenes found", seen=seen, expected=expected, where=uri)
    return found
