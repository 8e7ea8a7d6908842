"""Streaming statistics equal those of all pixels at once, whatever the order, the dtype and the number of workers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmir.archive.imagery import Chip
from cmir.errors import DataError
from cmir.network.statistics import Moments, RunningStatistics

BGRN = ("blue", "green", "red", "nir")
NM = (480.0, 560.0, 665.0, 842.0)


def ms_chip(
    seed: int,
    *,
    sensor: str | None = "A",
    dtype: str = "uint16",
    gsd_m: float | None = 8.0,
    order: tuple[int, ...] = (0, 1, 2, 3),
) -> Chip:
    pixels = np.random.default_rng(seed).integers(0, 250, (4, 6, 5)).astype(dtype)
    rows = list(order)
    names, centres = tuple(BGRN[row] for row in rows), tuple(NM[row] for row in rows)
    return Chip(pixels[rows], names, centres, gsd_m, sensor)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(0, 1000))
def test_merged_moments_equal_those_of_all_values(lengths: list[int], seed: int) -> None:
    values = np.random.default_rng(seed).normal(1000, 5, (sum(lengths), 3))
    parts = np.split(values, np.cumsum(lengths)[:-1])
    moments = Moments.of(parts[0])
    for part in parts[1:]:
        moments.merge(Moments.of(part))
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.std, values.std(axis=0), rtol=1e-6, atol=1e-9)


def test_each_sensor_and_their_pool_are_kept_apart() -> None:
    chips = [ms_chip(0), ms_chip(1), ms_chip(2, sensor="B", gsd_m=None), ms_chip(3, sensor=None, gsd_m=2.0)]
    running = RunningStatistics()
    for chip in chips:
        running.add_chip("ms", chip)
    found = {(entry.sensor, entry.dtype): entry for entry in running.sensors()}
    assert set(found) == {("A", "uint16"), ("B", "uint16"), ("", "uint16")}
    only_a = np.stack([chip.pixels for chip in chips[:2]]).astype(float)
    pool = np.stack([chip.pixels for chip in chips]).astype(float)
    np.testing.assert_allclose([b.mean for b in found["A", "uint16"].bands], only_a.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose([b.std for b in found["", "uint16"].bands], pool.std(axis=(0, 2, 3)))
    assert found["A", "uint16"].gsd_m == 8.0
    assert found["B", "uint16"].gsd_m is None
    assert found["", "uint16"].gsd_m == pytest.approx(6.0)
    assert [b.wavelength_nm for b in found["B", "uint16"].bands] == list(NM)


def test_bands_are_matched_by_name() -> None:
    straight, shuffled = RunningStatistics(), RunningStatistics()
    for seed in range(3):
        straight.add_chip("ms", ms_chip(seed))
        shuffled.add_chip("ms", ms_chip(seed, order=(0, 1, 2, 3) if seed == 0 else (2, 0, 3, 1)))
    assert shuffled.sensors() == straight.sensors()


def test_workers_merge_to_what_one_would_have_seen() -> None:
    alone, left, right = RunningStatistics(), RunningStatistics(), RunningStatistics()
    for seed in range(6):
        alone.add_chip("ms", ms_chip(seed))
        (left if seed < 2 else right).add_chip("ms", ms_chip(seed, order=(0, 1, 2, 3) if seed < 2 else (3, 2, 1, 0)))
        features = np.full(4, seed, np.float32)
        alone.add_features(features)
        (left if seed < 2 else right).add_features(features)
    left.merge(right)
    for mine, theirs in zip(alone.sensors(), left.sensors(), strict=True):
        assert mine.band_names == theirs.band_names
        np.testing.assert_allclose([b.std for b in mine.bands], [b.std for b in theirs.bands])
        assert mine.gsd_m == theirs.gsd_m
    assert left.features() is not None
    np.testing.assert_allclose(left.features().mean, np.full(4, 2.5))  # type: ignore[union-attr]


def test_features_of_another_length_are_refused() -> None:
    running = RunningStatistics()
    assert running.features() is None
    running.add_features(np.zeros(4, np.float32))
    with pytest.raises(DataError, match="speech features: seen 5, expected 4"):
        running.add_features(np.zeros(5, np.float32))
