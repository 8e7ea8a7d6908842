"""A generated world -> shard rows: each scene as PAN, MS and RGB chips of the same ground, and its labels spoken.

N scenes give exactly N chips of each image modality. A scene is one item: its PAN and MS come from one satellite pass,
its RGB from a flight on another day, aimed a little differently; all three share pair_id, and scenes that revisit a
ground share its scene_id, so that a split never divides a ground. Speech is source `tts` as it is, split by base voice;
how much is said does not depend on the number of scenes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from cmir.archive.imagery import raw_media
from cmir.archive.schema import Modality, ShardRow, make_group_id, make_item_id
from cmir.archive.sources import Item
from cmir.archive.sources.tts import TtsSource
from cmir.archive.vocabulary import spoken_forms
from cmir.archive.world.camera import (
    CHIP_SIZE_PX,
    MS_RATIO,
    Capture,
    capture_ms,
    capture_pan,
    capture_rgb,
    radiance,
)
from cmir.archive.world.canvas import GROUND_GSD_M, GROUND_SIZE_PX
from cmir.archive.world.covers import BAND_CENTRES_NM, BANDS, LABELS
from cmir.archive.world.place import Place, place_of
from cmir.archive.world.scene import Scene, draw_scene, ground_index_of, visible_labels
from cmir.archive.world.sky import Sky, aerial_sky, satellite_sky
from cmir.errors import DataError

SATELLITE: Final = "synthetic-satellite"
AERIAL: Final = "synthetic-aerial"
PAN_CENTRE_NM: Final = 625.0  # the middle of WorldView-2's 450-800 nm
RGB_BANDS: Final = ("red", "green", "blue")
RGB_CENTRES_NM: Final = tuple(BAND_CENTRES_NM[BANDS.index(band)] for band in RGB_BANDS)
DEFAULT_NUM_VOICES: Final = 24
_SENSING = 5  # first word of the random streams of skies and cameras; scene.py has those of the ground


@dataclass(frozen=True, slots=True)
class Look:
    """One chip with the moment it was taken at."""

    modality: Modality
    capture: Capture
    sky: Sky


@dataclass(frozen=True)
class SyntheticSource:
    """Source `synthetic`: `scenes` scenes of the world `seed`, and what `voices` synthetic voices say of its labels.

    Scene i is the same in every world of the same seed, however many scenes there are. Raises DataError for a number
    of scenes below 1 or a negative seed.
    """

    scenes: int
    seed: int = 0
    voices: int = DEFAULT_NUM_VOICES
    labels: tuple[str, ...] = field(default=LABELS)

    def __post_init__(self) -> None:
        if self.scenes < 1:
            raise DataError("cannot make a world", seen=f"{self.scenes} scenes", expected="1 or more")
        if self.seed < 0:
            raise DataError("cannot make a world", seen=f"seed {self.seed}", expected="0 or more")

    @cached_property
    def speech(self) -> TtsSource:
        """The voices of this world."""
        return TtsSource(spoken_forms(self.labels), voices=self.voices, seed=self.seed)

    def items(self) -> Iterator[Item]:
        """One item per scene, then one per utterance."""
        largest = len(RGB_BANDS) * CHIP_SIZE_PX * CHIP_SIZE_PX
        for index in range(self.scenes):
            yield Item(
                key=f"{self.seed}/{index}",
                scene_id=_scene_id(self.seed, ground_index_of(self.seed, index)),
                num_bytes=largest,
                population="scene",
                source_uri=f"synthetic:{self.seed}/{index}",
                detail={"scene_index": index},
            )
        yield from self.speech.items()

    def rows(self, item: Item) -> Iterator[ShardRow]:
        """PAN, MS and RGB of a scene, or one utterance."""
        if "scene_index" in item.detail:
            yield from self.scene_rows(int(item.detail["scene_index"]))
        else:
            yield from self.speech.rows(item)

    def scene_rows(self, index: int) -> Iterator[ShardRow]:
        """The three chips of scene `index`, drawn now."""
        scene = draw_scene(self.seed, index)
        place = place_of(self.seed, scene.ground_index, GROUND_SIZE_PX * GROUND_GSD_M)
        for look in _looks(self.seed, scene, place):
            yield self._row(scene, place, look)

    def _row(self, scene: Scene, place: Place, look: Look) -> ShardRow:
        column, row, width, _ = look.capture.window
        footprint = place.footprint(column * GROUND_GSD_M, row * GROUND_GSD_M, width * GROUND_GSD_M)
        name = f"{self.seed}/{scene.index}"
        hidden = None if look.sky.cloud is None else look.sky.cloud > 0.5
        return ShardRow(
            item_id=make_item_id("synthetic", name, look.modality),
            media=raw_media(
                look.modality,
                look.capture.pixels,
                bands=_bands(look.modality),
                wavelength_nm=_centres_nm(look.modality),
                sensor=AERIAL if look.modality == "rgb" else SATELLITE,
                gsd_m=GROUND_GSD_M * (MS_RATIO if look.modality == "ms" else 1),
            ),
            scene_id=_scene_id(self.seed, scene.ground_index),
            source_uri=f"synthetic:{name}",
            labels=visible_labels(scene.ground, look.capture.window, hidden),
            scene_class=scene.scene_class,
            pair_id=make_group_id("synthetic pair", name),
            acquired_at=look.sky.acquired_at,
            cloud_cover=_cloud_cover_percent(hidden, look.capture),
            crs=footprint.crs,
            bbox=footprint.bbox,
            geometry=footprint.geometry,
            attributes=_attributes(scene, look, footprint.corner_m),
        )


def _looks(seed: int, scene: Scene, place: Place) -> Iterator[Look]:
    """PAN and MS under one sky, RGB under another."""
    rng = np.random.default_rng([seed, _SENSING, scene.index])
    from_orbit, from_aircraft = satellite_sky(rng, place, GROUND_SIZE_PX), aerial_sky(rng, place)
    bands = radiance(scene.ground, from_orbit)
    yield Look("pan", capture_pan(bands, rng), from_orbit)
    yield Look("ms", capture_ms(bands, rng), from_orbit)
    lit = radiance(scene.ground, from_aircraft)
    yield Look("rgb", capture_rgb(lit, from_aircraft.sun_elevation_deg, rng), from_aircraft)


def _bands(modality: Modality) -> tuple[str, ...]:
    return {"pan": ("pan",), "ms": BANDS, "rgb": RGB_BANDS}[modality]


def _centres_nm(modality: Modality) -> tuple[float, ...]:
    return {"pan": (PAN_CENTRE_NM,), "ms": BAND_CENTRES_NM, "rgb": RGB_CENTRES_NM}[modality]


def _scene_id(seed: int, ground_index: int) -> str:
    return make_group_id("synthetic ground", str(seed), str(ground_index))


def _cloud_cover_percent(hidden: npt.NDArray[np.bool_] | None, capture: Capture) -> float:
    """Share of the chip under cloud, 0..100."""
    if hidden is None:
        return 0.0
    column, row, width, height = capture.window
    return round(100.0 * float(hidden[row : row + height, column : column + width].mean()), 2)


def _attributes(scene: Scene, look: Look, corner_m: tuple[float, float]) -> str:
    """What else the world knows: the sun, the haze, the season, and the corner of the chip in its CRS."""
    return json.dumps(
        {
            "ground_index": scene.ground_index,
            "revisit": scene.index != scene.ground_index,
            "sun_elevation_deg": round(look.sky.sun_elevation_deg, 2),
            "sun_azimuth_deg": round(look.sky.sun_azimuth_deg, 2),
            "haze": round(look.sky.haze, 3),
            "season": round(look.sky.season, 3),
            "north_west_corner_m": list(corner_m),
        }
    )
