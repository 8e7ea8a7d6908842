"""Scenes follow from (seed, index) alone; a revisit shows the same ground on another day."""

import numpy as np
import pytest

from cmir.archive.world.canvas import GROUND_GSD_M, GROUND_SIZE_PX
from cmir.archive.world.covers import LABELS, MIN_LABEL_AREA_M2
from cmir.archive.world.scene import (
    LAYOUTS,
    REVISIT_REACH,
    REVISIT_SHARE,
    draw_scene,
    ground_index_of,
    layout_index_of,
    visible_labels,
)

CHIP = (8, 8, 256, 256)


def revisit_of(seed: int, layout: str) -> tuple[int, int]:
    """A scene that revisits, and the first visit to its ground, of this layout."""
    wanted = [name for name, _ in LAYOUTS].index(layout)
    return next(
        (index, first)
        for index in range(5000)
        if (first := ground_index_of(seed, index)) != index and layout_index_of(seed, first) == wanted
    )


def test_a_scene_is_the_same_drawn_alone_or_after_others() -> None:
    alone = draw_scene(5, 9).ground
    for index in range(3):
        draw_scene(5, index)
    again = draw_scene(5, 9).ground
    np.testing.assert_array_equal(alone.reflectance, again.reflectance)
    np.testing.assert_array_equal(alone.surface_index, again.surface_index)


def test_another_seed_is_another_world() -> None:
    one, other = draw_scene(1, 0), draw_scene(2, 0)
    assert not np.array_equal(one.ground.reflectance, other.ground.reflectance)


def test_about_a_fifth_of_the_scenes_revisit_ground_seen_before() -> None:
    grounds = [ground_index_of(0, index) for index in range(2000)]
    revisits = [index for index, first in enumerate(grounds) if first != index]
    assert len(revisits) / 2000 == pytest.approx(REVISIT_SHARE, abs=0.03)
    assert all(grounds[first] == first <= index for index, first in enumerate(grounds))
    assert max(index - grounds[index] for index in revisits) < 8 * REVISIT_REACH


def test_layouts_come_round_in_turns() -> None:
    for turn in range(3):
        grounds = range(turn * len(LAYOUTS), (turn + 1) * len(LAYOUTS))
        assert sorted(layout_index_of(0, ground) for ground in grounds) == list(range(len(LAYOUTS)))


def test_a_revisit_keeps_the_houses_and_moves_the_cars() -> None:
    index, first = revisit_of(0, "residential")
    then, now = draw_scene(0, first).ground, draw_scene(0, index).ground
    np.testing.assert_allclose(then.label_areas_m2(CHIP)["buildings"], now.label_areas_m2(CHIP)["buildings"], rtol=0.01)
    same = np.all(np.isclose(then.reflectance, now.reflectance), axis=0)
    assert 0.93 < same.mean() < 1.0


def test_labels_are_those_whose_share_of_the_mask_is_large_enough() -> None:
    for index in range(12):
        ground = draw_scene(4, index).ground
        column, row, width, height = CHIP
        fine = ground.surface_index[2 * row : 2 * (row + height), 2 * column : 2 * (column + width)]
        carried = np.array([surface.cover.label or "" for surface in ground.surfaces])[fine]
        expected = tuple(
            label for label in LABELS if (carried == label).sum() * (GROUND_GSD_M / 2) ** 2 >= MIN_LABEL_AREA_M2[label]
        )
        assert visible_labels(ground, CHIP) == expected
        assert expected


def test_grounds_are_whole_and_physical() -> None:
    for index in range(6):
        ground = draw_scene(8, index).ground
        assert ground.reflectance.shape == (4, GROUND_SIZE_PX, GROUND_SIZE_PX)
        assert ground.reflectance.dtype == np.float32
        assert 0.0 < ground.reflectance.min() < ground.reflectance.max() < 1.0
        assert ground.height_m.min() >= 0.0
        assert np.isfinite(ground.slope).all()
