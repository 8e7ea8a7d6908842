"""Source tts: what is said, by whom, and on which side of the split."""

import json
import pickle

import numpy as np
import pytest

from cmir.archive.schema import make_item_id
from cmir.archive.sources.tts import TtsSource, held_out_base_voices, utterances
from cmir.archive.speech import decode_speech
from cmir.archive.splits import draw_splits
from cmir.archive.vocabulary import UCMERCED_LABELS, load_vocabulary
from cmir.archive.voices import Voice, draw_voices, flite_is_installed
from cmir.errors import DataError

LABELS = ("airplane", "sea", "bare-soil")


def test_every_voice_says_every_form_and_names_several_labels() -> None:
    source = TtsSource(LABELS, voices=5, seed=3, flite=False)
    items = list(source.items())
    assert len({item.key for item in items}) == len(items)
    said: dict[str, set[str]] = {}
    for item in items:
        said.setdefault(item.detail["voice"].name, set()).add(item.detail["utterance"].text)
    assert len(said) == 5
    forms = {form for label in LABELS for form in load_vocabulary().forms(label)}
    assert all(forms <= texts for texts in said.values())
    assert all(len(texts) == len(forms) + len(LABELS) for texts in said.values())


def test_utterances_of_several_labels_name_what_they_say() -> None:
    vocabulary = load_vocabulary()
    many = [one for one in utterances(UCMERCED_LABELS, Voice("espeak-ng", "en"), 0) if len(one.labels) > 1]
    assert {len(one.labels) for one in many} == {2, 3}
    assert {one.labels[0] for one in many} == set(UCMERCED_LABELS)
    for one in many:
        assert len(set(one.labels)) == len(one.labels)
        places = [max(one.text.find(form) for form in vocabulary.forms(label)) for label in one.labels]
        assert -1 not in places


def test_the_same_seed_makes_the_same_rows_and_ids() -> None:
    first, second = (list(TtsSource(LABELS, voices=2, seed=1, flite=False).items()) for _ in range(2))
    assert first == second
    source = pickle.loads(pickle.dumps(TtsSource(LABELS, voices=2, seed=1, flite=False)))
    row, again = next(source.rows(first[4])), next(source.rows(second[4]))
    assert row == again
    assert row.item_id == make_item_id("tts", first[4].key, "speech")
    assert list(TtsSource(LABELS, voices=2, seed=2, flite=False).items()) != first


def test_rows_are_raw_pcm_with_what_is_known_of_the_voice() -> None:
    source = TtsSource(LABELS, voices=1, flite=False)
    item = next(source.items())
    row = next(source.rows(item))
    assert (row.media.encoding, row.media.dtype, row.media.sample_rate_hz) == ("raw", "int16", 16_000)
    waveform = decode_speech(row.media)
    assert waveform.shape == row.media.shape
    assert np.abs(waveform).max() > 0.1
    said = json.loads(row.attributes or "")
    assert said["engine"] == "espeak-ng"
    assert said["base_voice"] == said["speaker"] == item.detail["voice"].base_voice
    assert said["form"] == "airplane"
    assert {"voice", "variant", "rate", "pitch", "pitch_range"} <= set(said)
    assert row.labels == ("airplane",)


@pytest.mark.parametrize(
    "flite",
    [
        False,
        pytest.param(
            True, marks=pytest.mark.skipif(not flite_is_installed(), reason="the program flite is not installed")
        ),
    ],
)
def test_a_base_voice_stands_in_one_split_and_some_are_never_trained_on(flite: bool) -> None:
    source = TtsSource(LABELS, voices=24, seed=5, flite=flite)
    splits: dict[str, set[str]] = {}
    for item, split in draw_splits(source.items(), seed=0):
        splits.setdefault(item.detail["voice"].base_voice, set()).add(split)
    assert all(len(names) == 1 for names in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}
    held_out = held_out_base_voices(source.drawn_voices(), source.seed)
    assert held_out
    assert all(splits[base] == {"test"} for base in held_out)
    if flite:
        assert held_out == {base for base in splits if base.startswith("flite/")}
    else:
        assert len(held_out) == 1


def test_held_out_voices_do_not_depend_on_the_split_seed() -> None:
    items = list(TtsSource(LABELS, voices=9, flite=False).items())
    fixed = {item.scene_id for item in items if item.split == "test"}
    assert len(fixed) == 1
    for seed in range(3):
        drawn = {item.scene_id for item, split in draw_splits(items, seed) if split == "test"}
        assert fixed < drawn


def test_a_single_voice_is_left_to_the_split() -> None:
    assert held_out_base_voices(draw_voices(1, 0), 0) == frozenset()
    assert all(item.split is None for item in TtsSource(LABELS, voices=1).items())


def test_labels_that_the_vocabulary_does_not_know_are_spoken() -> None:
    source = TtsSource(("solar-panel",), voices=1, flite=False)
    assert [item.detail["utterance"].text for item in source.items()] == ["solar panel"]


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="too few voices"):
        TtsSource(LABELS, voices=0)
    with pytest.raises(DataError, match="no labels"):
        TtsSource(())
    with pytest.raises(DataError, match="no voices for this language"):
        TtsSource(LABELS, language="xx")
