"""Utterances f32[B,T] -> features f32[B,H] by a pretrained speech encoder: wav2vec2, HuBERT, WavLM, Whisper's.

Features are the mean over an utterance's own frames, of every layer; a learned mixture of the layers says which of them
to listen to, since what tells words apart lies in the middle ones of a frozen encoder (Yang et al., "SUPERB", 2021).

Padding does not change an utterance's features:

- wav2vec2, HuBERT and WavLM mask what lies beyond the end. Where their first layer normalises over time (the base
  models), the padding would still count: there the statistics are taken over the utterance's own frames here. Base
  models were trained without any mask, on padded batches; on a single utterance theirs and ours agree.
- Whisper knows no mask: it was trained on 30 s, silence filling what speech leaves. Here its window is as long as the
  longest utterance that is embedded (8 s by default), always whole, so that every utterance sees the same silence
  whatever its batch, at a quarter of the cost. Its figures for windows that short are not those of its makers.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, JsonValue
from torch import Tensor, nn

from cmir.archive.speech import SAMPLE_RATE_HZ
from cmir.network.speech_tower import frame_mask
from cmir.network.transformers_import import import_transformers, refused

SpeechFamily = Literal["wav2vec2", "hubert", "wavlm", "whisper"]
# Whisper's front end (Radford et al., "Robust speech recognition via large-scale weak supervision", 2022, section 2.2)
_FFT_SAMPLES: Final = 400
_HOP_SAMPLES: Final = 160
WHISPER_FRAME_SAMPLES: Final = 2 * _HOP_SAMPLES  # its second convolution halves the frames
_DECADES: Final = 8.0  # what lies further below the loudest value of an utterance is cut off


class PretrainedSpeechConfig(BaseModel):
    """A speech encoder inside our network: `transformer` is its own config.json, complete.

    `normalise` brings each utterance to mean 0 and deviation 1 first, as the feature extractor of some of them does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: SpeechFamily
    transformer: dict[str, JsonValue]
    normalise: bool = False

    @property
    def width(self) -> int:
        """Components of a frame, H."""
        return self._number("d_model" if self.family == "whisper" else "hidden_size")

    @property
    def num_layers(self) -> int:
        """Hidden states that are mixed: what enters the first layer, then what leaves each."""
        return self._number("encoder_layers" if self.family == "whisper" else "num_hidden_layers") + 1

    def _number(self, key: str) -> int:
        return int(str(self.transformer[key]))


class PretrainedSpeechTower(nn.Module):
    """A speech encoder and the mixture of its layers; Whisper's decoder is left out."""

    def __init__(self, config: PretrainedSpeechConfig) -> None:
        super().__init__()
        self.config = config
        model_type = speech_model(config.family)
        with refused("cannot build the speech tower", where=config.family):
            self.backbone = model_type(model_type.config_class.from_dict(config.transformer))
        self.listen: WhisperInput | WaveformInput
        if config.family == "whisper":
            self.listen = WhisperInput(self.backbone.config.num_mel_bins, self.backbone.config.max_source_positions)
        else:
            self.listen = WaveformInput(self.backbone.config, normalise=config.normalise)
            _norm_over_own_frames(self.backbone)
        self.layer_mix = nn.Parameter(torch.zeros(config.num_layers))

    def train(self, mode: bool = True) -> "PretrainedSpeechTower":
        """As of any module, but a frozen encoder keeps embedding as it does when it is not trained."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """f32[B,H] of utterances f32[B,T] (16 kHz, zero-padded, `num_samples_B` real)."""
        with torch.autocast(waveform_BT.device.type, enabled=False):
            inputs, num_samples_B = self.listen(waveform_BT.float(), num_samples_B)
        with _own_samples(num_samples_B):
            states = self.backbone(**inputs, output_hidden_states=True).hidden_states
        mask_BF = frame_mask(self.listen.num_frames(num_samples_B), states[0].shape[1])[:, 0]
        share_BF = mask_BF / mask_BF.sum(dim=1, keepdim=True)
        means_LBH = torch.stack([torch.einsum("bf,bfh->bh", share_BF, state.float()) for state in states])
        balanced_LBH = F.layer_norm(means_LBH, means_LBH.shape[-1:])  # layers differ in scale by magnitudes
        mixed: Tensor = torch.einsum("l,lbh->bh", self.layer_mix.softmax(0), balanced_LBH)
        return mixed


class WaveformInput(nn.Module):
    """What wav2vec2, HuBERT and WavLM take: samples, and which of them are real."""

    def __init__(self, transformer: object, *, normalise: bool) -> None:
        super().__init__()
        kernels, strides = vars(transformer)["conv_kernel"], vars(transformer)["conv_stride"]
        self.layers = list(zip(kernels, strides, strict=True))
        self.normalise = normalise
        self.shortest = 1  # samples that one frame is made of; what is shorter counts as having silence at its end
        for kernel, stride in reversed(self.layers):
            self.shortest = (self.shortest - 1) * stride + kernel

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """f32[B,T] -> the model's arguments, and how many samples count as real."""
        waveform_BT = F.pad(waveform_BT, (0, max(0, self.shortest - waveform_BT.shape[1])))
        num_samples_B = num_samples_B.clamp(min=self.shortest)
        mask_BT = frame_mask(num_samples_B, waveform_BT.shape[1])[:, 0]
        if self.normalise:  # as Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm
            mean_B1 = waveform_BT.sum(dim=1, keepdim=True) / num_samples_B[:, None]
            centred_BT = (waveform_BT - mean_B1) * mask_BT
            variance_B1 = centred_BT.square().sum(dim=1, keepdim=True) / num_samples_B[:, None]
            waveform_BT = centred_BT / (variance_B1 + 1e-7).sqrt()
        return {"input_values": waveform_BT, "attention_mask": mask_BT.long()}, num_samples_B

    def num_frames(self, num_samples_B: Tensor) -> Tensor:
        """Frames that are made of real samples alone."""
        return _num_frames(num_samples_B, self.layers)


class WhisperInput(nn.Module):
    """Whisper's log-mel of its whole window: 25 ms Hann windows, hop 10 ms, Slaney's mels up to 8 kHz, decades."""

    filters_KM: Tensor
    window: Tensor

    def __init__(self, num_mels: int, num_positions: int) -> None:
        super().__init__()
        import_transformers()
        from transformers.audio_utils import mel_filter_bank

        filters_KM = mel_filter_bank(
            _FFT_SAMPLES // 2 + 1, num_mels, 0.0, 8000.0, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        self.num_samples = num_positions * WHISPER_FRAME_SAMPLES
        self.register_buffer("filters_KM", torch.from_numpy(filters_KM).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(_FFT_SAMPLES), persistent=False)

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """f32[B,T], cut or filled with silence to the window -> the model's argument, and the real samples left."""
        whole_BT = F.pad(waveform_BT, (0, self.num_samples - waveform_BT.shape[1]))  # a negative pad cuts
        spectrum_BKF = torch.stft(whole_BT, _FFT_SAMPLES, _HOP_SAMPLES, window=self.window, return_complex=True)
        power_BKF = spectrum_BKF[..., :-1].abs().square()
        log_BMF = (self.filters_KM.T @ power_BKF).clamp(min=1e-10).log10()
        log_BMF = log_BMF.maximum(log_BMF.amax(dim=(1, 2), keepdim=True) - _DECADES)
        return {"input_features": (log_BMF + 4.0) / 4.0}, num_samples_B.clamp(min=1, max=self.num_samples)

    def num_frames(self, num_samples_B: Tensor) -> Tensor:
        """Frames in which there is a real sample."""
        return torch.div(num_samples_B + WHISPER_FRAME_SAMPLES - 1, WHISPER_FRAME_SAMPLES, rounding_mode="floor")


class OwnFramesNorm(nn.GroupNorm):
    """A group norm with one group per channel whose statistics are those of each utterance's own frames."""

    def __init__(self, norm: nn.GroupNorm, kernel: int, stride: int) -> None:
        super().__init__(norm.num_groups, norm.num_channels, norm.eps)
        self.kernel, self.stride = kernel, stride
        self.load_state_dict(norm.state_dict())

    def forward(self, x_BCF: Tensor) -> Tensor:
        num_samples_B = _num_samples.get()
        assert num_samples_B is not None, "the tower tells the lengths"
        mask_B1F = frame_mask(_num_frames(num_samples_B, [(self.kernel, self.stride)]), x_BCF.shape[-1])
        exact_BCF, count_B11 = x_BCF.float(), mask_B1F.sum(dim=2, keepdim=True)
        mean_BC1 = (exact_BCF * mask_B1F).sum(dim=2, keepdim=True) / count_B11
        centred_BCF = (exact_BCF - mean_BC1) * mask_B1F
        variance_BC1 = centred_BCF.square().sum(dim=2, keepdim=True) / count_B11
        normed_BCF = centred_BCF / (variance_BC1 + self.eps).sqrt()
        return normed_BCF * self.weight[:, None] + self.bias[:, None]


# The lengths of the batch that this thread is embedding: transformers hands no mask to its convolutions.
_num_samples: ContextVar[Tensor | None] = ContextVar("num_samples", default=None)


@contextmanager
def _own_samples(num_samples_B: Tensor) -> Iterator[None]:
    token = _num_samples.set(num_samples_B)
    try:
        yield
    finally:
        _num_samples.reset(token)


def _norm_over_own_frames(backbone: nn.Module) -> None:
    for layer in backbone.feature_extractor.conv_layers:  # type: ignore[union-attr]
        if isinstance(norm := getattr(layer, "layer_norm", None), nn.GroupNorm):
            layer.layer_norm = OwnFramesNorm(norm, layer.conv.kernel_size[0], layer.conv.stride[0])


def _num_frames(num_samples_B: Tensor, layers: list[tuple[int, int]]) -> Tensor:
    """What convolutions without padding, of given kernels and strides, leave of so many samples."""
    for kernel, stride in layers:
        num_samples_B = torch.div(num_samples_B - kernel, stride, rounding_mode="floor") + 1
    return num_samples_B


def whisper_positions(longest_s: float, limit: int) -> int:
    """Positions of a window for utterances up to `longest_s`, at most `limit` (30 s)."""
    return min(limit, math.ceil(longest_s * SAMPLE_RATE_HZ / WHISPER_FRAME_SAMPLES))


def speech_model(family: SpeechFamily) -> Any:
    """The class of transformers for a family. Raises ConfigError where the package is not installed."""
    hf = import_transformers()
    match family:
        case "wav2vec2":
            return hf.Wav2Vec2Model
        case "hubert":
            return hf.HubertModel
        case "wavlm":
            return hf.WavLMModel
        case "whisper":
            from transformers.models.whisper.modeling_whisper import WhisperEncoder

            return WhisperEncoder
