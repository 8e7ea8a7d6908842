"""Chips and waveforms as they came -> tensors a tower takes; the same function in training and inference.

Pixels travel in their native dtype and become numbers of mean 0 and deviation 1 on the device: first resized
(antialiased, to a square of the modality's size), then normalised per band with statistics in native digital numbers.
Bands are found by name, never by position. Which statistics apply:

1. a chip of a sensor (and dtype) seen in training: that sensor's;
2. a chip that names no sensor: those pooled over all sensors of the modality and dtype (with one sensor, the same as
   1, so that a file sent without its metadata gets the vector it has in the archive);
3. a chip of a sensor, or of a dtype, never seen: the chip's own, band by band.

The band names must be those of one of the modality's training sensors, in any order.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from cmir.archive.imagery import Chip
from cmir.archive.schema import Modality
from cmir.errors import DataError
from cmir.network.statistics import (
    ANY_SENSOR,
    FULL_SCALE,
    FeatureStatistics,
    RunningStatistics,
    SensorStatistics,
)

# A band of no contrast (night, water) is not blown up: its deviation counts as at least this part of the full scale.
MIN_STD_FRACTION: Final = 1e-3
SPEECH_BUCKET_S: Final = 0.5


class Preprocessing(BaseModel):
    """What `preprocessing.json` holds; see the module for which statistics apply to which chip."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chip_size_px: dict[Modality, int] = Field(default_factory=dict)
    sensors: tuple[SensorStatistics, ...] = ()
    sample_rate_hz: int = 16_000
    max_speech_s: float = Field(default=8.0, gt=0, le=600)
    features: FeatureStatistics | None = None

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
    ) -> Self:
        """The preprocessing of a network trained on what `statistics` has counted (training split only)."""
        return cls(
            chip_size_px=dict(chip_size_px),
            sensors=statistics.sensors(),
            sample_rate_hz=sample_rate_hz,
            max_speech_s=max_speech_s,
            features=statistics.features(),
        )

    def image_input(self, modality: Modality, chips: Sequence[Chip], *, device: torch.device | str = "cpu") -> Tensor:
        """Normalised pixels f32[B,C,h,w] of chips of one shape, dtype, sensor and set of bands, on `device`.

        h = w = the modality's chip size; C in the order of `band_order`. Raises DataError where the chips differ among
        themselves or their bands are not those of any training sensor.
        """
        first = chips[0]
        if len({(chip.pixels.shape, chip.pixels.dtype, chip.bands, chip.sensor) for chip in chips}) != 1:
            raise DataError("chips of one batch differ in shape, dtype, bands or sensor", fix="group them first")
        order = self.band_order(modality, first)
        stacked = torch.from_numpy(np.stack([chip.pixels for chip in chips])).to(device)  # native [B,C,H,W]
        if order != list(range(len(order))):
            stacked = stacked[:, order]
        return self.pixels_input(modality, stacked, self.statistics(modality, first))

    def pixels_input(self, modality: Modality, pixels: Tensor, statistics: SensorStatistics | None) -> Tensor:
        """Native pixels [B,C,H,W], bands in `band_order`, -> f32[B,C,h,w] on the device where they lie.

        `statistics` None takes each chip's own, from its pixels before the resize.
        """
        size_px = self._size_px(modality)
        values = pixels.to(torch.float32)
        mean, std = _own_moments(values, str(pixels.dtype)) if statistics is None else _moments(statistics, values)
        if values.shape[-2:] != (size_px, size_px):
            values = F.interpolate(values, size=(size_px, size_px), mode="bilinear", antialias=True)
        return (values - mean) / std

    def conditions(self, modality: Modality, chips: Sequence[Chip]) -> tuple[Tensor, Tensor]:
        """What a tower is told beside the pixels: wavelength_nm f32[C] (in `band_order`) and gsd_m f32[B], nan unknown.

        Wavelengths are those seen in training where such statistics apply, else the chip's own; gsd_m is the chip's,
        else the mean seen in training. So a file sent without its metadata stands where it stands in the archive.
        """
        first = chips[0]
        trained, same = self.statistics(modality, first), self._same_bands(modality, first)[0]
        own = dict(zip(first.bands, first.wavelength_nm, strict=True))
        wavelengths = [
            _first_known(band.wavelength_nm if trained else None, own[band.name], band.wavelength_nm)
            for band in (trained or same).bands
        ]
        gsd = [_first_known(chip.gsd_m, trained.gsd_m if trained else None) for chip in chips]
        return torch.tensor(wavelengths, dtype=torch.float32), torch.tensor(gsd, dtype=torch.float32)

    def band_order(self, modality: Modality, chip: Chip) -> list[int]:
        """Where in `chip` each band lies, in the order the towers see them. DataError for bands never trained on."""
        names = self._same_bands(modality, chip)[0].band_names
        return [chip.bands.index(name) for name in names]

    def statistics(self, modality: Modality, chip: Chip) -> SensorStatistics | None:
        """The statistics that apply to a chip, None where those of the chip itself do. DataError as `band_order`."""
        sensor, dtype = chip.sensor or ANY_SENSOR, chip.pixels.dtype.name
        for entry in self._same_bands(modality, chip):
            if (entry.sensor, entry.dtype) == (sensor, dtype):
                return entry
        return None

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

    def _same_bands(self, modality: Modality, chip: Chip) -> list[SensorStatistics]:
        num_bands = chip.pixels.shape[0]
        if len(chip.bands) != num_bands or len(set(chip.bands)) != num_bands:
            raise DataError("band count and band names do not agree", seen=f"{num_bands} bands", expected=chip.bands)
        entries = [entry for entry in self.sensors if entry.modality == modality]
        same = [entry for entry in entries if set(entry.band_names) == set(chip.bands)]
        if not same:
            trained = {", ".join(entry.band_names) for entry in entries}
            raise DataError(
                f"wrong bands for {modality}",
                seen=f"{num_bands} ({', '.join(chip.bands)})",
                expected=" or ".join(f"{names.count(',') + 1} ({names})" for names in sorted(trained)) or "none",
                fix="send the bands the network was trained with, named, or train with these",
            )
        return same


def _moments(statistics: SensorStatistics, values: Tensor) -> tuple[Tensor, Tensor]:
    """mean and deviation f32[1,C,1,1] in native digital numbers."""
    assert values.shape[1] == len(statistics.bands), "pixels and statistics disagree on the bands"
    floor = statistics.scale * MIN_STD_FRACTION
    columns = ([band.mean for band in statistics.bands], [max(band.std, floor) for band in statistics.bands])
    mean, std = (torch.tensor(column, device=values.device).view(1, -1, 1, 1) for column in columns)
    return mean, std


def _own_moments(values: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """mean and deviation f32[B,C,1,1] of each chip's own pixels."""
    floor = FULL_SCALE.get(dtype.removeprefix("torch."), 1.0) * MIN_STD_FRACTION
    std, mean = torch.std_mean(values, dim=(-2, -1), correction=0, keepdim=True)
    return mean, std.clamp_min(floor)


def _first_known(*values: float | None) -> float:
    return next((value for value in values if value is not None), math.nan)
