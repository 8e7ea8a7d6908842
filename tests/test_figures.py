"""The shape of report.json, key by key."""

import json

import pytest

from cmir.evaluation.figures import Report
from cmir.evaluation.measurement import evaluate
from cmir.evaluation.report import report_json
from tests.made_items import Made, items_of

MADE = [
    *(Made("rgb", ("a",) if i % 2 else ("a", "b"), f"c{i % 3}") for i in range(12)),
    *(Made("speech", (("a", "b")[i % 2],)) for i in range(6)),
]


def test_report_json_has_the_keys_of_the_contract() -> None:
    report = json.loads(report_json(evaluate(items_of(MADE), space_id="s0123456789abcdef").report))
    assert report["space_id"] == "s0123456789abcdef"
    assert sorted(report["directions"]) == ["rgb_to_rgb", "rgb_to_speech", "speech_to_rgb", "speech_to_speech"]
    for name, figures in report["directions"].items():
        for key in ("relevance", "num_queries", "gallery_size", "map", "map_ci95", "mean_precision_at_k", "mrr"):
            assert figures[key] is not None, (name, key)
        for key in ("precision_at", "recall_at", "hit_at", "ndcg_at"):
            assert sorted(figures[key], key=int) == ["1", "5", "10", "20", "50", "100"], (name, key)
            assert all(isinstance(value, float) for value in figures[key].values())
        low, high = figures["map_ci95"]
        assert low <= figures["map"] <= high
        assert 0 < figures["chance_map"] <= figures["ceiling"]["map"] <= 1
        assert figures["chance"]["map"] == figures["chance_map"]
        assert figures["hit_at_1_ci95"][0] <= figures["hit_at"]["1"] <= figures["hit_at_1_ci95"][1]
        assert figures["mrr_ci95"][0] <= figures["mrr"] <= figures["mrr_ci95"][1]
        low, high = figures["precision_at_10_ci95"]
        assert low <= figures["precision_at"]["10"] <= high
        low, high = figures["mean_precision_at_k_ci95"]
        assert low <= figures["mean_precision_at_k"] <= high
        assert figures["ceiling"]["precision_at"]["10"] >= figures["precision_at"]["10"]
        assert set(figures["per_label"]) == {"a", "b"}
    assert report["directions"]["speech_to_rgb"]["baseline"] == {}
    assert report["directions"]["rgb_to_rgb"]["baseline"]["map"] > 0
    assert "compare" not in report


def test_a_report_is_read_as_it_was_written() -> None:
    report = evaluate(items_of(MADE), space_id="s").report
    assert Report.model_validate_json(report_json(report)) == report
    compared = report.model_copy(update={"compare": report})
    assert Report.model_validate_json(report_json(compared)).compare == report


def test_groups_have_an_interval_and_a_ceiling_of_precision_at_10() -> None:
    """Twelve images carry `a` and three `b`; every utterance of either is asked."""
    made = [Made("rgb", ("a",) if i < 12 else ("b",)) for i in range(15)]
    made += [Made("speech", (label,)) for label in ("a", "b") for _ in range(5)]
    groups = evaluate(items_of(made, noise=4.0), space_id="s").report.directions["speech_to_rgb"].per_num_relevant
    assert {name: group.num_queries for name, group in groups.items()} == {"1-9": 5, "10+": 5}
    assert groups["10+"].ceiling_precision_at_10 == 1.0
    assert groups["1-9"].ceiling_precision_at_10 == pytest.approx(0.3)
    for group in groups.values():
        assert group.precision_at_10_ci95 is not None
        low, high = group.precision_at_10_ci95
        assert low <= group.precision_at["10"] <= high <= (group.ceiling_precision_at_10 or 0.0) + 1e-9
    low, high = groups["10+"].precision_at_10_ci95 or (0.0, 0.0)
    assert low < high
