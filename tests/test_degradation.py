"""Wald's protocol to the pixel; the hard variant changes what a thumbnail sees and keeps what an eye matches."""

import numpy as np
import pytest

from cmir.archive.degradation import Spoiling, averaged_down, synthesise_pan, wald_pair
from cmir.errors import DataError
from tests.picture_files import ground

WEIGHTS = (0.35, 0.37, 0.28)


def truth(seed: int = 1, size_px: int = 64) -> np.ndarray:
    return ground(seed, size_px, size_px).transpose(2, 0, 1)


def edges(image: np.ndarray) -> np.ndarray:
    """The Laplacian of an image reduced to 16 x 16, as a unit vector."""
    small = averaged_down(image[None].astype(np.float32), image.shape[0] // 16)[0]
    found = 4 * small[1:-1, 1:-1] - small[:-2, 1:-1] - small[2:, 1:-1] - small[1:-1, :-2] - small[1:-1, 2:]
    return (found / np.linalg.norm(found)).ravel()


def test_ms_is_the_mean_of_4_x_4_pixels_and_pan_the_weighted_mean() -> None:
    image = truth()
    pan, ms = wald_pair(image, WEIGHTS, None)
    assert (pan.shape, ms.shape, pan.dtype, ms.dtype) == ((1, 64, 64), (3, 16, 16), np.uint8, np.uint8)
    assert ms[1, 2, 3] == round(float(image[1, 8:12, 12:16].mean()))
    assert pan[0, 5, 6] == round(float(np.dot(WEIGHTS, image[:, 5, 6])))


def test_one_bright_pixel_lands_in_its_place() -> None:
    image = np.zeros((2, 16, 16), np.float32)
    image[1, 5, 14] = 16.0
    pan, ms = wald_pair(image, (0.5, 0.5), None)
    assert (np.argwhere(pan[0])).tolist() == [[5, 14]]
    assert pan[0, 5, 14] == 8.0
    assert (np.argwhere(ms)).tolist() == [[1, 1, 3]]
    assert ms[1, 1, 3] == 1.0


def test_odd_sizes_are_cut_to_multiples_of_four_and_tiny_ones_refused() -> None:
    pan, ms = wald_pair(np.zeros((3, 247, 250), np.uint8), WEIGHTS, None)
    assert (pan.shape, ms.shape) == ((1, 244, 248), (3, 61, 62))
    with pytest.raises(DataError, match="image is too small: seen 15 x 40 px"):
        wald_pair(np.zeros((3, 40, 15), np.uint8), WEIGHTS, None)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_hard_pairs_keep_type_and_shape_and_follow_their_seed(dtype: str) -> None:
    image = (truth().astype(np.float64) * (40 if dtype == "uint16" else 1)).astype(dtype)
    first, again, other = (wald_pair(image, WEIGHTS, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert (first[0].shape, first[1].shape, first[0].dtype, first[1].dtype) == ((1, 64, 64), (3, 16, 16), dtype, dtype)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).mean() > 0.5


def test_hard_sides_are_spoilt_by_themselves_but_edges_still_match() -> None:
    pairs = [wald_pair(truth(seed, 256), WEIGHTS, np.random.default_rng(seed)) for seed in range(12)]
    pan_grey = np.stack([averaged_down(pan, 4)[0] for pan, _ in pairs]).reshape(12, -1)
    ms_grey = np.stack([ms.mean(axis=0) for _, ms in pairs]).reshape(12, -1)
    agreement = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(pan_grey, ms_grey, strict=True)]
    assert np.mean(agreement) < 0.9  # clean pairs correlate at 0.99 and more
    scores = np.stack([edges(pan[0]) for pan, _ in pairs]) @ np.stack([edges(ms.mean(axis=0)) for _, ms in pairs]).T
    assert (scores.argmax(axis=1) == np.arange(12)).mean() >= 0.9


def test_draws_stay_in_their_ranges() -> None:
    rng = np.random.default_rng(0)
    for draw in (Spoiling.draw(rng, 4) for _ in range(200)):
        assert max(map(abs, draw.shift_px)) <= 2.0
        assert 0.3 <= draw.blur_px <= 0.9
        assert len(draw.gain) == 4
        assert 0.4 <= min(draw.gain) <= max(draw.gain) <= 1.7
        assert 0.0 <= draw.haze_knots.min() <= draw.haze_knots.max() <= 0.8
        assert 1.0 <= draw.noise <= 4.0


def test_pan_of_equal_bands_is_that_band() -> None:
    band = ground(3, 16, 16, 1)[..., 0]
    np.testing.assert_allclose(synthesise_pan(np.stack([band] * 3), WEIGHTS)[0], band, rtol=1e-6)
