"""Bands of a chip -> which of them a tower reads, in which order, by which statistics. By name, never by position.

Bands that one of the modality's training sensors had, in any order, are read as that sensor's. A multispectral chip
with other bands is read by wavelength where the tower can (`by_wavelength`): a band within a quarter of an octave of
one trained on counts as seen, because kernels are generated from wavelengths and change slowly; any other (short-wave
or thermal infrared under a network that saw visible light) is left out, with one warning for each kind of chip. At
least two bands must remain. PAN and RGB are what they are by their bands: there nothing is left out.

Which statistics apply:

1. a chip of a sensor (and dtype) seen in training: that sensor's;
2. a chip that names no sensor: those pooled over all sensors of the modality and dtype (with one sensor, the same as
   1, so that a file sent without its metadata gets the vector it has in the archive);
3. a chip of a sensor, or of a dtype, or with a band never seen: the chip's own, band by band.
"""

import functools
import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cmir.archive.imagery import Chip
from cmir.archive.schema import Modality
from cmir.errors import DataError
from cmir.network.statistics import ANY_SENSOR, SensorStatistics

log = logging.getLogger("cmir")

# Yellow (604 nm) is 0.14 octaves from red (660), coastal (427) 0.17 from blue (480), a second near-infrared (914) 0.12
# from the first (842); short-wave infrared (1,610) is 0.9 away.
READABLE_OCTAVES: Final = 0.25
LEAST_BANDS: Final = 2  # one band alone is no multispectral chip, and most likely a panchromatic one in disguise


@dataclass(frozen=True)
class BandReading:
    """How a tower reads the chips of one kind: everything here is in the order in which it sees the bands.

    `rows` are the places in the chip, `wavelength_nm` nan where not known; `statistics` None stands for the chip's own.
    """

    rows: tuple[int, ...]
    wavelength_nm: tuple[float, ...]
    statistics: SensorStatistics | None


def read_bands(
    modality: Modality, chip: Chip, sensors: Sequence[SensorStatistics], *, by_wavelength: bool
) -> BandReading:
    """How a tower trained with these sensors reads a chip. Raises DataError for bands it cannot read."""
    num_bands = chip.pixels.shape[0]
    if len(chip.bands) != num_bands or len(set(chip.bands)) != num_bands:
        raise DataError("band count and band names do not agree", seen=f"{num_bands} bands", expected=chip.bands)
    entries = [entry for entry in sensors if entry.modality == modality]
    same = [entry for entry in entries if set(entry.band_names) == set(chip.bands)]
    if same:
        names = same[0].band_names
    elif by_wavelength and has_any_bands(modality):
        names = _readable(chip, entries)
    else:
        names = ()
    if not names:
        raise _unreadable(modality, chip, entries, by_wavelength=by_wavelength)
    own = dict(zip(chip.bands, chip.wavelength_nm, strict=True))
    statistics = _statistics(names, chip, same or entries)
    stored = {band.name: band.wavelength_nm for entry in reversed(same or entries) for band in entry.bands}
    trained = {band.name: band.wavelength_nm for band in statistics.bands} if statistics else {}
    wavelengths = (first_known(trained.get(name), own[name], stored.get(name)) for name in names)
    return BandReading(tuple(chip.bands.index(name) for name in names), tuple(wavelengths), statistics)


def has_any_bands(modality: str) -> bool:
    """Whether chips of the modality differ in their bands: those of PAN and RGB are what makes them PAN and RGB."""
    return modality == "ms"


def first_known(*values: float | None) -> float:
    """The first value that is not None, nan where all are."""
    return next((value for value in values if value is not None), math.nan)


def _readable(chip: Chip, entries: Sequence[SensorStatistics]) -> tuple[str, ...]:
    """The chip's readable bands by rising wavelength, none where they are too few."""
    trained = {band.name: band.wavelength_nm for entry in entries for band in entry.bands}
    own = dict(zip(chip.bands, chip.wavelength_nm, strict=True))
    centres = {name: first_known(own[name], trained.get(name)) for name in chip.bands}
    named = {name for name in chip.bands if own[name] is None and name in trained}
    near = [name for name in chip.bands if name in named or _is_near(centres[name], trained.values())]
    if len(near) < LEAST_BANDS:
        return ()
    left_out = [name for name in chip.bands if name not in near]
    if left_out:
        _warn_once(chip.sensor or "chips of no named sensor", ", ".join(left_out))
    return tuple(sorted(near, key=lambda name: (math.inf if math.isnan(centres[name]) else centres[name], name)))


def _is_near(centre_nm: float, trained_nm: Iterable[float | None]) -> bool:
    return any(abs(math.log2(centre_nm / other)) <= READABLE_OCTAVES for other in trained_nm if other is not None)


@functools.cache
def _warn_once(sensor: str, left_out: str) -> None:
    log.warning("%s: bands far from every wavelength trained on are left out: %s", sensor, left_out)


def _statistics(names: tuple[str, ...], chip: Chip, entries: Sequence[SensorStatistics]) -> SensorStatistics | None:
    sensor, dtype = chip.sensor or ANY_SENSOR, chip.pixels.dtype.name
    for entry in entries:
        if (entry.sensor, entry.dtype) != (sensor, dtype) or not set(names) <= set(entry.band_names):
            continue
        if entry.band_names == names:
            return entry
        bands = {band.name: band for band in entry.bands}
        return entry.model_copy(update={"bands": tuple(bands[name] for name in names)})
    return None


def _unreadable(
    modality: Modality, chip: Chip, entries: Sequence[SensorStatistics], *, by_wavelength: bool
) -> DataError:
    trained = {", ".join(entry.band_names) for entry in entries}
    expected = " or ".join(f"{names.count(',') + 1} ({names})" for names in sorted(trained)) or "none"
    if by_wavelength and has_any_bands(modality) and trained:
        expected += f", or at least {LEAST_BANDS} of known wavelength near those"
    return DataError(
        f"wrong bands for {modality}",
        seen=f"{chip.pixels.shape[0]} ({', '.join(chip.bands)})",
        expected=expected,
        fix="send the bands the network was trained with, named, or train with these",
    )
