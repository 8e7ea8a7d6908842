"""Layouts where land meets water: harbor, beach, river, open sea."""

import numpy as np

from cmir.archive.world import covers
from cmir.archive.world.canvas import Canvas
from cmir.archive.world.outlines import Points, beyond, blob, moved, ribbon, scattered, winding
from cmir.archive.world.plants import trees
from cmir.archive.world.textures import Rows
from cmir.archive.world.vehicles import boat, cargo_ship, cars, wake


def harbor(canvas: Canvas) -> None:
    """Boats in their slips along finger docks, or a cargo ship at a concrete quay; land on one side."""
    if canvas.ground.random() < 0.68:
        _marina(canvas)
    else:
        _quay(canvas)


def _marina(canvas: Canvas) -> None:
    rng, visit = canvas.ground, canvas.visit
    canvas.fill(canvas.surface(covers.HARBOR_WATER, rows=Rows(rng.uniform(0, 6.3), 3.0, 0.10, 2.5)))
    dock = canvas.surface(covers.TIMBER_DOCK, brightness=float(rng.uniform(0.8, 1.3)), height_m=0.8)
    slip_m = float(rng.uniform(9.0, 15.0))
    finger_gap_m = float(rng.uniform(8.0, 11.0))
    pitch_m = 2 * slip_m + float(rng.uniform(14.0, 22.0))
    for pier_y in np.arange(-95.0 + rng.uniform(0, pitch_m), 95.0, pitch_m):
        fingers = np.arange(-100.0, 60.0, finger_gap_m)
        for side in (1.0, -1.0):
            taken = visit.random(len(fingers)) < 0.75
            length = visit.uniform(0.62, 0.98, len(fingers)) * slip_m
            for x, is_taken, length_m in zip(fingers.tolist(), taken, length.tolist(), strict=True):
                canvas.rectangle(x, pier_y + side * slip_m / 2, 1.2, slip_m, dock)
                if is_taken:
                    heading = -side * np.pi / 2 if visit.random() < 0.6 else side * np.pi / 2
                    boat(canvas, x + finger_gap_m / 2, pier_y + side * (1.8 + length_m / 2), heading, length_m)
        canvas.rectangle(-15.0, pier_y, 160.0, 2.6, dock)
    _waterfront(canvas, float(rng.uniform(38.0, 66.0)))


def _waterfront(canvas: Canvas, edge_x_m: float) -> None:
    """Quay wall, road and car park east of `edge_x_m`."""
    rng = canvas.ground
    canvas.rectangle(edge_x_m + 60, 0, 120, 240, canvas.surface(covers.LAWN))
    canvas.rectangle(edge_x_m + 2, 0, 4, 240, canvas.surface(covers.CONCRETE_DOCK, height_m=2.0))
    canvas.rectangle(edge_x_m + 16, 0, 20, 240, canvas.surface(covers.ASPHALT, brightness=float(rng.uniform(0.9, 1.4))))
    spots = [(edge_x_m + 10, y, 0.0) for y in np.arange(-100, 100, 2.9)]
    cars(canvas, spots, 0.45)
    places = scattered(rng, 14, 8.0) * (0.15, 1.0) + (edge_x_m + 44, 0)
    trees(canvas, places, (2.0, 4.0), covers.CANOPY)


def _quay(canvas: Canvas) -> None:
    rng, visit = canvas.ground, canvas.visit
    canvas.fill(canvas.surface(covers.HARBOR_WATER, rows=Rows(rng.uniform(0, 6.3), 4.0, 0.12, 2.5)))
    canvas.rectangle(0, -70, 240, 100, canvas.surface(covers.CONCRETE))
    canvas.rectangle(0, -27, 240, 14, canvas.surface(covers.CONCRETE_DOCK, height_m=3.0))
    rail = canvas.surface(covers.GLASS)
    for y in (-23.0, -31.0):
        canvas.line([(-120, y), (120, y)], 0.6, rail)
    boxes = [canvas.surface(cover, height_m=2.6 * layers) for cover in covers.CONTAINERS for layers in (1, 2)]
    for x in np.arange(-100.0, 100.0, 13.4):
        for y in np.arange(-66.0, -40.0, 2.9):
            if visit.random() < 0.75 and abs(x % 40) > 6:
                canvas.rectangle(x, y, 12.2, 2.4, boxes[int(visit.integers(len(boxes)))])
    cars(canvas, [(x, -36.0, 0.0) for x in np.arange(-90.0, 90.0, 9.0)], 0.3)
    length_m = float(visit.uniform(62.0, 95.0))
    middle_x = float(visit.uniform(-30, 10))
    cargo_ship(canvas, middle_x, -19.0 + 0.085 * length_m, 0.0 if visit.random() < 0.5 else np.pi, length_m)
    crane = canvas.surface(covers.MACHINE_YELLOW, brightness=0.9, height_m=9.0)
    crane_x = middle_x + float(visit.uniform(-0.15, 0.2)) * length_m
    for x in (crane_x - 5, crane_x + 5):
        canvas.line([(x, -31.0), (x, -21.0)], 1.0, crane)
    canvas.line([(crane_x, -38.0), (crane_x, -8.0)], 1.6, crane)
    boat(canvas, float(visit.uniform(-50, 50)), float(visit.uniform(22, 55)), float(visit.uniform(0, 6.3)), 14.0)


def beach(canvas: Canvas) -> None:
    """Sand with wet sand and foam before a sea that deepens; sometimes trees or a road behind."""
    rng = canvas.ground
    edge = moved(winding(rng, 7.0), 0.0, float(rng.uniform(-15.0, 15.0)))
    normal_rad = np.pi / 2 + float(rng.normal(0, 0.1))
    canvas.fill(canvas.surface(covers.SAND, brightness=float(rng.uniform(0.85, 1.15)), rows=Rows(0.4, 7.0, 0.03, 4.0)))
    canvas.polygon(beyond(moved(edge, 0.0, -6.0)), canvas.surface(covers.WET_SAND))
    canvas.polygon(beyond(edge), canvas.surface(covers.SHALLOW_SEA, rows=Rows(normal_rad, 6.0, 0.10, 1.5)))
    canvas.polygon(
        beyond(moved(winding(rng, 3.0) + edge * (0.0, 1.0), 0.0, 20.0)),
        canvas.surface(covers.SEA_WATER, brightness=1.25, rows=Rows(normal_rad, 7.5, 0.14, 1.5)),
    )
    canvas.polygon(
        beyond(moved(edge, 0.0, 40.0)), canvas.surface(covers.SEA_WATER, rows=Rows(normal_rad, 9.0, 0.18, 1.5))
    )
    _breakers(canvas, edge)
    if rng.random() < 0.5:
        back = edge - (0.0, float(rng.uniform(38.0, 52.0)))
        canvas.polygon(beyond(back * (1.0, -1.0)) * (1.0, -1.0), canvas.surface(covers.MEADOW))
        trees(canvas, scattered(rng, 40, 6.0) * (1.0, 0.2) + (0, -82), (1.5, 3.5), covers.CANOPY)
    parasol = [canvas.surface(cover, height_m=2.0) for cover in (covers.CONTAINER_RED, covers.CONTAINER_BLUE)]
    for number, (x, _) in enumerate(canvas.visit.uniform(-60, 60, (int(canvas.visit.integers(0, 14)), 2)).tolist()):
        y = float(np.interp(x, edge[:, 0], edge[:, 1])) - float(canvas.visit.uniform(10.0, 20.0))
        canvas.disc(x, y, 1.3, parasol[number % 2])


def _breakers(canvas: Canvas, edge: Points) -> None:
    """Foam along the water's edge and in broken, tapering lines before it; another pattern at every visit."""
    visit = canvas.visit
    foam = canvas.surface(covers.FOAM)
    thin = canvas.surface(covers.FOAM, brightness=0.45)
    wash = moved(edge, 0.0, float(visit.uniform(0.5, 2.0)))
    canvas.polygon(np.concatenate([moved(edge, 0.0, -0.6), wash[::-1]]), foam)
    for distance_m in np.cumsum(visit.uniform(5.0, 11.0, 4)).tolist():
        wave = np.add(edge + winding(visit, 1.5) * (0.0, 1.0), (0.0, distance_m))
        start = int(visit.integers(0, 6))
        while start < len(wave) - 4:
            crest = wave[start : start + int(visit.integers(4, 12))]
            taper = np.sin(np.linspace(0.0, np.pi, len(crest)))[:, None] * (0.0, float(visit.uniform(1.0, 2.6)))
            canvas.polygon(np.concatenate([crest, (crest + 2.2 * taper)[::-1]]), thin)
            canvas.polygon(np.concatenate([crest, (crest + 0.8 * taper)[::-1]]), foam)
            start += len(crest) + int(visit.integers(1, 7))


def river(canvas: Canvas) -> None:
    """A winding river between wooded banks with sand bars."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.MEADOW))
    middle = winding(rng, 16.0)
    width_m = float(rng.uniform(24.0, 46.0))
    bank = canvas.surface(covers.BARE_SOIL, brightness=0.9)
    canvas.polygon(ribbon(middle, width_m + 7.0), bank)
    cover = covers.TURBID_WATER if rng.random() < 0.45 else covers.RIVER_WATER
    canvas.polygon(ribbon(middle, width_m), canvas.surface(cover, rows=Rows(np.pi / 2, 5.0, 0.06, 3.0)))
    bar = canvas.surface(covers.SAND, brightness=0.85)
    for number in rng.integers(8, 36, int(rng.integers(0, 3))).tolist():
        x, y = middle[number].tolist()
        at_y = y + width_m * (0.36 if rng.random() < 0.5 else -0.36)
        canvas.polygon(moved(blob(rng, 9.0, 0.25) * (1.9, 0.7), x, at_y), bar)
    places = scattered(rng, 320, 5.0, 105.0)
    distance = np.abs(places[:, 1] - np.interp(places[:, 0], middle[:, 0], middle[:, 1]))
    clump = np.sin(places[:, 0] / 17.0) + np.cos(places[:, 1] / 13.0) + rng.normal(0, 0.4, len(places))
    kept = (distance > width_m / 2 + 5.0) & ((distance < width_m / 2 + 16.0) | (clump > -0.1))
    trees(canvas, places[kept], (2.4, 4.6), covers.CANOPY)


def open_sea(canvas: Canvas) -> None:
    """Nothing but waves and one or more ships under way."""
    rng, visit = canvas.ground, canvas.visit
    normal_rad = float(rng.uniform(0, 6.3))
    rows = Rows(normal_rad, float(rng.uniform(6.0, 11.0)), float(rng.uniform(0.12, 0.25)), 1.6)
    canvas.fill(canvas.surface(covers.SEA_WATER, brightness=float(rng.uniform(0.85, 1.25)), rows=rows))
    heading = float(visit.uniform(0, 6.3))
    if visit.random() < 0.5:
        length_m = float(visit.uniform(55.0, 95.0))
        x, y = visit.uniform(-14, 14, 2).tolist()
        wake(canvas, x, y, heading, 0.5 * length_m, covers.FOAM)
        cargo_ship(canvas, x, y, heading, length_m)
        return
    for x, y in visit.permutation(np.array([(-30, -30), (30, -26), (-24, 30), (32, 30)]))[: visit.integers(1, 4)]:
        turned = heading + float(visit.normal(0, 0.5))
        length_m = float(visit.uniform(9.0, 17.0))
        wake(canvas, float(x), float(y), turned, length_m, covers.FOAM)
        boat(canvas, float(x), float(y), turned, length_m)
