"""DSRSID.mat (MATLAB v7.3) -> PAN and MS rows of Gaofen-1, paired, the land cover as scene_class.

h5py shows the file as PAN_IMAGES (N,1,256,256), MUL_IMAGES (N,4,64,64), LAND_COVER_TYPES (1,N), spatial axes in
MATLAB's order, column first: they are transposed here, never reshaped (reshaping, as the published code does, scrambles
pixels). The file is read by blocks of its own chunks and never whole.

The official split is that of later work: 625 of each class for test, the rest for training and gallery. Which 625 is
not published; here a fixed hash of the index chooses them, the same for everyone, rather than the first ones, since the
file is in blocks and neighbours may come from one scene. A class of 625 items or fewer gives one in sixteen, as of
10,000.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from cmir.archive import storage
from cmir.archive.imagery import raw_media
from cmir.archive.matlab import open_hdf5
from cmir.archive.schema import ShardRow, make_group_id, make_item_id
from cmir.archive.sensors import GF1_PMS
from cmir.archive.sources import Item
from cmir.errors import DataError

FILE_NAME: Final = "DSRSID.mat"
# PAPER.md section 1: codes 1..8 in this order.
LAND_COVERS: Final = (
    "aquafarm",
    "cloud",
    "forest",
    "high building",
    "low building",
    "farm land",
    "river",
    "water",
)
NUM_TEST_PER_CLASS: Final = 625
_TEST_SHARE: Final = 1 / 16
MS_BANDS: Final = ("blue", "green", "red", "nir")
_PAN, _MS, _COVERS = "PAN_IMAGES", "MUL_IMAGES", "LAND_COVER_TYPES"
_MAX_BLOCK: Final = 256
_GSD_M: Final = {"pan": 2.0, "ms": 8.0}


@dataclass(frozen=True)
class DsrsidSource:
    """Source `dsrsid`: the file, or the folder that holds it."""

    uri: str
    official_split: bool = False

    def items(self) -> Iterator[Item]:
        """One item per pair, from the table of land covers. Raises DataError: missing, unreadable, another layout."""
        file = self._file()
        covers = _land_covers(file.uri)
        test = _official_test(covers) if self.official_split else None
        for index, cover in enumerate(covers):
            yield Item(
                key=str(index),
                scene_id=make_group_id("dsrsid", str(index)),
                num_bytes=256 * 256,
                split=None if test is None else "test" if index in test else "train",
                source_uri=file.uri,
                detail={"index": index, "scene_class": LAND_COVERS[cover - 1], "file_bytes": file.num_bytes},
            )

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """PAN and MS of one pair. Raises DataError where the file cannot be read."""
        index = int(item.detail["index"])
        for modality, dataset, bands in (("pan", _PAN, ("pan",)), ("ms", _MS, MS_BANDS)):
            block, start = _block(item.source_uri, item.detail["file_bytes"], dataset, index)
            pixels = block[index - start].swapaxes(-1, -2)
            yield ShardRow(
                item_id=make_item_id("dsrsid", item.key, modality),
                media=raw_media(
                    "pan" if modality == "pan" else "ms",
                    pixels,
                    bands=bands,
                    sensor=GF1_PMS.name,
                    gsd_m=_GSD_M[modality],
                ),
                scene_id=item.scene_id,
                source_uri=item.source_uri,
                scene_class=item.detail["scene_class"],
                pair_id=make_group_id("dsrsid pair", item.key),
            )

    def _file(self) -> storage.FileInfo:
        files = storage.list_files(self.uri, ".mat")
        named = [file for file in files if storage.name_of(file.uri) == FILE_NAME] or files
        if len(named) != 1:
            seen = ", ".join(storage.name_of(file.uri) for file in named[:5]) or "no .mat file"
            raise DataError("no DSRSID file", seen=seen, expected=FILE_NAME, where=self.uri)
        return named[0]


def _land_covers(uri: str) -> list[int]:
    """The code 1..8 of each pair, after a look at the shapes of all three tables."""
    with _opened(uri) as file:
        shapes = {name: tuple(file[name].shape) for name in (_PAN, _MS, _COVERS) if name in file}
        covers = np.asarray(file[_COVERS]).ravel() if _COVERS in file else np.zeros(0)
    num = len(covers)
    expected = {_PAN: (num, 1), _MS: (num, len(MS_BANDS))}
    if len(shapes) < 3 or num == 0 or any(shapes[name][:2] != lead for name, lead in expected.items()):
        layout = f"{_PAN} (N,1,256,256), {_MS} (N,4,64,64), {_COVERS} (1,N)"
        raise DataError("not the layout of DSRSID", seen=shapes, expected=layout, where=uri)
    wrong = covers[~np.isin(covers, np.arange(1, len(LAND_COVERS) + 1))]
    if wrong.size:
        raise DataError("unknown land cover", seen=wrong[:5].tolist(), expected="1 to 8", where=f"{uri}:{_COVERS}")
    return [int(code) for code in covers]


def _official_test(covers: list[int]) -> set[int]:
    """Indices of the test set: of each class those whose hashed index is smallest."""
    chosen: set[int] = set()
    for code in set(covers):
        members = [index for index, cover in enumerate(covers) if cover == code]
        num_test = (
            NUM_TEST_PER_CLASS if len(members) > NUM_TEST_PER_CLASS else max(1, round(len(members) * _TEST_SHARE))
        )
        chosen.update(sorted(members, key=_order)[:num_test])
    return chosen


def _order(index: int) -> str:
    return hashlib.sha256(f"dsrsid official {index}".encode()).hexdigest()


def _block(uri: str, file_bytes: int, dataset: str, index: int) -> tuple[NDArray[Any], int]:
    """The block of pairs that holds one, and its first index."""
    size = _block_size(uri, file_bytes, dataset)
    start = index // size * size
    return _read_block(uri, file_bytes, dataset, start, size), start


@lru_cache(maxsize=8)
def _block_size(uri: str, file_bytes: int, dataset: str) -> int:
    """Pairs per chunk of the file, 1 where it is not chunked: reading less would unpack the same chunk again."""
    with _opened(uri) as file:
        chunks = file[dataset].chunks
    return min(_MAX_BLOCK, int(chunks[0])) if chunks else 1


@lru_cache(maxsize=4)
def _read_block(uri: str, file_bytes: int, dataset: str, start: int, size: int) -> NDArray[Any]:
    with _opened(uri) as file:
        return np.asarray(file[dataset][start : start + size])


@contextmanager
def _opened(uri: str) -> Iterator[h5py.File]:
    with storage.open_input(uri) as opened, open_hdf5(opened, uri) as file:
        yield file
