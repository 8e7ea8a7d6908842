"""What is said for a label: read from shards, kept in the bundle, found in a recogniser's text."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cmir.archive.shards import list_shards
from cmir.archive.vocabulary import UCMERCED_LABELS, load_vocabulary, spoken_forms
from cmir.network.bundle import read_config, save_bundle
from cmir.network.model_card import model_card
from cmir.network.spoken_forms import FormIndex, forms_of, read_spoken_forms
from tests.test_bundle import make_net, make_preprocessing
from tests.test_model_card import make_config
from tests.tiny_archives import chip_row, tone_row, write_archive

INDEX = FormIndex(spoken_forms(UCMERCED_LABELS))


def test_forms_are_read_from_utterances_of_one_label(tmp_path: Path) -> None:
    told: list[tuple[tuple[str, ...], object]] = [
        (("sea",), {"form": "ocean"}),
        (("sea",), {"form": "sea"}),
        (("sea",), {"form": "ocean"}),
        (("sea", "field"), {"form": "sea and field"}),
        ((), {"form": "elephant"}),
        (("field",), {"speaker": "anna"}),
        (("field",), ["no object"]),
    ]
    rows = [replace(tone_row(i), labels=labels, attributes=json.dumps(said)) for i, (labels, said) in enumerate(told)]
    uri = write_archive(tmp_path, [*rows, chip_row(0, "rgb")])
    assert read_spoken_forms(list_shards([uri])) == {"sea": ("ocean", "sea")}


def test_a_bundle_keeps_its_forms_and_its_space(tmp_path: Path) -> None:
    net, preprocessing, forms = make_net(), make_preprocessing(), {"sea": ("Meer", "See")}
    with_forms = save_bundle(str(tmp_path / "a"), net, preprocessing, metrics={}, training={}, spoken_forms=forms)
    without = save_bundle(str(tmp_path / "b"), net, preprocessing, metrics={}, training={})
    assert with_forms == without
    config = read_config(str(tmp_path / "a"))
    assert config.spoken_forms == forms
    assert forms_of(config) == {"sea": ("Meer", "See"), "ship": load_vocabulary().forms("ship")}
    assert "Said for each label in training: sea: Meer, See." in (tmp_path / "a" / "README.md").read_text()


def test_a_bundle_from_before_has_the_forms_of_the_vocabulary(tmp_path: Path) -> None:
    save_bundle(str(tmp_path), make_net(), make_preprocessing(), metrics={}, training={})
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["spoken_forms"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert forms_of(read_config(str(tmp_path))) == {"sea": ("sea", "ocean"), "ship": ("ship", "ships", "boat")}


def test_a_long_list_of_forms_stands_in_no_card() -> None:
    many = {f"label {i}": ("one", "two") for i in range(50)}
    assert "Said for each label" not in model_card(make_config(spoken_forms=many), make_preprocessing(), {})


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Airplane.", ("airplane",)),
        ("A plane, and the trees!", ("airplane", "trees")),
        ("tennis court with grass", ("court", "grass")),
        ("bare-soil and bare ground", ("bare-soil",)),
        ("chapparral", ("chaparral",)),  # one letter too many
        ("air plane", ("airplane",)),
        ("ships", ("ship",)),
        ("elephant", ()),
        ("water elephant", ()),  # a part that is no form
        ("see", ()),  # too short to be misspelt
        ("tee", ()),
        ("and", ()),
        ("", ()),
    ],
)
def test_a_text_is_looked_up_among_the_forms(text: str, labels: tuple[str, ...]) -> None:
    assert INDEX.labels_in(text) == labels


def test_what_is_as_near_to_two_labels_names_neither() -> None:
    index = FormIndex({"a": ("harbor",), "b": ("harper",)})
    assert index.labels_in("harbor") == ("a",)
    assert index.labels_in("harber") == ()
