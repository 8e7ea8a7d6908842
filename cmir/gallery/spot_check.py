"""Whether what is served still finds what it should: recall@10 of a searcher, as often as it is asked.

A published version never changes, so the exact answers are looked up once; asking again costs a few indexed searches.
"""

from typing import Final, Protocol

import numpy as np

from cmir.gallery.held_vectors import Vectors

NUM_QUERIES: Final = 16
_K: Final = 10
_TIE: Final = 1e-6  # cosine distance within which a row is as good as the tenth


class Searched(Protocol):
    """What a spot check asks of a searcher."""

    def sample(self, num_rows: int, seed: int) -> Vectors: ...
    def distances(self, vectors: Vectors, k: int, *, exact: bool = False) -> list[Vectors]: ...


class SpotCheck:
    """Queries are random rows of the version itself; each finds itself, which counts as one of its ten."""

    def __init__(self, searcher: Searched, *, num_queries: int = NUM_QUERIES, seed: int = 0) -> None:
        self._searcher = searcher
        self._queries = searcher.sample(num_queries, seed)
        self._truth = searcher.distances(self._queries, _K, exact=True) if len(self._queries) else []

    def recall(self) -> float:
        """Share of the exact answers that the index finds now, ties counting as found; 1 for an empty version."""
        if not len(self._queries):
            return 1.0
        found = self._searcher.distances(self._queries, _K)
        shares = [
            min(1.0, float((near <= exact[-1] + _TIE).sum()) / len(exact))
            for near, exact in zip(found, self._truth, strict=True)
        ]
        return float(np.mean(shares))
