"""What surfaces reflect: a table of covers with band reflectances, texture amounts and the label a person would give.

Reflectances are surface reflectance 0..1 in the bands of `BANDS`, rounded by hand from the usual shape of published
curves (USGS Spectral Library 7, doi:10.3133/ds1035; ECOSTRESS library, doi:10.1016/j.rse.2019.05.015): vegetation is
dark in red and bright in near-infrared, water falls to nothing in near-infrared, soils and sands rise with wavelength,
paints and roofs are nearly flat. They are typical values, not samples of one spectrum.
"""

from dataclasses import dataclass
from typing import Final

BANDS: Final = ("blue", "green", "red", "nir")

# Band centres of WorldView-2 (450-510, 510-580, 630-690, 770-895 nm), rounded to a nanometre.
BAND_CENTRES_NM: Final = (480.0, 545.0, 660.0, 833.0)

LABELS: Final = (
    "airplane", "bare-soil", "buildings", "cars", "chaparral", "court", "dock", "field", "grass", "mobile-home",
    "pavement", "sand", "sea", "ship", "tanks", "trees", "water",
)  # fmt: skip

# Smallest visible area, in square metres of a chip of 128 m x 128 m, at which a label is given. Objects: about one
# whole object, or one and a half for cars. Covers: a share that a person would name when asked what the chip shows.
MIN_LABEL_AREA_M2: Final = {
    "airplane": 30.0, "bare-soil": 700.0, "buildings": 150.0, "cars": 12.0, "chaparral": 900.0, "court": 200.0,
    "dock": 80.0, "field": 2000.0, "grass": 1000.0, "mobile-home": 80.0, "pavement": 400.0, "sand": 250.0,
    "sea": 1200.0, "ship": 25.0, "tanks": 60.0, "trees": 200.0, "water": 800.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cover:
    """One kind of surface.

    `reflectance` in the order of BANDS; `label` one of LABELS or None; `fine` and `coarse` the relative spread of
    reflectance from pixel to pixel and over tens of metres; `relief_m` the height spread of its roughness (what makes
    it look rough under a low sun); `greenness` 0..1, how far it follows the season.
    """

    reflectance: tuple[float, float, float, float]
    label: str | None = None
    fine: float = 0.03
    coarse: float = 0.04
    relief_m: float = 0.0
    greenness: float = 0.0


LAWN: Final = Cover((0.045, 0.100, 0.055, 0.46), "grass", 0.07, 0.10, 0.02, 0.6)
FAIRWAY: Final = Cover((0.040, 0.115, 0.050, 0.52), "grass", 0.04, 0.06, 0.01, 0.3)
MEADOW: Final = Cover((0.060, 0.110, 0.085, 0.38), "grass", 0.12, 0.16, 0.05, 0.8)
CROP: Final = Cover((0.035, 0.085, 0.042, 0.50), "field", 0.08, 0.08, 0.03, 0.5)
RIPE_CROP: Final = Cover((0.090, 0.155, 0.205, 0.36), "field", 0.07, 0.08, 0.03, 0.2)
TILLED_FIELD: Final = Cover((0.075, 0.105, 0.145, 0.22), "field", 0.08, 0.10, 0.03)
CANOPY: Final = Cover((0.024, 0.054, 0.030, 0.42), "trees", 0.12, 0.08, 0.08, 0.7)
CONIFER: Final = Cover((0.018, 0.038, 0.023, 0.26), "trees", 0.12, 0.08, 0.08, 0.1)
SHRUB: Final = Cover((0.036, 0.056, 0.052, 0.22), "chaparral", 0.12, 0.10, 0.06, 0.2)
SHRUB_SOIL: Final = Cover((0.120, 0.165, 0.215, 0.30), "chaparral", 0.10, 0.14, 0.04)
BARE_SOIL: Final = Cover((0.095, 0.150, 0.225, 0.31), "bare-soil", 0.08, 0.16, 0.03)
SAND: Final = Cover((0.270, 0.350, 0.420, 0.49), "sand", 0.05, 0.08, 0.04)
WET_SAND: Final = Cover((0.140, 0.185, 0.215, 0.24), "sand", 0.04, 0.06, 0.01)
ASPHALT: Final = Cover((0.085, 0.093, 0.100, 0.12), "pavement", 0.06, 0.08)
CONCRETE: Final = Cover((0.230, 0.260, 0.280, 0.32), "pavement", 0.04, 0.06)
ROAD_PAINT: Final = Cover((0.520, 0.550, 0.560, 0.56), "pavement", 0.03, 0.03)
YELLOW_PAINT: Final = Cover((0.120, 0.380, 0.500, 0.55), "pavement", 0.03, 0.03)
RIVER_WATER: Final = Cover((0.050, 0.066, 0.045, 0.016), "water", 0.04, 0.10, 0.03)
TURBID_WATER: Final = Cover((0.085, 0.125, 0.115, 0.035), "water", 0.04, 0.08, 0.03)
HARBOR_WATER: Final = Cover((0.045, 0.056, 0.034, 0.012), "water", 0.05, 0.08, 0.03)
SEA_WATER: Final = Cover((0.085, 0.072, 0.028, 0.008), "sea", 0.06, 0.10, 0.08)
SHALLOW_SEA: Final = Cover((0.140, 0.175, 0.080, 0.014), "sea", 0.05, 0.10, 0.05)
FOAM: Final = Cover((0.480, 0.500, 0.500, 0.42), "sea", 0.16, 0.10)
RIVER_WAKE: Final = Cover((0.180, 0.200, 0.190, 0.12), "water", 0.16, 0.10)
TILE_ROOF: Final = Cover((0.085, 0.120, 0.235, 0.32), "buildings", 0.07, 0.04)
SHINGLE_ROOF: Final = Cover((0.130, 0.140, 0.150, 0.18), "buildings", 0.06, 0.04)
WHITE_ROOF: Final = Cover((0.540, 0.570, 0.590, 0.60), "buildings", 0.03, 0.04)
GRAVEL_ROOF: Final = Cover((0.240, 0.265, 0.285, 0.31), "buildings", 0.06, 0.06)
METAL_ROOF: Final = Cover((0.250, 0.235, 0.190, 0.23), "buildings", 0.03, 0.04)
TRAILER_ROOF: Final = Cover((0.470, 0.500, 0.500, 0.49), "mobile-home", 0.03, 0.03)
TIMBER_DOCK: Final = Cover((0.250, 0.275, 0.290, 0.34), "dock", 0.06, 0.05)
CONCRETE_DOCK: Final = Cover((0.300, 0.325, 0.340, 0.37), "dock", 0.05, 0.07)
HULL_WHITE: Final = Cover((0.640, 0.660, 0.660, 0.60), "ship", 0.03, 0.03)
HULL_DARK: Final = Cover((0.070, 0.055, 0.060, 0.07), "ship", 0.05, 0.03)
HULL_RED: Final = Cover((0.050, 0.060, 0.260, 0.32), "ship", 0.05, 0.03)
DECK: Final = Cover((0.160, 0.240, 0.300, 0.36), "ship", 0.05, 0.03)
GLASS: Final = Cover((0.070, 0.075, 0.075, 0.07), None, 0.02, 0.02)
AIRCRAFT_SKIN: Final = Cover((0.660, 0.680, 0.680, 0.66), "airplane", 0.02, 0.02)
AIRCRAFT_GREY: Final = Cover((0.420, 0.440, 0.440, 0.44), "airplane", 0.02, 0.02)
AIRCRAFT_BLUE: Final = Cover((0.330, 0.160, 0.070, 0.20), "airplane", 0.02, 0.02)
AIRCRAFT_RED: Final = Cover((0.060, 0.070, 0.420, 0.46), "airplane", 0.02, 0.02)
TANK_WHITE: Final = Cover((0.600, 0.620, 0.620, 0.60), "tanks", 0.02, 0.02)
TANK_GREY: Final = Cover((0.330, 0.350, 0.360, 0.37), "tanks", 0.03, 0.03)
TANK_RUST: Final = Cover((0.130, 0.160, 0.240, 0.30), "tanks", 0.04, 0.05)
COURT_BLUE: Final = Cover((0.260, 0.190, 0.090, 0.12), "court", 0.02, 0.03)
COURT_GREEN: Final = Cover((0.085, 0.165, 0.095, 0.13), "court", 0.02, 0.03)
COURT_CLAY: Final = Cover((0.075, 0.110, 0.270, 0.34), "court", 0.03, 0.04)
COURT_LINE: Final = Cover((0.620, 0.640, 0.640, 0.62), "court", 0.02, 0.02)
POOL: Final = Cover((0.330, 0.340, 0.140, 0.02), None, 0.03, 0.03)
CAR_WHITE: Final = Cover((0.620, 0.640, 0.640, 0.60), "cars", 0.02, 0.02)
CAR_SILVER: Final = Cover((0.380, 0.400, 0.400, 0.38), "cars", 0.02, 0.02)
CAR_BLACK: Final = Cover((0.030, 0.030, 0.030, 0.03), "cars", 0.02, 0.02)
CAR_RED: Final = Cover((0.040, 0.045, 0.330, 0.38), "cars", 0.02, 0.02)
CAR_BLUE: Final = Cover((0.240, 0.110, 0.050, 0.10), "cars", 0.02, 0.02)
MACHINE_YELLOW: Final = Cover((0.060, 0.300, 0.460, 0.50), None, 0.02, 0.02)
CONTAINER_RED: Final = Cover((0.060, 0.080, 0.260, 0.30), None, 0.02, 0.02)
CONTAINER_BLUE: Final = Cover((0.260, 0.150, 0.070, 0.12), None, 0.02, 0.02)
CONTAINER_GREEN: Final = Cover((0.080, 0.190, 0.090, 0.14), None, 0.02, 0.02)

CAR_PAINTS: Final = (CAR_WHITE, CAR_WHITE, CAR_SILVER, CAR_BLACK, CAR_RED, CAR_BLUE)
HOUSE_ROOFS: Final = (TILE_ROOF, SHINGLE_ROOF, SHINGLE_ROOF, GRAVEL_ROOF)
HALL_ROOFS: Final = (WHITE_ROOF, GRAVEL_ROOF, METAL_ROOF, SHINGLE_ROOF)
CONTAINERS: Final = (CONTAINER_RED, CONTAINER_BLUE, CONTAINER_GREEN)
