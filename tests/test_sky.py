"""The sun stands where it should, seasons turn with the hemisphere, clouds cover what they say."""

import numpy as np
import pytest

from cmir.archive.world.place import Place
from cmir.archive.world.sky import CLOUDY_SHARE, LOWEST_SUN_DEG, aerial_sky, satellite_sky, season_of, sun_position

PLACE = Place("EPSG:32630", 640_000.0, 4_330_000.0, -1.4, 39.1)


@pytest.mark.parametrize(
    ("latitude", "day", "hour", "elevation", "azimuth"),
    [
        (45.0, 81, 12.0, 45.0, 180.0),  # an equinox, noon: 90 - latitude, due south
        (-45.0, 81, 12.0, 45.0, 0.0),  # due north on the other hemisphere
        (40.0, 172, 12.0, 73.45, 180.0),  # the June solstice: 90 - 40 + 23.45
        (0.0, 81, 9.0, 45.0, 90.0),  # three hours before noon on the equator: east, half way up
    ],
)
def test_the_sun_stands_where_spherical_trigonometry_puts_it(
    latitude: float, day: int, hour: float, elevation: float, azimuth: float
) -> None:
    up, around = sun_position(latitude, day, hour)
    assert up == pytest.approx(elevation, abs=0.2)
    assert (around - azimuth + 180) % 360 - 180 == pytest.approx(0.0, abs=1.0)


def test_midsummer_is_greenest_on_each_hemisphere() -> None:
    assert season_of(40.0, 196) == pytest.approx(1.0)
    assert season_of(-40.0, 196) < 0.01
    assert min(season_of(10.0, day) for day in range(365)) >= 0.0


def test_skies_of_many_scenes_are_plausible() -> None:
    passes = [satellite_sky(np.random.default_rng(seed), PLACE, 64) for seed in range(300)]
    cloudy = [sky for sky in passes if sky.cloud is not None]
    assert len(cloudy) / 300 == pytest.approx(CLOUDY_SHARE, abs=0.06)
    assert all(0.0 <= sky.cloud.min() <= sky.cloud.max() < 1.0 for sky in cloudy if sky.cloud is not None)
    assert all(0.01 < (sky.cloud > 0.5).mean() < 0.35 for sky in cloudy if sky.cloud is not None)
    assert all(LOWEST_SUN_DEG <= sky.sun_elevation_deg < 90.0 and 0.0 <= sky.haze <= 0.8 for sky in passes)
    local_hours = [(sky.acquired_at.hour + sky.acquired_at.minute / 60 + PLACE.longitude_deg / 15) for sky in passes]
    assert all(9.9 < hour < 11.1 for hour in local_hours)


def test_a_flight_is_below_the_clouds() -> None:
    assert all(aerial_sky(np.random.default_rng(seed), PLACE).cloud is None for seed in range(50))
