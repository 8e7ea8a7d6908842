"""Source tts: what is said, by whom, and on which side of the split."""

import json
import pickle

import numpy as np
import pytest

from cmir.archive.noise import NOISES
from cmir.archive.schema import make_item_id
from cmir.archive.sources.tts import NUM_NOISES, NUM_OTHER_WORDS, TtsSource, fixed_splits, utterances
from cmir.archive.speech import decode_speech
from cmir.archive.splits import draw_splits
from cmir.archive.vocabulary import UCMERCED_LABELS, load_vocabulary, other_words, spoken_forms
from cmir.archive.voices import Voice, draw_voices
from cmir.errors import DataError

LABELS = ("airplane", "sea", "bare-soil")


def test_every_voice_says_every_form_and_names_several_labels() -> None:
    source = TtsSource(spoken_forms(LABELS), voices=5, seed=3, engines=())
    items = list(source.items())
    assert len({item.key for item in items}) == len(items)
    said: dict[str, set[str]] = {}
    for item in items:
        if item.detail["utterance"].labels:
            said.setdefault(item.detail["voice"].name, set()).add(item.detail["utterance"].text)
    assert len(said) == 5
    forms = {form for label in LABELS for form in load_vocabulary().forms(label)}
    assert all(forms <= texts for texts in said.values())
    assert all(len(texts) == len(forms) + len(LABELS) for texts in said.values())


def test_utterances_of_several_labels_name_what_they_say() -> None:
    vocabulary = load_vocabulary()
    many = [
        one for one in utterances(spoken_forms(UCMERCED_LABELS), Voice("espeak-ng", "en"), 0) if len(one.labels) > 1
    ]
    assert {len(one.labels) for one in many} == {2, 3}
    assert {one.labels[0] for one in many} == set(UCMERCED_LABELS)
    for one in many:
        assert len(set(one.labels)) == len(one.labels)
        places = [max(one.text.find(form) for form in vocabulary.forms(label)) for label in one.labels]
        assert -1 not in places


def test_the_same_seed_makes_the_same_rows_and_ids() -> None:
    first, second = (list(TtsSource(spoken_forms(LABELS), voices=2, seed=1, engines=()).items()) for _ in range(2))
    assert first == second
    source = pickle.loads(pickle.dumps(TtsSource(spoken_forms(LABELS), voices=2, seed=1, engines=())))
    row, again = next(source.rows(first[4])), next(source.rows(second[4]))
    assert row == again
    assert row.item_id == make_item_id("tts", first[4].key, "speech")
    assert list(TtsSource(spoken_forms(LABELS), voices=2, seed=2, engines=()).items()) != first


def test_rows_are_raw_pcm_with_what_is_known_of_the_voice() -> None:
    source = TtsSource(spoken_forms(LABELS), voices=1, engines=())
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


def test_words_and_noises_that_name_no_label_are_said_too() -> None:
    source = TtsSource(voices=6, seed=1, engines=())
    forms = {form for said in source.forms.values() for form in said}
    words: dict[str, set[str]] = {}
    kinds = set()
    for item in source.items():
        utterance = item.detail["utterance"]
        if utterance.noise is not None:
            kinds.add(utterance.noise)
        elif not utterance.labels:
            words.setdefault(item.detail["voice"].base_voice, set()).add(utterance.text)
    assert len(words) == 6
    assert all(len(own) == NUM_OTHER_WORDS for own in words.values())
    assert len(set.union(*words.values())) == 6 * NUM_OTHER_WORDS, "each base voice has its own"
    assert not forms & set.union(*words.values())
    assert kinds <= set(NOISES)
    assert len(kinds) >= NUM_NOISES


def test_rows_without_a_label_say_what_they_are() -> None:
    source = TtsSource(spoken_forms(("sea",)), voices=1, engines=())
    rows = {}
    for item in source.items():
        if not item.detail["utterance"].labels:
            row = next(source.rows(item))
            rows[row.item_id] = json.loads(row.attributes or "")
            assert row.labels == ()
            assert np.isfinite(decode_speech(row.media)).all()
    assert len(rows) == NUM_OTHER_WORDS + NUM_NOISES
    assert sum("noise" in said for said in rows.values()) == NUM_NOISES


@pytest.mark.parametrize("engines", [(), ("flite",), ("pico",), ("pico", "flite")])
def test_a_base_voice_stands_in_one_split_and_some_are_never_trained_on(engines: tuple[str, ...]) -> None:
    source = TtsSource(spoken_forms(LABELS), voices=40, seed=5, engines=engines)
    splits: dict[str, set[str]] = {}
    for item, split in draw_splits(source.items(), seed=0):
        splits.setdefault(item.detail["voice"].base_voice, set()).add(split)
    assert all(len(names) == 1 for names in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}
    fixed = fixed_splits(source.drawn_voices(), source.seed)
    assert all(splits[base] == {split} for base, split in fixed.items())
    held_out = {base for base, split in fixed.items() if split == "test"}
    if engines:
        assert held_out == {base for base in splits if base.startswith(f"{engines[0]}/")}
    else:
        assert len(held_out) == 1
    if len(engines) == 2:
        train, val = ({base for base, split in fixed.items() if split == name} for name in ("train", "val"))
        assert (train, val) == ({"flite/slt", "flite/rms", "flite/awb"}, {"flite/kal16"})


def test_the_engine_to_hold_out_can_be_chosen() -> None:
    def held_out(engine: str) -> set[str]:
        source = TtsSource(voices=40, engines=("pico", "flite"), held_out_engine=engine)
        return {item.detail["voice"].engine for item in source.items() if item.split == "test"}

    assert [held_out(engine) for engine in ("flite", "pico", "none")] == [{"flite"}, {"pico"}, set()]
    with pytest.raises(DataError, match="does not speak here: seen flite, expected espeak-ng, none"):
        TtsSource(voices=24, engines=(), held_out_engine="flite")


def test_held_out_voices_do_not_depend_on_the_split_seed() -> None:
    items = list(TtsSource(spoken_forms(LABELS), voices=9, engines=()).items())
    fixed = {item.scene_id for item in items if item.split == "test"}
    assert len(fixed) == 1
    for seed in range(3):
        drawn = {item.scene_id for item, split in draw_splits(items, seed) if split == "test"}
        assert fixed < drawn


def test_a_single_voice_is_left_to_the_split() -> None:
    assert fixed_splits(draw_voices(1, 0), 0) == {}
    assert all(item.split is None for item in TtsSource(spoken_forms(LABELS), voices=1).items())


def test_labels_that_the_vocabulary_does_not_know_are_spoken() -> None:
    source = TtsSource(spoken_forms(("solar-panel",)), voices=1, engines=())
    assert [item.detail["utterance"].text for item in source.items() if item.detail["utterance"].labels] == [
        "solar panel"
    ]


def test_other_languages_are_spoken_with_their_own_forms_and_joints() -> None:
    forms = {"car": ("Auto", "Wagen"), "tree": ("Baum",)}
    said = [item.detail["utterance"] for item in TtsSource(forms, voices=1, language="de", engines=()).items()]
    assert {one.text for one in said if len(one.labels) == 1} == {"Auto", "Wagen", "Baum"}
    assert any(joint in one.text for one in said if len(one.labels) == 2 for joint in (" und ", " mit ", ", "))
    assert {one.text for one in said if not one.labels and not one.noise} <= set(other_words("de"))


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="too few voices"):
        TtsSource(spoken_forms(LABELS), voices=0)
    with pytest.raises(DataError, match="no labels"):
        TtsSource({})
    with pytest.raises(DataError, match="no voices for this language"):
        TtsSource(spoken_forms(LABELS), language="xx")
