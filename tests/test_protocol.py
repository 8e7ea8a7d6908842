"""Who asks, who answers, and what is right: the rules of relevance, the directions, refusals; a collapsed model."""

import numpy as np
import pytest

from cmir.errors import ConfigError, DataError
from cmir.evaluation.measurement import evaluate
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


def test_a_query_never_finds_itself() -> None:
    items = items_of([Made("rgb", ("a",)), Made("rgb", ("a",)), Made("rgb", ("b",))], np.eye(3))
    result = evaluate(items, space_id="s").results["rgb_to_rgb"]
    assert result.rankings.num_candidates.tolist() == [2, 2, 2]
    assert result.rankings.num_relevant.tolist() == [1, 1, 0]
    assert all(query not in shown for query, shown in enumerate(result.rankings.shown.tolist()))


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


def test_cut_offs_of_the_papers_map() -> None:
    assert by_name(WORLD)["pan_to_rgb"].precision_cutoffs == (10, 20, 30, 40, 50)
    assert by_name(WORLD)["speech_to_rgb"].precision_cutoffs == (10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
