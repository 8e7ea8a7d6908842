"""Filters that keep about a given share of a gallery's rows, made of what its rows hold: what tuning asks with.

A label or a sensor comes first, since askers narrow by those and their rows lie together in the space, away from most
queries, which is the hardest case for an index. Then a time, and where no column fits, a range of item_ids.
"""

from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from cmir.gallery.commits import quoted
from cmir.gallery.filters import MAX_TEXT, Filters

SHARES: Final = (0.1, 0.01, 0.001)
SAMPLED_COLUMNS: Final = ("item_id", "modality", "labels", "sensor", "acquired_at")
_TOLERANCE: Final = 2.0  # a filter of twice or half the share stands for it


def selective_condition(rows: pa.Table, share: float) -> str:
    """The SQL of a filter that keeps about `share` of the rows; `rows` is a sample with SAMPLED_COLUMNS, not empty."""
    for kept, condition in _candidates(rows, share):
        if share / _TOLERANCE <= kept / len(rows) <= share * _TOLERANCE:
            return condition
    ids = sorted(rows["item_id"].to_pylist())
    return f"item_id <= {quoted(ids[_place(len(ids), share)])}"


def _candidates(rows: pa.Table, share: float) -> Iterator[tuple[int, str]]:
    """Conditions that an asker may give, and how many of the rows each keeps."""
    if nearest := _nearest_value(pc.list_flatten(rows["labels"]), share * len(rows)):
        yield nearest[0], Filters.parse({"labels": [nearest[1]]}).sql()
    if nearest := _nearest_value(rows["sensor"], share * len(rows)):
        yield nearest[0], Filters.parse({"sensor": nearest[1]}).sql()
    times = sorted(rows["acquired_at"].drop_null().to_pylist())
    if (place := _place(len(rows), share)) < len(times):
        last = times[place]
        yield sum(time <= last for time in times), Filters.parse({"datetime": f"../{last.isoformat()}"}).sql()


def _nearest_value(values: pa.ChunkedArray, wanted: float) -> tuple[int, str] | None:
    """The value that stands nearest to `wanted` times, with how often it does."""
    counted = pc.value_counts(values.drop_null()).to_pylist()
    found = [(one["counts"], one["values"]) for one in counted if 0 < len(one["values"]) <= MAX_TEXT]
    return min(found, key=lambda pair: (max(pair[0] / wanted, wanted / pair[0]), pair[1]), default=None)


def _place(num_rows: int, share: float) -> int:
    """Where in an ascending list the first `share` of it ends."""
    return max(0, round(num_rows * share) - 1)
