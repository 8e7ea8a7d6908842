"""(seed, index) -> a scene: its ground, its place, whether that ground was seen before, and the labels one sees.

Scene classes come round in shuffled turns of all layouts, so that any few dozen scenes show every class. A fifth of the
scenes revisit the ground of an earlier one at another date: houses and trees stand where they stood, cars, ships and
aircraft have moved. All of it follows from (seed, index) alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from cmir.archive.world import countryside, settlements, shores, transport
from cmir.archive.world.canvas import Canvas, Ground
from cmir.archive.world.covers import LABELS, MIN_LABEL_AREA_M2

REVISIT_SHARE: Final = 0.2
REVISIT_REACH: Final = 64  # how many scenes back the ground of a revisit may have been seen last

LAYOUTS: Final[tuple[tuple[str, Callable[[Canvas], None]], ...]] = (
    ("airport", transport.airport),
    ("beach", shores.beach),
    ("chaparral", countryside.chaparral),
    ("commercial", settlements.commercial),
    ("construction site", settlements.construction_site),
    ("farmland", countryside.farmland),
    ("forest", countryside.forest),
    ("freeway", transport.freeway),
    ("golf course", countryside.golf_course),
    ("harbor", shores.harbor),
    ("mobile home park", settlements.mobile_home_park),
    ("open sea", shores.open_sea),
    ("parking lot", transport.parking_lot),
    ("residential", settlements.residential),
    ("river", shores.river),
    ("storage tanks", settlements.storage_tanks),
    ("tennis court", settlements.tennis_court_park),
)

# First words of the random streams of a world, so that one never repeats another.
_TURN, _REVISIT, _GROUND, _VISIT = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Scene:
    """One visit to one ground; `ground_index` is the scene at which that ground was first seen."""

    index: int
    ground_index: int
    scene_class: str
    ground: Ground


def ground_index_of(seed: int, index: int) -> int:
    """The first scene that saw the ground of scene `index`: itself, or for a revisit an earlier one."""
    while index > 0:
        rng = np.random.default_rng([seed, _REVISIT, index])
        if rng.random() >= REVISIT_SHARE:
            return index
        index -= 1 + int(rng.integers(min(index, REVISIT_REACH)))
    return index


def layout_index_of(seed: int, ground_index: int) -> int:
    """Which of LAYOUTS a ground has: each turn of len(LAYOUTS) grounds holds every one, in an order of its own."""
    turn, position = divmod(ground_index, len(LAYOUTS))
    return int(np.random.default_rng([seed, _TURN, turn]).permutation(len(LAYOUTS))[position])


def draw_scene(seed: int, index: int) -> Scene:
    """Paint scene `index` of the world `seed`."""
    first = ground_index_of(seed, index)
    name, draw = LAYOUTS[layout_index_of(seed, first)]
    canvas = Canvas(np.random.default_rng([seed, _GROUND, first]), np.random.default_rng([seed, _VISIT, index]))
    draw(canvas)
    return Scene(index, first, name, canvas.finish())


def visible_labels(
    ground: Ground, window: tuple[int, int, int, int], hidden: npt.NDArray[np.bool_] | None = None
) -> tuple[str, ...]:
    """The labels of which enough is seen in `window` (column, row, width, height), in alphabetical order.

    `hidden` bool[H,W] is what lies under cloud. Enough is covers.MIN_LABEL_AREA_M2.
    """
    areas = ground.label_areas_m2(window, hidden)
    return tuple(label for label in LABELS if areas.get(label, 0.0) >= MIN_LABEL_AREA_M2[label])
