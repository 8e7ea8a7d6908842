"""Layouts of built-up ground: homes, mobile homes, commerce, tennis courts, storage tanks, building sites."""

import numpy as np

from cmir.archive.world import covers
from cmir.archive.world.canvas import Canvas
from cmir.archive.world.outlines import blob, moved, scattered
from cmir.archive.world.plants import trees
from cmir.archive.world.structures import flat_hall, gabled_house, storage_tank, tennis_court, trailer
from cmir.archive.world.vehicles import cars


def residential(canvas: Canvas) -> None:
    """Houses with gardens, drives and cars along parallel streets, some with a pool."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.LAWN, brightness=float(rng.uniform(0.85, 1.15))))
    street = canvas.surface(covers.ASPHALT, brightness=float(rng.uniform(0.9, 1.4)))
    walk = canvas.surface(covers.CONCRETE, brightness=0.9)
    lot_m = float(rng.uniform(17.0, 26.0))
    block_m = float(rng.uniform(58.0, 70.0))
    spots: list[tuple[float, float, float]] = []
    crowns: list[tuple[float, float]] = []
    for y in np.arange(-2, 3) * block_m + rng.uniform(-12, 12):
        canvas.rectangle(0, float(y), 240, 11.0, walk)
        canvas.rectangle(0, float(y), 240, 8.0, street)
        spots += [(float(x), float(y) + 2.9, 0.0) for x in np.arange(-100, 100, 13)]
        for x in np.arange(-105.0, 105.0, lot_m).tolist():
            for side in (1.0, -1.0):
                spots.append(_lot(canvas, x, float(y), side, lot_m, walk))
                back = float(y) + side * rng.uniform(23.0, 29.0)
                crowns += [(x + float(rng.uniform(-8, 8)), back), (x + lot_m / 2, float(y) + side * 8.0)]
    kept = rng.random(len(crowns)) < float(rng.uniform(0.35, 0.85))
    trees(canvas, np.array(crowns)[kept], (1.8, 4.0), covers.CANOPY)
    cars(canvas, spots, 0.4)


def _lot(
    canvas: Canvas, x_m: float, street_y_m: float, side: float, lot_m: float, walk: int
) -> tuple[float, float, float]:
    """One house and its drive; returns where its car may stand."""
    rng = canvas.ground
    house_y = street_y_m + side * float(rng.uniform(15.5, 18.0))
    drive_x = x_m - 0.3 * lot_m
    canvas.rectangle(drive_x, street_y_m + side * 9.5, 4.0, 11.0, walk)
    roof = covers.HOUSE_ROOFS[int(rng.integers(len(covers.HOUSE_ROOFS)))]
    length, width = float(rng.uniform(0.55, 0.72)) * lot_m, float(rng.uniform(8.0, 10.5))
    gabled_house(canvas, x_m, house_y, 0.0, length, width, roof)
    if rng.random() < 0.6:
        gabled_house(canvas, drive_x + 0.6, house_y - side * 3.0, np.pi / 2, 9.0, 6.0, roof)
    if rng.random() < 0.22:
        pool = canvas.surface(covers.POOL)
        canvas.rectangle(x_m + 2, house_y + side * 10.5, 9.0, 5.4, walk)
        canvas.rectangle(x_m + 2, house_y + side * 10.5, 7.4, 3.8, pool)
    return drive_x, street_y_m + side * 8.6, side * np.pi / 2


def mobile_home_park(canvas: Canvas) -> None:
    """Long light trailers, leaning and close together, along narrow lanes with cars and a few trees."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.LAWN if rng.random() < 0.6 else covers.MEADOW))
    lane = canvas.surface(covers.ASPHALT, brightness=float(rng.uniform(1.0, 1.6)))
    pad = canvas.surface(covers.CONCRETE, brightness=0.85)
    length_m = float(rng.uniform(15.0, 19.0))
    pitch_m = float(rng.uniform(9.5, 12.0))
    lean = float(rng.choice([0.0, 0.35, -0.35]))
    gap_m = 2 * length_m + 15.0
    spots: list[tuple[float, float, float]] = []
    crowns: list[tuple[float, float]] = []
    for y in np.arange(-3, 4) * gap_m + rng.uniform(-10, 10):
        canvas.rectangle(0, float(y), 240, 6.5, lane)
        for x in np.arange(-105.0, 105.0, pitch_m).tolist():
            for side in (1.0, -1.0):
                turn = np.pi / 2 + lean * side
                middle_y = float(y) + side * (5.5 + length_m / 2)
                canvas.rectangle(x + 0.48 * pitch_m, float(y) + side * 7.5, 7.5, 3.2, pad, turn_rad=turn)
                spots.append((x + 0.48 * pitch_m, float(y) + side * 7.0, turn))
                if rng.random() < 0.93:
                    trailer(canvas, x, middle_y, turn, length_m * float(rng.uniform(0.85, 1.0)))
                crowns.append((x + pitch_m / 2, float(y) + side * float(rng.uniform(11.0, 22.0))))
    kept = rng.random(len(crowns)) < float(rng.uniform(0.1, 0.35))
    trees(canvas, np.array(crowns)[kept], (1.6, 2.8), covers.CANOPY)
    cars(canvas, spots, 0.5)


def commercial(canvas: Canvas) -> None:
    """Large flat roofs between streets with parked cars and rows of trees."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.CONCRETE, brightness=float(rng.uniform(0.7, 0.95))))
    street = canvas.surface(covers.ASPHALT, brightness=float(rng.uniform(0.9, 1.4)))
    paint = canvas.surface(covers.ROAD_PAINT)
    block_m = float(rng.uniform(46.0, 62.0))
    lines = np.arange(-2, 3) * block_m + rng.uniform(-15, 15)
    spots: list[tuple[float, float, float]] = []
    for line in lines.tolist():
        canvas.rectangle(0, line, 240, 12, street)
        canvas.rectangle(line, 0, 12, 240, street)
        spots += [(float(at), line + 4.6, 0.0) for at in np.arange(-100, 100, 6.5)]
        spots += [(line - 4.6, float(at), np.pi / 2) for at in np.arange(-100, 100, 6.5)]
    for line in lines.tolist():
        for dash in np.arange(-110, 110, 8.0):
            canvas.rectangle(float(dash), line, 3.0, 0.3, paint)
    inner_m = block_m - 20.0
    for x in (lines + block_m / 2).tolist():
        for y in (lines + block_m / 2).tolist():
            _block(canvas, x, y, inner_m)
    corners = [(x + 8.5, y) for x in lines for y in np.arange(-90, 90, 13.0) if np.abs(lines - y).min() > 8]
    trees(canvas, corners, (1.6, 2.6), covers.CANOPY)
    cars(canvas, spots, 0.45)


def _block(canvas: Canvas, x_m: float, y_m: float, inner_m: float) -> None:
    """One or two halls, or a small green, on one block."""
    rng = canvas.ground
    roofs = [covers.HALL_ROOFS[int(number)] for number in rng.integers(len(covers.HALL_ROOFS), size=2)]
    kind = rng.random()
    if kind < 0.5:
        flat_hall(canvas, x_m, y_m, 0.0, inner_m, inner_m * float(rng.uniform(0.7, 1.0)), roofs[0])
    elif kind < 0.9:
        flat_hall(canvas, x_m - inner_m * 0.27, y_m, 0.0, inner_m * 0.42, inner_m, roofs[0])
        flat_hall(canvas, x_m + inner_m * 0.27, y_m, 0.0, inner_m * 0.42, inner_m * 0.7, roofs[1])
    else:
        canvas.rectangle(x_m, y_m, inner_m, inner_m, canvas.surface(covers.LAWN))
        trees(canvas, rng.uniform(-0.4, 0.4, (9, 2)) * inner_m + (x_m, y_m), (2.0, 4.0), covers.CANOPY)


def tennis_court_park(canvas: Canvas) -> None:
    """One to six courts with their lines in a park or beside houses."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.LAWN, brightness=float(rng.uniform(0.8, 1.2))))
    paint = (covers.COURT_BLUE, covers.COURT_GREEN, covers.COURT_CLAY)[int(rng.integers(3))]
    around = covers.COURT_CLAY if paint is covers.COURT_GREEN else covers.COURT_GREEN
    apron = paint if paint is not covers.COURT_GREEN and rng.random() < 0.3 else around
    columns, rows = ((1, 1), (2, 1), (3, 1), (2, 2), (3, 2))[int(rng.integers(5))]
    canvas.line([(-110, -58), (110, -58)], 9.0, canvas.surface(covers.ASPHALT, brightness=1.1))
    for column in range(columns):
        for row in range(rows):
            x, y = 18.5 * (column - (columns - 1) / 2), 37.0 * (row - (rows - 1) / 2)
            tennis_court(canvas, x, y, np.pi / 2, paint, apron)
    if rng.random() < 0.5:
        roof = covers.HOUSE_ROOFS[int(rng.integers(4))]
        gabled_house(canvas, float(rng.choice([-50, 50])), -35.0, 0.0, 20.0, 12.0, roof)
    places = scattered(rng, int(rng.integers(40, 110)), 7.0)
    clear_x, clear_y = 9.25 * columns + 5, 18.5 * rows + 5
    outside = (np.abs(places[:, 0]) > clear_x) | (np.abs(places[:, 1]) > clear_y)
    off_road = np.abs(places[:, 1] + 58) > 8
    house = (np.abs(np.abs(places[:, 0]) - 50) < 14) & (np.abs(places[:, 1] + 35) < 10)
    trees(canvas, places[outside & off_road & ~house], (2.0, 4.6), covers.CANOPY)
    cars(canvas, [(float(x), -59.5, 0.0) for x in np.arange(-90, 90, 15)], 0.5)


def storage_tanks(canvas: Canvas) -> None:
    """White, grey or rusty tanks in rows inside earth banks, with service roads and pipes."""
    rng = canvas.ground
    soil = rng.random() < 0.6
    canvas.fill(canvas.surface(covers.BARE_SOIL if soil else covers.MEADOW, brightness=float(rng.uniform(0.85, 1.15))))
    radius_m = float(rng.choice([7.0, 11.0, 17.0, 22.0])) * float(rng.uniform(0.9, 1.15))
    pitch_m = 2 * radius_m + float(rng.uniform(7.0, 13.0))
    road = canvas.surface(covers.ASPHALT, brightness=float(rng.uniform(1.0, 1.7)))
    pad = canvas.surface(covers.CONCRETE, brightness=0.75)
    pipe = canvas.surface(covers.TANK_GREY, height_m=0.8)
    reach = int(70.0 // pitch_m) + 1
    offset = rng.uniform(-0.3, 0.3, 2) * pitch_m
    paints = (covers.TANK_WHITE, covers.TANK_WHITE, covers.TANK_GREY, covers.TANK_RUST)
    paint = paints[int(rng.integers(len(paints)))]
    grid = (np.arange(-reach, reach + 1) * pitch_m).tolist()
    for y in grid[::2]:
        at = y + offset[1] + pitch_m / 2
        canvas.rectangle(0, at, 240, 6.0, road)
        canvas.line([(-110, at + 4.2), (110, at + 4.2)], 0.7, pipe)
    for x in grid:
        for y in grid:
            kind = rng.random()
            own = paints[int(rng.integers(len(paints)))] if kind > 0.8 else paint
            size = radius_m * float(rng.uniform(0.86, 1.0))
            if kind > 0.1 or abs(x) + abs(y) < 1:
                canvas.disc(x + offset[0], y + offset[1], size + 1.6, pad)
                storage_tank(canvas, x + offset[0], y + offset[1], size, own)
    spots = [(float(at), grid[0] + offset[1] + pitch_m / 2, 0.0) for at in np.arange(-90, 90, 20)]
    cars(canvas, spots, 0.3)


def construction_site(canvas: Canvas) -> None:
    """Graded bare soil with tracks, spoil heaps, machines and a first building."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.BARE_SOIL, brightness=float(rng.uniform(0.85, 1.2))))
    dark = canvas.surface(covers.BARE_SOIL, brightness=0.75)
    light = canvas.surface(covers.BARE_SOIL, brightness=1.25)
    for number, (x, y) in enumerate(scattered(rng, 9, 25.0).tolist()):
        canvas.polygon(moved(blob(rng, float(rng.uniform(8, 20)), 0.3), x, y), dark if number % 2 else light)
    for _ in range(4):
        start, end, bend = rng.uniform(-100, 100, (3, 2))
        curve = np.linspace(0, 1, 16)[:, None]
        track = (1 - curve) ** 2 * start + 2 * curve * (1 - curve) * bend + curve**2 * end
        for side in (-1.0, 1.0):
            canvas.line(moved(track, side, side), 0.7, dark)
    for x, y in rng.uniform(-55, 55, (int(rng.integers(3, 8)), 2)).tolist():
        canvas.dome(x, y, float(rng.uniform(4, 9)), float(rng.uniform(1.5, 3.5)))
    if rng.random() < 0.6:
        x, y = rng.uniform(-35, 35, 2).tolist()
        canvas.rectangle(x, y, 40, 28, canvas.surface(covers.CONCRETE))
        flat_hall(canvas, x, y, 0.0, 30.0, 18.0, covers.GRAVEL_ROOF)
    machine = canvas.surface(covers.MACHINE_YELLOW, height_m=2.8)
    for x, y, turn in (canvas.visit.uniform(-1, 1, (int(canvas.visit.integers(2, 6)), 3)) * (55, 55, 3.1)).tolist():
        canvas.rectangle(x, y, 5.5, 2.8, machine, turn_rad=turn)
