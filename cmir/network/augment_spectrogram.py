"""Batches of log-mel spectrograms as another voice, vocal tract or tempo would have made them, and with parts missing.

For training only. Each change is drawn per utterance from torch's own generator.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmir.network.augment_speech import inside, uniform


@dataclass(frozen=True, slots=True)
class SpectrogramAugmentation:
    """Changes of log-mel spectrograms: vocal tract, tempo, balance, and SpecAugment's masks (Park et al. 2019)."""

    warp_range: tuple[float, float] = (0.82, 1.2)  # of the mel axis
    tempo_range: tuple[float, float] = (0.75, 1.3)
    slowest: float = 0.4  # for words that stay below `slow_frames`: people draw single words out, synthesisers do not
    slow_frames: int = 110
    balance: float = 0.35  # of a smooth curve over the mels that is added, where an utterance's own deviation is 1
    balance_knots: int = 6
    num_bands: int = 2
    band_mels: float = 12
    num_gaps: int = 2
    gap_share: float = 0.15  # of an utterance's frames

    def scaled(self, strength: float) -> Self:
        """Every change smaller: at strength 0 there is none, at 1 these settings."""
        return replace(
            self,
            warp_range=_towards_one(self.warp_range, strength),
            tempo_range=_towards_one(self.tempo_range, strength),
            slowest=1.0 + (self.slowest - 1.0) * strength,
            balance=self.balance * strength,
            band_mels=self.band_mels * strength,
            gap_share=self.gap_share * strength,
        )


class SpectrogramAugmenter(nn.Module):
    """log-mel f32[B,M,F] with i64[B] frames -> the same kind, changed; an own random draw for each utterance."""

    def __init__(self, settings: SpectrogramAugmentation | None = None) -> None:
        super().__init__()
        self.full = self.settings = settings or SpectrogramAugmentation()

    def set_strength(self, strength: float) -> None:
        """Scale all changes from now on, 0..1."""
        self.settings = self.full.scaled(strength)

    def forward(self, mel_BMF: Tensor, num_frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Warped and masked spectrograms and their frame counts; masked cells hold 0, the mean of a normalised one."""
        with torch.no_grad():
            warped_BMF, num_frames_B = self._warp(mel_BMF, num_frames_B)
            spoken_B1F = inside(num_frames_B, warped_BMF.shape[2])[:, None]
            return self._mask((warped_BMF + self._balance(warped_BMF)) * spoken_B1F, num_frames_B), num_frames_B

    def _balance(self, mel_BMF: Tensor) -> Tensor:
        """f32[B,M,1]: how much louder or softer each band is, as another voice, microphone or line would have it."""
        knots_B1K = torch.randn(len(mel_BMF), 1, self.settings.balance_knots, device=mel_BMF.device)
        curve_B1M = F.interpolate(knots_B1K, mel_BMF.shape[1], mode="linear", align_corners=True)
        return curve_B1M.mT * self.settings.balance

    def _warp(self, mel_BMF: Tensor, num_frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """Sample the spectrogram on another grid of mels and frames, bilinearly."""
        num_mels, total = mel_BMF.shape[1:]
        low, high = self.settings.tempo_range
        low_B = (num_frames_B / self.settings.slow_frames).clamp(min(self.settings.slowest, low), low)
        tempo_B = low_B + uniform(mel_BMF, 0.0, 1.0) * (high - low_B)
        warp_B = uniform(mel_BMF, *self.settings.warp_range)
        frames_B = (num_frames_B / tempo_B).floor().long().clamp(min=1)
        frame_BF = torch.arange(int(frames_B.max()), device=mel_BMF.device)[None] * tempo_B[:, None]
        mel_BM = torch.arange(num_mels, device=mel_BMF.device)[None] * warp_B[:, None]
        x_BF, y_BM = frame_BF * 2 / max(total - 1, 1) - 1, mel_BM * 2 / (num_mels - 1) - 1
        shape = (len(mel_BMF), num_mels, x_BF.shape[1])
        grid = torch.stack([x_BF[:, None, :].expand(shape), y_BM[:, :, None].expand(shape)], dim=-1)
        warped = F.grid_sample(mel_BMF[:, None], grid, mode="bilinear", padding_mode="border", align_corners=True)[:, 0]
        return warped, frames_B

    def _mask(self, mel_BMF: Tensor, num_frames_B: Tensor) -> Tensor:
        keep = torch.ones_like(mel_BMF)
        for _ in range(self.settings.num_bands):
            width_B = uniform(mel_BMF, 0.0, 1.0) * self.settings.band_mels
            start_B = uniform(mel_BMF, 0.0, 1.0) * (mel_BMF.shape[1] - width_B)
            keep = keep * ~_between(start_B, width_B, mel_BMF.shape[1])[:, :, None]
        for _ in range(self.settings.num_gaps):
            width_B = uniform(mel_BMF, 0.0, 1.0) * self.settings.gap_share * num_frames_B
            start_B = uniform(mel_BMF, 0.0, 1.0) * (num_frames_B - width_B)
            keep = keep * ~_between(start_B, width_B, mel_BMF.shape[2])[:, None, :]
        return mel_BMF * keep


def _towards_one(bounds: tuple[float, float], strength: float) -> tuple[float, float]:
    low, high = (1.0 + (bound - 1.0) * strength for bound in bounds)
    return low, high


def _between(start_B: Tensor, width_B: Tensor, total: int) -> Tensor:
    """bool[B,total]: whole positions within [start, start + width)."""
    position = torch.arange(total, device=start_B.device)[None]
    return (position >= start_B[:, None]) & (position < (start_B + width_B)[:, None])
