"""The map of the space: bounded, the same for a seed, near what is near, and drawn whatever the vectors are."""

from collections import Counter

import numpy as np
import pytest

from cmir.evaluation import space_map as module
from cmir.evaluation.protocol import Items, Prototypes
from cmir.evaluation.space_map import HEIGHT, WIDTH, SpaceMap, space_map
from tests.made_items import Made, items_of


def drawn(items: Items, prototypes: Prototypes | None = None) -> SpaceMap:
    found = space_map(items, prototypes, "labels", seed=1)
    assert found is not None
    return found


def clusters(num: int = 120) -> Items:
    return items_of([Made("rgb", (f"l{i % 3}",), f"c{i % 2}") for i in range(num)], noise=0.15)


def test_the_same_for_a_seed_and_inside_its_frame() -> None:
    items = clusters()
    first = drawn(items)
    assert first == drawn(items)
    assert all(0 <= point.x <= WIDTH and 0 <= point.y <= HEIGHT for point in first.points)


def test_near_vectors_are_near() -> None:
    found = drawn(clusters())
    places = np.array([[point.x, point.y] for point in found.points])
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(len(places))
    colours = np.array([point.colour for point in found.points])
    assert (colours[distance.argmin(axis=1)] == colours).mean() > 0.95


def test_a_prototype_lies_with_its_items_and_bears_the_name() -> None:
    made = [Made("rgb", (f"l{i % 3}",)) for i in range(90)]
    items = items_of(made, noise=0.15)
    centres = np.array([items.vectors[i::3].mean(axis=0) for i in range(3)])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    found = drawn(items, Prototypes(("l0", "l1", "l2"), centres.astype(np.float32)))
    stars = {point.caption: point for point in found.points if point.modality == "label"}
    places = {label: [(p.x, p.y) for p in found.points[:90] if p.caption.split(" · ")[1] == label] for label in stars}
    for label, star in stars.items():
        gaps = {other: np.linalg.norm(np.mean(where, axis=0) - (star.x, star.y)) for other, where in places.items()}
        assert min(gaps, key=gaps.__getitem__) == label
        (name,) = [name for name in found.names if name.text == label]
        assert abs(name.x - star.x) < 1
        assert name.y > star.y


def test_a_sample_holds_every_modality_as_far_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUM_ITEMS", 40)
    made = [Made("rgb", ("a",)) for _ in range(100)]
    made += [Made("pan", ("b",)) for _ in range(6)] + [Made("speech", ("a",)) for _ in range(50)]
    found = drawn(items_of(made, noise=0.5))
    assert found.num_shown == {"pan": 6, "rgb": 17, "speech": 17}
    assert Counter(point.modality for point in found.points) == found.num_shown
    assert found.num_items == 156


def test_many_groups_are_grey_but_for_the_largest() -> None:
    found = drawn(items_of([Made("rgb", (f"l{i % 50}",)) for i in range(100)]))
    assert len(found.names) == 30
    assert found.num_groups == 50
    assert {point.colour for point in found.points} == {-1, *range(12)}


def test_names_do_not_cover_each_other() -> None:
    found = drawn(items_of([Made("rgb", (f"label {i % 20}",)) for i in range(60)], noise=3.0))
    for i, one in enumerate(found.names):
        for other in found.names[:i]:
            apart = abs(one.y - other.y) >= 12.9 or abs(one.x - other.x) >= 3.5 * (len(one.text) + len(other.text))
            assert apart or one.y > HEIGHT - 20


@pytest.mark.parametrize("num", [3, 5, 40])
def test_identical_vectors_are_drawn(num: int) -> None:
    items = items_of([Made("rgb", ("a",)) for _ in range(num)], np.ones((num, 4)))
    assert len(drawn(items).points) == num


def test_too_few_for_a_map() -> None:
    assert space_map(items_of([Made("rgb", ("a",)), Made("rgb", ("a",))]), None, "labels") is None
