"""Known words and others are told apart by one number."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cmir.network.hearing import auroc, heard_scores, heard_threshold


def test_the_score_is_the_cosine_to_the_nearest_prototype() -> None:
    scores = heard_scores(np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(scores, [1.0, 0.8])


def test_the_area_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.normal(0.6, 0.3, 80).round(1), rng.normal(0.2, 0.3, 50).round(1)
    truth = np.r_[np.ones(80), np.zeros(50)]
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, np.r_[known, unknown]))


def test_the_threshold_makes_the_fewest_errors() -> None:
    rng = np.random.default_rng(1)
    known, unknown = rng.normal(0.7, 0.2, 300), rng.normal(0.2, 0.2, 200)

    def errors(cut: float) -> float:
        return float((known < cut).mean() + (unknown >= cut).mean())

    chosen = heard_threshold(known, unknown)
    assert errors(chosen) == pytest.approx(min(errors(cut) for cut in np.linspace(-1, 1, 2001)), abs=1e-6)
    assert 0.3 < chosen < 0.6


@pytest.mark.parametrize(("known", "unknown"), [([0.5], [0.5]), ([0.1], [0.9]), ([0.9], [0.1])])
def test_a_threshold_exists_for_any_scores(known: list[float], unknown: list[float]) -> None:
    assert -1.0 <= heard_threshold(np.array(known), np.array(unknown)) <= 1.0
