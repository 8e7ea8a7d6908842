"""What moves, as shapes painted on a canvas: aircraft, ships, cars.

Every shape is written in units of its own length (or in metres), heading east (+x). Sizes are those of common examples:
a car 4.6 m x 1.9 m, an airliner of 30-50 m, a pleasure boat of 6-16 m.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from cmir.archive.world import covers
from cmir.archive.world.canvas import Canvas, placed
from cmir.archive.world.covers import Cover
from cmir.archive.world.outlines import Points

CAR_LENGTH_M: Final = 4.6
CAR_WIDTH_M: Final = 1.9


def _both_sides(upper: list[tuple[float, float]]) -> Points:
    """A closed outline from its upper half (y > 0), nose to tail."""
    top = np.array(upper, dtype=np.float64)
    return np.concatenate([top, top[::-1] * (1.0, -1.0)])


def _mirrored(part: list[tuple[float, float]]) -> tuple[Points, Points]:
    points = np.array(part, dtype=np.float64)
    return points, points * (1.0, -1.0)


# In units of the aircraft's length; the nose at x = 0.5.
_FUSELAGE: Final = _both_sides([(0.5, 0.0), (0.47, 0.03), (0.40, 0.052), (-0.25, 0.052), (-0.5, 0.012)])
_SWEPT_WINGS: Final = _mirrored([(0.14, 0.04), (-0.14, 0.47), (-0.185, 0.47), (-0.04, 0.14), (-0.06, 0.04)])
_SWEPT_TAIL: Final = _mirrored([(-0.36, 0.03), (-0.47, 0.19), (-0.51, 0.19), (-0.47, 0.02)])
_ENGINES: Final = _mirrored([(0.11, 0.14), (0.11, 0.19), (-0.01, 0.19), (-0.01, 0.14)])
_REAR_ENGINES: Final = _mirrored([(-0.20, 0.06), (-0.20, 0.105), (-0.34, 0.105), (-0.34, 0.06)])
_STRAIGHT_WINGS: Final = _mirrored([(0.22, 0.03), (0.20, 0.62), (0.06, 0.62), (0.02, 0.03)])
_STRAIGHT_TAIL: Final = _mirrored([(-0.38, 0.02), (-0.40, 0.22), (-0.50, 0.22), (-0.50, 0.02)])
_LIVERIES: Final = (covers.AIRCRAFT_BLUE, covers.AIRCRAFT_RED, covers.AIRCRAFT_GREY)


def airliner(canvas: Canvas, x_m: float, y_m: float, turn_rad: float, length_m: float) -> None:
    """An airliner of 30 m or more, or below that a business jet with its engines at the rear."""
    skin = covers.AIRCRAFT_SKIN
    livery = _LIVERIES[int(canvas.visit.integers(len(_LIVERIES)))]
    wing = canvas.surface(skin, brightness=0.86, height_m=0.10 * length_m)
    body = canvas.surface(skin, height_m=0.14 * length_m)
    engines = _ENGINES if length_m >= 25.0 else _REAR_ENGINES
    engine = canvas.surface(covers.AIRCRAFT_GREY, brightness=0.7, height_m=0.08 * length_m)
    for part, surface in ((engines, engine), (_SWEPT_WINGS, wing), (_SWEPT_TAIL, wing)):
        for side in part:
            canvas.polygon(placed(side * length_m, x_m, y_m, turn_rad), surface)
    _fuselage(canvas, x_m, y_m, turn_rad, length_m, body, livery)


def light_aircraft(canvas: Canvas, x_m: float, y_m: float, turn_rad: float, length_m: float) -> None:
    """A propeller aircraft with straight wings, 8-12 m long."""
    livery = _LIVERIES[int(canvas.visit.integers(len(_LIVERIES)))]
    wing = canvas.surface(covers.AIRCRAFT_SKIN, height_m=2.0)
    body = canvas.surface(covers.AIRCRAFT_SKIN, brightness=0.92, height_m=2.4)
    for part in (_STRAIGHT_WINGS, _STRAIGHT_TAIL):
        for side in part:
            canvas.polygon(placed(side * length_m, x_m, y_m, turn_rad), wing)
    _fuselage(canvas, x_m, y_m, turn_rad, length_m, body, livery)


def _fuselage(
    canvas: Canvas, x_m: float, y_m: float, turn_rad: float, length_m: float, body: int, livery: Cover
) -> None:
    canvas.polygon(placed(_FUSELAGE * length_m, x_m, y_m, turn_rad), body)
    fin = canvas.surface(livery, height_m=0.25 * length_m)
    fin_x, fin_y = placed([[-0.41 * length_m, 0.0]], x_m, y_m, turn_rad)[0].tolist()
    canvas.rectangle(fin_x, fin_y, 0.17 * length_m, max(0.6, 0.028 * length_m), fin, turn_rad=turn_rad)
    glass = canvas.surface(covers.GLASS, height_m=0.13 * length_m)
    nose_x, nose_y = placed([[0.43 * length_m, 0.0]], x_m, y_m, turn_rad)[0].tolist()
    canvas.rectangle(nose_x, nose_y, 0.02 * length_m, 0.055 * length_m, glass, turn_rad=turn_rad)


# In units of length (x) and of beam (y); the bow at x = 0.5.
_HULL: Final = _both_sides([(0.5, 0.0), (0.42, 0.2), (0.28, 0.42), (0.1, 0.5), (-0.46, 0.45), (-0.5, 0.34)])


def boat(canvas: Canvas, x_m: float, y_m: float, turn_rad: float, length_m: float) -> None:
    """A pleasure boat of 6-16 m: white hull, a cockpit and a cabin."""
    beam_m = 0.31 * length_m
    dark = canvas.visit.random() < 0.12
    hull = canvas.surface(
        covers.HULL_DARK if dark else covers.HULL_WHITE,
        brightness=float(canvas.visit.uniform(0.85, 1.15)),
        height_m=1.3,
    )
    deck = canvas.surface(covers.DECK, height_m=1.4)
    cabin = canvas.surface(covers.HULL_WHITE, brightness=1.15, height_m=2.6)
    outline = _HULL * (length_m, beam_m)
    canvas.polygon(placed(outline, x_m, y_m, turn_rad), hull)
    for offset, share, width, surface in ((-0.28, 0.26, 0.58, deck), (0.06, 0.26, 0.52, cabin)):
        px, py = placed([[offset * length_m, 0.0]], x_m, y_m, turn_rad)[0].tolist()
        canvas.rectangle(px, py, share * length_m, width * beam_m, surface, turn_rad=turn_rad)


def cargo_ship(canvas: Canvas, x_m: float, y_m: float, turn_rad: float, length_m: float) -> None:
    """A ship of 50-110 m: dark or red hull, rows of containers or hatches, a white bridge aft."""
    beam_m = 0.17 * length_m
    visit = canvas.visit
    paint = covers.HULL_RED if visit.random() < 0.4 else covers.HULL_DARK
    canvas.polygon(placed(_HULL * (length_m, beam_m), x_m, y_m, turn_rad), canvas.surface(paint, height_m=5.0))
    deck = canvas.surface(covers.DECK, brightness=0.8, height_m=5.0)
    canvas.polygon(placed(_HULL * (0.95 * length_m, 0.84 * beam_m), x_m, y_m, turn_rad), deck)
    loaded = [canvas.surface(cover, height_m=8.0) for cover in covers.CONTAINERS]
    loaded.append(canvas.surface(covers.HULL_WHITE, brightness=0.75, height_m=7.0))
    step_m = 0.075 * length_m
    for place in np.arange(-0.27, 0.34, 0.075):
        for lane in (-0.25, 0.0, 0.25):
            px, py = placed([[place * length_m, lane * beam_m]], x_m, y_m, turn_rad)[0].tolist()
            number = int(visit.integers(len(loaded)))
            canvas.rectangle(px, py, 0.88 * step_m, 0.22 * beam_m, loaded[number], turn_rad=turn_rad)
    bridge = canvas.surface(covers.HULL_WHITE, brightness=1.1, height_m=14.0)
    px, py = placed([[-0.38 * length_m, 0.0]], x_m, y_m, turn_rad)[0].tolist()
    canvas.rectangle(px, py, 0.09 * length_m, 0.8 * beam_m, bridge, turn_rad=turn_rad)


def wake(canvas: Canvas, x_m: float, y_m: float, turn_rad: float, length_m: float, foam: Cover) -> None:
    """The white water behind a moving ship: a bright core and two arms of about 19 degrees (Kelvin's angle)."""
    far = -3.4 * length_m
    arm = canvas.surface(foam, brightness=0.32)
    for side in (1.0, -1.0):
        points = [(0.4 * length_m, 0.0), (far, side * 0.35 * -far), (far, side * 0.31 * -far)]
        canvas.polygon(placed(points, x_m, y_m, turn_rad), arm)
    for brightness, reach, width in ((0.35, 1.0, 0.13), (0.6, 0.7, 0.10), (1.0, 0.4, 0.07)):
        tail = [(-0.4, 0.1), (-3.4 * reach, width), (-3.4 * reach, -width), (-0.4, -0.1)]
        points = (np.array(tail) * length_m).tolist()
        canvas.polygon(placed(points, x_m, y_m, turn_rad), canvas.surface(foam, brightness=brightness))


_CAR_BODY: Final = np.array([[1.0, 0.75], [0.8, 1.0], [-1.0, 1.0], [-1.0, -1.0], [0.8, -1.0], [1.0, -0.75]]) * (
    CAR_LENGTH_M / 2,
    CAR_WIDTH_M / 2,
)
_CAR_GLASS: Final = np.array([[1.1, 0.8], [0.3, 0.8], [0.3, -0.8], [1.1, -0.8]])


def cars(canvas: Canvas, places: npt.ArrayLike, share: float) -> None:
    """Cars at some of `places` [N,3] (x, y, heading); about `share` of them are taken on this visit."""
    spots = np.asarray(places, dtype=np.float64)
    if not len(spots):
        return
    visit = canvas.visit
    taken = visit.random(len(spots)) < share
    paint = visit.integers(len(covers.CAR_PAINTS), size=len(spots)).tolist()
    jitter = visit.normal(0.0, 0.15, (len(spots), 2))
    bodies = [canvas.surface(cover, height_m=1.4) for cover in covers.CAR_PAINTS]
    glass = canvas.surface(covers.GLASS, height_m=1.2)
    numbers = np.flatnonzero(taken)
    cos, sin = np.cos(spots[numbers, 2]), np.sin(spots[numbers, 2])
    turn = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)  # [N,2,2]
    middle = (spots[numbers, :2] + jitter[numbers])[:, None, :]
    canvas.polygons(_CAR_BODY @ turn + middle, [bodies[paint[number]] for number in numbers.tolist()])
    canvas.polygons(_CAR_GLASS @ turn + middle, [glass] * len(numbers))
