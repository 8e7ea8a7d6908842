"""What is known of each sensor: its bands, their centres, ground sampling distance, value range and statistics.

Every number names its source beside it. Centres are those of the makers' or agencies' tables; where a table gives only
band edges the centre is their middle. A sensor that is not listed still works: bands are then known by name alone
(`band_wavelength`), and a band with an unknown name has no wavelength.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cmir.archive.schema import Modality

# Centres in nm for bands known by name only. blue, coastal, swir: Landsat 8 OLI (USGS) rounded; green, red, red edge,
# nir: Sentinel-2 MSI (ESA) rounded, nir 842 being the centre ESA published for B08 before the measured responses;
# yellow: WorldView-3; pan: the middle of GF-1's 450-900 nm window.
GENERIC_WAVELENGTH_NM: Final[Mapping[str, float]] = {
    "coastal": 443.0,
    "blue": 480.0,
    "green": 560.0,
    "yellow": 605.0,
    "red": 665.0,
    "rededge": 705.0,
    "nir": 842.0,
    "swir1": 1610.0,
    "swir2": 2200.0,
    "pan": 675.0,
}
BAND_ALIASES: Final[Mapping[str, str]] = {
    "b": "blue",
    "g": "green",
    "r": "red",
    "n": "nir",
    "nir1": "nir",
    "nir08": "nir",
    "swir16": "swir1",
    "swir22": "swir2",
    "rededge1": "rededge",
    "coastalblue": "coastal",
    "panchromatic": "pan",
    "gray": "pan",
    "grey": "pan",
}
# PAN windows for synthesis, nm: GF-1 and GF-2 PMS see 450-900 (CRESDA); where no near-infrared band exists, the visible
# part alone is used, 450-700, close to Landsat 8's PAN of 503-676 (USGS).
PAN_WINDOW_NM: Final = (450.0, 900.0)
PAN_WINDOW_VISIBLE_NM: Final = (450.0, 700.0)
US_SURVEY_FOOT_M: Final = (
    0.3048  # UC Merced: "pixel resolution of 1 foot" (Yang and Newsam 2010); 2e-6 off a survey foot
)


@dataclass(frozen=True, slots=True)
class Band:
    """One band: centre in nm, ground sampling distance in metres, and mean and std of its values where known."""

    name: str
    wavelength_nm: float | None
    gsd_m: float
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True, slots=True)
class Sensor:
    """A sensor as its products come: bands in file order, valid values from `value_min` to `value_max`, the source."""

    name: str
    bands: tuple[Band, ...]
    value_min: float
    value_max: float
    source: str

    @property
    def ms_bands(self) -> tuple[Band, ...]:
        """The bands without the panchromatic one, in file order."""
        return tuple(band for band in self.bands if band.name != "pan")

    def band(self, name: str) -> Band | None:
        """The band of that name, or None."""
        return next((band for band in self.bands if band.name == canonical_band(name)), None)


_GF_BANDS_NM = {"pan": 675.0, "blue": 485.0, "green": 555.0, "red": 660.0, "nir": 830.0}  # middles of CRESDA's edges:
# pan 450-900, blue 450-520, green 520-590, red 630-690, nir 770-890

GF1_PMS: Final = Sensor(
    "GF-1-PMS",
    (
        Band("pan", _GF_BANDS_NM["pan"], 2.0, 73.59, 22.78),
        Band("blue", _GF_BANDS_NM["blue"], 8.0, 113.24, 22.96),
        Band("green", _GF_BANDS_NM["green"], 8.0, 111.79, 27.69),
        Band("red", _GF_BANDS_NM["red"], 8.0, 84.83, 26.16),
        Band("nir", _GF_BANDS_NM["nir"], 8.0, 53.06, 21.43),
    ),
    0.0,
    255.0,
    "CRESDA GF-1 PMS band table; value range and statistics of DSRSID's 8-bit chips",
)
GF2_PMS: Final = Sensor(
    "GF-2-PMS",
    tuple(Band(name, centre, 0.8 if name == "pan" else 3.2) for name, centre in _GF_BANDS_NM.items()),
    0.0,
    1023.0,
    "CRESDA GF-2 PMS band table, 10-bit; 0.8 m and 3.2 m at nadir",
)
UCMERCED: Final = Sensor(
    "USGS-urban-orthoimagery",
    tuple(Band(name, GENERIC_WAVELENGTH_NM[name], US_SURVEY_FOOT_M) for name in ("red", "green", "blue")),
    0.0,
    255.0,
    "Yang and Newsam 2010: USGS National Map urban area imagery, 1 ft, 8-bit RGB; cameras differ, generic centres",
)
NAIP: Final = Sensor(
    "NAIP",
    (Band("red", 635.0, 0.6), Band("green", 555.0, 0.6), Band("blue", 465.0, 0.6), Band("nir", 845.0, 0.6)),
    0.0,
    255.0,
    "Leica ADS100 data sheet: red 619-651, green 525-585, blue 435-495, nir 808-882 nm; 0.6 m is USDA's since 2018",
)
LANDSAT7_ETM: Final = Sensor(
    "Landsat-7-ETM+",
    (
        Band("blue", 482.5, 30.0),
        Band("green", 565.0, 30.0),
        Band("red", 660.0, 30.0),
        Band("nir", 837.5, 30.0),
        Band("swir1", 1650.0, 30.0),
        Band("swir2", 2220.0, 30.0),
        Band("pan", 710.0, 15.0),
    ),
    0.0,
    255.0,
    "USGS Landsat 7 handbook: 450-515, 525-605, 630-690, 775-900, 1550-1750, 2090-2350, pan 520-900 nm; 8-bit",
)
LANDSAT8_OLI: Final = Sensor(
    "Landsat-8-OLI-TIRS",
    (
        Band("coastal", 443.0, 30.0),
        Band("blue", 482.0, 30.0),
        Band("green", 561.4, 30.0),
        Band("red", 654.6, 30.0),
        Band("nir", 864.7, 30.0),
        Band("swir1", 1608.9, 30.0),
        Band("swir2", 2200.7, 30.0),
        Band("cirrus", 1373.4, 30.0),
        Band("tir1", 10895.0, 30.0),
        Band("tir2", 12005.0, 30.0),
        Band("pan", 589.5, 15.0),
    ),
    0.0,
    65535.0,
    "USGS Landsat 8 centre wavelengths of OLI and TIRS; level 1 products are 16-bit, TIRS resampled to 30 m",
)
SENTINEL2_MSI: Final = Sensor(
    "Sentinel-2-MSI",
    (
        Band("coastal", 442.7, 60.0),
        Band("blue", 492.4, 10.0),
        Band("green", 559.8, 10.0),
        Band("red", 664.6, 10.0),
        Band("rededge", 704.1, 20.0),
        Band("rededge2", 740.5, 20.0),
        Band("rededge3", 782.8, 20.0),
        Band("nir", 832.8, 10.0),
        Band("nir2", 864.7, 20.0),
        Band("watervapour", 945.1, 60.0),
        Band("cirrus", 1373.5, 60.0),
        Band("swir1", 1613.7, 20.0),
        Band("swir2", 2202.4, 20.0),
    ),
    0.0,
    10000.0,
    "ESA Sentinel-2A MSI spectral responses; reflectance x 10000, brighter values are valid but rare",
)
WORLDVIEW3: Final = Sensor(
    "WorldView-3",
    (
        Band("coastal", 427.4, 1.24),
        Band("blue", 481.9, 1.24),
        Band("green", 547.1, 1.24),
        Band("yellow", 604.3, 1.24),
        Band("red", 660.1, 1.24),
        Band("rededge", 722.7, 1.24),
        Band("nir", 824.0, 1.24),
        Band("nir2", 913.6, 1.24),
        Band("pan", 649.4, 0.31),
    ),
    0.0,
    2047.0,
    "DigitalGlobe radiometric use of WorldView-3 imagery (2016): effective band centres, 11-bit",
)
SYNTHESISED: Final = Sensor(
    "synthesised",
    tuple(Band(name, GENERIC_WAVELENGTH_NM[name], 1.0) for name in ("pan", "blue", "green", "red", "nir")),
    0.0,
    255.0,
    "made from other imagery (Wald's protocol, the synthetic world): generic centres; each row carries its own gsd_m",
)

SENSORS: Final[Mapping[str, Sensor]] = {
    sensor.name: sensor
    for sensor in (
        GF1_PMS,
        GF2_PMS,
        UCMERCED,
        NAIP,
        LANDSAT7_ETM,
        LANDSAT8_OLI,
        SENTINEL2_MSI,
        WORLDVIEW3,
        SYNTHESISED,
    )
}
_SENSOR_ALIASES: Final[Mapping[str, str]] = {
    "gf1": "GF-1-PMS",
    "gf2": "GF-2-PMS",
    "landsat7": "Landsat-7-ETM+",
    "landsat8": "Landsat-8-OLI-TIRS",
    "landsat8oli": "Landsat-8-OLI-TIRS",
    "landsat9": "Landsat-8-OLI-TIRS",
    "sentinel2": "Sentinel-2-MSI",
    "sentinel2a": "Sentinel-2-MSI",
    "sentinel2b": "Sentinel-2-MSI",
    "wv3": "WorldView-3",
}


def canonical_band(name: str) -> str:
    """The name of a band as spelled here, from the spellings in use; an unknown name comes back in lower case.

    >>> canonical_band("NIR1"), canonical_band("Red Edge"), canonical_band("B99")
    ('nir', 'rededge', 'b99')
    """
    plain = "".join(char for char in name.lower() if char.isalnum())
    return BAND_ALIASES.get(plain, plain)


def sensor_named(name: str | None) -> Sensor | None:
    """The sensor of that name, whatever its case and punctuation; None where it is not listed.

    >>> sensor_named("landsat-8").name, sensor_named("my drone")
    ('Landsat-8-OLI-TIRS', None)
    """
    if name is None:
        return None
    plain = _plain(name)
    if plain in _SENSOR_ALIASES:
        return SENSORS[_SENSOR_ALIASES[plain]]
    return next((sensor for sensor in SENSORS.values() if _plain(sensor.name) == plain), None)


def band_wavelength(name: str, sensor: str | None = None) -> float | None:
    """Centre of a band in nm: of that sensor where it is listed, else the generic one; None for an unknown band.

    >>> band_wavelength("nir", "GF-1-PMS"), band_wavelength("nir"), band_wavelength("band_7")
    (830.0, 842.0, None)
    """
    known = sensor_named(sensor)
    band = known.band(name) if known else None
    return band.wavelength_nm if band else GENERIC_WAVELENGTH_NM.get(canonical_band(name))


def band_names(num_bands: int, sensor: str | None = None) -> tuple[str, ...]:
    """Names for the bands of a file that does not name them.

    A listed sensor with that many bands (with or without PAN) gives its own order; else 1 is pan, 3 red, green, blue
    (as picture files), 4 blue, green, red, nir (by wavelength, as Gaofen, WorldView and DSRSID order them), and any
    other number `band_1`, `band_2`, ...
    """
    known = sensor_named(sensor)
    if known and num_bands != 1:
        for bands in (known.ms_bands, known.bands):
            if len(bands) == num_bands:
                return tuple(band.name for band in bands)
    usual = {1: ("pan",), 3: ("red", "green", "blue"), 4: ("blue", "green", "red", "nir")}
    return usual.get(num_bands, tuple(f"band_{i}" for i in range(1, num_bands + 1)))


def modality_of_bands(bands: Sequence[str]) -> Modality:
    """pan for a panchromatic band alone, rgb for red, green and blue alone in any order, ms for all else.

    >>> modality_of_bands(["nir"]), modality_of_bands(["blue", "green", "red"])
    ('ms', 'rgb')
    """
    named = sorted(canonical_band(band) for band in bands)
    if named == ["pan"]:
        return "pan"
    return "rgb" if named == ["blue", "green", "red"] else "ms"


def pan_weights(wavelength_nm: Sequence[float | None]) -> tuple[float, ...]:
    """Weight of each band in a synthesised PAN, summing to 1: a flat response over the PAN window.

    Each nanometre of the window is given to the band whose centre is nearest. Bands without a wavelength, or more than
    100 nm outside the window, weigh nothing; where no band has a wavelength all weigh the same.

    >>> [round(w, 2) for w in pan_weights([485.0, 555.0, 660.0, 830.0])]
    [0.16, 0.19, 0.31, 0.34]
    """
    nir = any(centre is not None and 700.0 < centre <= 1000.0 for centre in wavelength_nm)
    low, high = PAN_WINDOW_NM if nir else PAN_WINDOW_VISIBLE_NM
    centres = sorted({c for c in wavelength_nm if c is not None and low - 100.0 <= c <= high + 100.0})
    if not centres:
        return (1.0 / len(wavelength_nm),) * len(wavelength_nm)
    edges = [low, *((a + b) / 2 for a, b in pairwise(centres)), high]
    width = {c: max(0.0, min(edges[i + 1], high) - max(edges[i], low)) for i, c in enumerate(centres)}
    shares = [0.0 if c not in width else width[c] / list(wavelength_nm).count(c) for c in wavelength_nm]
    return tuple(share / sum(shares) for share in shares)


def _plain(name: str) -> str:
    return "".join(char for char in name.lower() if char.isalnum())
