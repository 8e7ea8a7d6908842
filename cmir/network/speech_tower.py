"""Utterances f32[B,T] -> features f32[B,width]: log-mel, a small masked convolutional net, attentive statistics.

After every convolution what lies beyond an utterance's end is set to zero again, which is also what a convolution sees
beyond the edge of an unpadded one: an utterance has the same features alone and in any batch. Three-by-three kernels
over mels and time at the start tolerate other vocal tracts; later ones run over time only.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cmir.archive.log_mel import LogMel
from cmir.network.augment_spectrogram import SpectrogramAugmenter


class SpeechTowerConfig(BaseModel):
    """Shapes of the speech tower; `kind` "features" takes vectors f32[F] of `input_dim` components instead of sound."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["waveform", "features"] = "waveform"
    width: int = Field(default=128, ge=8, description="components of the features")
    num_mels: int = Field(default=64, ge=16, le=128, multiple_of=16)
    channels: int = Field(default=12, ge=4, description="of the first convolution over mels and time")
    hidden: int = Field(default=128, ge=8, description="of the convolutions over time, and of the layers over features")
    num_blocks: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    input_dim: int = Field(default=128, ge=1, description="components of a feature vector")


class SpeechTower(nn.Module):
    """Either kind of tower behind one call."""

    def __init__(self, config: SpeechTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.net: WaveformNet | FeaturesNet = WaveformNet(config) if config.kind == "waveform" else FeaturesNet(config)

    def kernels(self) -> list[nn.Parameter]:
        """Of all convolutions but the first, f32[out,in,...]; none where the tower takes features."""
        convolutions = [module.conv for module in self.net.modules() if isinstance(module, MaskedConv1d | MaskedConv2d)]
        return [kernel for convolution in convolutions[1:] for kernel in convolution.parameters()]  # no biases

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """f32[B,width] of utterances f32[B,T] (16 kHz, zero-padded, `num_samples_B` real) or of features f32[B,F]."""
        features: Tensor = self.net(waveform_BT, num_samples_B)
        return features


class WaveformNet(nn.Module):
    """The tower over sound; in training it also warps and masks the spectrogram."""

    def __init__(self, config: SpeechTowerConfig) -> None:
        super().__init__()
        channels, hidden = config.channels, config.hidden
        self.log_mel = LogMel(config.num_mels)
        self.augment = SpectrogramAugmenter()
        self.stem = nn.ModuleList(
            [
                MaskedConv2d(1, channels, mel_stride=2, frame_stride=2),
                MaskedConv2d(channels, channels * 2, mel_stride=2, frame_stride=1),
                MaskedConv2d(channels * 2, channels * 3, mel_stride=2, frame_stride=2),
            ]
        )
        self.flatten = MaskedConv1d(channels * 3 * config.num_mels // 8, hidden, kernel=1)
        dilations = [1 + i // 2 for i in range(config.num_blocks)]
        self.blocks = nn.ModuleList([ResidualBlock(hidden, dilation) for dilation in dilations])
        self.widen = MaskedConv1d(hidden, hidden * 2, kernel=1)
        self.pool = AttentiveStatistics(hidden * 2)
        self.out = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(hidden * 6, config.width))

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        with torch.autocast(waveform_BT.device.type, enabled=False):
            mel_BMF = self.log_mel(waveform_BT.float(), num_samples_B)
            num_frames_B = self.log_mel.num_frames(num_samples_B)
            mel_BMF = normalise_utterance(mel_BMF, num_frames_B)
        if self.training:
            mel_BMF, num_frames_B = self.augment(mel_BMF, num_frames_B)
        x = mel_BMF[:, None].to(memory_format=torch.channels_last)
        for layer in self.stem:
            x, num_frames_B = layer(x, num_frames_B)
        mask = frame_mask(num_frames_B, x.shape[-1])
        x = self.flatten(x.flatten(1, 2), mask)
        for block in self.blocks:
            x = block(x, mask)
        features: Tensor = self.out(self.pool(self.widen(x, mask), mask))
        return features


class FeaturesNet(nn.Module):
    """Features computed elsewhere f32[B,F] -> f32[B,width]: two layers; the second argument is not read."""

    def __init__(self, config: SpeechTowerConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(config.input_dim),
            nn.Linear(config.input_dim, config.hidden * 2),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden * 2, config.width),
        )

    def forward(self, features_BF: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        features: Tensor = self.layers(features_BF)
        return features


class MaskedConv2d(nn.Module):
    """3x3 convolution over mels and frames, batch norm, ReLU; zeros beyond each utterance's end."""

    def __init__(self, num_in: int, num_out: int, *, mel_stride: int, frame_stride: int) -> None:
        super().__init__()
        self.frame_stride = frame_stride
        self.conv = nn.Conv2d(num_in, num_out, 3, stride=(mel_stride, frame_stride), padding=1, bias=False)
        self.norm = nn.BatchNorm2d(num_out)

    def forward(self, x_BCMF: Tensor, num_frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """f32[B,C,M,F] -> f32[B,C',M',F'] and the frames that are left."""
        x = F.relu(self.norm(self.conv(x_BCMF)))
        num_frames_B = torch.div(num_frames_B + self.frame_stride - 1, self.frame_stride, rounding_mode="floor")
        return x * frame_mask(num_frames_B, x.shape[-1])[:, None], num_frames_B


class MaskedConv1d(nn.Module):
    """Convolution over frames, batch norm, ReLU; zeros beyond each utterance's end."""

    def __init__(self, num_in: int, num_out: int, *, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv1d(num_in, num_out, kernel, padding=padding, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(num_out)

    def forward(self, x_BCF: Tensor, mask_B1F: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x_BCF))) * mask_B1F


class ResidualBlock(nn.Module):
    """Two convolutions over frames, added to what came in; not negative, zero beyond each utterance's end."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first = MaskedConv1d(channels, channels, kernel=3, dilation=dilation)
        self.second = MaskedConv1d(channels, channels, kernel=3, dilation=dilation)

    def forward(self, x_BCF: Tensor, mask_B1F: Tensor) -> Tensor:
        summed: Tensor = x_BCF + self.second(self.first(x_BCF, mask_B1F), mask_B1F)
        return summed


class AttentiveStatistics(nn.Module):
    """Mean and deviation of each channel over the frames it attends to, and its maximum (Okabe et al., 2018, with a
    weight for each channel)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Conv1d(channels, channels, 1)

    def forward(self, x_BCF: Tensor, mask_B1F: Tensor) -> Tensor:
        """f32[B,3C] of x >= 0, zero beyond each utterance's end."""
        share_BCF = self.weight(x_BCF).masked_fill(mask_B1F == 0, float("-inf")).softmax(dim=2)
        mean_BC = (share_BCF * x_BCF).sum(dim=2)
        variance_BC = (share_BCF * (x_BCF - mean_BC[:, :, None]).square()).sum(dim=2)
        return torch.cat([mean_BC, (variance_BC + 1e-5).sqrt(), x_BCF.amax(dim=2)], dim=1)


def frame_mask(num_frames_B: Tensor, total: int) -> Tensor:
    """f32[B,1,total]: 1 before each utterance's end."""
    position = torch.arange(total, device=num_frames_B.device)
    return (position[None, None] < num_frames_B[:, None, None]).to(torch.float32)


def normalise_utterance(mel_BMF: Tensor, num_frames_B: Tensor) -> Tensor:
    """A spectrogram minus its mean, by its deviation, both over all bands and frames; zeros beyond the end.

    Silence, which does not vary, gives zeros. A mean of each band would take away what a microphone or line adds, and
    with it what tells a long vowel: new speakers are named less well (docs/results.md).
    """
    mask = frame_mask(num_frames_B, mel_BMF.shape[2])
    count = num_frames_B[:, None, None].to(mel_BMF.dtype) * mel_BMF.shape[1]
    centred = (mel_BMF - (mel_BMF * mask).sum(dim=(1, 2), keepdim=True) / count) * mask
    variance = centred.square().sum(dim=(1, 2), keepdim=True) / count
    return centred / (variance + 0.1).sqrt()
