"""Rows of a table whose footprints touch an area: the table compares boxes, shapely the outlines of what is left.

Lance has ST_Intersects as well, which goes through every point of the area for every row: 0.2 ms a row where the area
has 10,000. shapely's prepared geometry keeps them in a tree.
"""

from collections.abc import Callable
from typing import Any, Final

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from cmir.gallery.held_vectors import Nearest
from cmir.gallery.hit_rows import RowIds

_ROWS_AT_ONCE: Final = 4096  # after which it is asked whether anybody still waits
_SIDES: Final = ("xmin", "ymin", "xmax", "ymax")


class NobodyWaitsError(Exception):
    """A search was given up because all who asked for it have gone."""


def rows_touching(
    dataset: lance.LanceDataset, condition: str, area: shapely.Geometry, is_wanted: Callable[[], bool]
) -> RowIds:
    """Ids of the rows that satisfy `condition` and whose footprint has a point in common with `area`, in any order.

    A footprint is the row's geometry where it has one, else its bbox; rows with neither, or with a geometry that is no
    WKB, touch nothing. Raises NobodyWaitsError as soon as `is_wanted` says no.
    """
    shapely.prepare(area)
    scanner = dataset.scanner(
        columns=["geometry", "bbox"], filter=condition, with_row_id=True, batch_size=_ROWS_AT_ONCE
    )
    found: list[RowIds] = [np.zeros(0, np.uint64)]
    for batch in scanner.to_batches():
        if not is_wanted():
            raise NobodyWaitsError
        touches = shapely.intersects(area, _footprints(batch))  # the prepared one first
        found.append(batch["_rowid"].to_numpy()[touches])
    return np.concatenate(found)


def is_row_of(row_ids: RowIds) -> str:
    """The condition, in Lance's SQL, of being one of these rows."""
    return f"_rowid IN ({', '.join(map(str, row_ids.tolist()))})" if len(row_ids) else "false"


def picked(row_ids: RowIds, num_hits: int, nearest: Callable[[int], list[Nearest]]) -> list[Nearest]:
    """The nearest of these rows for every query, of more and more of the `nearest` rows until enough are theirs."""
    num_fetched = num_hits
    while True:
        found = nearest(num_fetched)
        kept = [np.isin(near_ids, row_ids) for near_ids, _ in found]
        if all(mask.sum() >= num_hits or len(mask) < num_fetched for mask in kept):
            pairs = zip(found, kept, strict=True)
            return [(near_ids[mask][:num_hits], near[mask][:num_hits]) for (near_ids, near), mask in pairs]
        num_fetched *= 4


def _footprints(batch: pa.RecordBatch) -> npt.NDArray[Any]:
    """Shapes of the rows, None where there is none."""
    shapes: npt.NDArray[Any] = shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False), on_invalid="ignore")
    boxed = np.asarray(batch["geometry"].is_null()) & np.asarray(batch["bbox"].is_valid())
    if boxed.any():
        sides = [np.asarray(batch["bbox"].field(side), dtype=np.float64)[boxed] for side in _SIDES]
        shapes[boxed] = shapely.box(*sides)
    return shapes
