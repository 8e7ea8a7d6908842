"""Chips f32[B,C,H,W] of any image modality and any number of bands -> features f32[B,F]: what there is, and where.

A stem per modality, one residual trunk for all. A stem is a small hypernetwork: the kernel of every band is generated
from the band's centre wavelength, so bands may be missing, added or reordered without another tensor. The idea of
generating input kernels from wavelengths is DOFA's (Xiong et al., 2024); a shared trunk under modality-specific stems
is what PAN-MS retrieval gains from (PAPER, section 5). A stem sees every band twice, as it is and by its local
contrast: haze takes most of the contrast of a part of a chip and adds light to it, and what is left is as legible as
the rest once each place is measured by its own surroundings, which convolutions cannot do (Jarrett et al., "What is the
best multi-stage architecture for object recognition?", 2009, section 2).

The trunk normalises by groups of channels within a chip, never over the batch: an embedding does not depend on its
batch-mates or on the number of workers, and on CPUs it trains several times faster than batch norm. Convolution weights
are standardised (Qiao et al., "Micro-batch training with batch-channel normalization and weight standardization", 2019)
and blocks are pre-activated (He et al., "Identity mappings in deep residual networks", 2016).
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cmir.archive.schema import IMAGE_MODALITIES, Modality

_STEM_STRIDE: Final = 4
_GROUP_CHANNELS: Final = 16  # channels normalised together (Wu and He, "Group normalization", 2018)
# Octaves of log wavelength: 300 nm .. 15 um is 5.6 of them, the finest wave resolves 1/16 octave (30 nm in green).
_NUM_FREQUENCIES: Final = 6
NUM_BAND_NUMBERS: Final = 2 * _NUM_FREQUENCIES + 2  # what `describe_bands` tells of each band
_REFERENCE_NM: Final = 550.0
_LEAST_CONTRAST: Final = 0.03  # in deviations of a sensor's pixels
_RELU_GAIN: Final = math.sqrt(2.0)  # keeps the variance through a ReLU (He et al., 2015)


class ImageTowerConfig(BaseModel):
    """Sizes of the image tower; the default has 1.7 M parameters and costs 0.25 G multiply-adds for a 128 px chip."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[Modality, ...] = Field(default=IMAGE_MODALITIES, description="image modalities that get a stem")
    width: int = Field(default=192, ge=32, multiple_of=4, description="channels of the last stage")
    depths: tuple[int, ...] = Field(default=(2, 2, 2), min_length=1, description="residual blocks of each stage")
    stem_kernel_px: int = Field(default=6, ge=4, le=16, multiple_of=2, description="side of the stem's kernels")
    num_kernel_bases: int = Field(default=16, ge=1, description="kernels that a band's own kernel is mixed from")
    contrast_reach_px: int = Field(default=4, ge=1, le=32, description="how far around a pixel contrast is taken")
    layout_cells: int = Field(
        default=4,
        ge=0,
        description="cells along each side of the layout, 0 for none; they overlap where 64 px do not divide chips",
    )
    layout_channels: int = Field(default=16, ge=1, description="what the layout tells of each cell")

    @property
    def num_features(self) -> int:
        """F: the means of all channels over the chip, then the layout, cell by cell."""
        return self.width + self.layout_channels * self.layout_cells**2

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage: the last has `width`, each one before it half, at least 32."""
        count = len(self.depths)
        return (*(max(32, self.width >> (count - 1 - stage)) for stage in range(count - 1)), self.width)


class BandStem(nn.Module):
    """Chips of C bands -> f32[B,channels,H/4,W/4], with two kernels per band, generated from its wavelength.

    kernel[o,c,s] = sum_r mix[c,s,r] * basis[s,r,o], mix = MLP(waves of log2 wavelength) / sqrt(C); s is 0 for the band
    and 1 for its local contrast. A band without a known wavelength is told by a flag and its place among the bands
    instead.
    """

    def __init__(self, channels: int, kernel_px: int, num_bases: int, contrast_reach_px: int) -> None:
        super().__init__()
        self.padding = (kernel_px - _STEM_STRIDE) // 2
        self.contrast_reach_px = contrast_reach_px
        fan_in = kernel_px * kernel_px
        self.bases = nn.Parameter(torch.randn(2, num_bases, channels, kernel_px, kernel_px) / math.sqrt(fan_in))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.mixer = nn.Sequential(
            nn.Linear(NUM_BAND_NUMBERS, 64), nn.GELU(), nn.Linear(64, 2 * num_bases), nn.LayerNorm(2 * num_bases)
        )

    def forward(self, x_BCHW: Tensor, wavelength_nm_C: Tensor) -> Tensor:
        num_bases = self.bases.shape[1]
        mix_CSR = self.mixer(describe_bands(wavelength_nm_C.to(x_BCHW.device))).unflatten(1, (2, num_bases))
        scale = 1.0 / math.sqrt(len(mix_CSR) * num_bases)
        kernel_OCkk = torch.einsum("csr,sroij->ocsij", mix_CSR * scale, self.bases).flatten(1, 2)
        x_BC2HW = torch.stack([x_BCHW, local_contrast(x_BCHW, self.contrast_reach_px)], dim=2)
        features: Tensor = F.conv2d(
            x_BC2HW.flatten(1, 2), kernel_OCkk, self.bias, stride=_STEM_STRIDE, padding=self.padding
        )
        return features


def local_contrast(x_BCHW: Tensor, reach_px: int) -> Tensor:
    """Chips f32[B,C,H,W] less their mean up to `reach_px` around, divided by the deviation of all bands there.

    Where there is next to no contrast (0.03 of a deviation of the sensor's) it fades instead of becoming noise. Means
    are taken along one side after the other by a matrix product, which takes a tenth of the time of pooling on CPUs,
    and in single precision: the difference of two nearly equal numbers is what counts.
    """
    with torch.autocast(x_BCHW.device.type, enabled=False):
        x_BCHW = x_BCHW.float()
        rows_HH, columns_WW = (_neighbour_shares(side, reach_px, x_BCHW) for side in x_BCHW.shape[2:])
        detail = x_BCHW - rows_HH @ (x_BCHW @ columns_WW.T)
        power_B1HW = rows_HH @ (detail.square().mean(dim=1, keepdim=True) @ columns_WW.T)
        return detail * torch.rsqrt(power_B1HW + _LEAST_CONTRAST**2)


def _neighbour_shares(side: int, reach: int, like: Tensor) -> Tensor:
    """f32[side,side]: row i averages the places up to `reach` from i, fewer at the ends."""
    place = torch.arange(side, device=like.device)
    near = ((place[:, None] - place).abs() <= reach).to(like.dtype)
    return near / near.sum(dim=1, keepdim=True)


class GsdModulation(nn.Module):
    """Scales and shifts channels by the ground sampling distance (FiLM: Perez et al., 2018); starts as the identity.

    Where the gsd is not known (nan) it stays the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * _NUM_FREQUENCIES, 32), nn.GELU(), nn.Linear(32, 2 * channels))
        nn.init.zeros_(self.layers[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.layers[2].bias)  # type: ignore[arg-type]

    def forward(self, x_BCHW: Tensor, gsd_m_B: Tensor) -> Tensor:
        known_B = torch.isfinite(gsd_m_B) & (gsd_m_B > 0)
        # 0.01 m .. 10 km is 20 octaves: an eighth of the angle that wavelengths have
        waves = _waves(torch.where(known_B, gsd_m_B, torch.ones_like(gsd_m_B)).log2() / 8.0)
        scale_BC, shift_BC = (self.layers(waves) * known_B[:, None]).chunk(2, dim=1)
        modulated: Tensor = x_BCHW * (1.0 + scale_BC[:, :, None, None]) + shift_BC[:, :, None, None]
        return modulated


class StandardConv(nn.Module):
    """A 3x3 convolution whose kernels are brought to mean 0 and the variance that a ReLU before it asks for.

    That is a layer norm over each kernel, one fused operation. A row of `weight`, f32[out, 3 * 3 * in], is a kernel
    that lies channels last, as convolutions on CPUs take a third less time with. At batches of tens of chips both
    together save a tenth of a step.
    """

    gain: Tensor

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        fan_in = 9 * channels_in
        self.weight = nn.Parameter(torch.empty(channels_out, fan_in).uniform_(-1, 1) / math.sqrt(fan_in))
        self.register_buffer("gain", torch.full((fan_in,), _RELU_GAIN / math.sqrt(fan_in)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernels = F.layer_norm(self.weight, self.gain.shape, weight=self.gain, eps=1e-10)
        kernels_OIkk = kernels.view(len(kernels), 3, 3, -1).permute(0, 3, 1, 2)
        return F.conv2d(x, kernels_OIkk, None, self.stride, 1)


class ResidualBlock(nn.Module):
    """norm, ReLU, 3x3, norm, ReLU, 3x3, added to the (pooled and widened) input with a learned gain."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm_in = _norm(channels_in)
        self.conv_in = StandardConv(channels_in, channels_out, stride)
        self.norm_out = _norm(channels_out)
        self.conv_out = StandardConv(channels_out, channels_out)
        self.gain = nn.Parameter(torch.tensor(0.2))
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.widen = nn.Conv2d(channels_in, channels_out, 1, bias=False) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv_out(F.relu(self.norm_out(self.conv_in(F.relu(self.norm_in(x))))))
        shortcut = self.pool(x)
        if self.widen is not None:
            shortcut = self.widen(shortcut)
        joined: Tensor = shortcut + self.gain * residual
        return joined


class ImageTower(nn.Module):
    """Stems for `config.modalities` under one trunk."""

    def __init__(self, config: ImageTowerConfig) -> None:
        super().__init__()
        widths = config.stage_widths
        self.stems = nn.ModuleDict(
            {
                name: BandStem(widths[0], config.stem_kernel_px, config.num_kernel_bases, config.contrast_reach_px)
                for name in config.modalities
            }
        )
        self.gsd = GsdModulation(widths[0])
        blocks: list[nn.Module] = []
        for stage, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            for block in range(depth):
                first = block == 0
                width_in = widths[max(stage - 1, 0)] if first else width
                blocks.append(ResidualBlock(width_in, width, 2 if first and stage > 0 else 1))
        self.trunk = nn.Sequential(*blocks)
        self.norm = _norm(widths[-1])
        self.layout = nn.Conv2d(config.width, config.layout_channels, 1) if config.layout_cells else None
        self.num_cells = config.layout_cells

    def kernels(self) -> list[nn.Parameter]:
        """The trunk's kernels, as rows f32[out,3*3*in]."""
        return [module.weight for module in self.trunk.modules() if isinstance(module, StandardConv)]

    def forward(self, modality: str, x_BCHW: Tensor, wavelength_nm_C: Tensor, gsd_m_B: Tensor) -> Tensor:
        """Features f32[B,num_features].

        Args:
            modality: one of the config's; KeyError otherwise (the network refuses others first).
            x_BCHW: f32[B,C,H,W], normalised; H and W at least 16.
            wavelength_nm_C: f32[C], band centres in nanometres, nan where not known.
            gsd_m_B: f32[B], metres of ground per pixel of the original chip, nan where not known.
        """
        return self.features(self.stem(modality, x_BCHW, wavelength_nm_C, gsd_m_B))

    def stem(self, modality: str, x_BCHW: Tensor, wavelength_nm_C: Tensor, gsd_m_B: Tensor) -> Tensor:
        """What the trunk takes, f32[B,channels,H/4,W/4], of chips as `forward` takes them."""
        x = self.stems[modality](x_BCHW, wavelength_nm_C)
        modulated: Tensor = self.gsd(x, gsd_m_B.to(x.device))
        return modulated.contiguous(memory_format=torch.channels_last)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Features f32[B,num_features] of what stems made, of any modalities."""
        x = F.relu(self.norm(self.trunk(x_BCHW)))
        means: Tensor = x.mean(dim=(2, 3))
        if self.layout is None:
            return means
        cells = F.adaptive_avg_pool2d(self.layout(x), self.num_cells)
        return torch.cat([means, cells.flatten(1)], dim=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // _GROUP_CHANNELS), channels)


def _waves(octaves: Tensor) -> Tensor:
    """f32[N] -> f32[N, 2F]: sines and cosines of the value at doubling frequencies."""
    frequencies = (2.0 ** torch.arange(_NUM_FREQUENCIES, device=octaves.device)) * (math.pi / 8.0)
    angles = octaves[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def describe_bands(wavelength_nm: Tensor) -> Tensor:
    """f32[C], nan for unknown -> f32[C, 2F + 2]: waves of log wavelength, whether it is unknown, place if so."""
    unknown = ~torch.isfinite(wavelength_nm) | (wavelength_nm <= 0)
    octaves = torch.where(unknown, torch.full_like(wavelength_nm, _REFERENCE_NM), wavelength_nm)
    waves = _waves((octaves / _REFERENCE_NM).log2())
    place = torch.arange(len(wavelength_nm), device=wavelength_nm.device) / 16.0
    flags = torch.stack([unknown.float(), unknown * place], dim=1)
    return torch.cat([waves * ~unknown[:, None], flags], dim=1)
