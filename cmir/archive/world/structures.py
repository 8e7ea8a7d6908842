"""What is built, as shapes painted on a canvas: houses, halls, mobile homes, storage tanks, tennis courts.

Sizes in metres; a court is 23.77 m x 10.97 m with a run-off of 6.4 m and 3.66 m (ITF rules of tennis, 2024).
"""

from typing import Final

import numpy as np

from cmir.archive.world import covers
from cmir.archive.world.canvas import Canvas, placed
from cmir.archive.world.covers import Cover

COURT_LENGTH_M: Final = 23.77
COURT_WIDTH_M: Final = 10.97


def gabled_house(
    canvas: Canvas, x_m: float, y_m: float, turn_rad: float, length_m: float, width_m: float, roof: Cover
) -> None:
    """A house whose roof has two slopes (rise 0.45 per metre) along its length."""
    brightness = float(canvas.ground.uniform(0.8, 1.2))
    height_m = float(canvas.ground.uniform(4.0, 7.0))
    for side in (1.0, -1.0):
        down = placed([[0.0, -side * 0.45]], 0.0, 0.0, turn_rad)[0]
        half = canvas.surface(roof, brightness=brightness, height_m=height_m, slope=(float(down[0]), float(down[1])))
        px, py = placed([[0.0, side * width_m / 4]], x_m, y_m, turn_rad)[0].tolist()
        canvas.rectangle(px, py, length_m, width_m / 2, half, turn_rad=turn_rad)


def flat_hall(
    canvas: Canvas, x_m: float, y_m: float, turn_rad: float, length_m: float, width_m: float, roof: Cover
) -> None:
    """A flat roof with a parapet and air-conditioning boxes, as on shops, offices and warehouses."""
    rng = canvas.ground
    height_m = float(rng.uniform(6.0, 16.0))
    brightness = float(rng.uniform(0.75, 1.15))
    canvas.rectangle(
        x_m, y_m, length_m, width_m,
        canvas.surface(roof, brightness=0.75 * brightness, height_m=height_m + 0.5), turn_rad=turn_rad,
    )  # fmt: skip
    top = canvas.surface(roof, brightness=brightness, height_m=height_m)
    canvas.rectangle(x_m, y_m, length_m - 1.6, width_m - 1.6, top, turn_rad=turn_rad)
    box = canvas.surface(covers.GRAVEL_ROOF, brightness=0.6 if brightness > 0.95 else 1.5, height_m=height_m + 2.0)
    for along, across in rng.uniform(-0.4, 0.4, (int(rng.integers(3, 9)), 2)):
        px, py = placed([[along * length_m, across * width_m]], x_m, y_m, turn_rad)[0].tolist()
        canvas.rectangle(px, py, 2.6, 2.0, box, turn_rad=turn_rad)


def trailer(canvas: Canvas, x_m: float, y_m: float, turn_rad: float, length_m: float) -> None:
    """A mobile home: a long light box with a low ridge, a darker awning along one side."""
    rng = canvas.ground
    brightness = float(rng.uniform(0.7, 1.15))
    for side in (1.0, -1.0):
        down = placed([[0.0, -side * 0.22]], 0.0, 0.0, turn_rad)[0]
        half = canvas.surface(
            covers.TRAILER_ROOF, brightness=brightness, height_m=3.2, slope=(float(down[0]), float(down[1]))
        )
        px, py = placed([[0.0, side * 1.2]], x_m, y_m, turn_rad)[0].tolist()
        canvas.rectangle(px, py, length_m, 2.4, half, turn_rad=turn_rad)
    awning = canvas.surface(covers.TRAILER_ROOF, brightness=0.55, height_m=2.5)
    px, py = placed([[float(rng.uniform(-2.0, 2.0)), 3.2]], x_m, y_m, turn_rad)[0].tolist()
    canvas.rectangle(px, py, 0.55 * length_m, 1.6, awning, turn_rad=turn_rad)


def storage_tank(canvas: Canvas, x_m: float, y_m: float, radius_m: float, paint: Cover) -> None:
    """A cylinder seen from above: rim, a roof in shallow cone sectors, a pipe and a stair."""
    rng = canvas.ground
    height_m = float(rng.uniform(0.7, 1.1) * min(radius_m, 14.0))
    brightness = float(rng.uniform(0.85, 1.1))
    canvas.disc(x_m, y_m, radius_m, canvas.surface(paint, brightness=0.7 * brightness, height_m=height_m))
    for start in np.arange(0.0, 2 * np.pi, np.pi / 6):
        middle = start + np.pi / 12
        slope = (-0.16 * float(np.cos(middle)), -0.16 * float(np.sin(middle)))
        corner = np.array([[0, 0], [np.cos(start), np.sin(start)], [np.cos(start + 0.55), np.sin(start + 0.55)]])
        sector = canvas.surface(paint, brightness=brightness, height_m=height_m, slope=slope)
        canvas.polygon(corner * (radius_m - 0.8) + (x_m, y_m), sector)
    hub = canvas.surface(paint, brightness=0.6, height_m=height_m + 0.5)
    canvas.disc(x_m, y_m, max(0.7, 0.1 * radius_m), hub)


def tennis_court(canvas: Canvas, x_m: float, y_m: float, turn_rad: float, paint: Cover, apron: Cover) -> None:
    """A doubles court with its lines and net inside a run-off of 6.4 m behind and 3.66 m beside (ITF)."""
    around = canvas.surface(apron)
    inside = canvas.surface(paint)
    line = canvas.surface(covers.COURT_LINE)
    net = canvas.surface(covers.GLASS, height_m=1.0)
    length, width = COURT_LENGTH_M, COURT_WIDTH_M
    canvas.rectangle(x_m, y_m, length + 12.8, width + 7.3, around, turn_rad=turn_rad)
    canvas.rectangle(x_m, y_m, length, width, inside, turn_rad=turn_rad)
    single, service = width / 2 - 1.37, 6.4
    strokes = [((-length / 2, y), (length / 2, y)) for y in (-width / 2, -single, single, width / 2)]
    strokes += [((x, -width / 2), (x, width / 2)) for x in (-length / 2, length / 2)]
    strokes += [((x, -single), (x, single)) for x in (-service, service)]
    strokes.append(((-service, 0.0), (service, 0.0)))
    for stroke in strokes:
        canvas.line(placed(stroke, x_m, y_m, turn_rad), 0.3, line)
    canvas.line(placed([(0.0, -width / 2 - 0.9), (0.0, width / 2 + 0.9)], x_m, y_m, turn_rad), 0.3, net)
