"""What cannot train or be judged is refused before the first step, by an error that says what to change."""

from dataclasses import replace
from pathlib import Path

import pytest

from cmir.archive.schema import ShardRow
from cmir.archive.shards import ShardFileWriter
from cmir.errors import ConfigError
from cmir.network.checks import can_judge
from cmir.network.training_data import read_catalogues
from tests.tiny_archives import chip_row, elsewhere, features_row, tiny_settings, tone_row, write_archive


def read(folder: Path, train: list[ShardRow], val: list[ShardRow] = (), **changed: object):  # type: ignore[assignment, no-untyped-def]
    uri = write_archive(folder, train)
    write_archive(folder, val, split="val")
    return read_catalogues(tiny_settings(**changed), [uri])


RGB = [chip_row(i, "rgb", is_paired=False) for i in range(6)]
SPEECH = [tone_row(i) for i in range(6)]


def test_a_label_that_training_never_heard_is_named(tmp_path: Path) -> None:
    val = [chip_row(50, "rgb", labels=("moon", "sea")), chip_row(51, "rgb", labels=("sea",)), tone_row(50)]
    expected = (
        "a label is missing from the vocabulary: seen moon on 1 items of split val, "
        "expected labels of split train: field, sea, trees"
    )
    with pytest.raises(ConfigError, match=expected):
        read(tmp_path, [*RGB, *SPEECH], val)


def test_a_label_that_chips_carry_and_nobody_says_is_refused_or_kept_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = [*RGB, chip_row(6, "rgb", labels=("moon", "sea")), chip_row(7, "rgb", labels=("moon",)), *SPEECH]
    expected = (
        "a label is missing from the vocabulary: seen moon on 2 chips of split train, and no utterance of it says so, "
        "expected labels that utterances of split train say: field, sea, trees"
    )
    with pytest.raises(ConfigError, match=expected) as refused:
        read(tmp_path / "in", train)
    assert "--unspoken-labels keep" in str(refused.value)
    val = [chip_row(50, "rgb", labels=("moon", "sea")), chip_row(51, "rgb", labels=("sea",)), tone_row(52)]
    kept = read(tmp_path / "in", train, val, unspoken_labels="keep")
    assert kept.unspoken_labels == ("moon",)
    assert "moon" in kept.train.label_names
    assert "labels that nobody says cannot be found by voice: moon on 2 chips of split train" in caplog.text
    assert read(tmp_path / "all", [*RGB, *SPEECH]).unspoken_labels == ()
    assert read(tmp_path / "none", train[:-6]).unspoken_labels == (), "where nobody speaks at all, nothing is amiss"


def test_a_word_that_only_val_says_is_refused(tmp_path: Path) -> None:
    moon = replace(tone_row(50), labels=("moon",))
    train = [*RGB, chip_row(6, "rgb", labels=("moon",)), *SPEECH]
    val = [chip_row(50, "rgb", labels=("moon",)), chip_row(51, "rgb"), moon, tone_row(51)]
    expected = "a label is missing from the vocabulary: seen moon, said by 1 utterances of split val alone"
    with pytest.raises(ConfigError, match=expected):
        read(tmp_path / "in", train, val, unspoken_labels="keep")
    read(tmp_path / "both", [*train, replace(tone_row(9), labels=("moon",))], val)


def test_without_speech_an_unknown_label_is_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = [chip_row(i, name) for i in (0, 2) for name in ("pan", "ms")]  # type: ignore[arg-type]
    val = [chip_row(i, name) for i in (3, 4) for name in ("pan", "ms")]  # type: ignore[arg-type]
    catalogues = read(tmp_path, train, val)
    assert catalogues.train.label_names == ("field", "trees")
    assert catalogues.validation.label_names == ("field", "trees")
    assert catalogues.validation.labels.tolist() == [[1, 0], [0, 0], [1, 0], [0, 0]]
    assert catalogues.validation.class_id.tolist() == [0, -1, 0, -1]
    assert "labels that split train lacks are not looked at: sea on 2 items of split val" in caplog.text


@pytest.mark.parametrize(
    ("train", "preset", "message"),
    [
        ([chip_row(0, "pan", labels=()), chip_row(1, "ms", labels=())], "pan-ms",
         r"no positives: seen pan without, expected labels, two scene classes, or pairs .*\(train\)"),
        ([chip_row(i, "pan") for i in (0, 3)] + [chip_row(i, "ms") for i in (1, 4)], "pan-ms",
         "no positives: seen pan and ms without, expected a label, a scene class or a pair in common"),
        ([chip_row(0, "rgb"), chip_row(3, "rgb"), tone_row(1)], "image-speech",
         "no positives: seen speech, which says sea, without, expected a label that chips carry"),
        ([chip_row(0, "rgb", labels=(), is_paired=False)], "all", "no positives: seen rgb without"),
    ],
)  # fmt: skip
def test_a_train_split_in_which_nothing_matches_is_refused(
    train: list[ShardRow], preset: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, train, preset=preset)


def test_a_val_split_in_which_nothing_matches_is_refused(tmp_path: Path) -> None:
    train = [chip_row(i, name, labels=()) for i in range(4) for name in ("pan", "ms")]  # type: ignore[arg-type]
    val = [chip_row(50, "pan", labels=()), chip_row(51, "ms", labels=())]
    with pytest.raises(ConfigError, match=r"no positives: seen pan and ms without, expected two items .*\(val\)"):
        read(tmp_path, train, val)


@pytest.mark.parametrize(
    ("shared", "named"),
    [(chip_row(2, "rgb"), "tiny-2"), (chip_row(2, "pan"), "tiny-2"), (tone_row(3), "tiny-speech-3")],
)
def test_a_scene_in_train_and_in_val_is_refused_and_named(shared: ShardRow, named: str, tmp_path: Path) -> None:
    """The same image, another sensor's of the same ground, another utterance of the same speaker."""
    train = [*(chip_row(i, name) for i in range(6) for name in ("pan", "rgb")), *SPEECH]  # type: ignore[arg-type]
    val = [chip_row(50, "rgb"), tone_row(50), shared]
    expected = (
        r"ground or speakers stand in split train and in split val: seen 1 of the 3 scenes of val, such as "
        rf"{shared.scene_id} \({named}\), expected every scene_id in one split"
    )
    with pytest.raises(ConfigError, match=expected):
        read(tmp_path / "in", train, val)
    read(tmp_path / "apart", train, elsewhere(val))


def test_speech_alone_is_judged_by_its_words(tmp_path: Path) -> None:
    rows = [features_row(i) for i in range(6)]
    catalogues = read(tmp_path, rows, elsewhere(rows))
    assert catalogues.validation is not None
    assert can_judge(catalogues.validation)


def test_phrases_alone_cannot_be_judged_but_trained(tmp_path: Path) -> None:
    phrases = [features_row(i) for i in (0, 5, 10)]
    assert all(len(row.labels) == 2 for row in phrases)
    catalogues = read(tmp_path, [features_row(i) for i in range(11)], elsewhere(phrases))
    assert catalogues.validation is not None
    assert not can_judge(catalogues.validation)
    with pytest.raises(ConfigError, match="early stopping has nothing to judge by: seen no val split"):
        read_catalogues(tiny_settings(patience=1), [str(tmp_path)])


def test_a_modality_whose_shards_hold_no_rows_is_named(tmp_path: Path) -> None:
    ShardFileWriter(str(tmp_path / "speech" / "train" / "part-00000.parquet"), "train").close()
    with pytest.raises(ConfigError, match=r"a modality has no rows: seen speech: 0 rows in 1 shards of split train"):
        read(tmp_path, RGB)
