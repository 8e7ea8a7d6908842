"""Training chips and speech features -> the statistics they are normalised with, in one streaming pass.

Mean and squared deviations are kept per sensor, dtype and band in float64 and merged chip by chip, so that any number
of chips needs no memory and several workers can merge what each has seen: Chan, Golub and LeVeque, "Updating formulae
and a pairwise algorithm for computing sample variances", 1979, equations 2.1.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from cmir.archive.imagery import Chip
from cmir.archive.schema import Modality
from cmir.errors import DataError

# Digital numbers from darkest to brightest; for float32 the unit of reflectance.
FULL_SCALE: Final[Mapping[str, float]] = MappingProxyType(
    {"uint8": 255.0, "uint16": 65535.0, "int16": 32767.0, "float32": 1.0}
)
ANY_SENSOR: Final = ""

_FROZEN: Final = ConfigDict(frozen=True, extra="forbid")


class BandStatistics(BaseModel):
    """One band of one sensor: mean and deviation in native digital numbers, its centre wavelength where known."""

    model_config = _FROZEN

    name: str
    mean: float
    std: float = Field(ge=0)
    wavelength_nm: float | None = None


class SensorStatistics(BaseModel):
    """All bands of one sensor as one modality in one dtype; `sensor` "" pools all sensors with these band names.

    `scale` is the full range in digital numbers, `gsd_m` the mean of the chips that knew theirs: it stands in for chips
    that do not.
    """

    model_config = _FROZEN

    modality: Modality
    sensor: str
    dtype: str
    scale: float = Field(gt=0)
    gsd_m: float | None = None
    bands: tuple[BandStatistics, ...] = Field(min_length=1)

    @property
    def band_names(self) -> tuple[str, ...]:
        """The names of the bands in the order in which a tower sees them."""
        return tuple(band.name for band in self.bands)


class FeatureStatistics(BaseModel):
    """Mean and deviation of every component of precomputed speech features (F,)."""

    model_config = _FROZEN

    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[float, ...] = Field(min_length=1)


@dataclass
class Moments:
    """Count, mean f64[C] and sum of squared deviations f64[C] of a growing set of values."""

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.generic]) -> Self:
        """The moments of the columns of values [N,C] of any dtype."""
        exact = values.astype(np.float64)
        mean = exact.mean(axis=0)
        return cls(len(exact), mean, np.square(exact - mean).sum(axis=0))

    def merge(self, other: "Moments") -> None:
        """Take in another set's moments."""
        total = self.count + other.count
        shift = other.mean - self.mean
        self.squares = self.squares + other.squares + np.square(shift) * (self.count * other.count / total)
        self.mean = self.mean + shift * (other.count / total)
        self.count = total

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation f64[C]."""
        return np.sqrt(self.squares / self.count)


@dataclass
class _SensorState:
    moments: Moments
    bands: tuple[str, ...]
    wavelength_nm: list[float | None]
    gsd_sum_m: float
    num_gsd: int

    def merge(self, other: "_SensorState") -> None:
        self.moments.merge(other.moments)
        known = zip(self.wavelength_nm, other.wavelength_nm, strict=True)
        self.wavelength_nm = [mine if mine is not None else theirs for mine, theirs in known]
        self.gsd_sum_m += other.gsd_sum_m
        self.num_gsd += other.num_gsd

    def reordered(self, bands: tuple[str, ...]) -> "_SensorState":
        rows = [self.bands.index(name) for name in bands]
        moments = Moments(self.moments.count, self.moments.mean[rows], self.moments.squares[rows])
        return _SensorState(moments, bands, [self.wavelength_nm[row] for row in rows], self.gsd_sum_m, self.num_gsd)

    def result(self, modality: Modality, sensor: str, dtype: str) -> SensorStatistics:
        rows = zip(self.bands, self.moments.mean.tolist(), self.moments.std.tolist(), self.wavelength_nm, strict=True)
        return SensorStatistics(
            modality=modality,
            sensor=sensor,
            dtype=dtype,
            scale=FULL_SCALE.get(dtype, 1.0),
            gsd_m=self.gsd_sum_m / self.num_gsd if self.num_gsd else None,
            bands=tuple(BandStatistics(name=n, mean=m, std=s, wavelength_nm=w) for n, m, s, w in rows),
        )


@dataclass
class RunningStatistics:
    """Takes chips and features one by one; `merge` joins what another worker saw.

    The order of the bands is that of the first chip with those band names; later chips are brought into it by name.
    """

    _sensors: dict[tuple[Modality, str, str, tuple[str, ...]], _SensorState] = field(default_factory=dict)
    _order: dict[tuple[Modality, frozenset[str]], tuple[str, ...]] = field(default_factory=dict)
    _features: Moments | None = None

    def add_chip(self, modality: Modality, chip: Chip) -> None:
        """Count every pixel of a chip, once for its sensor and once for the pool of all sensors."""
        bands = self._order.setdefault((modality, frozenset(chip.bands)), chip.bands)
        if len(chip.bands) != len(chip.pixels) or len(set(chip.bands)) != len(bands):
            raise DataError(
                "band count and band names do not agree", seen=f"{len(chip.pixels)} bands", expected=chip.bands
            )
        rows = [chip.bands.index(name) for name in bands]
        moments = Moments.of(chip.pixels[rows].reshape(len(rows), -1).T)
        wavelengths: list[float | None] = [chip.wavelength_nm[row] if chip.wavelength_nm else None for row in rows]
        gsd_m = chip.gsd_m if chip.gsd_m is not None and math.isfinite(chip.gsd_m) else None
        for sensor in {chip.sensor or ANY_SENSOR, ANY_SENSOR}:
            state = _SensorState(
                Moments(moments.count, moments.mean, moments.squares),
                bands,
                wavelengths,
                gsd_m or 0.0,
                int(gsd_m is not None),
            )
            self._merge_sensor((modality, sensor, chip.pixels.dtype.name, bands), state)

    def add_features(self, features: NDArray[np.float32]) -> None:
        """Count one utterance's precomputed features f32[F]. DataError where F is not that of the first."""
        moments = Moments.of(features[None])
        if self._features is None:
            self._features = moments
        elif len(self._features.mean) != len(features):
            raise DataError("wrong number of speech features", seen=len(features), expected=len(self._features.mean))
        else:
            self._features.merge(moments)

    def merge(self, other: "RunningStatistics") -> None:
        """Take in what another worker counted."""
        for (modality, sensor, dtype, theirs), state in other._sensors.items():
            bands = self._order.setdefault((modality, frozenset(theirs)), theirs)
            self._merge_sensor((modality, sensor, dtype, bands), state.reordered(bands))
        if self._features is None:
            self._features = other._features
        elif other._features is not None:
            self._features.merge(other._features)

    def sensors(self) -> tuple[SensorStatistics, ...]:
        """The statistics of every sensor, dtype and set of bands seen, in a fixed order."""
        return tuple(self._sensors[key].result(key[0], key[1], key[2]) for key in sorted(self._sensors))

    def features(self) -> FeatureStatistics | None:
        """Mean and deviation of the features seen, None where there were none."""
        if self._features is None:
            return None
        return FeatureStatistics(mean=tuple(self._features.mean.tolist()), std=tuple(self._features.std.tolist()))

    def _merge_sensor(self, key: tuple[Modality, str, str, tuple[str, ...]], state: _SensorState) -> None:
        if key in self._sensors:
            self._sensors[key].merge(state)
        else:
            self._sensors[key] = state
