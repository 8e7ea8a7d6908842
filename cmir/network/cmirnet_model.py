"""The published CMIR-NET: two modalities, each with a classifier's features Z, an encoder, a classifier and a decoder.

    chip, speech -> stage 1 -> Z f32[B,128] -> encoder FC + ReLU -> V f32[B,D] -> classifier FC -> classes
                                                                              \\-> decoder FC + ReLU -> the other's Z

Chaudhuri et al., "CMIR-NET: a deep learning based model for cross-modal retrieval in remote sensing" (Pattern
Recognition Letters 131, 2020; arXiv 1904.04794), layers as in the authors' slides and code. V is the retrieval vector;
it leaves here with length 1, for cosine search. Where this differs from what is published:

- chips of other sizes than 64 and 256 px: convolutions pool by 2 up to 128 px and by 4 above, and what is left is
  max-pooled to 4 x 4, which gives the published layers at the published sizes;
- the published image side for UC Merced (4096 -> 512 -> 128) starts from 4096 features of a pretrained network, which
  are not published: here the convolutions of the other sides and one more give as many;
- the published speech features (128) are not published as audio: a waveform gives mean and deviation over time of 64
  log-mel bands, which is as many.
"""

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmir.archive.log_mel import LogMel
from cmir.errors import DataError
from cmir.network.model import CmirNetConfig, NetworkConfig

_CHANNELS: Final = (32, 64, 128)
_FINAL_SIDE_PX: Final = 4
_LEAK: Final = 0.01
_DROPOUT: Final = 0.5
_NUM_MELS: Final = 64


class ConvFeatures(nn.Module):
    """Chips f32[B,C,H,W] -> Z f32[B,F]: three times (conv 3x3, leaky ReLU, batch norm, max-pool), FC, ReLU, dropout.

    With `hidden_dim` a fourth convolution gives 4096 features, then FC, ReLU, FC, ReLU: the image beside speech.
    """

    def __init__(self, num_bands: int, chip_size_px: int, feature_dim: int, hidden_dim: int | None = None) -> None:
        super().__init__()
        pool = 4 if chip_size_px > 128 else 2
        layers: list[nn.Module] = []
        for channels_in, channels_out in zip((num_bands, *_CHANNELS), _CHANNELS, strict=False):
            layers += [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.LeakyReLU(_LEAK)]
            layers += [nn.BatchNorm2d(channels_out), nn.MaxPool2d(pool, ceil_mode=True)]
        layers.append(nn.AdaptiveMaxPool2d(_FINAL_SIDE_PX))
        num_channels = _CHANNELS[-1]
        if hidden_dim is not None:
            layers += [nn.Conv2d(num_channels, 2 * num_channels, 3, padding=1), nn.LeakyReLU(_LEAK)]
            num_channels *= 2
            layers.append(nn.BatchNorm2d(num_channels))
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        num_flat = num_channels * _FINAL_SIDE_PX**2
        if hidden_dim is None:
            self.project = nn.Sequential(nn.Linear(num_flat, feature_dim), nn.ReLU(), nn.Dropout(_DROPOUT))
        else:
            hidden = nn.Linear(num_flat, hidden_dim), nn.ReLU()
            self.project = nn.Sequential(*hidden, nn.Linear(hidden_dim, feature_dim), nn.ReLU())

    def forward(self, pixels: Tensor) -> Tensor:
        # bands last: convolutions and pooling of large chips take a third less time on CPUs
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        z: Tensor = self.project(self.convolutions(pixels))
        return z


class SpeechFeatures(nn.Module):
    """Features f32[B,F], or waveforms through log-mel statistics, -> Z f32[B,128]: FC, ReLU."""

    def __init__(self, input_dim: int | None, feature_dim: int) -> None:
        super().__init__()
        self.log_mel = LogMel(_NUM_MELS) if input_dim is None else None
        self.project = nn.Sequential(nn.Linear(input_dim or 2 * _NUM_MELS, feature_dim), nn.ReLU())

    def forward(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        z: Tensor = self.project(waveform if self.log_mel is None else self._statistics(waveform, num_samples))
        return z

    def _statistics(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        """Mean and deviation over each utterance's own frames, f32[B,128]."""
        assert self.log_mel is not None
        mel_BMF = self.log_mel(waveform, num_samples)
        num_frames = self.log_mel.num_frames(num_samples)
        inside = (torch.arange(mel_BMF.shape[2], device=mel_BMF.device)[None] < num_frames[:, None])[:, None]
        mean = (mel_BMF * inside).sum(dim=2) / num_frames[:, None]
        variance = ((mel_BMF - mean[:, :, None]).square() * inside).sum(dim=2) / num_frames[:, None]
        return torch.cat([mean, variance.clamp_min(1e-8).sqrt()], dim=1)


class CmirNet(nn.Module):
    """Both modalities' networks; the same calls as SharedSpaceNet for embedding, the parts of it for training."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        assert config.cmirnet is not None, "NetworkConfig checks it"
        self.config = config
        self.settings: CmirNetConfig = config.cmirnet
        wide, dim, num_classes = self.settings.feature_dim, config.dim, len(self.settings.classes)
        names = config.modalities
        self.features = nn.ModuleDict({name: self._features_of(name) for name in names})
        self.stage1_classifiers = nn.ModuleDict({name: nn.Linear(wide, num_classes) for name in names})
        self.encoders = nn.ModuleDict({name: nn.Linear(wide, dim) for name in names})
        self.classifiers = nn.ModuleDict({name: nn.Linear(dim, num_classes) for name in names})
        self.decoders = nn.ModuleDict({name: nn.Linear(dim, wide) for name in names})

    def image_features(self, modality: str, pixels: Tensor) -> Tensor:
        """Z f32[B,F] of normalised chips f32[B,C,H,W]. Raises DataError: another modality or number of bands."""
        if modality not in self.config.image_modalities:
            raise self._no_tower(modality)
        expected = self.settings.num_bands[modality]
        if pixels.shape[1] != expected:
            raise DataError(f"wrong band count for {modality}", seen=pixels.shape[1], expected=expected)
        z: Tensor = self.features[modality](pixels)
        return z

    def speech_features(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        """Z f32[B,F] of utterances f32[B,T] with `num_samples` i64[B], or of features f32[B,F]."""
        if "speech" not in self.config.modalities:
            raise self._no_tower("speech")
        z: Tensor = self.features["speech"](waveform, num_samples)
        return z

    def latent(self, modality: str, z: Tensor) -> Tensor:
        """V f32[B,D] >= 0 of Z f32[B,F], as the losses see it."""
        return F.relu(self.encoders[modality](z))

    def decoded(self, modality: str, v: Tensor) -> Tensor:
        """The other modality's Z, guessed from V f32[B,D]: f32[B,F] >= 0."""
        return F.relu(self.decoders[modality](v))

    def encode_image(self, modality: str, pixels: Tensor, wavelength_nm: Tensor, gsd_m: Tensor) -> Tensor:
        """Unit vectors f32[B,D] of chips; wavelengths and gsd are not read."""
        return unit_latent(self.latent(modality, self.image_features(modality, pixels)))

    def encode_speech(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        """Unit vectors f32[B,D] of utterances."""
        return unit_latent(self.latent("speech", self.speech_features(waveform, num_samples)))

    def unit_prototypes(self) -> Tensor:
        """Labels as points of the space f32[L,D]: the classifiers' mean weights, non-negative as V is, of length 1.

        A network of scene classes knows no labels: f32[0,D].
        """
        if not self.settings.multi_label:
            return next(self.parameters()).new_zeros(0, self.config.dim)
        weights = torch.stack([self.classifiers.get_parameter(f"{name}.weight") for name in self.config.modalities])
        return unit_latent(F.relu(weights.float().mean(dim=0)))

    def _features_of(self, name: str) -> nn.Module:
        settings = self.settings
        if name == "speech":
            speech = self.config.speech
            return SpeechFeatures(speech.input_dim if speech.kind == "features" else None, settings.feature_dim)
        bands, size_px = settings.num_bands[name], settings.chip_size_px[name]  # type: ignore[index]
        return ConvFeatures(bands, size_px, settings.feature_dim, settings.hidden_dim)

    def _no_tower(self, modality: str) -> DataError:
        expected = " or ".join(self.config.modalities)
        return DataError("this network has no tower for the modality", seen=modality, expected=expected)


def unit_latent(v: Tensor) -> Tensor:
    """V f32[B,D] scaled to length 1; an all-zero row becomes the diagonal, so that a collapsed V scores chance."""
    v = v.float()
    alive = v.norm(dim=1, keepdim=True) > 1e-12
    return F.normalize(torch.where(alive, v, torch.ones_like(v)), dim=1)
