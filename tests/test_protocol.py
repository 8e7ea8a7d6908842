"""Who asks, who answers, and what is right: the rules of relevance, the directions, refusals."""

import numpy as np
import pytest

from cmir.errors import ConfigError, DataError
from cmir.evaluation.protocol import Direction, Judge, Relevance, Scorer, check_relevance, directions
from tests.made_items import Made, items_of, metadata_of

WORLD = [
    Made("rgb", ("airplane", "grass"), "airport", "p1"),
    Made("rgb", ("airplane", "pavement", "cars"), "airport", "p2"),
    Made("rgb", (), "beach"),
    Made("speech", ("airplane",)),
    Made("speech", ("grass",)),
    Made("speech", ("airplane", "grass")),
    Made("pan", ("airplane", "grass"), "airport", "p1"),
]


def by_name(made: list[Made], relevance: Relevance = "labels") -> dict[str, Direction]:
    items = items_of(made, np.eye(len(made)))
    return {direction.name: direction for direction in directions(items, relevance, ("test",), ("test",))}


def gains(made: list[Made], name: str, relevance: Relevance = "labels") -> list[list[float]]:
    items = items_of(made, np.eye(len(made)))
    return Judge(items, by_name(made, relevance)[name], relevance)(slice(None)).tolist()  # type: ignore[no-any-return]


def test_every_ordered_pair_of_modalities_and_apart_the_utterances_of_several_labels() -> None:
    assert sorted(by_name(WORLD)) == sorted(
        [f"{query}_to_{gallery}" for query in ("pan", "rgb", "speech") for gallery in ("pan", "rgb", "speech")]
        + ["speech_many_to_pan", "speech_many_to_rgb", "pan_to_speech_many", "rgb_to_speech_many"]
        + ["speech_many_to_speech_many"]
    )


def test_an_image_answers_speech_where_it_carries_all_that_was_said() -> None:
    assert gains(WORLD, "speech_to_rgb") == [[1, 1, 0], [1, 0, 0]]
    assert gains(WORLD, "speech_many_to_rgb") == [[1, 0, 0]]


def test_speech_answers_an_image_where_all_that_was_said_is_the_images() -> None:
    assert gains(WORLD, "rgb_to_speech") == [[1, 1], [1, 0]]  # the image without labels asks nothing
    assert gains(WORLD, "rgb_to_speech_many") == [[1], [0]]
    assert by_name(WORLD)["rgb_to_speech"].num_left_out == 1


def test_between_images_one_label_in_common_graded_by_jaccard() -> None:
    assert np.allclose(gains(WORLD, "pan_to_rgb"), [[1.0, 0.25, 0.0]])


def test_class_and_pair() -> None:
    assert gains(WORLD, "rgb_to_pan", "class") == [[1], [1], [0]]
    assert gains(WORLD, "rgb_to_pan", "pair") == [[1], [0]]
    assert by_name(WORLD, "class")["speech_to_rgb"].num_left_out == 2


def test_an_utterance_without_labels_is_in_no_gallery_judged_by_labels() -> None:
    silent = [*WORLD, Made("speech", ())]
    assert len(by_name(silent)["rgb_to_speech"].gallery) == 2


def test_labels_said_twice_count_once() -> None:
    twice = [Made("speech", ("grass", "grass")), Made("rgb", ("grass",))]
    assert gains(twice, "speech_to_rgb") == [[1]]


def test_another_gallery_split() -> None:
    made = [Made("rgb", ("a",)), Made("rgb", ("a",), split="train"), Made("rgb", ("b",), split="val")]
    (direction,) = directions(items_of(made, np.eye(3)), "labels", ("test",), ("train", "val"))
    assert (direction.queries.tolist(), direction.gallery.tolist()) == ([0], [1, 2])
    assert direction.own.tolist() == [-1]


@pytest.mark.parametrize(
    ("made", "relevance", "fix"),
    [
        ([Made("rgb", ("a",)), Made("pan", ("a",))], "class", "--relevance labels"),
        ([Made("rgb", (), "x"), Made("pan", (), "x")], "labels", "--relevance class"),
        ([Made("rgb", (), None, "p"), Made("pan", (), None, "p")], "labels", "--relevance pair"),
        ([Made("rgb", (), "x", "p"), Made("pan", (), "x", "q")], "pair", "--relevance class"),
        ([Made("rgb"), Made("pan")], "labels", "shards whose items carry"),
    ],
)
def test_refuses_what_nothing_can_be_judged_by(made: list[Made], relevance: Relevance, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"relevance {relevance}.*{fix}"):
        check_relevance(metadata_of(made), relevance)


def test_refuses_vectors_that_are_none() -> None:
    made = [Made("rgb", ("a",)), Made("rgb", ("b",))]
    with pytest.raises(DataError, match="not a unit vector"):
        items_of(made, np.array([[np.nan, 1.0], [1.0, 0.0]]))
    with pytest.raises(DataError, match="occurs twice"):
        items_of([Made("rgb", item_id="x"), Made("rgb", item_id="x")], np.eye(2))


def test_copies_of_one_chip_score_the_same() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 96))
    vectors[20:] = vectors[0]
    items = items_of([Made("rgb", ("a",)) for _ in range(40)], vectors)
    (direction,) = directions(items, "labels", ("test",), ("test",))
    scores = Scorer(items.vectors, direction)(slice(None))
    assert (scores[:, 20:] == scores[:, :1]).all()


def test_cut_offs_of_the_papers_map() -> None:
    assert by_name(WORLD)["pan_to_rgb"].precision_cutoffs == (10, 20, 30, 40, 50)
    assert by_name(WORLD)["speech_to_rgb"].precision_cutoffs == (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
