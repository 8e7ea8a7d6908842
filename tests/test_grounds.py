"""Whose ground the gallery shows once more, and what the figures are without it."""

import numpy as np
import pytest

from cmir.evaluation.grounds import SameGround, within_scenes
from cmir.evaluation.measurement import evaluate
from cmir.evaluation.protocol import Relevance, directions
from tests.made_items import Made, items_of


def overlaps(made: list[Made], name: str, relevance: Relevance = "class") -> list[list[int]]:
    items = items_of(made, np.eye(len(made)))
    (direction,) = [each for each in directions(items, relevance, ("test",), ("test",)) if each.name == name]
    ground = SameGround(items, direction, relevance)
    mask = ground(np.arange(len(direction.queries)))
    assert np.array_equal(mask.sum(axis=1), ground.num_overlaps)
    assert np.array_equal(mask.any(axis=0), ground.is_seen)
    return mask.astype(int).tolist()  # type: ignore[no-any-return]


def rgb(scene_id: str = "", **more: object) -> Made:
    return Made("rgb", (), "c", scene_id=scene_id, **more)  # type: ignore[arg-type]


def test_images_of_one_ground_but_never_the_query_itself() -> None:
    assert overlaps([rgb("s"), rgb("s"), rgb("t")], "rgb_to_rgb") == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_the_other_side_of_a_pair_stays_only_where_pairs_are_asked_for() -> None:
    made = [Made(kind, ("l",), "c", pair, scene_id="s") for pair in ("p", "q") for kind in ("pan", "ms")]
    assert overlaps(made, "pan_to_ms", "pair") == [[0, 1], [1, 0]]
    for relevance in ("class", "labels"):
        assert overlaps(made, "pan_to_ms", relevance) == [[1, 1], [1, 1]]  # type: ignore[arg-type]


def test_a_pair_is_of_one_ground_whatever_windows_and_scenes_say() -> None:
    made = [
        Made(kind, (), "c", pair, scene_id=f"{scene} {kind}" if pair == "q" else scene, window=(0, 0, 8, 8))
        for pair, scene in (("p", "s"), ("q", "t"))
        for kind in ("pan", "ms")
    ]
    assert overlaps(made, "pan_to_ms") == [[1, 0], [0, 1]]
    assert overlaps(made, "pan_to_ms", "pair") == [[0, 0], [0, 0]]


def test_figures_by_class_without_overlap_leave_the_own_pair_out() -> None:
    """A network that knows each ground again and nothing of classes: its figures are its pairs alone."""
    made = [Made(kind, (), f"c{i % 2}", f"p{i}", scene_id=f"s{i}") for i in range(6) for kind in ("pan", "ms")]
    vectors = np.repeat(np.eye(6), 2, axis=0)
    by = {kind: evaluate(items_of(made, vectors), space_id="s", relevance=kind).report for kind in ("class", "pair")}
    figures = by["class"].directions["pan_to_ms"]
    assert figures.hit_at["1"] == 1.0
    found = figures.without_overlap
    assert found is not None
    assert (found.num_queries, found.num_queries_concerned, found.num_overlaps) == (6, 6, 6)
    assert found.hit_at["1"] < 1.0
    assert found.chance.precision_at["1"] == pytest.approx(2 / 5), "of five other grounds two have the class"
    assert found.left_out.endswith("its own pair included")
    assert by["pair"].directions["pan_to_ms"].without_overlap is None, "there the pair is what is asked for"


def test_boxes_decide_where_both_are_known() -> None:
    here, beside, shifted = (0.0, 0.0, 1.0, 1.0), (0.95, 0.0, 1.95, 1.0), (0.5, 0.0, 1.5, 1.0)
    made = [rgb("s", bbox=here), rgb("s", bbox=beside), rgb("s", bbox=shifted), rgb("s")]
    assert overlaps(made, "rgb_to_rgb") == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]


def test_windows_of_a_scene_without_a_place_do_not_overlap() -> None:
    made = [rgb("s", window=(0, 0, 8, 8)), rgb("s", window=(8, 0, 8, 8)), rgb("s")]
    assert overlaps(made, "rgb_to_rgb") == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


def test_figures_without_overlap_take_out_the_easy_answer() -> None:
    """Two images of one ground are alike; of other ground the network knows nothing."""
    made = [rgb("s"), rgb("s"), rgb("t"), Made("rgb", (), "d", scene_id="u"), Made("rgb", (), "d", scene_id="v")]
    vectors = np.array([[1, 0, 0], [1, 0.01, 0], [0, 0, 1], [0.5, 0, 0], [0, 0.1, 1]])
    figures = evaluate(items_of(made, vectors), space_id="s", relevance="class").report.directions["rgb_to_rgb"]
    found = figures.without_overlap
    assert found is not None
    assert (found.num_queries, found.num_queries_concerned, found.num_items_concerned) == (5, 2, 2)
    assert found.num_overlaps == 2
    assert figures.map is not None
    assert found.map is not None
    assert found.map < figures.map
    assert found.baseline is not None
    assert found.chance.map != figures.chance.map


def test_without_overlap_is_what_a_gallery_without_it_gives() -> None:
    """Taken out by hand: the only query concerned finds the same in a gallery that never held the other chip."""
    made = [Made("pan", (), f"c{i % 3}", scene_id=f"s{i}", item_id=f"pan{i}") for i in range(9)]
    made += [Made("ms", (), f"c{i % 3}", scene_id=f"t{i}", item_id=f"ms{i}") for i in range(9)]
    made[-1] = Made("ms", (), "c0", scene_id="s0", item_id="ms8")
    vectors = np.random.default_rng(3).normal(size=(18, 6))
    whole = evaluate(items_of(made, vectors), space_id="s", relevance="class")
    less = evaluate(items_of(made[:-1], vectors[:-1]), space_id="s", relevance="class")
    found = whole.report.directions["pan_to_ms"].without_overlap
    assert found is not None
    assert found.num_queries_concerned == 1
    kept = whole.results["pan_to_ms"].rankings.average_precision.copy()
    assert kept[0] != less.results["pan_to_ms"].rankings.average_precision[0]
    kept[0] = less.results["pan_to_ms"].rankings.average_precision[0]
    assert found.map == pytest.approx(kept.mean())


def test_where_nothing_overlaps_nothing_is_said() -> None:
    figures = evaluate(items_of([rgb(), rgb(), rgb()]), space_id="s", relevance="class").report.directions["rgb_to_rgb"]
    assert figures.without_overlap is None


def pairs_of(scene: str, sensor: str | None = None) -> list[Made]:
    return [
        Made(kind, (), "c", f"{scene}{i}", scene_id=scene, sensor=sensor, window=(i, 0, 1, 1))
        for i in range(4)
        for kind in ("pan", "ms")
    ]


def test_pairs_within_their_own_scene() -> None:
    alone = [Made("pan", (), "c", "x", scene_id="x"), Made("ms", (), "c", "x", scene_id="x")]
    made = [*pairs_of("a", "Landsat-8"), *pairs_of("b", "GF-1"), *alone]
    vectors = items_of(made).vectors.copy()
    vectors[[1, 3]] = vectors[[3, 1]]  # two of the first scene's MS chips change places
    evaluation = evaluate(items_of(made, vectors), space_id="s", relevance="pair")
    found = evaluation.report.directions["pan_to_ms"].within_scene
    assert found is not None
    assert (found.num_queries, found.num_scenes, found.mean_gallery_size) == (8, 2, 4.0)
    assert found.hit_at["1"] == pytest.approx(6 / 8)
    assert found.hit_at["5"] == 1.0
    assert found.hit_at_1_ci95 is not None
    assert found.hit_at_1_ci95[0] < 6 / 8 < found.hit_at_1_ci95[1]
    assert found.chance.hit_at["1"] == pytest.approx(1 / 4)
    assert found.per_sensor["Landsat-8"].hit_at["1"] == 0.5
    assert found.per_sensor["GF-1"].hit_at_1_ci95 == (1.0, 1.0)
    assert found.baseline is not None


def test_a_scene_is_asked_of_pairs_only_and_where_it_holds_several() -> None:
    lone = [Made(kind, (), "c", f"p{i}", scene_id=f"s{i}") for i in range(3) for kind in ("pan", "ms")]
    assert evaluate(items_of(lone), space_id="s", relevance="pair").report.directions["pan_to_ms"].within_scene is None
    items = items_of(pairs_of("a"))
    found = evaluate(items, space_id="s", relevance="class").report.directions["pan_to_ms"]
    assert found.within_scene is None
    (direction,) = [each for each in directions(items, "pair", ("test",), ("test",)) if each.name == "pan_to_ms"]
    assert [len(each.gallery) for each in within_scenes(items, direction)] == [4]
