"""Waveforms f32[B,T] at 16 kHz -> log-mel spectrograms f32[B,M,F], the same on any device and in any batch.

Frames are centred on multiples of the hop and see zeros beyond the signal's ends (not a reflection), so that padding a
waveform with zeros only adds frames at its end: an utterance has the same frames alone and in a batch.
"""

import torch
from torch import Tensor, nn

from cmir.archive.speech import SAMPLE_RATE_HZ
from cmir.archive.torchaudio_import import import_torchaudio

POWER_FLOOR = 1e-4  # of a waveform of RMS 1: about 60 dB below a mel band's usual power, hides quantisation noise
RMS_FLOOR = 1e-4  # -80 dB of full scale, below any recording of speech: silence stays silence


class LogMel(nn.Module):
    """Log of mel-band power of level-normalised waveforms; 25 ms Hann windows, hop 10 ms, bands over 60 Hz..7.6 kHz.

    The mel scale is HTK's, the filters are torchaudio's MelSpectrogram.
    """

    def __init__(self, num_mels: int = 64, *, hop_samples: int = 160) -> None:
        super().__init__()
        self.hop_samples = hop_samples
        self.num_mels = num_mels
        self.spectrogram = import_torchaudio().transforms.MelSpectrogram(
            sample_rate=SAMPLE_RATE_HZ,
            n_fft=512,
            win_length=400,
            hop_length=hop_samples,
            f_min=60.0,
            f_max=7600.0,
            n_mels=num_mels,
            center=True,
            pad_mode="constant",
            power=2.0,
        )

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Frames of waveforms of `num_samples` samples, elementwise."""
        return torch.div(num_samples, self.hop_samples, rounding_mode="floor") + 1

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """f32[B,T] -> f32[B,M,T // hop + 1].

        `num_samples_B` i64[B] tells where each waveform ends and zeros begin (default: all T); the level of a waveform
        is measured over its own samples only, so that neither padding nor gain changes its log-mel.
        """
        total = waveform_BT.shape[1]
        count_B = num_samples_B.clamp(min=1) if num_samples_B is not None else torch.full_like(waveform_BT[:, 0], total)
        rms_B = (waveform_BT.square().sum(dim=1) / count_B).sqrt().clamp(min=RMS_FLOOR)
        mel_BMF: Tensor = self.spectrogram(waveform_BT / rms_B[:, None])
        return (mel_BMF + POWER_FLOOR).log()
