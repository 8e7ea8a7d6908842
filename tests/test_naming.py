"""The right label for an utterance, and none where there is none."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

from cmir.evaluation.naming import HeardItems, name_utterances
from cmir.evaluation.protocol import Items, Prototypes
from cmir.network.second_ear import SURE, Said
from tests.made_items import Made, items_of

KNOWN = Prototypes(("sea", "ship"), np.eye(2, 3, dtype=np.float32), heard_threshold=0.95)


def utterances(rows: Sequence[tuple[Sequence[str], Sequence[float], dict[str, str]]], split: str = "test") -> Items:
    made = [Made("speech", tuple(labels), split=split, attributes=json.dumps(told)) for labels, _, told in rows]
    return items_of(made, np.array([vector for _, vector, _ in rows]))


ROWS = [
    (["sea"], [1.0, 0.0, 0.0], {"speaker": "a", "engine": "x"}),
    (["ship"], [0.2, 1.0, 0.0], {"speaker": "a", "engine": "x"}),
    (["ship"], [1.0, 0.2, 0.0], {"speaker": "b", "engine": "x"}),
    (["sea", "ship"], [1.0, 1.0, 0.0], {"speaker": "b"}),
    ([], [0.1, 0.0, 1.0], {"speaker": "b"}),
    ([], [0.0, 0.9, 0.4], {"speaker": "b", "noise": "hum"}),
]


def test_words_are_named_by_the_nearest_prototype() -> None:
    found = name_utterances(utterances(ROWS), KNOWN)
    assert found is not None
    assert found.num_utterances == 3
    assert found.named_right == pytest.approx(2 / 3)
    assert {name: group.named_right for name, group in found.per_speaker.items()} == {"a": 1.0, "b": 0.0}
    assert found.per_engine["x"].num_utterances == 3
    assert found.chance == 0.5, "of two labels"
    assert found.per_engine["x"].named_right_ci95 == (0.0, 1.0)
    assert found.per_speaker["b"].named_right_ci95 is None, "of a single utterance"


def test_known_words_are_told_from_others_and_from_noises() -> None:
    found = name_utterances(utterances(ROWS), KNOWN)
    assert found is not None
    rejection = found.rejection
    assert rejection is not None
    # known: 1, 0.981, 0.981, 0.707; unknown: 0.0995 (a word), 0.914 (a hum)
    assert (rejection.num_known, rejection.num_unknown) == (4, 2)
    assert rejection.auroc == pytest.approx(7 / 8)
    assert rejection.auroc_ci95 is not None
    assert rejection.auroc_ci95[0] < 7 / 8 < rejection.auroc_ci95[1]
    assert rejection.auroc_by_kind == pytest.approx({"words": 1.0, "noises": 3 / 4})
    assert (rejection.known_heard, rejection.unknown_refused) == (0.75, 1.0)


def test_a_label_that_the_bundle_does_not_know_is_another_word() -> None:
    rows = [(["sea"], [1.0, 0.0, 0.0], {}), (["forest"], [0.0, 0.1, 1.0], {})]
    found = name_utterances(utterances(rows), KNOWN)
    assert found is not None
    assert found.num_utterances == 1
    assert found.rejection is not None
    assert found.rejection.auroc == 1.0


def test_without_speech_or_labels_there_is_nothing_to_say() -> None:
    assert name_utterances(utterances(ROWS, split="train"), KNOWN) is None
    assert name_utterances(utterances(ROWS), None) is None
    unlabelled = name_utterances(utterances(ROWS[4:]), KNOWN)
    assert unlabelled is not None
    assert (unlabelled.num_utterances, unlabelled.named_right, unlabelled.rejection) == (0, None, None)


def test_a_second_ear_has_figures_of_its_own() -> None:
    items = utterances(ROWS)
    said = [
        Said("sea", ("sea",), 0.9),  # right
        Said("sea", ("sea",), 0.8),  # wrong
        Said("ship", ("ship",), 0.5),  # right, and not sure
        Said("sea and ship", ("sea", "ship"), 0.9),  # two labels: counts in the rejection alone
        Said("sheep", (), 0.95),  # a word without a label: no form, so no confidence
        Said("sea", ("sea",), 0.85),  # a hum
    ]
    heard = HeardItems("an ear", dict(zip(items.columns["item_id"], said, strict=True)))
    alone, both = name_utterances(items, KNOWN), name_utterances(items, KNOWN, heard=heard)
    assert alone is not None
    assert both is not None
    assert both.model_copy(update={"second_ear": None}) == alone, "the tower's figures know nothing of it"
    ear = both.second_ear
    assert ear is not None
    assert (ear.ear, ear.num_utterances) == ("an ear", 3)
    assert (ear.named_right, ear.named_wrong, ear.refused) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert ear.guessed_right == pytest.approx(2 / 3)
    assert ear.rejection is not None
    # known: 0.9, 0.8, 0.5, 0.9; unknown: 0 (a word), 0.85 (a hum)
    assert ear.rejection.auroc == pytest.approx(6 / 8)
    assert ear.rejection.auroc_by_kind == pytest.approx({"words": 1.0, "noises": 2 / 4})
    assert (ear.rejection.threshold, ear.rejection.unknown_refused) == (SURE, 0.5)
