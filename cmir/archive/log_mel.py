"""Waveforms f32[B,T] at 16 kHz -> log-mel spectrograms f32[B,M,F], the same on any device and in any batch.

Frames are centred on multiples of the hop and see zeros beyond the signal's ends (not a reflection), so that padding a
waveform with zeros only adds frames at its end: an utterance has the same frames alone and in a batch.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmir.archive.speech import SAMPLE_RATE_HZ
from cmir.archive.torchaudio_import import import_torchaudio

FFT_SAMPLES: Final = 512
WINDOW_SAMPLES: Final = 400  # 25 ms
HOP_SAMPLES: Final = 160  # 10 ms
MEL_RANGE_HZ: Final = (60.0, 7_600.0)
POWER_FLOOR: Final = 1e-4  # of a waveform of RMS 1: hides the noise of 16-bit samples
RMS_FLOOR: Final = 1e-4  # -80 dB of full scale, below any recording of speech: silence stays silence


class LogMel(nn.Module):
    """Log of mel-band power of level-normalised waveforms: 25 ms Hann windows, hop 10 ms, bands over 60 Hz..7.6 kHz.

    The filters are torchaudio's (HTK's mel scale, triangles of equal height). Its MelSpectrogram is not used: it takes
    the power as the square of a complex modulus, which costs more than the transform itself on a CPU.
    """

    filters_KM: Tensor
    window: Tensor

    def __init__(self, num_mels: int = 64) -> None:
        super().__init__()
        low_hz, high_hz = MEL_RANGE_HZ
        filters_KM = import_torchaudio().functional.melscale_fbanks(
            n_freqs=FFT_SAMPLES // 2 + 1, f_min=low_hz, f_max=high_hz, n_mels=num_mels, sample_rate=SAMPLE_RATE_HZ
        )
        self.register_buffer("filters_KM", filters_KM, persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW_SAMPLES), persistent=False)

    def num_frames(self, num_samples: Tensor) -> Tensor:
        """Frames of waveforms of `num_samples` samples, elementwise."""
        return torch.div(num_samples, HOP_SAMPLES, rounding_mode="floor") + 1

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """f32[B,T] -> f32[B,M,T // 160 + 1].

        `num_samples_B` i64[B] tells where each waveform ends and zeros begin (default: all T); the level of a waveform
        is measured over its own samples only, so that neither padding nor gain changes its log-mel.
        """
        total = waveform_BT.shape[1]
        count_B = num_samples_B.clamp(min=1) if num_samples_B is not None else torch.full_like(waveform_BT[:, 0], total)
        rms_B = (waveform_BT.square().sum(dim=1) / count_B).sqrt().clamp(min=RMS_FLOOR)
        margin = FFT_SAMPLES // 2
        framed_BT = F.pad(waveform_BT / rms_B[:, None], (margin, margin))
        spectrum_BKF = torch.stft(
            framed_BT, FFT_SAMPLES, HOP_SAMPLES, WINDOW_SAMPLES, self.window, center=False, return_complex=True
        )
        power_BKF = torch.addcmul(spectrum_BKF.real.square(), spectrum_BKF.imag, spectrum_BKF.imag)
        return (power_BKF.transpose(1, 2) @ self.filters_KM + POWER_FLOOR).log().transpose(1, 2)
