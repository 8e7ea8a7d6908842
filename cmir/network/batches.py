"""Decoded items -> a batch: parts that stack, and the targets of all their rows.

A cached chip is what `Preprocessing` makes of it, at a size a little above the tower's, in 8 bits: steps of 1/16 of a
standard deviation, clipped at 8. Chips stack where modality and wavelengths agree, utterances where their lengths are
of one class (up to 1 s, 2 s, 4 s, ...): most are short, and padding all to the longest doubles the cost of speech.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmir.archive.schema import MODALITIES, Modality
from cmir.network.catalogue import Catalogue
from cmir.network.objectives.contrastive import Targets
from cmir.network.preprocessing import Preprocessing

# A crop of 64% of a chip's area still has the tower's working size: sqrt(0.64) * 1.25 = 1.
CACHE_MARGIN: Final = 1.25
_STEPS_PER_STD: Final = 16.0


@dataclass(frozen=True, slots=True, eq=False)
class CachedChip:
    """Item `item` of the catalogue: pixels int8[C,h,w] in sixteenths of a standard deviation."""

    item: int
    modality: Modality
    pixels: npt.NDArray[np.int8]
    wavelength_nm: tuple[float, ...]
    gsd_m: float


@dataclass(frozen=True, slots=True, eq=False)
class CachedSpeech:
    """Item `item` of the catalogue: a waveform int16[T], or features f32[F]."""

    item: int
    sound: npt.NDArray[np.int16] | npt.NDArray[np.float32]


CachedItem = CachedChip | CachedSpeech


@dataclass(frozen=True)
class ImagePart:
    """Chips of one modality and one set of bands: pixels int8[B,C,h,w], wavelength_nm f32[C], gsd_m f32[B]."""

    modality: Modality
    quantised: Tensor
    wavelength_nm: Tensor
    gsd_m: Tensor

    def pixels(self, device: torch.device | str) -> Tensor:
        """Normalised pixels f32[B,C,h,w] on a device."""
        return self.quantised.to(device).float() / _STEPS_PER_STD


@dataclass(frozen=True)
class SpeechPart:
    """Utterances: waveform f32[B,T] zero-padded and num_samples i64[B]; or features f32[B,F] and F in num_samples."""

    waveform: Tensor
    num_samples: Tensor
    is_features: bool


@dataclass(frozen=True)
class Batch:
    """Parts of one training batch; `targets` has a row per item, image parts first, then speech."""

    images: tuple[ImagePart, ...]
    speech: tuple[SpeechPart, ...]
    targets: Targets

    @property
    def num_items(self) -> int:
        """Chips and utterances."""
        return len(self.targets.modality)


def quantise(normalised: Tensor) -> npt.NDArray[np.int8]:
    """f32[C,h,w] of mean 0 and deviation 1 -> int8[C,h,w]."""
    steps = (normalised * _STEPS_PER_STD).round().clamp(-127, 127)
    quantised: npt.NDArray[np.int8] = steps.to(torch.int8).numpy()
    return quantised


def collate(items: Sequence[CachedItem], catalogue: Catalogue, preprocessing: Preprocessing) -> Batch:
    """A batch of items in the order: image parts, waveforms, features; within a part in the order given."""
    chips: dict[tuple[str, str], list[CachedChip]] = {}
    sounds: dict[tuple[bool, int], list[CachedSpeech]] = {}
    for item in items:
        if isinstance(item, CachedChip):
            # nan is not equal to itself, so unknown wavelengths are compared as text
            chips.setdefault((item.modality, str(item.wavelength_nm)), []).append(item)
        else:
            is_features = item.sound.dtype == np.float32
            length = len(item.sound) if is_features else _length_class(len(item.sound), preprocessing.sample_rate_hz)
            sounds.setdefault((is_features, length), []).append(item)
    images = [chips[key] for key in sorted(chips)]
    speech = [(sounds[key], key[0]) for key in sorted(sounds)]
    numbers = [chip.item for part in images for chip in part] + [entry.item for part, _ in speech for entry in part]
    return Batch(
        tuple(_image_part(part) for part in images),
        tuple(_speech_part(part, is_features, preprocessing) for part, is_features in speech),
        targets_of(np.array(numbers, np.int64), catalogue),
    )


def targets_of(items: npt.NDArray[np.int64], catalogue: Catalogue) -> Targets:
    """What the catalogue knows of the items, as tensors."""
    return Targets(
        modality=torch.from_numpy(catalogue.modality[items].astype(np.int64)),
        labels=torch.from_numpy(catalogue.labels[items]).float(),
        has_labels=torch.from_numpy(catalogue.has_labels[items]),
        class_id=torch.from_numpy(catalogue.class_id[items]),
        pair_id=torch.from_numpy(catalogue.pair_id[items]),
    )


def modality_index(modality: Modality) -> int:
    """The number that stands for a modality in `Targets`."""
    return MODALITIES.index(modality)


def _length_class(num_samples: int, sample_rate_hz: int) -> int:
    """0 up to one second, 1 up to two, 2 up to four, ...: few classes, since batch norm needs company."""
    return max(0, math.ceil(math.log2(max(num_samples, 1) / sample_rate_hz)))


def _image_part(chips: Sequence[CachedChip]) -> ImagePart:
    return ImagePart(
        chips[0].modality,
        torch.from_numpy(np.stack([chip.pixels for chip in chips])),
        torch.tensor(chips[0].wavelength_nm, dtype=torch.float32),
        torch.tensor([chip.gsd_m for chip in chips], dtype=torch.float32),
    )


def _speech_part(sounds: Sequence[CachedSpeech], is_features: bool, preprocessing: Preprocessing) -> SpeechPart:
    if is_features:
        features = preprocessing.feature_input([entry.sound.astype(np.float32) for entry in sounds])
        return SpeechPart(features, torch.full((len(features),), features.shape[1]), True)
    waveforms = [entry.sound.astype(np.float32) / 32767.0 for entry in sounds]
    return SpeechPart(*preprocessing.speech_input(waveforms), False)
