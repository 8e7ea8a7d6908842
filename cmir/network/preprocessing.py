"""Chips and waveforms as they came -> tensors a tower takes; the same function in training and inference.

Pixels travel in their native dtype and become numbers of mean 0 and deviation 1 on the device: first resized
(antialiased, to a square of the modality's size), then normalised per band with statistics in native digital numbers.
Which bands a tower reads, in which order and by which statistics, is decided in bands.py.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from cmir.archive.imagery import Chip
from cmir.archive.schema import Modality
from cmir.errors import DataError
from cmir.network.bands import BandReading, first_known, read_bands
from cmir.network.statistics import FULL_SCALE, FeatureStatistics, RunningStatistics, SensorStatistics

# A band of no contrast (night, water) is not blown up: its deviation counts as at least this part of the full scale.
MIN_STD_FRACTION: Final = 1e-3
SPEECH_BUCKET_S: Final = 0.5
_CHIPS_AT_ONCE: Final = 8  # resized together on a CPU: what its cache holds; all at once takes half as long again


class Preprocessing(BaseModel):
    """What `preprocessing.json` holds.

    `bands_by_wavelength` says that the tower takes multispectral bands it was never trained on (see bands.py); it is
    left out of JSON where it does not, so that such networks keep the space_id they always had.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    chip_size_px: dict[Modality, int] = Field(default_factory=dict)
    sensors: tuple[SensorStatistics, ...] = ()
    sample_rate_hz: int = 16_000
    max_speech_s: float = Field(default=8.0, gt=0, le=600)
    features: FeatureStatistics | None = None
    bands_by_wavelength: bool = Field(default=False, exclude_if=lambda value: not value)

    @model_validator(mode="after")
    def _one_order_of_bands(self) -> Self:
        orders: dict[tuple[Modality, frozenset[str]], tuple[str, ...]] = {}
        for entry in self.sensors:
            names = entry.band_names
            if orders.setdefault((entry.modality, frozenset(names)), names) != names:
                raise ValueError(f"bands {', '.join(names)} of {entry.modality} stand in two orders")
        return self

    @classmethod
    def fit(
        cls,
        statistics: RunningStatistics,
        *,
        chip_size_px: Mapping[Modality, int],
        sample_rate_hz: int = 16_000,
        max_speech_s: float = 8.0,
        bands_by_wavelength: bool = False,
    ) -> Self:
        """The preprocessing of a network trained on what `statistics` has counted (training split only)."""
        return cls(
            chip_size_px=dict(chip_size_px),
            sensors=statistics.sensors(),
            sample_rate_hz=sample_rate_hz,
            max_speech_s=max_speech_s,
            features=statistics.features(),
            bands_by_wavelength=bands_by_wavelength,
        )

    def image_input(self, modality: Modality, chips: Sequence[Chip], *, device: torch.device | str = "cpu") -> Tensor:
        """Normalised pixels f32[B,C,h,w] of chips of one shape, dtype, sensor and set of bands, on `device`.

        h = w = the modality's chip size; C are the bands of `reading`, in its order. Raises DataError where the chips
        differ among themselves or their bands cannot be read.
        """
        if len({(chip.pixels.shape, chip.pixels.dtype, chip.bands, chip.sensor) for chip in chips}) != 1:
            raise DataError("chips of one batch differ in shape, dtype, bands or sensor", fix="group them first")
        stacked = torch.from_numpy(np.stack([chip.pixels for chip in chips])).to(device)
        return self.stacked_input(modality, stacked, self.reading(modality, chips[0]))

    def stacked_input(self, modality: Modality, pixels: Tensor, reading: BandReading) -> Tensor:
        """As `image_input`, of native pixels [B,C,H,W], bands as they came; `reading` is that of any of the chips."""
        if reading.rows != tuple(range(pixels.shape[1])):
            pixels = pixels[:, list(reading.rows)]
        return self.pixels_input(modality, pixels, reading.statistics)

    def pixels_input(self, modality: Modality, pixels: Tensor, statistics: SensorStatistics | None) -> Tensor:
        """Native pixels [B,C,H,W], bands in the order of `reading`, -> f32[B,C,h,w] on the device where they lie.

        `statistics` None takes each chip's own, from its pixels before the resize.
        """
        if pixels.device.type == "cpu" and len(pixels) > _CHIPS_AT_ONCE:
            parts = torch.split(pixels, _CHIPS_AT_ONCE)
            return torch.cat([self.pixels_input(modality, part, statistics) for part in parts])
        size_px = self._size_px(modality)
        values = pixels.to(torch.float32)
        mean, std = _own_moments(values, pixels.dtype) if statistics is None else _moments(statistics, values)
        if values.shape[-2:] != (size_px, size_px):
            values = F.interpolate(values, size=(size_px, size_px), mode="bilinear", antialias=True)
        return (values - mean) / std

    def conditions(self, modality: Modality, chips: Sequence[Chip]) -> tuple[Tensor, Tensor]:
        """What a tower is told beside the pixels: wavelength_nm f32[C] of the bands of `reading`, gsd_m f32[B], nan
        unknown.

        Wavelengths are those seen in training where such statistics apply, else the chip's own; gsd_m is the chip's,
        else the mean seen in training. So a file sent without its metadata stands where it stands in the archive.
        """
        return self.stacked_conditions(self.reading(modality, chips[0]), [chip.gsd_m for chip in chips])

    def stacked_conditions(self, reading: BandReading, gsd_m: Iterable[float | None]) -> tuple[Tensor, Tensor]:
        """As `conditions`, of chips whose gsd is `gsd_m`, None or nan where not known."""
        trained_gsd_m = reading.statistics.gsd_m if reading.statistics else None
        gsd = [first_known(known_m, trained_gsd_m) for known_m in gsd_m]
        return torch.tensor(reading.wavelength_nm, dtype=torch.float32), torch.tensor(gsd, dtype=torch.float32)

    def reading(self, modality: Modality, chip: Chip) -> BandReading:
        """How the towers read chips like this one. Raises DataError for bands they cannot read."""
        return read_bands(modality, chip, self.sensors, by_wavelength=self.bands_by_wavelength)

    def speech_input(
        self, waveforms: Sequence[np.ndarray], *, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Waveforms f32[T] at `sample_rate_hz` -> (f32[B,T'] zero-padded, num_samples i64[B]).

        Longer ones keep their first `max_speech_s`; T' is the longest's bucket, a multiple of half a second.
        """
        limit = math.ceil(self.max_speech_s * self.sample_rate_hz)
        cropped = [waveform[:limit] for waveform in waveforms]
        padded = np.zeros((len(cropped), max(self.bucket_samples(len(w)) for w in cropped)), np.float32)
        for row, waveform in zip(padded, cropped, strict=True):
            row[: len(waveform)] = waveform
        num_samples = torch.tensor([len(waveform) for waveform in cropped], dtype=torch.int64)
        return torch.from_numpy(padded).to(device), num_samples.to(device)

    def bucket_samples(self, num_samples: int) -> int:
        """The length in samples to which an utterance of `num_samples` is padded, whatever its batch-mates."""
        step = int(SPEECH_BUCKET_S * self.sample_rate_hz)
        limit = math.ceil(self.max_speech_s * self.sample_rate_hz)
        return math.ceil(min(max(num_samples, 1), limit) / step) * step

    def feature_input(self, features: Sequence[np.ndarray], *, device: torch.device | str = "cpu") -> Tensor:
        """Precomputed speech features f32[F] each -> normalised f32[B,F]. DataError where F is another."""
        stacked = torch.from_numpy(np.stack(features).astype(np.float32, copy=False)).to(device)
        if self.features is None:
            return stacked
        if stacked.shape[1] != len(self.features.mean):
            raise DataError("wrong number of speech features", seen=stacked.shape[1], expected=len(self.features.mean))
        mean, std = (torch.tensor(values, device=stacked.device) for values in (self.features.mean, self.features.std))
        return (stacked - mean) / std.clamp_min(1e-6)

    def _size_px(self, modality: Modality) -> int:
        if modality not in self.chip_size_px:
            trained = " or ".join(self.chip_size_px) or "no image modality"
            raise DataError("no chip size for the modality", seen=modality, expected=trained)
        return self.chip_size_px[modality]


def _moments(statistics: SensorStatistics, values: Tensor) -> tuple[Tensor, Tensor]:
    """mean and deviation f32[1,C,1,1] in native digital numbers."""
    assert values.shape[1] == len(statistics.bands), "pixels and statistics disagree on the bands"
    floor = statistics.scale * MIN_STD_FRACTION
    columns = ([band.mean for band in statistics.bands], [max(band.std, floor) for band in statistics.bands])
    mean, std = (torch.tensor(column, device=values.device).view(1, -1, 1, 1) for column in columns)
    return mean, std


def _own_moments(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return own_moments(values, FULL_SCALE.get(str(dtype).removeprefix("torch."), 1.0) * MIN_STD_FRACTION)


def own_moments(values: Tensor, least_std: float) -> tuple[Tensor, Tensor]:
    """mean and deviation f32[B,C,1,1] of each chip's own pixels f32[B,C,H,W], the deviation at least `least_std`."""
    std, mean = torch.std_mean(values, dim=(-2, -1), correction=0, keepdim=True)
    return mean, std.clamp_min(least_std)
