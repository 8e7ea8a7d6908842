"""The painted world: surfaces and their masks, shapes, textures, and what each layout shows."""

import numpy as np
import pytest

from cmir.archive.world import covers
from cmir.archive.world.canvas import GROUND_GSD_M, GROUND_SIZE_PX, Canvas, Ground
from cmir.archive.world.covers import LABELS, MIN_LABEL_AREA_M2, Cover
from cmir.archive.world.outlines import ribbon, scattered, winding
from cmir.archive.world.plants import trees
from cmir.archive.world.scene import LAYOUTS, draw_scene, ground_index_of, layout_index_of, visible_labels
from cmir.archive.world.structures import COURT_LENGTH_M, COURT_WIDTH_M, storage_tank, tennis_court
from cmir.archive.world.textures import Rows, smooth_noise, stripes
from cmir.archive.world.vehicles import CAR_LENGTH_M, CAR_WIDTH_M, airliner, boat, cars

WHOLE = (0, 0, GROUND_SIZE_PX, GROUND_SIZE_PX)
CHIP = (8, 8, 256, 256)
PLAIN = Cover((0.1, 0.2, 0.3, 0.4), "pavement", 0.0, 0.0)
NAMED_COVERS = {name: value for name, value in vars(covers).items() if isinstance(value, Cover)}


def canvas(seed: int = 0) -> Canvas:
    return Canvas(np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2]))


def first_ground(name: str, seed: int) -> int:
    wanted = [layout for layout, _ in LAYOUTS].index(name)
    return next(i for i in range(500) if ground_index_of(seed, i) == i and layout_index_of(seed, i) == wanted)


def ground_of(name: str, seed: int) -> Ground:
    return draw_scene(seed, first_ground(name, seed)).ground


@pytest.mark.parametrize("name", sorted(NAMED_COVERS))
def test_signatures_follow_their_kind(name: str) -> None:
    blue, green, red, nir = NAMED_COVERS[name].reflectance
    assert all(0.0 < value < 1.0 for value in (blue, green, red, nir))
    if NAMED_COVERS[name].greenness >= 0.3:
        assert nir > 2 * red
        assert green > blue
    if name.endswith(("WATER", "SEA")):
        assert nir < 0.5 * green
    if name in ("BARE_SOIL", "SAND", "WET_SAND", "TILLED_FIELD", "SHRUB_SOIL"):
        assert blue < green < red < nir


def test_every_label_has_a_cover_and_a_smallest_area() -> None:
    carried = {cover.label for cover in NAMED_COVERS.values()} - {None}
    assert carried == set(LABELS) == set(MIN_LABEL_AREA_M2)


def test_a_surface_without_texture_has_exactly_its_covers_reflectance() -> None:
    painted = canvas()
    painted.fill(painted.surface(PLAIN))
    ground = painted.finish()
    np.testing.assert_allclose(ground.reflectance[:, 5, 7], PLAIN.reflectance, rtol=1e-5)
    assert ground.label_areas_m2(WHOLE) == {"pavement": (GROUND_SIZE_PX * GROUND_GSD_M) ** 2}


def test_label_areas_are_those_of_the_shapes_whatever_the_turn() -> None:
    for seed in range(4):
        painted = canvas(seed)
        painted.fill(painted.surface(PLAIN))
        painted.rectangle(5.0, -3.0, 30.0, 20.0, painted.surface(covers.WHITE_ROOF), turn_rad=0.4)
        painted.disc(-25.0, 10.0, 8.0, painted.surface(covers.TANK_WHITE))
        areas = painted.finish().label_areas_m2(WHOLE)
        assert areas["buildings"] == pytest.approx(600.0, rel=0.04)
        assert areas["tanks"] == pytest.approx(np.pi * 64.0, rel=0.06)


def test_edges_are_averaged_and_never_outside_what_they_lie_between() -> None:
    painted = canvas()
    painted.fill(painted.surface(Cover((0.1, 0.1, 0.1, 0.1), None, 0.0, 0.0)))
    painted.rectangle(0.0, 0.0, 40.0, 40.0, painted.surface(Cover((0.9, 0.9, 0.9, 0.9), None, 0.0, 0.0)))
    band = painted.finish().reflectance[0]
    between = (band > 0.11) & (band < 0.89)
    assert 100 < between.sum() < 1500
    assert band.min() >= 0.0999
    assert band.max() <= 0.9001


def test_what_is_hidden_counts_for_no_label() -> None:
    painted = canvas()
    painted.fill(painted.surface(PLAIN))
    ground = painted.finish()
    hidden = np.zeros((GROUND_SIZE_PX, GROUND_SIZE_PX), dtype=bool)
    hidden[:, : GROUND_SIZE_PX // 2] = True
    assert ground.label_areas_m2(WHOLE, hidden)["pavement"] == ground.label_areas_m2(WHOLE)["pavement"] / 2
    assert visible_labels(ground, CHIP, ~np.zeros_like(hidden)) == ()


def test_what_is_painted_later_hides_what_lies_below() -> None:
    painted = canvas()
    painted.fill(painted.surface(covers.SEA_WATER))
    painted.fill(painted.surface(covers.SAND))
    assert set(painted.finish().label_areas_m2(WHOLE)) == {"sand"}


def test_an_airliner_covers_its_share_and_casts_height() -> None:
    painted = canvas()
    painted.fill(painted.surface(PLAIN))
    airliner(painted, 0.0, 0.0, 0.7, 40.0)
    ground = painted.finish()
    assert 250.0 < ground.label_areas_m2(WHOLE)["airplane"] < 480.0  # an A320 of 38 m has 123 m2 of wing alone
    assert 4.0 < ground.height_m.max() < 12.0


def test_cars_stand_where_they_are_put() -> None:
    painted = canvas()
    painted.fill(painted.surface(PLAIN))
    cars(painted, [(x, y, 0.3) for x in (-30, 0, 30) for y in (-30, 0, 30)], 1.0)
    cars(painted, [], 1.0)
    area = painted.finish().label_areas_m2(WHOLE)["cars"]
    assert area == pytest.approx(9 * CAR_LENGTH_M * CAR_WIDTH_M, rel=0.25)  # the windscreen is glass


def test_boats_tanks_and_courts_have_their_size() -> None:
    painted = canvas()
    painted.fill(painted.surface(covers.HARBOR_WATER))
    boat(painted, 0.0, 0.0, 1.0, 12.0)
    storage_tank(painted, 30.0, 0.0, 10.0, covers.TANK_WHITE)
    tennis_court(painted, -25.0, 0.0, 0.0, covers.COURT_BLUE, covers.COURT_GREEN)
    areas = painted.finish().label_areas_m2(WHOLE)
    assert 20.0 < areas["ship"] < 12.0 * 4.0
    assert areas["tanks"] == pytest.approx(np.pi * 100.0, rel=0.06)
    assert areas["court"] == pytest.approx((COURT_LENGTH_M + 12.8) * (COURT_WIDTH_M + 7.3), rel=0.05)


def test_trees_are_domes() -> None:
    painted = canvas()
    painted.fill(painted.surface(PLAIN))
    trees(painted, [(0.0, 0.0)], (5.0, 5.0), covers.CANOPY)
    ground = painted.finish()
    assert 6.0 < ground.height_m.max() < 10.5
    assert ground.label_areas_m2(WHOLE)["trees"] == pytest.approx(np.pi * 25.0, rel=0.25)
    assert np.abs(ground.slope).max() > 0.5


def test_a_bridge_over_trees_stays_flat() -> None:
    painted = canvas()
    painted.fill(painted.surface(PLAIN))
    trees(painted, [(0.0, 0.0)], (4.0, 4.0), covers.CANOPY)
    painted.rectangle(0.0, 0.0, 300.0, 14.0, painted.surface(PLAIN, height_m=5.0))
    ground = painted.finish()
    assert ground.height_m.max() == 5.0
    assert np.abs(ground.slope).max() == 0.0


def test_noise_has_mean_zero_and_deviation_one_and_the_asked_grain() -> None:
    rng = np.random.default_rng(0)
    for cell_px in (1.0, 4.0, 30.0):
        field = smooth_noise(rng, 128, cell_px)
        assert field.shape == (128, 128)
        assert field.mean() == pytest.approx(0.0, abs=0.03)
        assert field.std() == pytest.approx(1.0, abs=0.03)
        if cell_px > 1:
            near = np.corrcoef(field[:, :-1].ravel(), field[:, 1:].ravel())[0, 1]
            assert near > 0.75


def test_stripes_repeat_at_their_period() -> None:
    x = np.arange(0.0, 12.0, 0.5, dtype=np.float32)
    factor = stripes(Rows(0.0, 4.0, 0.3), x, np.zeros_like(x), np.zeros_like(x))
    np.testing.assert_allclose(factor[:8], factor[8:16], atol=1e-5)
    assert factor.max() == pytest.approx(1.3, abs=1e-3)
    across = stripes(Rows(np.pi / 2, 4.0, 0.3), x, np.zeros_like(x), np.zeros_like(x))
    np.testing.assert_allclose(across, 1.0, atol=1e-5)


def test_a_ribbon_keeps_its_width_and_scattered_places_their_number() -> None:
    rng = np.random.default_rng(1)
    middle = winding(rng, 10.0)
    outline = ribbon(middle, 20.0)
    np.testing.assert_allclose(np.linalg.norm(outline[: len(middle)] - outline[::-1][: len(middle)], axis=1), 20.0)
    places = scattered(rng, 50, 6.0)
    assert len(places) == 50
    assert np.abs(places).max() <= 105.0


ESSENTIAL = {
    "airport": {"airplane", "pavement"},
    "beach": {"sand", "sea"},
    "chaparral": {"chaparral"},
    "commercial": {"buildings", "pavement", "cars"},
    "construction site": {"bare-soil"},
    "farmland": {"field"},
    "forest": {"trees"},
    "freeway": {"cars", "pavement"},
    "golf course": {"grass", "sand", "trees"},
    "harbor": {"dock", "ship", "water"},
    "mobile home park": {"mobile-home", "pavement"},
    "open sea": {"sea", "ship"},
    "parking lot": {"cars", "pavement"},
    "residential": {"buildings", "grass", "pavement"},
    "river": {"trees", "water"},
    "storage tanks": {"tanks"},
    "tennis court": {"court", "grass"},
}


def test_every_layout_has_its_essentials_listed() -> None:
    assert set(ESSENTIAL) == {name for name, _ in LAYOUTS}
    assert set().union(*ESSENTIAL.values()) == set(LABELS)


@pytest.mark.parametrize("name", sorted(ESSENTIAL))
def test_a_layout_shows_what_makes_it(name: str) -> None:
    for seed in (11, 12):
        assert set(visible_labels(ground_of(name, seed), CHIP)) >= ESSENTIAL[name]


def test_vegetation_is_bright_and_water_dark_in_near_infrared_on_the_ground_drawn() -> None:
    forest, sea = ground_of("forest", 3).reflectance, ground_of("open sea", 3).reflectance
    assert forest[3].mean() > 3 * forest[2].mean()
    assert np.median(sea[3]) < 0.02 < np.median(sea[0])
