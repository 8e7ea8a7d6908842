"""Batches of utterances as a microphone, a room, a telephone or another speaker would have made them (training only).

All filters of an utterance (room, spectral tilt, band limits) are multiplied into one transfer function and applied by
one FFT per batch. Each effect is drawn per utterance from torch's own generator; waveforms stay on their device.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLE_RATE_HZ: Final = 16_000
_NOISE_BINS: Final = 1 << 20
_MOST_CUT: Final = 0.15  # of an utterance, at each end


@dataclass(frozen=True, slots=True)
class SpeechAugmentation:
    """How often (shares 0..1) and how much; the defaults were chosen on held-out synthetic voices."""

    speed_share: float = 0.8
    speed_range: tuple[float, float] = (0.82, 1.22)  # pitch, formants and tempo together
    room_share: float = 0.4
    reverberation_s: tuple[float, float] = (0.08, 0.5)  # RT60
    tilt_db_per_octave: float = 3.0  # largest, either way, around 1 kHz
    narrow_share: float = 0.35  # nothing above 3.3 to 4 kHz, as sampled at 8 kHz
    telephone_share: float = 0.5  # of the narrow ones: nothing below 300 Hz either, ITU-T G.712
    noise_share: float = 0.7
    snr_db: tuple[float, float] = (5.0, 35.0)
    clipping_share: float = 0.1
    clipping_level: tuple[float, float] = (0.2, 0.8)  # of the peak
    shift_s: float = 0.15  # most silence put before and after
    tight_share: float = 0.3  # of words: recordings that begin and end with them, or cut into them; no silence around
    word_s: float = 1.1  # what is no longer is taken for a word
    cut_s: tuple[float, float] = (0.03, 0.09)  # taken off at each end of those; voices keep 0.05 s of silence there

    def scaled(self, strength: float) -> Self:
        """Every effect less often or smaller: at strength 0 there is none, at 1 these settings."""
        return replace(
            self,
            speed_share=self.speed_share * strength,
            room_share=self.room_share * strength,
            tilt_db_per_octave=self.tilt_db_per_octave * strength,
            narrow_share=self.narrow_share * strength,
            noise_share=self.noise_share * strength,
            clipping_share=self.clipping_share * strength,
            shift_s=self.shift_s * strength,
            tight_share=self.tight_share * strength,
        )


class SpeechAugmenter(nn.Module):
    """Waveforms in, changed waveforms out; an own random draw for each utterance."""

    noise_NP: Tensor

    def __init__(self, settings: SpeechAugmentation | None = None) -> None:
        super().__init__()
        self.full = self.settings = settings or SpeechAugmentation()
        generator = torch.Generator().manual_seed(0)  # the same after a resume
        self.register_buffer("noise_NP", torch.randn(_NOISE_BINS, 2, generator=generator), persistent=False)

    def set_strength(self, strength: float) -> None:
        """Scale all effects from now on, 0..1."""
        self.settings = self.full.scaled(strength)

    def forward(self, waveform_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """f32[B,T] zero-padded and i64[B] -> f32[B,T'] zero-padded and i64[B]; T' fits the longest."""
        with torch.no_grad():
            moved_BT, length_B = self._respace(waveform_BT, num_samples_B)
            changed_BT = self._filter_and_add_noise(moved_BT, length_B)
            self._clip(changed_BT)
            for waveform_T, length in zip(changed_BT, length_B.tolist(), strict=True):
                waveform_T[length:] = 0.0
            return changed_BT, length_B

    def _respace(self, waveform_BT: Tensor, num_samples_B: Tensor) -> tuple[Tensor, Tensor]:
        """Another speed, by linear interpolation (faster is shorter and higher, as on a tape); more or less silence."""
        low, high = self.settings.speed_range
        is_word_B = num_samples_B <= self.settings.word_s * SAMPLE_RATE_HZ
        tight_B = is_word_B & _chosen(waveform_BT, self.settings.tight_share)
        cut_B2 = torch.stack([uniform(waveform_BT, *self.settings.cut_s) for _ in range(2)], dim=1) * SAMPLE_RATE_HZ
        cut_B2 = cut_B2.minimum(_MOST_CUT * num_samples_B[:, None]).long() * tight_B[:, None]
        num_samples_B = num_samples_B - cut_B2.sum(dim=1)
        factor_B = uniform(waveform_BT, low, high)
        factor_B = torch.where(_chosen(waveform_BT, self.settings.speed_share), factor_B, 1.0)
        most = int(self.settings.shift_s * SAMPLE_RATE_HZ)
        before_B, after_B = ((uniform(waveform_BT, 0.0, 1.0) * most * ~tight_B).long() for _ in range(2))
        spoken_B = (num_samples_B / factor_B).long().clamp(min=1)
        length_B = before_B + spoken_B + after_B
        moved_BT = waveform_BT.new_zeros(len(waveform_BT), int(length_B.max()))
        spans = zip(cut_B2[:, 0].tolist(), num_samples_B.tolist(), before_B.tolist(), spoken_B.tolist(), strict=True)
        # one gather of all rows at once takes five times as long
        for i, (cut, num_samples, before, spoken) in enumerate(spans):
            utterance = waveform_BT[i, None, None, cut : cut + num_samples]
            moved_BT[i, before : before + spoken] = F.interpolate(utterance, spoken, mode="linear")[0, 0]
        return moved_BT, length_B

    def _filter_and_add_noise(self, waveform_BT: Tensor, length_B: Tensor) -> Tensor:
        """Room, tilt and band as one product of spectra; noise is made as a spectrum too."""
        num_samples = waveform_BT.shape[1]
        tail = int(self.settings.reverberation_s[1] * SAMPLE_RATE_HZ)
        size = _fast_size(num_samples + tail)
        frequency_F = torch.fft.rfftfreq(size, 1.0 / SAMPLE_RATE_HZ, device=waveform_BT.device)
        spectrum_BF = torch.fft.rfft(waveform_BT, size)
        roomy = _chosen(waveform_BT, self.settings.room_share).nonzero()[:, 0]
        if len(roomy):
            spectrum_BF[roomy] *= torch.fft.rfft(self._room(waveform_BT[roomy], tail), size)
        parts_BFP = torch.view_as_real(
            spectrum_BF
        )  # real factors, in place: a complex product costs three times as much
        self._add_noise(parts_BFP, frequency_F, size / length_B)
        parts_BFP *= self._line(waveform_BT, frequency_F)[..., None]
        filtered: Tensor = torch.fft.irfft(spectrum_BF, size)[:, :num_samples]
        return filtered

    def _add_noise(self, parts_BFP: Tensor, frequency_F: Tensor, stretch_B: Tensor) -> None:
        """Add noise that falls by 0..6 dB per octave above 100 Hz, at a signal-to-noise ratio, to some spectra.

        `stretch_B`: samples of the transform, over which noise goes on, to those of the utterance.
        """
        noisy = _chosen(parts_BFP, self.settings.noise_share).nonzero()[:, 0]
        exponent_N, place_N = (uniform(noisy, 0.0, 1.0) for _ in range(2))
        ratio_N = torch.pow(10.0, -uniform(noisy, *self.settings.snr_db) / 20.0)
        octaves_F = (frequency_F.clamp(min=100.0) / 100.0).log()
        white_NFP = self._white(place_N, len(frequency_F))
        for i, exponent, ratio, white_FP in zip(noisy.tolist(), exponent_N, ratio_N, white_NFP, strict=True):
            shape_F = (octaves_F * -exponent).exp()
            level = (parts_BFP[i].square().mean() * stretch_B[i] / shape_F.square().mean()).sqrt() * ratio
            parts_BFP[i].addcmul_(white_FP, (shape_F * level)[:, None])

    def _white(self, place_N: Tensor, num_bins: int) -> Iterable[Tensor]:
        """Spectra f32[F,2] of white noise, cut from a long one: drawing each anew costs more than filtering."""
        spare = len(self.noise_NP) - num_bins
        if spare < num_bins:  # minutes of sound
            return torch.randn(len(place_N), num_bins, 2, device=place_N.device)
        return [self.noise_NP[start : start + num_bins] for start in (place_N * spare).long().tolist()]

    def _line(self, like_BT: Tensor, frequency_F: Tensor) -> Tensor:
        """Factors f32[B,F]: what microphone and line do to sound and noise alike."""
        slope_B = uniform(like_BT, -1.0, 1.0) * self.settings.tilt_db_per_octave
        octaves_F = (frequency_F.clamp(min=60.0) / 1000.0).log2()
        factor_BF = (octaves_F[None] * (slope_B * (math.log(10.0) / 20.0))[:, None]).exp_()
        narrow = _chosen(like_BT, self.settings.narrow_share).nonzero()[:, 0]
        factor_BF[narrow] *= self._narrow(narrow, frequency_F)
        return factor_BF

    def _narrow(self, like_N: Tensor, frequency_F: Tensor) -> Tensor:
        cutoff_N = uniform(like_N, 3300.0, 4000.0)
        low_NF = torch.sigmoid((cutoff_N[:, None] - frequency_F[None]) / 60.0)
        high_F = torch.sigmoid((frequency_F - 300.0) / 40.0)
        is_telephone_N = _chosen(like_N, self.settings.telephone_share)
        return torch.where(is_telephone_N[:, None], low_NF * high_F, low_NF)

    def _room(self, like_RT: Tensor, tail: int) -> Tensor:
        """Impulse responses f32[R,tail]: the direct sound, then noise that falls by 60 dB within the drawn RT60."""
        rt60_R = uniform(like_RT, *self.settings.reverberation_s)
        time_T = torch.arange(tail, device=like_RT.device) / SAMPLE_RATE_HZ
        decay_RT = torch.exp(-6.9078 * time_T[None] / rt60_R[:, None])  # ln(1000): 60 dB of amplitude
        echoes_RT = torch.randn(len(like_RT), tail, device=like_RT.device) * decay_RT
        energy_R = echoes_RT.square().sum(dim=1).sqrt()
        echoes_RT = echoes_RT * (uniform(like_RT, 0.2, 1.0) / energy_R)[:, None]
        echoes_RT[:, 0] += 1.0
        return echoes_RT

    def _clip(self, waveform_BT: Tensor) -> None:
        for i in _chosen(waveform_BT, self.settings.clipping_share).nonzero()[:, 0].tolist():
            level = uniform(waveform_BT[i, None], *self.settings.clipping_level)
            limit = waveform_BT[i].abs().amax() * level
            waveform_BT[i] = waveform_BT[i].clamp(-limit, limit)


def uniform(like: Tensor, low: float, high: float) -> Tensor:
    """One draw per row f32[B]."""
    return torch.empty(like.shape[0], device=like.device).uniform_(low, high)


def _chosen(like: Tensor, share: float) -> Tensor:
    return torch.rand(like.shape[0], device=like.device) < share


def inside(length_B: Tensor, total: int) -> Tensor:
    """bool[B,total]: positions before each length."""
    return torch.arange(total, device=length_B.device)[None] < length_B[:, None]


def _fast_size(least: int) -> int:
    """The smallest size of at least `least` samples that is 5, 6, 7 or 8 times a power of two: quick FFTs."""
    eighth = (1 << (least - 1).bit_length()) // 8
    return next(eighth * times for times in (5, 6, 7, 8) if eighth * times >= least)
