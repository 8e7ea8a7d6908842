"""The speech tower: what it gives does not depend on padding, batch-mates or level; it can learn."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cmir.network.speech_tower import AttentiveStatistics, SpeechTower, SpeechTowerConfig, normalise_utterance

SMALL = SpeechTowerConfig(width=24, num_mels=32, channels=4, hidden=16, num_blocks=2)


def utterances(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Zero-padded noise f32[B,T] with a slow rhythm, and its lengths."""
    generator = torch.Generator().manual_seed(seed)
    time_T = torch.arange(max(lengths))
    noise = torch.randn(len(lengths), max(lengths), generator=generator) * (0.2 + (time_T / 900).sin().square())
    num_samples = torch.tensor(lengths)
    return 0.1 * noise * (time_T[None] < num_samples[:, None]), num_samples


@pytest.fixture
def tower() -> SpeechTower:
    """A small tower whose batch norms have seen a few batches, ready for inference."""
    torch.manual_seed(0)
    made = SpeechTower(SMALL)
    for seed in range(3):
        made(*utterances([9_000, 16_000, 12_345], seed))
    return made.eval()


@pytest.mark.parametrize("length", [160, 4_001, 9_999, 16_000])
def test_an_utterance_has_the_same_features_alone_and_padded(tower: SpeechTower, length: int) -> None:
    waveform, num_samples = utterances([length, 16_000, 7_000, 23_456])
    with torch.no_grad():
        together = tower(waveform, num_samples)
        alone = tower(waveform[:1, :length], num_samples[:1])
    assert together.shape == (4, SMALL.width)
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)


def test_level_does_not_matter(tower: SpeechTower) -> None:
    waveform, num_samples = utterances([12_000, 8_000])
    with torch.no_grad():
        torch.testing.assert_close(tower(waveform * 0.05, num_samples), tower(waveform, num_samples), rtol=0, atol=1e-3)


def test_silence_and_single_samples_give_numbers(tower: SpeechTower) -> None:
    with torch.no_grad():
        features = tower(torch.zeros(3, 8_000), torch.tensor([8_000, 1, 200]))
        assert tower(torch.full((1, 1), 0.5), torch.tensor([1])).isfinite().all()
    assert features.isfinite().all()
    trained = SpeechTower(SMALL)
    trained(torch.zeros(2, 8_000), torch.tensor([8_000, 300])).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained.parameters())


def test_statistics_leave_the_padding_out() -> None:
    x = torch.tensor([[[1.0, 3.0, 0.0, 0.0]], [[2.0, 2.0, 5.0, 3.0]]])
    mask = torch.tensor([[[1.0, 1.0, 0.0, 0.0]], [[1.0, 1.0, 1.0, 1.0]]])
    pool = AttentiveStatistics(1)
    torch.nn.init.zeros_(pool.weight.weight)  # all frames alike
    expected = torch.tensor([[2.0, 1.0, 3.0], [3.0, 1.5**0.5, 5.0]])
    torch.testing.assert_close(pool(x, mask), expected, rtol=0, atol=1e-4)
    torch.nn.init.constant_(pool.weight.weight, 20.0)  # the largest alone
    torch.testing.assert_close(pool(x, mask)[:, 0], torch.tensor([3.0, 5.0]), rtol=0, atol=1e-4)


def test_a_gain_is_taken_away_and_a_vowel_s_shape_is_not() -> None:
    mel = torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(1))
    num_frames = torch.tensor([20, 11])
    normalised = normalise_utterance(mel, num_frames)
    torch.testing.assert_close(normalise_utterance(mel + 2.5, num_frames), normalised, rtol=0, atol=1e-5)
    assert (normalised[1, :, 11:] == 0).all()
    torch.testing.assert_close(normalised[1, :, :11].mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
    held = torch.linspace(-1, 1, 8)[None, :, None].expand(1, 8, 20)
    shape = normalise_utterance(held, torch.tensor([20]))[0]
    torch.testing.assert_close(shape, (held / (held.var(correction=0) + 0.1).sqrt())[0], rtol=0, atol=1e-5)


def test_it_learns_two_sounds() -> None:
    torch.manual_seed(0)
    tower, head = SpeechTower(SMALL), torch.nn.Linear(SMALL.width, 2)
    optimiser = torch.optim.Adam([*tower.parameters(), *head.parameters()], lr=5e-3)
    waveform, num_samples = utterances([4_000, 3_500, 4_000, 3_000] * 4)
    which = torch.arange(16) % 2
    pitch_hz = torch.where(which == 0, 400.0, 1_800.0)
    beat = (torch.arange(4_000) / 800).sin().clamp(min=0)
    waveform = waveform + 0.3 * beat * (2 * torch.pi * pitch_hz[:, None] * torch.arange(4_000) / 16_000).sin()
    for _ in range(25):
        loss = torch.nn.functional.cross_entropy(head(tower(waveform, num_samples)), which)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        assert (head(tower.eval()(waveform, num_samples)).argmax(dim=1) == which).all()


def test_features_computed_elsewhere_have_their_own_tower() -> None:
    tower = SpeechTower(SpeechTowerConfig(kind="features", input_dim=7, width=24, hidden=16)).eval()
    features = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = tower(features, torch.zeros(5, dtype=torch.int64))
        torch.testing.assert_close(tower(features[:1], torch.zeros(1, dtype=torch.int64)), encoded[:1])
    assert encoded.shape == (5, 24)
    assert not any("log_mel" in name for name, _ in tower.named_modules())


def test_the_state_holds_tensors_of_this_network_only() -> None:
    state = SpeechTower(SMALL).state_dict()
    assert not [name for name in state if "filters" in name or "window" in name]
    assert all(tensor.isfinite().all() for tensor in state.values())


@pytest.mark.parametrize("settings", [{"num_mels": 50}, {"width": 0}, {"kind": "text"}, {"depth": 3}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(settings))):
        SpeechTowerConfig.model_validate(settings)
