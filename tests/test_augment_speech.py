"""Augmented utterances stay speech of the same length and level, each effect does what its name says."""

import dataclasses

import pytest
import torch
from torch import Tensor

from cmir.network.augment_spectrogram import SpectrogramAugmentation, SpectrogramAugmenter
from cmir.network.augment_speech import SpeechAugmentation, SpeechAugmenter

NOTHING = SpeechAugmentation(
    speed_share=0,
    room_share=0,
    tilt_db_per_octave=0,
    narrow_share=0,
    noise_share=0,
    clipping_share=0,
    shift_s=0,
    tight_share=0,
)
STILL = SpectrogramAugmentation(warp_range=(1, 1), tempo_range=(1, 1), slowest=1, balance=0.0, num_bands=0, num_gaps=0)


def augmenter(**settings: object) -> SpeechAugmenter:
    """Only the named effects."""
    return SpeechAugmenter(dataclasses.replace(NOTHING, **settings))  # type: ignore[arg-type]


def tones(frequency_hz: float = 500.0, lengths: tuple[int, ...] = (16_000, 9_000)) -> tuple[Tensor, Tensor]:
    """Sines f32[B,T] of level 0.5, zero-padded, and their lengths."""
    time_T = torch.arange(max(lengths))
    num_samples = torch.tensor(lengths)
    tone = 0.5 * (2 * torch.pi * frequency_hz * time_T / 16_000).sin()
    return tone[None] * (time_T[None] < num_samples[:, None]), num_samples


def peak_hz(waveform_T: Tensor) -> float:
    spectrum = torch.fft.rfft(waveform_T * torch.hann_window(len(waveform_T))).abs()
    return float(spectrum.argmax()) * 16_000 / len(waveform_T)


def test_without_effects_nothing_changes() -> None:
    waveform, num_samples = tones()
    changed, lengths = augmenter()(waveform, num_samples)
    assert lengths.tolist() == num_samples.tolist()
    torch.testing.assert_close(changed, waveform, rtol=0, atol=1e-5)


def test_some_begin_and_end_within_the_word() -> None:
    waveform = torch.arange(16_000.0)[None].repeat(64, 1)
    changed, lengths = augmenter(tight_share=0.5, shift_s=0.1)(waveform, torch.full((64,), 16_000))
    tight = lengths < 16_000
    assert 16 < int(tight.sum()) < 48
    assert (changed[~tight, 0] <= 1).all(), "others get silence around"
    for row, length in zip(changed[tight], lengths[tight].tolist(), strict=True):
        first, last = float(row[0]), float(row[length - 1])
        assert 480 - 9 < first < 1440 + 9
        assert 480 - 9 < 15_999 - last < 1440 + 9
        assert last - first == pytest.approx(length - 1, abs=9)


def test_phrases_are_not_cut() -> None:
    _, lengths = augmenter(tight_share=1.0)(torch.ones(2, 20_000), torch.tensor([20_000, 17_700]))
    assert lengths.tolist() == [20_000, 17_700]


def test_a_short_one_keeps_most_of_itself() -> None:
    _, lengths = augmenter(tight_share=1.0)(torch.ones(2, 1_000), torch.tensor([1_000, 1]))
    assert lengths.tolist() == [700, 1]


def test_strength_goes_from_nothing_to_the_settings() -> None:
    waveform, num_samples = tones()
    full = SpeechAugmenter()
    assert full.full.scaled(1.0) == full.settings
    full.set_strength(0.0)
    torch.testing.assert_close(full(waveform, num_samples)[0], waveform, rtol=0, atol=1e-5)
    spectrogram = SpectrogramAugmentation()
    assert spectrogram.scaled(1.0) == spectrogram
    assert spectrogram.scaled(0.5).tempo_range == pytest.approx((0.875, 1.15))
    still, mel, num_frames = SpectrogramAugmenter(), torch.randn(2, 64, 50), torch.tensor([50, 30])
    still.set_strength(0.0)
    changed, lengths = still(mel, num_frames)
    torch.testing.assert_close(changed[0], mel[0], rtol=0, atol=1e-4)
    assert lengths.tolist() == [50, 30]


def test_everything_at_once_gives_finite_padded_waveforms_repeatably() -> None:
    waveform, num_samples = tones(lengths=(16_000, 9_000, 1, 160) * 8)
    torch.manual_seed(3)
    changed, lengths = SpeechAugmenter()(waveform, num_samples)
    assert changed.isfinite().all()
    assert changed.shape == (32, int(lengths.max()))
    beyond = torch.arange(changed.shape[1])[None] >= lengths[:, None]
    assert (changed[beyond] == 0).all()
    assert changed.abs().max() < 5
    torch.manual_seed(3)
    torch.testing.assert_close(SpeechAugmenter()(waveform, num_samples)[0], changed, rtol=0, atol=0)
    assert not torch.equal(SpeechAugmenter()(waveform, num_samples)[1], lengths)


def test_silence_stays_finite() -> None:
    changed, _ = SpeechAugmenter()(torch.zeros(4, 2_000), torch.full((4,), 2_000))
    assert changed.isfinite().all()


def test_speed_changes_length_and_pitch_together() -> None:
    waveform, num_samples = tones(500.0)
    changed, lengths = augmenter(speed_share=1, speed_range=(1.25, 1.25))(waveform, num_samples)
    assert lengths.tolist() == [12_800, 7_200]
    assert abs(peak_hz(changed[0]) - 625) < 3
    assert abs(peak_hz(changed[1, :7_200]) - 625) < 3


def test_silence_is_put_around() -> None:
    torch.manual_seed(0)
    waveform, num_samples = tones()
    changed, lengths = augmenter(shift_s=0.2)(waveform, num_samples)
    assert (lengths > num_samples).all()
    assert (lengths <= num_samples + 6_400).all()
    energy = changed.square().sum(dim=1) / waveform.square().sum(dim=1)
    torch.testing.assert_close(energy, torch.ones(2), rtol=0.02, atol=0)


@pytest.mark.parametrize(("is_telephone", "kept"), [(0, (80.0, 1_000.0)), (1, (1_000.0,))])
def test_a_narrow_band_ends_below_4_khz_and_a_telephone_s_begins_at_300_hz(
    is_telephone: float, kept: tuple[float, ...]
) -> None:
    narrow = augmenter(narrow_share=1, telephone_share=is_telephone)
    for frequency_hz in (80.0, 1_000.0, 6_000.0):
        waveform, num_samples = tones(frequency_hz)
        ratio = narrow(waveform, num_samples)[0][0, 4_000:12_000].square().mean() / 0.125
        assert (ratio > 0.9) if frequency_hz in kept else (ratio < 0.01)


def test_a_tilt_stays_within_its_limit() -> None:
    torch.manual_seed(0)
    waveform, num_samples = tones(4_000.0, (8_000,) * 64)  # two octaves above 1 kHz
    changed, _ = augmenter(tilt_db_per_octave=3.0)(waveform, num_samples)
    gain_db = 10 * (changed[:, 2_000:6_000].square().mean(dim=1) / 0.125).log10()
    assert gain_db.abs().max() < 6.1
    assert gain_db.max() > 3
    assert gain_db.min() < -3


def test_noise_has_the_asked_ratio() -> None:
    torch.manual_seed(0)
    waveform, num_samples = tones(lengths=(32_000,) * 16)
    changed, _ = augmenter(noise_share=1, snr_db=(10.0, 10.0))(waveform, num_samples)
    noise = (changed - waveform).square().mean(dim=1)
    signal_to_noise_db = 10 * (waveform.square().mean(dim=1) / noise).log10()
    assert signal_to_noise_db.mean() == pytest.approx(10.0, abs=1.0)  # low noise varies: few of its waves fit
    assert signal_to_noise_db.std() < 3


def test_a_room_makes_sound_go_on() -> None:
    torch.manual_seed(0)
    waveform, num_samples = torch.zeros(2, 8_000), torch.full((2,), 8_000)
    waveform[:, 100:400] = 0.5
    changed, _ = augmenter(room_share=1, reverberation_s=(0.3, 0.3))(waveform, num_samples)
    assert (changed[:, :100].abs() < 1e-4).all()
    assert (changed[:, 600:1_600].abs().amax(dim=1) > 0.002).all()
    early, late = (changed[:, start : start + 1_000].square().mean(dim=1) for start in (600, 4_600))
    assert (late < early / 100).all()


def test_clipping_cuts_the_peaks() -> None:
    waveform, num_samples = tones()
    changed, _ = augmenter(clipping_share=1, clipping_level=(0.4, 0.4))(waveform, num_samples)
    torch.testing.assert_close(changed.abs().amax(dim=1), torch.full((2,), 0.2), rtol=0, atol=1e-3)


def spectrograms() -> tuple[Tensor, Tensor]:
    """One bright cell at mel 32, frame 40, on zeros; f32[3,64,100] with 100, 80 and 60 frames."""
    mel = torch.zeros(3, 64, 100)
    mel[:, 32, 40] = 1.0
    return mel, torch.tensor([100, 80, 60])


def test_a_still_spectrogram_stays() -> None:
    mel, num_frames = spectrograms()
    changed, lengths = SpectrogramAugmenter(STILL)(mel, num_frames)
    assert lengths.tolist() == [100, 80, 60]
    torch.testing.assert_close(changed, mel, rtol=0, atol=1e-4)


def test_tempo_and_vocal_tract_move_a_cell() -> None:
    mel, num_frames = spectrograms()
    settings = dataclasses.replace(STILL, tempo_range=(0.8, 0.8), warp_range=(0.8, 0.8))
    changed, lengths = SpectrogramAugmenter(settings)(mel, num_frames)
    assert lengths.tolist() == [125, 100, 75]
    assert changed.shape[2] == 125
    assert divmod(int(changed[2].argmax()), 125) == (40, 50)
    assert changed[2, :, 75:].abs().max() == 0


def test_single_words_are_drawn_out_and_phrases_are_not() -> None:
    torch.manual_seed(0)
    mel, num_frames = torch.zeros(64, 64, 150), torch.tensor([40, 150] * 32)
    settings = dataclasses.replace(STILL, tempo_range=(0.75, 1.3), slowest=0.4, slow_frames=110)
    words, phrases = SpectrogramAugmenter(settings)(mel, num_frames)[1].view(32, 2).T
    assert 90 < int(words.max()) <= 100
    assert 30 <= int(words.min()) < 40
    assert 170 < int(phrases.max()) <= 200
    assert 115 <= int(phrases.min()) < 150


@pytest.mark.parametrize(("settings", "axis"), [({"num_bands": 1}, 1), ({"num_gaps": 1, "gap_share": 0.3}, 2)])
def test_masks_take_whole_bands_or_frames(settings: dict[str, float], axis: int) -> None:
    torch.manual_seed(0)
    mel, num_frames = torch.ones(8, 64, 100), torch.full((8,), 100)
    changed, _ = SpectrogramAugmenter(dataclasses.replace(STILL, **settings))(mel, num_frames)
    assert set(changed.unique().tolist()) == {0.0, 1.0}
    other = 3 - axis
    assert (changed.amax(dim=other) == changed.amin(dim=other)).all()
    assert 0.7 < changed.mean() < 1.0


def test_balance_makes_bands_louder_or_softer_throughout_an_utterance() -> None:
    torch.manual_seed(0)
    mel, num_frames = spectrograms()
    changed, _ = SpectrogramAugmenter(dataclasses.replace(STILL, balance=0.5))(mel, num_frames)
    added = changed - mel
    for i, length in enumerate(num_frames.tolist()):
        torch.testing.assert_close(added[i, :, :length], added[i, :, :1].expand(64, length), rtol=0, atol=1e-4)
        assert float(changed[i, :, length:].abs().sum()) == 0
        assert 0.05 < float(added[i, :, 0].std()) < 2.0
        assert float(added[i, :, 0].diff().abs().max()) < 0.3, "neighbours differ little"
    assert not torch.allclose(added[0, :, 0], added[1, :, 0])
