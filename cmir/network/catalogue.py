"""Shards -> what training knows of every item without its bytes: where it lies, its labels, class and pair.

Names become small integers once, here; a million items take about 100 MB. Items of one pair_id (the same ground seen by
several sensors at once) form a ground; an item without one is a ground of its own. Grounds are what batches are made
of, so that co-located chips always meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from cmir.archive.schema import MODALITIES
from cmir.archive.shards import Piece, ShardFile, pieces, read_row_group
from cmir.errors import DataError
from cmir.network.scenes import Digests, digests_of

UNKNOWN: Final = -1
_COLUMNS: Final = ["modality", "dtype", "bands", "labels", "scene_class", "pair_id", "scene_id"]
_SPEECH: Final = MODALITIES.index("speech")

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Columns over N items: modality int8[N] (index into MODALITIES), piece int32[N], row int32[N] within the piece,
    num_bands int16[N], item_size int8[N] bytes per value, labels uint8[N,L], has_labels bool[N], class_id and pair_id
    int64[N] (UNKNOWN where there is none). `scenes` are the digests of its different scene_ids (see scenes).

    `has_labels` tells whether an item's labels are known. A chip without any label was not labelled; an utterance
    without any names none of them, which is worth knowing too.
    """

    pieces: tuple[Piece, ...]
    label_names: tuple[str, ...]
    class_names: tuple[str, ...]
    modality: Array
    piece: Array
    row: Array
    num_bands: Array
    item_size: Array
    labels: Array
    has_labels: Array
    class_id: Array
    pair_id: Array
    scenes: Digests = field(default_factory=lambda: np.zeros(0, np.uint64))

    def __len__(self) -> int:
        return len(self.modality)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities present, in their fixed order."""
        return tuple(MODALITIES[i] for i in np.unique(self.modality))

    def grounds(self) -> list[Array]:
        """Item numbers of the image items of each ground, grounds in the order in which they lie in the shards."""
        images = np.flatnonzero(self.modality != _SPEECH)
        alone = -2 - images  # an own key for each item without a pair
        key = np.where(self.pair_id[images] == UNKNOWN, alone, self.pair_id[images])
        order = np.argsort(key, kind="stable")
        bounds = np.flatnonzero(np.diff(key[order])) + 1
        parts = np.split(images[order], bounds) if len(images) else []
        return sorted(parts, key=lambda items: int(items[0]))

    def utterances(self) -> list[Array]:
        """Item numbers of the utterances, one array of length 1 each."""
        return list(np.flatnonzero(self.modality == _SPEECH)[:, None])


def read_catalogue(
    shard_files: Sequence[ShardFile],
    *,
    label_names: tuple[str, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Catalogue:
    """Read the metadata columns of all rows.

    `label_names` and `class_names` default to all that occur, sorted; names outside given ones are dropped.
    Raises DataError where the shards hold no row or cannot be read.
    """
    work = [piece for file in shard_files for piece in pieces(file)]
    tables = [read_row_group(piece.shard_uri, piece.row_group, _COLUMNS) for piece in work]
    if not sum(map(len, tables)):
        where = ", ".join(file.uri for file in shard_files[:3])
        raise DataError("no rows to train on", seen="0 rows", expected="at least one", where=where)
    table = pa.concat_tables(tables)
    label_names = label_names if label_names is not None else _names(pc.list_flatten(table["labels"]))
    class_names = class_names if class_names is not None else _names(table["scene_class"])
    sizes = [len(part) for part in tables]
    modality = _codes(table["modality"], MODALITIES).astype(np.int8)
    labels = _multi_hot(table["labels"], label_names)
    says_nothing = pc.fill_null(pc.list_value_length(table["labels"]), 0).to_numpy() == 0
    return Catalogue(
        pieces=tuple(work),
        label_names=label_names,
        class_names=class_names,
        modality=modality,
        piece=np.repeat(np.arange(len(work), dtype=np.int32), sizes),
        row=np.concatenate([np.arange(size, dtype=np.int32) for size in sizes]),
        num_bands=pc.fill_null(pc.list_value_length(table["bands"]), 3).to_numpy().astype(np.int16),
        item_size=_item_sizes(table["dtype"]),
        labels=labels,
        has_labels=labels.any(axis=1) | ((modality == _SPEECH) & says_nothing),
        class_id=_codes(table["scene_class"], class_names),
        pair_id=_codes(table["pair_id"], None),
        scenes=digests_of(pc.unique(table["scene_id"]).to_pylist()),
    )


def _names(column: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(sorted(name for name in pc.unique(column).to_pylist() if name is not None))


def _codes(column: pa.ChunkedArray, names: tuple[str, ...] | None) -> Array:
    """Strings as int64 places in `names` (None: in order of appearance), UNKNOWN for null and for other names."""
    if names is None:
        indices = pa.chunked_array(column.combine_chunks().dictionary_encode().indices)
    else:
        indices = pc.index_in(column, value_set=pa.array(names, pa.string()))
    codes: Array = pc.fill_null(pc.cast(indices, pa.int64()), UNKNOWN).to_numpy()
    return codes


def _multi_hot(column: pa.ChunkedArray, names: tuple[str, ...]) -> Array:
    labels = np.zeros((len(column), len(names)), np.uint8)
    codes = _codes(pc.list_flatten(column), names)
    rows = pc.list_parent_indices(column).to_numpy()
    known = codes != UNKNOWN
    labels[rows[known], codes[known]] = 1
    return labels


def _item_sizes(column: pa.ChunkedArray) -> Array:
    """Bytes per value: encoded images count as 8-bit."""
    sizes = {"uint8": 1, "uint16": 2, "int16": 2, "float32": 4}
    return np.array([sizes.get(name or "uint8", 4) for name in column.to_pylist()], np.int8)
