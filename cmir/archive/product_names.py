"""What a product's file name tells: its scene, the band at its end, the sensor and the day.

Agencies deliver one file a band: `S2A_29RKH_20200219_0_L2A__B02.tif`, `LC08_L2SP_..._20200219_..._SR_B4.TIF`.
Band codes are those of ESA's Sentinel-2 and USGS's Landsat product guides.
"""

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

CloudKind = Literal["scl", "qa_pixel", "cloud"]

_SENTINEL2: Final = ("coastal", "blue", "green", "red", "rededge", "rededge2", "rededge3", "nir")  # B01 .. B08
_SENTINEL2_LATER: Final = {"b8a": "nir2", "b09": "watervapour", "b10": "cirrus", "b11": "swir1", "b12": "swir2"}
_LANDSAT8: Final = ("coastal", "blue", "green", "red", "nir", "swir1", "swir2", "pan", "cirrus", "tir1", "tir2")
_BANDS_OF_CODE: Final[dict[str, dict[str, str]]] = {
    "Sentinel-2-MSI": {f"b{i:02}": name for i, name in enumerate(_SENTINEL2, start=1)} | _SENTINEL2_LATER,
    "Landsat-8-OLI-TIRS": {f"b{i:02}": name for i, name in enumerate(_LANDSAT8, start=1)},
    "Landsat-7-ETM+": {
        **{"b01": "blue", "b02": "green", "b03": "red", "b04": "nir", "b05": "swir1", "b07": "swir2", "b08": "pan"},
    },
}
_SENSOR_PATTERNS: Final = (
    (re.compile(r"(?:^|[_.])S2[A-D]_", re.IGNORECASE), "Sentinel-2-MSI"),
    (re.compile(r"(?:^|[_.])L[COT]0[89]_", re.IGNORECASE), "Landsat-8-OLI-TIRS"),
    (re.compile(r"(?:^|[_.])LE07_", re.IGNORECASE), "Landsat-7-ETM+"),
)
_CLOUDS: Final = re.compile(r"^(.*?)[_.\- ]+(SCL|QA_PIXEL|cloud(?:mask)?)$", re.IGNORECASE)
_BAND: Final = re.compile(r"^(.*?)[_.\- ]+B(\d{1,2})(A?)(?:_\d+m)?$", re.IGNORECASE)
_BEFORE_BAND: Final = re.compile(r"(?:_SR|_ST|_TOA)$", re.IGNORECASE)
_DAY: Final = re.compile(r"(?<!\d)((?:19|20)\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?!\d)")


@dataclass(frozen=True, slots=True)
class ProductName:
    """`scene` is the name without what tells its files apart; `band_code` is `b08`, `b8a`, None where none is told."""

    scene: str
    band_code: str | None = None
    clouds: CloudKind | None = None
    sensor: str | None = None
    day: datetime | None = None

    def band(self, sensor: str | None) -> str | None:
        """The band that the code means for a sensor, in lower case as it stands where neither is known."""
        return (
            None if self.band_code is None else _BANDS_OF_CODE.get(sensor or "", {}).get(self.band_code, self.band_code)
        )


def parse_product_name(stem: str) -> ProductName:
    """From a file's name without its extension.

    >>> parse_product_name("S2A_29RKH_20200219_0_L2A__B02").band("Sentinel-2-MSI")
    'blue'
    >>> parse_product_name("harbour")
    ProductName(scene='harbour', band_code=None, clouds=None, sensor=None, day=None)
    """
    sensor = next((name for pattern, name in _SENSOR_PATTERNS if pattern.search(stem)), None)
    day = _day(stem)
    if masked := _CLOUDS.match(stem):
        kinds: dict[str, CloudKind] = {"scl": "scl", "qa_pixel": "qa_pixel"}
        return ProductName(masked[1], None, kinds.get(masked[2].lower(), "cloud"), sensor, day)
    if named := _BAND.match(stem):
        code = f"b{int(named[2])}a" if named[3] else f"b{int(named[2]):02}"
        return ProductName(_BEFORE_BAND.sub("", named[1]), code, None, sensor, day)
    return ProductName(stem, None, None, sensor, day)


def _day(stem: str) -> datetime | None:
    for found in _DAY.finditer(stem):
        year, month, day = (int(part) for part in found.groups())
        if day <= calendar.monthrange(year, month)[1]:
            return datetime(year, month, day, tzinfo=UTC)
    return None
