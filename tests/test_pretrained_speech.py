"""Utterances have the features that the encoder's own front end and layers give, whatever pads or accompanies them."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cmir.network.pretrained_checkpoint import read_speech_checkpoint
from cmir.network.pretrained_speech import PretrainedSpeechTower, WhisperInput, whisper_positions
from cmir.network.transformers_import import import_transformers
from tests.tiny_towers import SPEECH_FAMILIES, write_tower

LONGEST_S = 1.0


def make_tower(folder: Path, family: str) -> PretrainedSpeechTower:
    checkpoint = read_speech_checkpoint(write_tower(folder, family), longest_s=LONGEST_S)
    tower = PretrainedSpeechTower(checkpoint.config)
    tower.backbone.load_state_dict(checkpoint.tensors())
    return tower.eval().requires_grad_(False)


def utterances() -> tuple[Tensor, Tensor]:
    """Three tones of different lengths, not around zero, zero-padded."""
    lengths = torch.tensor([5000, 8000, 6801])
    waveform = torch.randn(3, 8000, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.05
    return waveform * (torch.arange(8000) < lengths[:, None]), lengths


@pytest.mark.parametrize("family", SPEECH_FAMILIES)
def test_features_depend_neither_on_padding_nor_on_batch_mates(family: str, tmp_path: Path) -> None:
    tower = make_tower(tmp_path, family)
    waveform, lengths = utterances()
    together = tower(waveform, lengths)
    assert together.shape == (3, 32)
    rows = zip(waveform, lengths, strict=True)
    alone = torch.cat([tower(row[None, :length], length[None]) for row, length in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(tower(F.pad(waveform, (0, 7000)), lengths), alone, atol=1e-5, rtol=0)
    assert together.std(dim=0).mean() > 1e-3, "utterances are told apart"


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm"])
def test_an_utterance_alone_has_the_layers_it_has_in_transformers(family: str, tmp_path: Path) -> None:
    tower = make_tower(tmp_path, family)
    hf = import_transformers()
    waveform = utterances()[0][1]
    heard = hf.Wav2Vec2FeatureExtractor(do_normalize=True)(waveform.numpy(), sampling_rate=16_000, return_tensors="pt")
    model = hf.AutoModel.from_pretrained(tmp_path).eval()
    states = model(heard.input_values, output_hidden_states=True).hidden_states
    expected = torch.stack([F.layer_norm(state.mean(dim=1), (32,)) for state in states]).mean(dim=0)
    features = tower(waveform[None], torch.tensor([8000]))
    torch.testing.assert_close(features, expected.detach(), atol=1e-4, rtol=1e-4)


def test_whisper_hears_what_its_own_front_end_makes() -> None:
    sound = utterances()[0][0, :5000]
    extractor = import_transformers().WhisperFeatureExtractor(feature_size=80)
    expected = extractor(sound.numpy(), sampling_rate=16_000, return_tensors="np").input_features[0]
    inputs, _ = WhisperInput(80, 50)(sound[None], torch.tensor([5000]))
    assert expected.shape == (80, 3000)
    np.testing.assert_allclose(inputs["input_features"][0].numpy(), expected[:, :100], atol=2e-3)


def test_whisper_gives_the_frames_of_the_whole_model_on_a_whole_window(tmp_path: Path) -> None:
    checkpoint = read_speech_checkpoint(write_tower(tmp_path, "whisper"), longest_s=60.0)
    assert checkpoint.config.transformer["max_source_positions"] == 1500, "30 s at most"
    tower = PretrainedSpeechTower(checkpoint.config)
    tower.backbone.load_state_dict(checkpoint.tensors())
    sound = torch.randn(1, 480_000) * 0.1
    hf = import_transformers()
    mels = hf.WhisperFeatureExtractor(feature_size=16)(sound[0].numpy(), sampling_rate=16_000, return_tensors="pt")
    encoder = hf.WhisperModel.from_pretrained(tmp_path).eval().encoder
    states = encoder(mels.input_features, output_hidden_states=True).hidden_states
    expected = torch.stack([F.layer_norm(state.mean(dim=1), (32,)) for state in states]).mean(dim=0)
    torch.testing.assert_close(tower.eval()(sound, torch.tensor([480_000])), expected, atol=1e-3, rtol=1e-3)


def test_whispers_window_is_as_long_as_the_longest_utterance(tmp_path: Path) -> None:
    assert [whisper_positions(longest_s, 1500) for longest_s in (1.0, 8.0, 8.01, 30.0, 600.0)] == [
        *(50, 400, 401, 1500, 1500)
    ]
    tower = make_tower(tmp_path, "whisper")
    waveform = torch.randn(1, 32_000)
    cut = tower(waveform[:, :16_000], torch.tensor([16_000]))
    torch.testing.assert_close(tower(waveform, torch.tensor([32_000])), cut, msg="what follows the window is not heard")


@pytest.mark.parametrize("family", SPEECH_FAMILIES)
def test_silence_and_a_click_have_features(family: str, tmp_path: Path) -> None:
    tower = make_tower(tmp_path, family)
    assert tower(torch.zeros(2, 8000), torch.tensor([1, 8000])).isfinite().all()
    torch.testing.assert_close(
        tower(torch.ones(1, 5), torch.tensor([5])),
        tower(F.pad(torch.ones(1, 5), (0, 7995)), torch.tensor([5])),
        atol=1e-5,
        rtol=0,
    )


def test_the_mixture_of_layers_is_learned(tmp_path: Path) -> None:
    tower = make_tower(tmp_path, "wav2vec2")
    waveform, lengths = utterances()
    mixed = tower(waveform, lengths)
    tower.layer_mix.copy_(torch.tensor([0.0, 0.0, 50.0]))
    last = tower(waveform, lengths)
    assert (mixed - last).abs().max() > 0.01


def test_several_threads_share_one_tower(tmp_path: Path) -> None:
    tower = make_tower(tmp_path, "wav2vec2")
    waveform, lengths = utterances()
    expected = [tower(waveform[[row]], lengths[[row]]) for row in range(3)]
    found: dict[int, Tensor] = {}

    def embed(row: int) -> None:
        for _ in range(5):
            found[row] = tower(waveform[[row]], lengths[[row]])

    threads = [threading.Thread(target=embed, args=(row,)) for row in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in range(3):
        torch.testing.assert_close(found[row], expected[row], atol=1e-6, rtol=0)
