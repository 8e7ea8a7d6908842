"""Layouts of things that travel: airport, freeway, parking lot."""

import numpy as np

from cmir.archive.world import covers
from cmir.archive.world.canvas import Canvas
from cmir.archive.world.outlines import scattered
from cmir.archive.world.plants import trees
from cmir.archive.world.structures import flat_hall
from cmir.archive.world.vehicles import airliner, cars, light_aircraft


def airport(canvas: Canvas) -> None:
    """Airliners at a terminal, light aircraft on a ramp, or an aircraft on its way along a runway."""
    (_gates, _ramp, _runway)[int(canvas.ground.integers(3))](canvas)


def _gates(canvas: Canvas) -> None:
    rng, visit = canvas.ground, canvas.visit
    canvas.fill(canvas.surface(covers.CONCRETE, brightness=float(rng.uniform(0.75, 1.15))))
    _slabs(canvas, 7.5)
    flat_hall(canvas, 0, 72, 0.0, 240, 46, covers.HALL_ROOFS[int(rng.integers(2))])
    length_m = float(rng.uniform(31.0, 46.0))
    pitch_m = 1.02 * length_m
    yellow = canvas.surface(covers.YELLOW_PAINT)
    finger = canvas.surface(covers.GRAVEL_ROOF, height_m=5.0)
    offset = float(rng.uniform(-0.25, 0.25)) * pitch_m
    gates = np.arange(-2, 3) * pitch_m + offset
    taken = visit.random(len(gates)) < 0.75
    taken[2] = True
    nose_y = 38.0
    for x, is_taken in zip(gates.tolist(), taken, strict=True):
        canvas.line([(x, nose_y), (x, -42)], 0.5, yellow)
        canvas.line([(x - 8, 50), (x - 5, nose_y - 0.1 * length_m)], 3.4, finger)
        if is_taken:
            airliner(canvas, x, nose_y - length_m / 2, np.pi / 2, length_m * float(visit.uniform(0.85, 1.0)))
    canvas.line([(-120, -42), (120, -42)], 0.5, yellow)
    spots = [(x + 0.42 * pitch_m, y, float(turn)) for x in gates for y, turn in ((40, 0.0), (30, 1.57), (22, 1.57))]
    cars(canvas, spots, 0.6)


def _ramp(canvas: Canvas) -> None:
    rng, visit = canvas.ground, canvas.visit
    canvas.fill(canvas.surface(covers.LAWN if rng.random() < 0.6 else covers.MEADOW))
    tarmac = covers.ASPHALT if rng.random() < 0.55 else covers.CONCRETE
    canvas.rectangle(0, 8, 240, 92, canvas.surface(tarmac, brightness=float(rng.uniform(0.8, 1.25))))
    yellow = canvas.surface(covers.YELLOW_PAINT)
    jets = rng.random() < 0.4
    length_m = float(rng.uniform(15.0, 22.0)) if jets else float(rng.uniform(8.5, 12.0))
    pitch_m = (1.1 if jets else 1.5) * length_m
    draw = airliner if jets else light_aircraft
    lean = float(rng.uniform(-0.5, 0.5))
    for lane, y in enumerate((-16.0, 30.0)):
        canvas.line([(-120, y - 15), (120, y - 15)], 0.5, yellow)
        spots = np.arange(-100.0, 100.0, pitch_m)
        taken = visit.random(len(spots)) < 0.6
        taken[len(spots) // 2] = True
        for x, is_taken in zip(spots.tolist(), taken, strict=True):
            if is_taken:
                turn = (np.pi / 2 if lane else -np.pi / 2) + lean + float(visit.normal(0, 0.05))
                draw(canvas, x, y, turn, length_m * float(visit.uniform(0.85, 1.05)))
    if rng.random() < 0.6:
        flat_hall(canvas, float(rng.uniform(-30, 30)), 68, 0.0, 44, 24, covers.METAL_ROOF)


def _runway(canvas: Canvas) -> None:
    rng, visit = canvas.ground, canvas.visit
    canvas.fill(canvas.surface(covers.MEADOW if rng.random() < 0.5 else covers.LAWN))
    asphalt = canvas.surface(covers.ASPHALT, brightness=float(rng.uniform(0.9, 1.5)))
    paint = canvas.surface(covers.ROAD_PAINT)
    canvas.rectangle(0, -26, 240, 45, asphalt)
    for x in np.arange(-120, 120, 50):
        canvas.rectangle(float(x), -26, 30, 0.9, paint)
    for y in (-46.5, -5.5):
        canvas.rectangle(0, y, 240, 0.9, paint)
    if rng.random() < 0.5:  # the piano keys of a threshold
        for y in np.arange(-43.0, -8.0, 3.6):
            canvas.rectangle(-20, float(y), 30, 1.8, paint)
    canvas.rectangle(0, 40, 240, 24, asphalt)
    canvas.rectangle(float(rng.choice([-45.0, 45.0])), 8, 22, 60, asphalt)
    canvas.line([(-120, 40), (120, 40)], 0.5, canvas.surface(covers.YELLOW_PAINT))
    length_m = float(visit.uniform(28.0, 44.0))
    on_runway = visit.random() < 0.4
    heading = 0.0 if visit.random() < 0.5 else np.pi
    airliner(canvas, float(visit.uniform(-25, 25)), -26.0 if on_runway else 40.0, heading, length_m)


def _slabs(canvas: Canvas, side_m: float) -> None:
    """Joints between the slabs of a concrete apron."""
    joint = canvas.surface(covers.CONCRETE, brightness=0.72)
    for place in np.arange(-105.0, 105.0, side_m):
        canvas.line([(-110, place), (110, place)], 0.3, joint)
        canvas.line([(place, -110), (place, 110)], 0.3, joint)


def freeway(canvas: Canvas) -> None:
    """Two carriageways with traffic, a median, verges of grass or soil with trees, sometimes a road crossing over."""
    rng, visit = canvas.ground, canvas.visit
    verge = (covers.MEADOW, covers.LAWN, covers.BARE_SOIL)[int(rng.integers(3))]
    canvas.fill(canvas.surface(verge))
    asphalt = canvas.surface(covers.ASPHALT if rng.random() < 0.6 else covers.CONCRETE, brightness=1.1)
    paint = canvas.surface(covers.ROAD_PAINT)
    lanes = int(rng.integers(2, 5))
    half_m = 3.6 * lanes / 2 + 2.0
    traffic: list[tuple[float, float, float]] = []
    for side in (1.0, -1.0):
        centre = side * (half_m + float(rng.uniform(1.5, 2.5)))
        canvas.rectangle(0, centre, 240, 2 * half_m, asphalt)
        for edge in (-half_m + 1.6, half_m - 1.6):
            canvas.line([(-120, centre + edge), (120, centre + edge)], 0.3, paint)
        for lane in range(lanes):
            y = centre - 1.8 * (lanes - 1) + 3.6 * lane
            if lane:
                for x in np.arange(-114, 114, 12):
                    canvas.rectangle(float(x), y - 1.8, 3.6, 0.3, paint)
            starts = np.arange(-105.0, 105.0, 15.0) + visit.uniform(-5, 5, 14)
            traffic += [(float(x), y, np.pi if side > 0 else 0.0) for x in starts]
    places = scattered(rng, int(rng.integers(15, 70)), 7.0)
    trees(canvas, places[np.abs(places[:, 1]) > 2 * half_m + 10], (2.2, 4.5), covers.CANOPY)
    cars(canvas, traffic, float(visit.uniform(0.25, 0.6)))
    if rng.random() < 0.35:
        bridge = canvas.surface(covers.CONCRETE, brightness=0.95, height_m=6.5)
        canvas.rectangle(float(rng.uniform(-25, 25)), 0, 13, 240, bridge)


def parking_lot(canvas: Canvas) -> None:
    """Rows of cars between painted lines on asphalt; sometimes a shop at the side and trees on islands."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.ASPHALT, brightness=float(rng.uniform(0.8, 1.5))))
    paint = canvas.surface(covers.ROAD_PAINT)
    island = canvas.surface(covers.LAWN)
    bay_m, depth_m, aisle_m = 2.75, 5.3, float(rng.uniform(6.5, 8.5))
    shop = rng.random() < 0.45
    spots: list[tuple[float, float, float]] = []
    shaded: list[tuple[float, float]] = []
    with_trees = rng.random() < 0.5
    top = 40.0 if shop else 105.0
    for y in np.arange(-100.0, top - 8, 2 * depth_m + aisle_m).tolist():
        canvas.rectangle(0, y, 200, 0.35, paint)
        for x in np.arange(-98.0, 98.0, bay_m).tolist():
            if round(x / bay_m) % 14 == 0:
                canvas.rectangle(x + bay_m / 2, y, bay_m, 2 * depth_m, island)
                shaded += [(x + bay_m / 2, y - 2.5), (x + bay_m / 2, y + 2.5)] if with_trees else []
            else:
                spots += [(x + bay_m / 2, y + side * depth_m / 2, side * np.pi / 2) for side in (1.0, -1.0)]
            canvas.rectangle(x, y, 0.3, 2 * depth_m, paint)
    cars(canvas, spots, float(canvas.visit.uniform(0.35, 0.9)))
    trees(canvas, shaded, (1.8, 3.2), covers.CANOPY)
    if shop:
        canvas.rectangle(0, 82, 240, 74, canvas.surface(covers.CONCRETE, brightness=0.8))
        flat_hall(canvas, float(rng.uniform(-20, 20)), 78, 0.0, 150, 56, covers.HALL_ROOFS[int(rng.integers(3))])
