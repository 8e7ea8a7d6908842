"""What goes wrong: counted, named by what is taken for what."""

import numpy as np

from cmir.evaluation.failures import Mixup, failures
from cmir.evaluation.measurement import evaluate
from tests.made_items import Made, items_of


def test_mix_ups_are_counted_by_class() -> None:
    """Each of three lakes looks like the one forest, whose own nearest is a lake; both rivers find each other."""
    made = [Made("rgb", (), name) for name in ("lake", "lake", "lake", "forest", "forest", "river", "river")]
    vectors = np.eye(8)[[0, 1, 2, 7, 3, 4, 4]]
    vectors[3, :3] = 0.9
    (found,) = failures(evaluate(items_of(made, vectors), space_id="s", relevance="class"))
    assert found.name == "rgb_to_rgb"
    assert (found.num_failed, found.num_answerable) == (5, 7)
    assert found.mixups[0] == Mixup("lake", "forest", 3, 3)
    assert {(each.asked, each.got) for each in found.mixups} >= {("lake", "forest"), ("forest", "lake")}
    assert len(found.panels) == 5


def test_what_shares_the_word_asked_for_is_no_mix_up_by_words() -> None:
    made = [Made("speech", ("a", "b")), Made("rgb", ("a",)), Made("rgb", ("a", "b"))]
    vectors = np.array([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1]])
    found = {each.name: each for each in failures(evaluate(items_of(made, vectors), space_id="s"))}
    assert found["speech_many_to_rgb"].num_failed == 1
    assert found["speech_many_to_rgb"].mixups == ()


def test_pairs_have_no_words_to_mix_up() -> None:
    made = [Made(kind, (), f"c{i}", f"p{i}") for i in range(2) for kind in ("pan", "ms")]
    vectors = np.eye(4)[[0, 1, 1, 0]]
    found = {each.name: each for each in failures(evaluate(items_of(made, vectors), space_id="s", relevance="pair"))}
    assert found["pan_to_ms"].num_failed == 2
    assert found["pan_to_ms"].mixups == ()
