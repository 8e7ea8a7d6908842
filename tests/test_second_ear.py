"""Which ear is believed, how it is named, and what a query becomes when it is sure."""

from pathlib import Path

import numpy as np
import pytest

from cmir.errors import ConfigError
from cmir.network.ear_opening import absolute, open_ear, open_ear_of
from cmir.network.second_ear import SURE, Said, cut, heard_by_ear
from cmir.network.speech_tower import SpeechTowerConfig
from tests.test_model_card import make_config

FORMS = {"sea": ("sea", "ocean")}


def test_an_ear_is_believed_where_it_is_sure_of_a_label() -> None:
    assert Said("sea", ("sea",), SURE).is_sure
    assert not Said("sea", ("sea",), SURE - 0.01).is_sure
    assert not Said("elephant", (), 0.99).is_sure


def test_the_query_is_the_mean_of_the_labels_named() -> None:
    prototypes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    tower = np.array([0.6, 0.0, 0.8], np.float32)
    vector, heard = heard_by_ear(Said("c and a", ("c", "a"), 0.9), tower, ("a", "b", "c"), prototypes)
    np.testing.assert_allclose(vector, np.array([1, 0, 1]) / np.sqrt(2), atol=1e-6)
    assert [(label, round(cosine, 6)) for label, cosine in heard.labels] == [("c", 0.8), ("a", 0.6)]
    assert (heard.by, heard.confidence, heard.is_known) == ("ear", 0.9, True)


def test_what_follows_the_eighth_second_is_not_heard() -> None:
    assert len(cut(np.zeros(16_000 * 9, np.float32))) == 16_000 * 8


def test_an_ear_that_is_not_there_is_refused_with_what_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot open the second ear: .*seen no such folder.*nowhere"):
        open_ear(str(tmp_path / "nowhere"), FORMS)
    with pytest.raises(ConfigError, match=r"cannot open the second ear"):
        open_ear("pocketsfinx", FORMS)


def test_a_bundle_without_spoken_labels_has_no_second_ear() -> None:
    features = make_config().network.model_copy(update={"speech": SpeechTowerConfig(kind="features", input_dim=8)})
    for network, seen in (
        (features, "speech as features"),
        (make_config().network.model_copy(update={"labels": ()}), "no spoken labels"),
        (make_config().network.model_copy(update={"modalities": ("pan",)}), "no spoken labels"),
    ):
        with pytest.raises(ConfigError, match=f"a second ear has nothing to listen for: seen {seen}"):
            open_ear_of("pocketsphinx", make_config(network=network))


def test_folders_are_absolute_for_other_processes_and_other_names_stay(tmp_path: Path) -> None:
    assert absolute("pocketsphinx") == "pocketsphinx"
    assert absolute("openai/whisper-tiny") == "openai/whisper-tiny"
    assert absolute(str(tmp_path)) == str(tmp_path)
    assert Path(absolute("some-folder")).is_absolute()
