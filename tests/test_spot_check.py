"""Recall of a searcher now, against exact answers looked up once."""

import numpy as np

from cmir.gallery.spot_check import SpotCheck
from tests.serve_doubles import FakeSearcher, gallery_rows


def test_what_the_index_no_longer_finds_is_missed() -> None:
    searcher = FakeSearcher(gallery_rows())
    check = SpotCheck(searcher, num_queries=24)
    assert check.recall() == 1.0
    searcher.num_lost = 6
    vectors = np.stack([vector for _, vector in searcher.rows.values()])
    exact = np.sort(1 - vectors @ vectors.T, axis=1)[:, :10]
    left = np.sort(1 - vectors @ vectors[6:].T, axis=1)[:, :10]
    expected = np.mean([np.sum(near <= last + 1e-6) / 10 for near, last in zip(left, exact[:, -1], strict=True)])
    assert check.recall() == expected < 1


def test_an_empty_version_finds_all_there_is() -> None:
    class Empty:
        def sample(self, num_rows: int, seed: int) -> np.ndarray:
            return np.zeros((0, 8), np.float32)

        def distances(self, vectors: np.ndarray, k: int, *, exact: bool = False) -> list[np.ndarray]:
            raise AssertionError

    assert SpotCheck(Empty()).recall() == 1.0
