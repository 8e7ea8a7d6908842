"""Figures of whole directions: a model that knows nothing, one that knows all, questions without an answer."""

import numpy as np
import pytest

from cmir.evaluation.measurement import evaluate
from cmir.evaluation.protocol import Relevance
from tests.made_items import Made, items_of


def test_a_query_never_finds_itself() -> None:
    items = items_of([Made("rgb", ("a",)), Made("rgb", ("a",)), Made("rgb", ("b",))], np.eye(3))
    result = evaluate(items, space_id="s").results["rgb_to_rgb"]
    assert result.rankings.num_candidates.tolist() == [2, 2, 2]
    assert result.rankings.num_relevant.tolist() == [1, 1, 0]
    assert all(query not in shown for query, shown in enumerate(result.rankings.shown.tolist()))


@pytest.mark.parametrize("relevance", ["labels", "class"])
def test_a_collapsed_model_scores_chance(relevance: Relevance) -> None:
    """All vectors alike, and the files sorted by class: the order of the hashes must not know it."""
    made = [Made("pan" if i % 2 else "ms", (f"l{i // 100}",), f"c{i // 100}") for i in range(800)]
    vectors = np.tile(np.random.default_rng(1).normal(size=64), (800, 1))
    report = evaluate(items_of(made, vectors), space_id="s", relevance=relevance).report
    for name, figures in report.directions.items():
        assert figures.chance_map is not None, name
        assert figures.map == pytest.approx(figures.chance_map, abs=0.02), name
        assert figures.hit_at["1"] < 0.3, name


def test_a_model_that_knows_reaches_the_ceiling() -> None:
    made = [Made(modality, (), f"c{i % 5}") for i in range(60) for modality in ("pan", "ms")]
    figures = evaluate(items_of(made), space_id="s", relevance="class").report.directions["pan_to_ms"]
    assert figures.map == pytest.approx(1.0)
    assert figures.precision_at == pytest.approx(figures.ceiling.precision_at)
    assert figures.ceiling.precision_at["20"] == pytest.approx(12 / 20)
    assert figures.baseline is not None
    assert figures.baseline.map is not None
    assert figures.baseline.map < 0.5


def test_a_question_without_an_answer_counts_as_nothing_and_the_ceiling_says_so() -> None:
    made = [Made("speech", ("a",)), Made("speech", ("z",)), Made("rgb", ("a",)), Made("rgb", ("b",))]
    figures = evaluate(items_of(made), space_id="s").report.directions["speech_to_rgb"]
    assert (figures.num_queries, figures.num_queries_unanswerable) == (2, 1)
    assert figures.ceiling.map == pytest.approx(0.5)
    assert figures.map == pytest.approx(0.5)


def test_figures_by_label_class_sensor_and_voice() -> None:
    made = [
        Made("speech", ("a",), attributes='{"voice": "v1"}'),
        Made("speech", ("b",), attributes='{"voice": "v2"}'),
        Made("rgb", ("a",), "x", sensor="NAIP"),
        Made("rgb", ("b",), "y"),
    ]
    found = evaluate(items_of(made), space_id="s").report.directions
    assert {name: group.num_queries for name, group in found["speech_to_rgb"].per_label.items()} == {"a": 1, "b": 1}
    assert sorted(found["speech_to_rgb"].per_voice) == ["v1", "v2"]
    assert sorted(found["rgb_to_speech"].per_class) == ["x", "y"]
    assert sorted(found["rgb_to_speech"].per_sensor) == ["NAIP"]


def test_a_direction_nobody_can_be_judged_in_has_no_figures() -> None:
    made = [Made("speech", ("a",)), Made("rgb", ("a",), "x"), Made("rgb", ("a",), "x")]
    figures = evaluate(items_of(made), space_id="s", relevance="class").report.directions["speech_to_rgb"]
    assert (figures.num_queries, figures.num_queries_left_out, figures.gallery_size) == (0, 1, 2)
    assert figures.map is None
    assert figures.chance_map is None
