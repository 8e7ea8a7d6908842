"""Normalised chips -> varied ones, as if seen from elsewhere and by another instrument.

Overhead imagery has no up: chips are turned by quarters and mirrored (the eight symmetries of the square), and cut,
stretched and shifted by one affine resampling for the whole batch. Chips that show one ground keep showing the same of
it, up to an error of registration: where things lie is what tells one ground from the next. Then the instrument varies,
for each chip by itself: gain and offset of all bands and of each, blur (another MTF), noise; some chips are normalised
by themselves, as those of a sensor never seen will be. Multispectral chips lose some of their bands at times, as other
instruments have fewer. Everything is drawn from one generator, so a step's batch is the same after a resume.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from cmir.archive.schema import Modality
from cmir.network.bands import LEAST_BANDS, has_any_bands
from cmir.network.batches import CACHE_MARGIN, Batch, SpeechPart
from cmir.network.catalogue import UNKNOWN
from cmir.network.model import ImageInput
from cmir.network.objectives.contrastive import Targets
from cmir.network.preprocessing import own_moments

_LEAST_STD: Final = 0.02  # of a chip normalised by itself, where that of a whole sensor's pixels is 1


class ImageAugmentation(BaseModel):
    """How much chips vary; amounts of gain, offset and noise are in standard deviations of normalised pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_area: float = Field(default=0.6, gt=0, le=1, description="smallest part of a chip that a cut keeps")
    stretch: float = Field(default=0.15, ge=0, description="log of the largest change of aspect")
    registration: float = Field(default=0.02, ge=0, description="largest shift against the ground, in sides of a chip")
    gain: float = Field(default=0.2, ge=0, description="deviation of the contrast of all bands")
    offset: float = Field(default=0.2, ge=0, description="deviation of the brightness of all bands")
    band_offset: float = Field(default=0.1, ge=0, description="deviation of the brightness of each band")
    own_moments: float = Field(default=0.15, ge=0, le=1, description="share of chips normalised by themselves")
    fewer_bands: float = Field(default=0.2, ge=0, le=1, description="share of steps whose ms chips lose some bands")
    blur: float = Field(default=0.3, ge=0, le=1, description="share of chips that are blurred")
    noise: float = Field(default=0.1, ge=0, description="largest deviation of white noise")
    unknown_gsd: float = Field(default=0.3, ge=0, le=1, description="share of chips whose gsd is withheld")
    gsd_jitter: float = Field(default=0.2, ge=0, description="deviation of the log of the gsd that is told")


@dataclass(frozen=True)
class VariedBatch:
    """A batch as a network takes it, on its device: chips varied, sound as it is; `targets` in the same order."""

    images: tuple[ImageInput, ...]
    speech: tuple[SpeechPart, ...]
    targets: Targets

    @property
    def num_items(self) -> int:
        """Chips and utterances."""
        return len(self.targets.modality)


@torch.no_grad()
def vary_batch(
    batch: Batch,
    size_px: Mapping[Modality, int],
    settings: ImageAugmentation,
    generator: torch.Generator,
    device: torch.device,
) -> VariedBatch:
    """Bring a batch to the device and vary its chips, which get sides of `size_px`.

    Draws from `generator` alone, so that it may run in a thread while a step runs in another.
    """
    images = []
    for part, frames in zip(batch.images, draw_frames(batch, settings, generator), strict=True):
        side_px, pixels = size_px[part.modality], part.pixels(device)
        enough_px = round(side_px * CACHE_MARGIN)
        if pixels.shape[-1] > enough_px:  # while chips are small: the cut below would skip pixels
            pixels = F.interpolate(pixels, size=(enough_px, enough_px), mode="bilinear", antialias=True)
        bands = draw_bands(part.modality, len(part.wavelength_nm), settings, generator)
        pixels, gsd_m = augment_chips(pixels[:, bands], part.gsd_m, frames, side_px, settings, generator)
        images.append(ImageInput(part.modality, pixels, part.wavelength_nm[bands].to(device), gsd_m))
    speech = tuple(
        SpeechPart(part.waveform.to(device), part.num_samples.to(device), part.is_features) for part in batch.speech
    )
    return VariedBatch(tuple(images), speech, batch.targets.to(device))


def draw_frames(batch: Batch, settings: ImageAugmentation, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Where the chips of each image part are looked at, f32[B,2,3]: the same for all chips of one pair_id."""
    sizes = [len(part.gsd_m) for part in batch.images]
    pair_id = batch.targets.pair_id[: sum(sizes)]
    alone = -2 - torch.arange(len(pair_id))
    grounds, ground = torch.unique(torch.where(pair_id == UNKNOWN, alone, pair_id), return_inverse=True)
    frames = _random_frames(len(grounds), settings, generator)[ground]
    frames[:, :, 2] += torch.empty(len(pair_id), 2).uniform_(-2.0, 2.0, generator=generator) * settings.registration
    return torch.split(frames, sizes)


def draw_bands(modality: str, num_bands: int, settings: ImageAugmentation, generator: torch.Generator) -> list[int]:
    """The bands of an image part that are kept, in their order: all, or of a multispectral one LEAST_BANDS or more."""
    if not has_any_bands(modality) or num_bands <= LEAST_BANDS:
        return list(range(num_bands))
    if float(torch.rand((), generator=generator)) >= settings.fewer_bands:
        return list(range(num_bands))
    num_kept = int(torch.randint(LEAST_BANDS, num_bands, (), generator=generator))
    return sorted(torch.randperm(num_bands, generator=generator)[:num_kept].tolist())


def augment_chips(
    pixels: Tensor,
    gsd_m: Tensor,
    frames: Tensor,
    size_px: int,
    settings: ImageAugmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Normalised f32[B,C,h,w], gsd_m f32[B] and frames f32[B,2,3] -> f32[B,C,size,size] and gsd_m of the varied chips.

    `generator` lives on the CPU whatever the pixels' device, so that the same draws are made everywhere.
    """
    device, count = pixels.device, len(pixels)
    # on the CPU: autocast would round the places to bfloat16 on CUDA, a quarter of a pixel
    grid = F.affine_grid(frames, [count, pixels.shape[1], size_px, size_px], False).to(device)
    cut = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    blurred = (torch.rand(count, generator=generator) < settings.blur).to(device)
    if bool(blurred.any()):
        strength = torch.rand(count, 1, 1, 1, generator=generator).to(device) * blurred[:, None, None, None]
        smooth = F.avg_pool2d(F.pad(cut, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        cut = torch.lerp(cut, smooth, strength)
    return _vary_radiometry(cut, settings, generator), _vary_gsd(gsd_m.to(device), settings, generator)


def _random_frames(count: int, settings: ImageAugmentation, generator: torch.Generator) -> Tensor:
    """f32[B,2,3]: where each output looks in its input: a cut, stretched, mirrored, turned by quarters, shifted."""

    def draw(low: float, high: float, *columns: int) -> Tensor:
        return torch.empty(count, *columns).uniform_(low, high, generator=generator)

    side = draw(settings.min_area, 1.0).sqrt()
    aspect = draw(-settings.stretch, settings.stretch).exp()
    width, height = (side * aspect).clamp(max=1.0), (side / aspect).clamp(max=1.0)
    quarter = torch.randint(0, 4, (count,), generator=generator) * (math.pi / 2)
    mirror = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0
    turn = torch.stack([quarter.cos(), -quarter.sin(), quarter.sin(), quarter.cos()], dim=1).view(count, 2, 2)
    scale = torch.diag_embed(torch.stack([width * mirror, height], dim=1))
    frames = turn @ scale
    room = 1.0 - frames.abs().sum(dim=2)  # a quarter turn swaps the sides: room along each axis of the input
    shift = draw(-1.0, 1.0, 2) * room.clamp(min=0.0)
    return torch.cat([frames, shift[:, :, None]], dim=2)


def _vary_radiometry(pixels: Tensor, settings: ImageAugmentation, generator: torch.Generator) -> Tensor:
    count, bands = pixels.shape[:2]

    def normal(channels: int, amount: float) -> Tensor:
        return (torch.randn(count, channels, 1, 1, generator=generator) * amount).to(pixels.device)

    if settings.own_moments:
        alone = (torch.rand(count, 1, 1, 1, generator=generator) < settings.own_moments).to(pixels.device)
        mean, std = own_moments(pixels, _LEAST_STD)
        pixels = torch.where(alone, (pixels - mean) / std, pixels)
    varied = pixels * normal(1, settings.gain).exp()
    varied = varied + normal(1, settings.offset) + normal(bands, settings.band_offset)
    if not settings.noise:
        return varied
    deviation = torch.rand(count, 1, 1, 1, generator=generator).square().to(pixels.device) * settings.noise
    return varied + torch.randn(pixels.shape, generator=generator).to(pixels.device) * deviation


def _vary_gsd(gsd_m: Tensor, settings: ImageAugmentation, generator: torch.Generator) -> Tensor:
    jitter = (torch.randn(len(gsd_m), generator=generator) * settings.gsd_jitter).exp().to(gsd_m.device)
    withheld = (torch.rand(len(gsd_m), generator=generator) < settings.unknown_gsd).to(gsd_m.device)
    return torch.where(withheld, torch.full_like(gsd_m, math.nan), gsd_m * jitter)
