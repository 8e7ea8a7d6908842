"""What a hit tells of its item, by row id: kept in memory where it is small, else read from the table.

Reading a few scattered rows costs more than ranking 100,000 vectors through an index, so a searcher that is asked
again reads its columns whole, once; that of one question alone does not.
"""

import threading
from collections.abc import Sequence
from typing import Any, Final

import lance
import numpy as np
import numpy.typing as npt
import pyarrow as pa

HELD_BYTES: Final = 256 * 2**20  # at most, of one searcher
_HOLD_FROM: Final = 2  # so many reads
_SAMPLED_ROWS: Final = 1000

RowIds = npt.NDArray[np.uint64]


class HitRows:
    """Some columns of one version of a table; safe to use from several threads."""

    def __init__(self, dataset: lance.LanceDataset, columns: Sequence[str]) -> None:
        self._dataset, self._columns = dataset, ["_rowid", *columns]
        self._lock, self._num_reads = threading.Lock(), 0
        self._held: tuple[RowIds, pa.Table] | None = None

    def read(self, row_ids: RowIds) -> dict[int, dict[str, Any]]:
        """The rows of these ids, none twice."""
        held = self._hold()
        if held is None:
            wanted = ", ".join(map(str, row_ids.tolist()))
            condition = f"_rowid IN ({wanted})" if wanted else "false"
            table = self._dataset.to_table(columns=self._columns, filter=condition)
        else:
            table = held[1].take(pa.array(np.searchsorted(held[0], row_ids)))
        return {row["_rowid"]: row for row in table.to_pylist()}

    def hold(self) -> None:
        """Read all rows now where they fit into memory, and not when they are asked for again."""
        with self._lock:
            self._num_reads = _HOLD_FROM - 1
        self._hold()

    def _hold(self) -> tuple[RowIds, pa.Table] | None:
        with self._lock:
            self._num_reads += 1
            if self._held is None and self._num_reads == _HOLD_FROM and self._num_bytes() <= HELD_BYTES:
                table = self._dataset.to_table(columns=self._columns).sort_by("_rowid").combine_chunks()
                self._held = (table["_rowid"].to_numpy(), table)
            return self._held

    def _num_bytes(self) -> float:
        """About how much memory all rows take, judged by the first."""
        sample = self._dataset.to_table(columns=self._columns, limit=_SAMPLED_ROWS)
        return float(sample.nbytes / max(1, len(sample)) * self._dataset.count_rows())
