"""A folder of images, sorted into class folders or not -> its image files with their class and the ground they show.

`scene_id` is made from the class folder and file name of the first image of a ground, so the same image read as
`ucmerced`, `folder` or `wald`, from the set's folder or from its `Images`, falls into the same split. Two images share
it where they carry the same name in the same class, where their footprints overlap (georeferenced files, from headers),
or where their pixels do (`overlap`; each class folder by itself): listing reads the pixels of class folders once.
"""

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely
from PIL import Image, UnidentifiedImageError
from shapely.strtree import STRtree

from cmir.archive import storage
from cmir.archive.imagery import Chip, preview, read_raster
from cmir.archive.overlap import Grey, find_overlaps, grouped, reduced_grey
from cmir.archive.raster import RASTER_SUFFIXES, Georeference, georeference_of, is_tiff, open_dataset
from cmir.archive.schema import make_group_id
from cmir.errors import CmirError, DataError

MIN_FOOTPRINT_SHARE: Final = 0.01  # of the smaller footprint: neighbouring tiles touch and are different grounds
_NUM_READERS: Final = 8  # threads; reading from object storage is waiting
_PICTURE_MODES: Final = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a listing: `key` is its path below the input, `scene_class` the folder that holds it."""

    uri: str
    key: str
    num_bytes: int
    scene_class: str | None

    @property
    def stem(self) -> str:
        """The file's name without folder and extension: `beach07`."""
        return self.key.rsplit("/", 1)[-1].rsplit(".", 1)[0]

    @property
    def place(self) -> str:
        """Class and name, wherever the folder lies: `beach/beach07`."""
        return f"{self.scene_class or ''}/{self.stem}"


@dataclass(frozen=True, slots=True)
class _Glimpse:
    """What listing sees of one image: its footprint in degrees where it has one, else its reduced grey pixels."""

    footprint: shapely.Polygon | None = None
    grey: Grey | None = None


def list_images(uri: str) -> list[ImageFile]:
    """Every file with an image's extension below a folder, or that file itself, sorted by key.

    Raises DataError where the folder is missing or holds no image.
    """
    listed = storage.list_files(uri)
    images = [_image_file(uri, file) for file in listed if file.uri.lower().endswith(RASTER_SUFFIXES)]
    if not images:
        raise DataError(
            "no images found",
            seen=f"{len(listed)} files of other kinds",
            expected=f"names ending in {', '.join(RASTER_SUFFIXES)}",
            where=uri,
        )
    return sorted(images, key=lambda image: image.key)


def scene_ids(images: Sequence[ImageFile]) -> dict[str, str]:
    """scene_id of each image by its key; images that show part of the same ground share it.

    Pixels are read only of images in class folders that carry no georeference. What cannot be read stays alone.
    """
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        glimpses = list(readers.map(_glimpse, images, chunksize=16))
    pairs = [
        *_same_place(images),
        *overlapping_footprints([glimpse.footprint for glimpse in glimpses]),
        *_same_pixels(images, glimpses),
    ]
    firsts = grouped(len(images), pairs)
    return {image.key: make_group_id("ground", images[firsts[i]].place) for i, image in enumerate(images)}


def _image_file(uri: str, file: storage.FileInfo) -> ImageFile:
    root = uri.rstrip("/")
    key = file.uri[len(root) :].lstrip("/") or storage.name_of(file.uri)
    folders = key.split("/")[:-1]
    return ImageFile(file.uri, key, file.num_bytes, folders[-1] if folders else None)


def _glimpse(image: ImageFile) -> _Glimpse:
    try:
        data = storage.read_bytes(image.uri)
        if is_tiff(data):
            with open_dataset(data, image.uri) as dataset:
                place, width, height = georeference_of(dataset), dataset.width, dataset.height
            if place:
                return _Glimpse(footprint=_polygon(place, width, height))
        return _Glimpse(grey=_grey(data)) if image.scene_class else _Glimpse()
    except (CmirError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return _Glimpse()  # rows() will say why it cannot be read


def _grey(data: bytes) -> Grey:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.mode in _PICTURE_MODES:
                return reduced_grey(picture)
    except UnidentifiedImageError:
        pass  # a TIFF that only rasterio reads
    return _grey_of_chip(read_raster(data))


def _grey_of_chip(chip: Chip) -> Grey:
    return reduced_grey(Image.fromarray(preview(chip)))


def _polygon(place: Georeference, width: int, height: int) -> shapely.Polygon:
    return shapely.Polygon(place.polygon_lonlat(width, height))


def _same_place(images: Sequence[ImageFile]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    for i, image in enumerate(images):
        if first.setdefault(image.place, i) != i:
            yield first[image.place], i


def overlapping_footprints(polygons: Sequence[shapely.Polygon | None]) -> Iterator[tuple[int, int]]:
    """Places (a, b), a < b, of polygons that share more than a hundredth of the smaller; None lies nowhere."""
    known = [i for i, polygon in enumerate(polygons) if polygon is not None]
    if len(known) < 2:
        return
    footprints = np.array([polygons[i] for i in known], dtype=object)
    left, right = STRtree(footprints).query(footprints, predicate="intersects")
    shared = shapely.area(shapely.intersection(footprints[left], footprints[right]))
    smaller = np.minimum(shapely.area(footprints[left]), shapely.area(footprints[right]))
    enough = shared > MIN_FOOTPRINT_SHARE * smaller
    for a, b in zip(left[enough].tolist(), right[enough].tolist(), strict=True):
        if a < b:
            yield known[a], known[b]


def _same_pixels(images: Sequence[ImageFile], glimpses: Sequence[_Glimpse]) -> Iterator[tuple[int, int]]:
    by_class: dict[str, list[int]] = defaultdict(list)
    for i, image in enumerate(images):
        if image.scene_class and glimpses[i].grey is not None:
            by_class[image.scene_class].append(i)
    for members in by_class.values():
        for overlap in find_overlaps([grey for i in members if (grey := glimpses[i].grey) is not None]):
            yield members[overlap.first], members[overlap.second]
