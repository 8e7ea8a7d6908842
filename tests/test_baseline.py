"""The ranking without learning: correlation of grey thumbnails."""

import numpy as np
import pytest

from cmir.archive.imagery import Chip
from cmir.evaluation.baseline import grey_vector


def chip(pixels: np.ndarray, bands: tuple[str, ...]) -> Chip:
    return Chip(pixels, bands, (None,) * len(bands))


def test_is_the_correlation_of_16_px_grey_thumbnails() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 255, (3, 64, 64)).astype(np.uint8) for _ in range(2))
    found = grey_vector(chip(first, ("red", "green", "blue"))) @ grey_vector(chip(second, ("red", "green", "blue")))
    small = [pixels.mean(axis=0).reshape(16, 4, 16, 4).mean(axis=(1, 3)).ravel() for pixels in (first, second)]
    assert found == pytest.approx(np.corrcoef(*small)[0, 1], abs=1e-5)


def test_pan_and_ms_of_one_ground_correlate() -> None:
    ground = np.random.default_rng(1).integers(0, 3000, (64, 64)).astype(np.uint16)
    pan = grey_vector(chip(np.kron(ground, np.ones((4, 4), np.uint16))[None], ("pan",)))
    ms = grey_vector(chip(np.stack([ground, ground * 2, ground // 2, ground[::-1]]), ("blue", "green", "red", "nir")))
    assert pan @ ms == pytest.approx(1.0, abs=1e-3)  # infrared is no part of grey


def test_odd_sizes_and_float_bands_without_names_known() -> None:
    pixels = np.random.default_rng(2).random((5, 37, 21)).astype(np.float32)
    vector = grey_vector(chip(pixels, ("b1", "b2", "b3", "b4", "b5")))
    assert vector.shape == (256,)
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-5)


def test_a_chip_without_contrast_correlates_with_nothing() -> None:
    assert not grey_vector(chip(np.full((1, 32, 32), 7, np.uint8), ("pan",))).any()
