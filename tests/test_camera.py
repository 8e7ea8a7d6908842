"""Light and sensors: shadows fall away from the sun, PAN is the weighted mean of the bands, noise stays small."""

from datetime import UTC, datetime

import numpy as np
import pytest

from cmir.archive.world import camera, covers
from cmir.archive.world.canvas import GROUND_SIZE_PX, Canvas, Ground
from cmir.archive.world.covers import Cover
from cmir.archive.world.scene import draw_scene
from cmir.archive.world.sky import Sky

NOON = datetime(2021, 6, 21, 12, tzinfo=UTC)
SIZE = GROUND_SIZE_PX


def sky(elevation: float = 50.0, azimuth: float = 180.0, haze: float = 0.0, season: float = 1.0) -> Sky:
    return Sky(NOON, elevation, azimuth, haze, season)


def flat_ground(cover: Cover) -> Ground:
    canvas = Canvas(np.random.default_rng(0), np.random.default_rng(1))
    canvas.fill(canvas.surface(Cover(cover.reflectance, None, 0.0, 0.0, 0.0, cover.greenness)))
    return canvas.finish()


@pytest.fixture(scope="module")
def ground() -> Ground:
    return draw_scene(0, 1).ground


def test_flat_open_ground_has_the_light_of_the_suns_height() -> None:
    bands = camera.radiance(flat_ground(covers.CONCRETE), sky(30.0))
    np.testing.assert_allclose(bands[:, 20, 20], np.array(covers.CONCRETE.reflectance) * 0.5, rtol=1e-4)


def test_pan_response_is_a_weighted_mean_that_sums_to_one() -> None:
    assert sum(camera.PAN_RESPONSE) == pytest.approx(1.0)
    np.testing.assert_allclose(np.sum(camera.RGB_RESPONSE, axis=1), 1.0)
    bands = np.random.default_rng(0).random((4, 6, 5), dtype=np.float32)
    by_hand = (60 * bands[0] + 95 * bands[1] + 125 * bands[2] + 70 * bands[3]) / 350
    np.testing.assert_allclose(camera.pan_band(bands), by_hand, rtol=1e-5)


def test_pan_is_the_spectral_response_of_the_bands_before_blur_and_noise(ground: Ground) -> None:
    bands = camera.radiance(ground, sky())
    pan = camera.capture_pan(bands, np.random.default_rng(0)).pixels[0].astype(np.float64)
    clean = camera.pan_band(bands)[8:264, 8:264] * camera.DN_PER_REFLECTANCE
    blocks = [np.minimum(x, 2047).reshape(32, 8, 32, 8).mean(axis=(1, 3)) for x in (pan, clean)]
    assert np.corrcoef(blocks[0].ravel(), blocks[1].ravel())[0, 1] > 0.998
    assert blocks[0].mean() == pytest.approx(blocks[1].mean(), rel=0.02)


def test_ms_is_the_mean_of_the_same_ground_as_pan(ground: Ground) -> None:
    bands = camera.radiance(ground, sky())
    rng = np.random.default_rng(0)
    pan, ms = camera.capture_pan(bands, rng), camera.capture_ms(bands, rng)
    assert pan.window == ms.window == (8, 8, 256, 256)
    assert (pan.pixels.shape, ms.pixels.shape) == ((1, 256, 256), (4, 64, 64))
    assert pan.pixels.dtype == ms.pixels.dtype == np.uint16
    from_ms = np.tensordot(np.array(camera.PAN_RESPONSE), ms.pixels.astype(np.float64), axes=1)
    coarse = pan.pixels[0].astype(np.float64).reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.corrcoef(from_ms.ravel(), coarse.ravel())[0, 1] > 0.97


def test_rgb_is_another_sensor_with_its_own_aim(ground: Ground) -> None:
    bands = camera.radiance(ground, sky())
    windows = set()
    for seed in range(5):
        rgb = camera.capture_rgb(bands, 50.0, np.random.default_rng(seed))
        assert rgb.pixels.shape == (3, 256, 256)
        assert rgb.pixels.dtype == np.uint8
        windows.add(rgb.window)
    assert len(windows) > 1
    assert all(2 <= side <= 14 for window in windows for side in window[:2])


def test_red_green_and_blue_of_rgb_are_in_this_order() -> None:
    bands = camera.radiance(flat_ground(covers.CAR_RED), sky())
    red, green, blue = camera.capture_rgb(bands, 50.0, np.random.default_rng(0)).pixels.mean(axis=(1, 2))
    assert red > 1.5 * green
    assert red > 1.5 * blue


@pytest.mark.parametrize(
    ("azimuth", "shaded"), [(180.0, (-1, 0)), (0.0, (1, 0)), (90.0, (0, -1)), (270.0, (0, 1)), (225.0, (-1, 1))]
)
def test_shadows_fall_away_from_the_sun(azimuth: float, shaded: tuple[int, int]) -> None:
    height = np.zeros((SIZE, SIZE), dtype=np.float32)
    height[130:140, 130:140] = 10.0
    dark = camera.shadow_height_m(height, 45.0, azimuth) > height + 0.5
    rows, columns = np.nonzero(dark)
    for middle, side in zip((rows.mean() - 134.5, columns.mean() - 134.5), shaded, strict=True):
        assert np.sign(middle) == side or (side == 0 and abs(middle) < 1.0)


def test_a_shadow_is_as_long_as_geometry_says() -> None:
    height = np.zeros((SIZE, SIZE), dtype=np.float32)
    height[130:140, 130:140] = 10.0
    for elevation in (30.0, 45.0, 60.0):
        dark = camera.shadow_height_m(height, elevation, 180.0)[:130, 135] > 0.0
        assert dark.sum() * 0.5 == pytest.approx(10.0 / np.tan(np.radians(elevation)), abs=0.6)


def test_shadows_and_slopes_darken() -> None:
    canvas = Canvas(np.random.default_rng(0), np.random.default_rng(1))
    canvas.fill(canvas.surface(Cover((0.3, 0.3, 0.3, 0.3), None, 0.0, 0.0)))
    canvas.rectangle(0.0, 0.0, 20.0, 20.0, canvas.surface(Cover((0.3, 0.3, 0.3, 0.3), None, 0.0, 0.0), height_m=12.0))
    bands = camera.radiance(canvas.finish(), sky(35.0))
    darkest, open_ground = bands.min(axis=(1, 2)), np.median(bands, axis=(1, 2))
    assert (darkest < 0.5 * open_ground).all()
    assert darkest[0] / open_ground[0] > darkest[3] / open_ground[3]  # shadows are blue


def test_haze_lifts_and_flattens_most_in_blue(ground: Ground) -> None:
    clear, hazy = camera.radiance(ground, sky()), camera.radiance(ground, sky(haze=0.8))
    lift = hazy.min(axis=(1, 2)) - clear.min(axis=(1, 2))
    assert (np.diff(lift) < 0).all()
    assert (hazy.std(axis=(1, 2)) < clear.std(axis=(1, 2))).all()


def test_plants_are_greener_in_season() -> None:
    forest = flat_ground(covers.MEADOW)
    green, dry = camera.radiance(forest, sky(season=1.0)), camera.radiance(forest, sky(season=0.0))
    assert dry[2].mean() > 1.2 * green[2].mean()
    assert dry[3].mean() < 0.9 * green[3].mean()


def test_clouds_are_bright_and_hide(ground: Ground) -> None:
    cloud = np.zeros((SIZE, SIZE), dtype=np.float32)
    cloud[:, :100] = 1.0
    bands = camera.radiance(ground, Sky(NOON, 50.0, 180.0, 0.1, 1.0, cloud))
    assert bands[:, :, :100].std() < 1e-4
    assert bands[:, :, :100].min() > np.median(bands[:, :, 120:])


def test_noise_is_small_and_values_fit_eleven_bits() -> None:
    bands = camera.radiance(flat_ground(covers.CONCRETE), sky())
    pan = camera.capture_pan(bands, np.random.default_rng(0)).pixels
    assert 1.0 < pan.std() < 0.03 * pan.mean()
    bright = camera.capture_ms(bands * 20, np.random.default_rng(0)).pixels
    assert bright.max() == camera.FULL_SCALE_DN
