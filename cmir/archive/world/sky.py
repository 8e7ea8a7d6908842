"""When and through what a ground is seen: the date, the sun, haze, the season of plants, clouds."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from cmir.archive.world.place import Place
from cmir.archive.world.textures import FloatArray, smooth_noise

FIRST_DAY: Final = datetime(2019, 1, 1, tzinfo=UTC)
NUM_DAYS: Final = 6 * 365
LOWEST_SUN_DEG: Final = 24.0  # what flies does not photograph below it
CLOUDY_SHARE: Final = 0.12  # of satellite acquisitions that carry any cloud


@dataclass(frozen=True, slots=True)
class Sky:
    """One moment. `sun_azimuth_deg` clockwise from north; `haze` 0 (clear) .. 1; `season` 0 (dry or bare) .. 1 (green);
    `cloud` f32[H,W] opacity 0..1 over the ground, or None."""

    acquired_at: datetime
    sun_elevation_deg: float
    sun_azimuth_deg: float
    haze: float
    season: float
    cloud: FloatArray | None = None


def satellite_sky(rng: np.random.Generator, place: Place, size_px: int) -> Sky:
    """A pass at about 10:30 local solar time, sometimes with clouds over part of the ground."""
    sky = _sky(rng, place, 10.5, float(np.clip(rng.gamma(2.0, 0.13), 0.02, 0.8)))
    cloud = _clouds(rng, size_px) if rng.random() < CLOUDY_SHARE else None
    return Sky(sky.acquired_at, sky.sun_elevation_deg, sky.sun_azimuth_deg, sky.haze, sky.season, cloud)


def aerial_sky(rng: np.random.Generator, place: Place) -> Sky:
    """A flight below the clouds, any time between 9:30 and 15:00, with little haze."""
    return _sky(rng, place, float(rng.uniform(9.5, 15.0)), float(rng.uniform(0.0, 0.25)))


def sun_position(latitude_deg: float, day_of_year: int, solar_hour: float) -> tuple[float, float]:
    """Elevation and azimuth of the sun in degrees (azimuth clockwise from north).

    Declination by Cooper (1969), doi:10.1016/0038-092X(69)90047-4; the rest is spherical trigonometry.

    >>> elevation, azimuth = sun_position(45.0, 81, 12.0)
    >>> round(elevation), round(azimuth)
    (45, 180)
    """
    declination = np.radians(23.45 * np.sin(2 * np.pi * (284 + day_of_year) / 365))
    hour_angle = np.radians(15.0 * (solar_hour - 12.0))
    latitude = np.radians(latitude_deg)
    up = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.cos(latitude) * np.sin(declination) - np.sin(latitude) * np.cos(declination) * np.cos(hour_angle)
    return float(np.degrees(np.arcsin(up))), float(np.degrees(np.arctan2(east, north)) % 360.0)


def season_of(latitude_deg: float, day_of_year: int) -> float:
    """How green plants are, 0..1, highest in the local midsummer."""
    midsummer = 196 if latitude_deg >= 0 else 14
    return float(0.5 + 0.5 * np.cos(2 * np.pi * (day_of_year - midsummer) / 365))


def _sky(rng: np.random.Generator, place: Place, solar_hour: float, haze: float) -> Sky:
    hour = solar_hour + float(rng.uniform(-0.4, 0.4))
    day = FIRST_DAY + timedelta(days=int(rng.integers(NUM_DAYS)))
    day_of_year = day.timetuple().tm_yday
    elevation, azimuth = sun_position(place.latitude_deg, day_of_year, hour)
    acquired_at = day + timedelta(seconds=round(3600 * ((hour - place.longitude_deg / 15.0) % 24.0)))
    season = season_of(place.latitude_deg, day_of_year)
    return Sky(acquired_at, max(elevation, LOWEST_SUN_DEG), azimuth, haze, season)


def _clouds(rng: np.random.Generator, size_px: int) -> FloatArray:
    """Soft-edged cumulus that hide 2-30 % of the ground and veil some more."""
    field = smooth_noise(rng, size_px, 80.0) + 0.3 * smooth_noise(rng, size_px, 32.0)
    field += 0.12 * smooth_noise(rng, size_px, 12.0) + 0.05 * smooth_noise(rng, size_px, 5.0)
    threshold = np.quantile(field, 1.0 - rng.uniform(0.02, 0.3))
    return np.asarray(np.clip((field - threshold) / 1.1 + 0.5, 0.0, 0.97), dtype=np.float32)
