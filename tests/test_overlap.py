"""Pairs of images that show part of the same ground are found, others are not."""

import numpy as np
import pytest
from PIL import Image

from cmir.archive.overlap import find_overlaps, grouped, reduced_grey
from tests.picture_files import ground


def grey_cut(mosaic: np.ndarray, row: int, column: int) -> np.ndarray:
    return reduced_grey(Image.fromarray(mosaic[row : row + 256, column : column + 256]))


def mosaic_of(seed: int) -> np.ndarray:
    """uint8[700,700,3], fine enough to be told apart after reduction."""
    return ground(seed, 700, 700)


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (30, -20), (0, 200), (-180, 120), (205, 60)])
def test_cuts_of_one_mosaic_are_found_with_their_shift(rows: int, columns: int) -> None:
    mosaic = mosaic_of(1)
    images = [grey_cut(mosaic_of(2), 0, 0), grey_cut(mosaic, 220, 220), grey_cut(mosaic, 220 + rows, 220 + columns)]
    found = find_overlaps(images)
    assert [(pair.first, pair.second) for pair in found] == [(1, 2)]
    assert (found[0].rows, found[0].columns) == pytest.approx((rows / 2, columns / 2), abs=1)
    assert found[0].correlation > 0.75
    assert found[0].share == pytest.approx((1 - abs(rows) / 256) * (1 - abs(columns) / 256), abs=0.02)


def test_grounds_apart_are_not_joined() -> None:
    assert find_overlaps([grey_cut(mosaic_of(seed), 0, 0) for seed in range(20)]) == []


def test_smooth_shading_and_flat_images_are_no_ground() -> None:
    ramp = np.linspace(40, 220, 256)
    shades = [
        np.repeat(np.tile(np.roll(ramp, 0) * scale, (256, 1))[..., None], 3, 2).astype(np.uint8) for scale in (1, 0.9)
    ]
    flat = [np.full((256, 256, 3), 90, np.uint8)] * 2
    assert find_overlaps([grey_cut(image, 0, 0) for image in shades + flat]) == []


def test_brightness_and_noise_do_not_hide_an_overlap() -> None:
    mosaic = mosaic_of(3)
    other = np.clip(mosaic * 0.7 + 30 + np.random.default_rng(0).normal(0, 4, mosaic.shape), 0, 255).astype(np.uint8)
    assert len(find_overlaps([grey_cut(mosaic, 0, 0), grey_cut(other, 100, 50)])) == 1


def test_the_window_limits_who_is_compared() -> None:
    mosaic = mosaic_of(4)
    images = [grey_cut(mosaic, 0, 0), *(grey_cut(mosaic_of(s), 0, 0) for s in (5, 6)), grey_cut(mosaic, 40, 40)]
    assert len(find_overlaps(images, window=3)) == 1
    assert find_overlaps(images, window=2) == []
    assert find_overlaps(images[:1]) == []


@pytest.mark.parametrize(
    ("size", "reduced"), [((256, 256), (128, 128)), ((247, 256), (128, 124)), ((64, 64), (64, 64))]
)
def test_images_are_reduced_by_whole_numbers(size: tuple[int, int], reduced: tuple[int, int]) -> None:
    assert reduced_grey(Image.new("RGB", size)).shape == reduced


def test_chains_of_pairs_are_one_group_named_by_its_first() -> None:
    assert grouped(6, [(4, 5), (0, 2), (2, 4)]) == [0, 1, 0, 3, 0, 0]
    assert grouped(3, []) == [0, 1, 2]
