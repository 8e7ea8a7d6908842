"""Layouts of open land: farmland, forest, chaparral, golf course."""

import numpy as np

from cmir.archive.world import covers
from cmir.archive.world.canvas import Canvas
from cmir.archive.world.outlines import blob, moved, ribbon, scattered, winding
from cmir.archive.world.plants import trees
from cmir.archive.world.textures import Rows


def farmland(canvas: Canvas) -> None:
    """Parcels of crops at several stages in straight furrows, with tracks and sometimes a hedge between them."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.BARE_SOIL))
    east = np.cumsum(np.concatenate([[-115.0], rng.uniform(45, 95, 4)]))
    north = np.cumsum(np.concatenate([[-115.0], rng.uniform(40, 80, 5)]))
    kinds = (covers.CROP, covers.CROP, covers.RIPE_CROP, covers.TILLED_FIELD)
    hedges: list[tuple[float, float]] = []
    for west, right in zip(east[:-1].tolist(), east[1:].tolist(), strict=True):
        for south, top in zip(north[:-1].tolist(), north[1:].tolist(), strict=True):
            along = 0.0 if rng.random() < 0.5 else np.pi / 2
            rows = Rows(along, float(rng.uniform(2.4, 4.5)), float(rng.uniform(0.16, 0.34)), 0.15)
            crop = kinds[int(rng.integers(len(kinds)))]
            surface = canvas.surface(crop, brightness=float(rng.uniform(0.8, 1.25)), rows=rows)
            middle_x, middle_y = (west + right) / 2, (south + top) / 2
            canvas.rectangle(middle_x, middle_y, right - west - 4.0, top - south - 4.0, surface)
            if rng.random() < 0.18:
                hedges += [(float(x), top) for x in np.arange(west, right, 5.0)]
    trees(canvas, hedges, (2.0, 3.2), covers.CANOPY)
    if rng.random() < 0.3:
        canvas.line([(float(east[1]), -120), (float(east[1]), 120)], 5.0, canvas.surface(covers.ASPHALT))


def forest(canvas: Canvas) -> None:
    """Crown beside crown, broad-leaved or conifers or both, sometimes a clearing or a path."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.CANOPY, brightness=0.5))
    if rng.random() < 0.4:
        x, y = rng.uniform(-40, 40, 2).tolist()
        clearing = moved(blob(rng, float(rng.uniform(14, 26)), 0.25), x, y)
        hole, radius = np.array([x, y]), float(np.abs(clearing - (x, y)).max())
        canvas.polygon(clearing, canvas.surface(covers.MEADOW))
    else:
        hole, radius = np.zeros(2), 0.0
    gap_m = float(rng.uniform(4.2, 6.5))
    places = scattered(rng, 1200, gap_m, 98.0)
    if rng.random() < 0.4:
        path = winding(rng, 12.0)
        canvas.line(path, 4.0, canvas.surface(covers.BARE_SOIL, brightness=0.9))
        places = places[np.abs(places[:, 1] - np.interp(places[:, 0], path[:, 0], path[:, 1])) > 3.5]
    places = places[np.linalg.norm(places - hole, axis=1) > 0.85 * radius]
    conifer = rng.random(len(places)) < float(rng.choice([0.0, 0.1, 0.5, 1.0]))
    trees(canvas, places[~conifer], (0.55 * gap_m, 0.85 * gap_m), covers.CANOPY)
    trees(canvas, places[conifer], (0.45 * gap_m, 0.65 * gap_m), covers.CONIFER)


def chaparral(canvas: Canvas) -> None:
    """Dark round shrubs dotted over light dry soil."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.SHRUB_SOIL, brightness=float(rng.uniform(0.85, 1.25))))
    pale = canvas.surface(covers.SHRUB_SOIL, brightness=1.25)
    for x, y in scattered(rng, 12, 22.0).tolist():
        canvas.polygon(moved(blob(rng, float(rng.uniform(6, 14)), 0.3), x, y), pale)
    greens = [canvas.surface(covers.SHRUB, brightness=float(b)) for b in rng.uniform(0.7, 1.4, 6)]
    places = scattered(rng, int(rng.integers(380, 800)), float(rng.uniform(3.6, 4.6)), 100.0)
    radius = np.clip(rng.gamma(6.0, 0.25, len(places)), 0.6, 3.2)
    for number, ((x, y), radius_m) in enumerate(zip(places.tolist(), radius.tolist(), strict=True)):
        canvas.disc(x, y, radius_m, greens[number % len(greens)])
    canvas.domes(places, radius, 0.8 * radius)


def golf_course(canvas: Canvas) -> None:
    """A mown fairway and a green between trees, with bunkers of bright sand and sometimes a pond."""
    rng = canvas.ground
    canvas.fill(canvas.surface(covers.MEADOW, brightness=0.95))
    middle = winding(rng, 10.0)
    mown = Rows(np.pi / 4, 9.0, 0.09, 0.1)
    canvas.polygon(ribbon(middle, float(rng.uniform(36, 52))), canvas.surface(covers.FAIRWAY, rows=mown))
    x, y = middle[int(rng.integers(14, 31))].tolist()
    green = canvas.surface(covers.FAIRWAY, brightness=1.3, rows=Rows(0.0, 3.0, 0.05))
    canvas.polygon(moved(blob(rng, 13.0, 0.12), x, y), green)
    sand = canvas.surface(covers.SAND, brightness=1.1)
    rim = canvas.surface(covers.LAWN, brightness=0.7)
    bunkers = rng.uniform(0, 6.3) + np.linspace(0, 5.2, int(rng.integers(3, 6)))
    for angle in bunkers.tolist():
        far = float(rng.uniform(20.0, 30.0))
        middle_xy = (x + far * np.cos(angle), y + far * np.sin(angle))
        outline = blob(rng, float(rng.uniform(4.5, 8.0)), 0.3)
        canvas.polygon(outline * 1.18 + middle_xy, rim)
        canvas.polygon(outline + middle_xy, sand)
    pond = rng.random() < 0.35
    if pond:
        where = middle[8] + (0.0, 34.0)
        canvas.polygon(blob(rng, 19.0, 0.2) + where, canvas.surface(covers.RIVER_WATER))
    places = scattered(rng, int(rng.integers(90, 200)), 6.0, 100.0)
    off = np.abs(places[:, 1] - np.interp(places[:, 0], middle[:, 0], middle[:, 1])) > 27
    clear = np.linalg.norm(places - (x, y), axis=1) > 38
    dry = ~((np.linalg.norm(places - (middle[8] + (0.0, 34.0)), axis=1) < 25) & pond)
    trees(canvas, places[off & clear & dry], (2.2, 4.6), covers.CANOPY)
