"""The card of a bundle tells a stranger what it is, what it was trained on, how good it is and how to use it."""

from cmir.network.model import NetworkConfig
from cmir.network.model_card import model_card
from cmir.network.preprocessing import Preprocessing
from cmir.network.pretrained_speech import PretrainedSpeechConfig
from cmir.network.space import BundleConfig, DataCount, LabelPrototype
from cmir.network.statistics import BandStatistics, SensorStatistics

SPACE_ID = "s0123456789abcdef"


def make_config(**changes: object) -> BundleConfig:
    config = BundleConfig(
        space_id=SPACE_ID,
        code_version="1.2.3",
        created_at="2026-01-01T00:00:00+00:00",
        network=NetworkConfig(modalities=("pan", "speech"), dim=2, labels=("sea", "ship")),
        vocabulary=tuple(LabelPrototype(label=label, prototype=(1.0, 0.0)) for label in ("sea", "ship")),
        data=(DataCount(modality="pan", split="train", num_items=1234),),
        training={"preset": "all", "max_steps": 10},
        sha256={},
    )
    return config.model_copy(update=changes)


def make_preprocessing() -> Preprocessing:
    bands = (BandStatistics(name="pan", mean=70.0, std=20.0),)
    entry = SensorStatistics(modality="pan", sensor="GF-1-PMS", dtype="uint8", scale=255.0, bands=bands)
    return Preprocessing(chip_size_px={"pan": 96}, sensors=(entry,), max_speech_s=4.0)


def test_it_tells_what_a_stranger_asks() -> None:
    card = model_card(make_config(), make_preprocessing(), {"pan_to_speech": {"map": 0.875, "num_queries": 3}})
    for part in (
        f"`{SPACE_ID}`",
        "panchromatic chips, spoken labels",
        "sea, ship",
        "| pan | train | 1,234 |",
        "- preset: all",
        "| pan | GF-1-PMS | uint8 | pan | 96 x 96 px |",
        "| pan_to_speech.map | 0.875 |",
        "Embedder.open",
        "first 4 s is not heard",
    ):
        assert part in card, part


def test_pretrained_towers_and_what_they_need_are_named() -> None:
    assert "| architecture | shared |" in model_card(make_config(), make_preprocessing(), {})
    speech = PretrainedSpeechConfig(family="wavlm", transformer={"hidden_size": 32, "num_hidden_layers": 2})
    network = NetworkConfig(modalities=("pan", "speech"), dim=2, pretrained_speech=speech)
    card = model_card(make_config(network=network), make_preprocessing(), {})
    assert "shared, pretrained wavlm for speech (needs `pip install 'cmir[pretrained]'`)" in card


def test_labels_that_nobody_said_are_named() -> None:
    assert "Cannot be found by voice" not in model_card(make_config(), make_preprocessing(), {})
    card = model_card(make_config(unspoken_labels=("moon", "mars")), make_preprocessing(), {})
    assert "Cannot be found by voice, since nobody said them in training: moon, mars." in card


def test_it_does_not_claim_what_is_not_known() -> None:
    card = model_card(make_config(data=(), training={}), make_preprocessing(), {})
    assert card.count("Not recorded.") == 2
    assert "None measured yet" in card


def test_many_figures_are_cut_and_counted() -> None:
    card = model_card(make_config(), make_preprocessing(), {f"figure_{i:03}": i / 100 for i in range(75)})
    assert "figure_059" in card
    assert "figure_060" not in card
    assert "15 more stand in `metrics.json`" in card
