"""Queries chosen for a person to see: at fixed places, the same every time, the worst with what should have come."""

import numpy as np

from cmir.evaluation.measurement import evaluate
from cmir.evaluation.panels import item_ids, spread_panels, worst_panels
from tests.made_items import Made, items_of


def test_spread_goes_from_good_to_bad() -> None:
    made = [Made("rgb", (f"l{i % 7}",)) for i in range(140)]
    evaluation = evaluate(items_of(made, noise=3.0), space_id="s")
    panels = spread_panels(evaluation.results["rgb_to_rgb"], evaluation.items)
    precisions = [panel.average_precision for panel in panels]
    assert len(panels) == 5
    assert precisions == sorted(precisions, reverse=True)
    assert precisions[0] > precisions[-1]
    assert panels == spread_panels(evaluation.results["rgb_to_rgb"], evaluation.items)
    for panel in panels:
        assert [hit.rank for hit in panel.hits] == list(range(1, 9))
        assert panel.query.item_id not in {hit.item_id for hit in panel.hits}
        assert all((hit.gain > 0) == (hit.caption == panel.query.caption) for hit in panel.hits)


def test_worst_shows_what_should_have_come() -> None:
    made = [Made("speech", ("a",)), Made("rgb", ("a",)), *(Made("rgb", ("b",)) for _ in range(20))]
    vectors = np.eye(22)
    vectors[0] = vectors[2:].mean(axis=0) - vectors[1]  # says "a" and lies furthest from its only image
    evaluation = evaluate(items_of(made, vectors), space_id="s")
    (panel,) = worst_panels(evaluation.results["speech_to_rgb"], evaluation.items, 3)
    assert panel.expected is not None
    assert (panel.expected.item_id, panel.expected.rank) == ("item-1", 21)
    assert panel.note == "first right one at rank 21"
    assert "item-1" in set(item_ids([panel]))


def test_no_failures_where_the_first_place_is_right() -> None:
    made = [Made("rgb", ("a",)), Made("rgb", ("a",)), Made("rgb", ("b",)), Made("rgb", ("b",))]
    evaluation = evaluate(items_of(made), space_id="s")
    assert worst_panels(evaluation.results["rgb_to_rgb"], evaluation.items, 3) == []
