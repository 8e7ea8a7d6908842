"""Labels and their spoken forms."""

from itertools import chain

import pytest

from cmir.archive.vocabulary import UCMERCED_LABELS, load_vocabulary, other_words, own_words, parse_labels
from cmir.errors import DataError


def test_the_17_labels_stand_in_the_published_order() -> None:
    assert tuple(load_vocabulary().ucmerced) == UCMERCED_LABELS
    assert len(UCMERCED_LABELS) == 17


def test_every_label_has_several_forms_and_begins_with_its_own_name() -> None:
    vocabulary = load_vocabulary()
    for label, forms in (vocabulary.ucmerced | vocabulary.other).items():
        assert forms[0] == own_words(label)
        assert len(set(forms)) == len(forms)
    assert all(len(forms) >= 2 for forms in vocabulary.ucmerced.values())


def test_a_form_belongs_to_one_label() -> None:
    vocabulary = load_vocabulary()
    forms = list(chain(*vocabulary.ucmerced.values(), *vocabulary.other.values()))
    assert len(forms) == len(set(forms))
    assert all(form == form.lower().strip() for form in forms)
    assert vocabulary.label_of("Aircraft") == "airplane"
    assert vocabulary.label_of("tennis-court") == "court"
    assert vocabulary.label_of("teapot") is None


def test_an_unknown_label_is_spoken_as_its_own_words() -> None:
    assert load_vocabulary().forms("solar_panel-array") == ("solar panel array",)
    assert load_vocabulary().forms("airplane") == ("airplane", "plane", "aircraft", "airplanes")


def test_labels_come_from_lists_and_from_lines() -> None:
    assert tuple(parse_labels("airplane,bare-soil , sea")) == ("airplane", "bare-soil", "sea")
    assert tuple(parse_labels("# mine\nairplane\n\nfarm land\n")) == ("airplane", "farm land")
    assert parse_labels("car: Auto, Wagen\nsea") == {"car": ("Auto", "Wagen"), "sea": ("sea", "ocean")}


@pytest.mark.parametrize("language", ["en", "de", "fr"])
def test_other_words_name_no_label(language: str) -> None:
    words = other_words(language)
    assert len(words) > 70
    assert len({word.lower() for word in words}) == len(words)
    vocabulary = load_vocabulary()
    assert not [word for word in words if vocabulary.label_of(word)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no labels"),
        ("# none\n", "no labels"),
        ("sea,sea", "stands twice: seen sea"),
        ("sea,---", "cannot be spoken"),
        ("car:", "no labels"),
        ("road: path\nway: Path", "one spoken form for two labels: seen Path: road, way"),
    ],
)
def test_lists_that_cannot_be_spoken_are_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_labels(text)
