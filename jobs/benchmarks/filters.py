"""Whether scalar indexes make a search with a filter faster: each filter by turns on a table without and with them.

The sides of bbox get indexes here too, which jobs/index.py does not build, so that the figures show why.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Final

import lance
import numpy as np

from cmir.gallery import tuning, upkeep
from cmir.gallery.filters import Filters
from cmir.gallery.held_vectors import Vectors
from cmir.gallery.publish import IndexSettings, SearchSettings
from cmir.gallery.search import nearest_rows
from cmir.gallery.table import SpaceTable
from jobs.benchmarks.record import Findings

_K: Final = 10
_BATCH: Final = 32
_SIDES: Final = ("bbox.xmin", "bbox.ymin", "bbox.xmax", "bbox.ymax")
ASKED: Final[Mapping[str, str]] = {  # of the columns that synthetic vectors have
    "modality": "modality IN ('ms')",
    "sensor": Filters.parse({"sensor": "rare"}).sql(),
    "a label": Filters.parse({"labels": "l7"}).sql(),
    "two labels": Filters.parse({"labels": "l7,l8"}).sql(),
    "three days": Filters.parse({"datetime": "2020-02-01/2020-02-03"}).sql(),
    "cloud cover": Filters.parse({"cloud_cover_max": 1}).sql(),
    "gsd": Filters.parse({"gsd_max_m": 0.1}).sql(),
    "bbox": Filters.parse({"bbox": "0,0,36,18"}).sql(),
}


class FilterFigures(Findings):
    """One filter: the share of rows that it keeps, milliseconds per query without and with scalar indexes."""

    filter: str
    kept: float
    ms_single: float
    ms_single_indexed: float
    ms_batch_of_32: float
    ms_batch_indexed: float


def measure_filters(space: SpaceTable, queries: Vectors, *, rounds: int) -> list[FilterFigures]:
    """Index the filter columns of a table with a vector index; the times of each of ASKED before and after.

    All partitions are looked at, which is about what tuning chooses for searches with a filter.
    """
    index = tuning.standing_index(space.dataset()) or IndexSettings()
    way = (index, SearchSettings(nprobes=index.params.get("num_partitions")))
    plain = space.dataset()
    upkeep.index_columns(space.uri, {**upkeep.FILTER_COLUMNS, **dict.fromkeys(_SIDES, "BTREE")}, 0)
    versions = (plain, space.dataset())
    return [_figures(name, sql, versions, queries, way, rounds) for name, sql in ASKED.items()]


def _figures(
    name: str,
    condition: str,
    versions: Sequence[lance.LanceDataset],
    queries: Vectors,
    way: tuple[IndexSettings, SearchSettings],
    rounds: int,
) -> FilterFigures:
    single: list[list[float]] = [[] for _ in versions]
    batch: list[list[float]] = [[] for _ in versions]
    together = np.resize(queries, (_BATCH, queries.shape[1]))
    for turn in range(rounds + 1):
        for number, dataset in enumerate(versions):
            alone = [_ms(dataset, query[None], condition, way) for query in queries[:8]]
            at_once = _ms(dataset, together, condition, way) / _BATCH
            if turn:  # the first turn warms up
                single[number] += alone
                batch[number].append(at_once)
    return FilterFigures(
        filter=name,
        kept=versions[0].count_rows(condition) / versions[0].count_rows(),
        ms_single=float(np.median(single[0])),
        ms_single_indexed=float(np.median(single[1])),
        ms_batch_of_32=float(np.median(batch[0])),
        ms_batch_indexed=float(np.median(batch[1])),
    )


def _ms(
    dataset: lance.LanceDataset, vectors: Vectors, condition: str, way: tuple[IndexSettings, SearchSettings]
) -> float:
    began = time.perf_counter()
    nearest_rows(dataset, vectors, _K, condition, way)
    return 1000 * (time.perf_counter() - began)
