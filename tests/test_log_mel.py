"""Log-mel spectrograms: torchaudio's numbers, whatever the padding and the level."""

import torch

from cmir.archive.log_mel import LogMel
from cmir.archive.torchaudio_import import import_torchaudio


def test_log_mel_is_torchaudios() -> None:
    waveform = 0.5 * (2 * torch.pi * 700.0 * torch.arange(16_000) / 16_000).sin()[None]
    level = waveform.square().mean().sqrt()
    theirs = import_torchaudio().transforms.MelSpectrogram(
        16_000, n_fft=512, win_length=400, hop_length=160, f_min=60.0, f_max=7_600.0, n_mels=64, pad_mode="constant"
    )
    torch.testing.assert_close(LogMel()(waveform), (theirs(waveform / level) + 1e-4).log(), rtol=1e-4, atol=1e-4)


def test_log_mel_does_not_depend_on_padding_or_level() -> None:
    log_mel = LogMel()
    waveform = torch.randn(1, 9_000, generator=torch.Generator().manual_seed(0)) * 0.1
    alone = log_mel(waveform, torch.tensor([9_000]))
    assert alone.shape == (1, 64, int(log_mel.num_frames(torch.tensor(9_000))))
    padded = log_mel(torch.nn.functional.pad(waveform, (0, 5_000)), torch.tensor([9_000]))
    torch.testing.assert_close(padded[:, :, : alone.shape[2]], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(log_mel(waveform * 0.02), log_mel(waveform), rtol=0, atol=1e-4)
    assert log_mel(torch.zeros(1, 800)).isfinite().all()
