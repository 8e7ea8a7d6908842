"""Chips and utterances -> unit vectors f32[B,D] of one shared space.

`SharedSpaceNet` holds one image tower for all image modalities (modality-specific stems, one shared trunk), one speech
tower, and a projection head for each of the two kinds; every label has a prototype, a point of the same space, so that
words can be searched for and combined like items. Vectors are normalised in float32 also where the towers run in bf16.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from cmir.archive.schema import IMAGE_MODALITIES, MODALITIES, Modality
from cmir.errors import DataError
from cmir.network.image_tower import ImageTower, ImageTowerConfig
from cmir.network.pretrained_image import PretrainedImageConfig, PretrainedImageTower
from cmir.network.pretrained_speech import PretrainedSpeechConfig, PretrainedSpeechTower
from cmir.network.speech_tower import SpeechTower, SpeechTowerConfig

# Start of temperature and bias of the sigmoid loss, SigLIP (Zhai et al., ICCV 2023), section 3.2: t' = ln 10, b = -10.
INITIAL_LOGIT_SCALE: Final = math.log(10.0)
INITIAL_LOGIT_BIAS: Final = -10.0


class CmirNetConfig(BaseModel):
    """What the published network (cmirnet_model.py) needs beside modalities, dim and labels.

    `classes` are what its classifiers tell apart: scene classes (softmax), or the labels themselves (sigmoid) where
    `multi_label`. Its convolutions are bound to a number of bands and a chip size per image modality.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...] = Field(min_length=2)
    multi_label: bool
    num_bands: dict[Modality, int] = Field(default_factory=dict)
    chip_size_px: dict[Modality, int] = Field(default_factory=dict)
    feature_dim: int = Field(default=128, ge=2, description="components of Z")
    hidden_dim: int | None = Field(default=None, ge=2, description="of the layer between 4096 image features and Z")


class NetworkConfig(BaseModel):
    """What is built: everything that decides the shapes of the tensors, and the labels the prototypes stand for.

    `image` and `speech` are read only where `modalities` names an image modality or speech; stems are built for the
    image modalities named here. `pretrained_image` and `pretrained_speech` stand in their place; they are left out of
    JSON where there is none, so that networks without one keep the space_id they always had.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: tuple[Modality, ...] = Field(min_length=1)
    dim: int = Field(default=128, ge=2, le=4096, description="components of an embedding")
    labels: tuple[str, ...] = ()
    image: ImageTowerConfig = Field(default_factory=ImageTowerConfig)
    speech: SpeechTowerConfig = Field(default_factory=SpeechTowerConfig)
    pretrained_image: PretrainedImageConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    pretrained_speech: PretrainedSpeechConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    architecture: Literal["shared", "cmirnet"] = "shared"
    cmirnet: CmirNetConfig | None = Field(default=None, description="for the architecture cmirnet, and for no other")

    @model_validator(mode="after")
    def _names_once(self) -> Self:
        for what, names in (("modalities", self.modalities), ("labels", self.labels)):
            if len(set(names)) != len(names):
                raise ValueError(f"{what} must not repeat: {', '.join(names)}")
        ordered = tuple(name for name in MODALITIES if name in self.modalities)
        if ordered != self.modalities:
            raise ValueError(f"modalities must stand in the order {', '.join(ordered)}")
        if (self.architecture == "cmirnet") != (self.cmirnet is not None):
            raise ValueError("the architecture cmirnet and its settings go together")
        if self.cmirnet is not None and (self.pretrained_image or self.pretrained_speech):
            raise ValueError("the architecture cmirnet has towers of its own")
        return self

    @model_validator(mode="after")
    def _published_network_fits(self) -> Self:
        if self.cmirnet is None:
            return self
        if len(self.modalities) != 2:
            raise ValueError(f"cmirnet joins exactly two modalities, not {', '.join(self.modalities)}")
        if self.cmirnet.multi_label and self.cmirnet.classes != self.labels:
            raise ValueError("classes of a multi-label cmirnet are its labels, in their order")
        for settings in (self.cmirnet.num_bands, self.cmirnet.chip_size_px):
            if set(settings) != set(self.image_modalities):
                raise ValueError(f"cmirnet needs num_bands and chip_size_px of {', '.join(self.image_modalities)}")
        return self

    @property
    def image_modalities(self) -> tuple[Modality, ...]:
        """The image modalities among `modalities`, in their fixed order."""
        return tuple(name for name in self.modalities if name in IMAGE_MODALITIES)


class ImageInput(NamedTuple):
    """What `SharedSpaceNet.encode_image` takes."""

    modality: Modality
    pixels: Tensor
    wavelength_nm: Tensor
    gsd_m: Tensor


class ProjectionHead(nn.Module):
    """Tower features f32[B,F] -> unit vectors f32[B,D]: LayerNorm, one hidden layer, L2 norm."""

    def __init__(self, num_features: int, width: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(num_features), nn.Linear(num_features, width), nn.GELU(), nn.Linear(width, dim)
        )

    def forward(self, features: Tensor) -> Tensor:
        """f32[B,F] -> f32[B,D] of length 1; the norm is taken in float32 whatever autocast chose."""
        projected: Tensor = self.layers(features)
        return F.normalize(projected.float(), dim=-1)


class SharedSpaceNet(nn.Module):
    """Towers and heads of one shared space; `prototypes` f32[L,D] stand for `config.labels`, in their order."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.image_tower: ImageTower | PretrainedImageTower | None = None
        self.speech_tower: SpeechTower | PretrainedSpeechTower | None = None
        if config.image_modalities:
            self.image_tower = _image_tower(config)
            seen = config.pretrained_image or config.image
            self.image_head = ProjectionHead(seen.num_features, seen.width, config.dim)
        if "speech" in config.modalities:
            pretrained = config.pretrained_speech
            self.speech_tower = PretrainedSpeechTower(pretrained) if pretrained else SpeechTower(config.speech)
            heard = pretrained or config.speech
            self.speech_head = ProjectionHead(heard.width, heard.width, config.dim)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(len(config.labels), config.dim), dim=-1))
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.logit_bias = nn.Parameter(torch.tensor(INITIAL_LOGIT_BIAS))

    def backbones(self) -> list[nn.Module]:
        """The pretrained transformers inside the towers; none where both towers are our own."""
        towers = (self.image_tower, self.speech_tower)
        return [tower.backbone for tower in towers if isinstance(tower, PretrainedImageTower | PretrainedSpeechTower)]

    def kernels(self) -> list[nn.Parameter]:
        """The kernels inside our own towers, f32[out,in,...]: from channels to channels, neither stems nor heads."""
        own = [tower for tower in (self.image_tower, self.speech_tower) if isinstance(tower, ImageTower | SpeechTower)]
        return [kernel for tower in own for kernel in tower.kernels()]

    def encode_image(self, modality: str, pixels: Tensor, wavelength_nm: Tensor, gsd_m: Tensor) -> Tensor:
        """Unit vectors f32[B,D] of chips as `Preprocessing.image_input` makes them.

        Args:
            modality: one of the config's image modalities; DataError otherwise.
            pixels: f32[B,C,H,W], normalised.
            wavelength_nm: f32[C], band centres in nanometres, nan where not known.
            gsd_m: f32[B], metres of ground per pixel of the chip as it came, nan where not known.
        """
        if self.image_tower is None or modality not in self.config.image_modalities:
            raise self._no_tower(modality)
        return self._project(self.image_head, self.image_tower(modality, pixels, wavelength_nm, gsd_m))

    def encode_images(self, chips: Sequence[ImageInput]) -> Tensor:
        """Unit vectors f32[N,D] of chips of several modalities, in the order given.

        Each part is what `encode_image` takes. Parts of one size go through the trunk together: its weights are
        standardised once for all of them, and a few large convolutions take less time than many small ones.
        """
        if self.image_tower is None:
            raise self._no_tower(chips[0].modality)
        stemmed = [self.image_tower.stem(*part) for part in chips]
        together: dict[torch.Size, list[int]] = {}
        for place, part in enumerate(stemmed):
            together.setdefault(part.shape[1:], []).append(place)
        vectors: dict[int, Tensor] = {}
        for places in together.values():
            joined = self.image_tower.features(torch.cat([stemmed[place] for place in places]))
            sizes = [len(stemmed[place]) for place in places]
            vectors |= zip(places, torch.split(self._project(self.image_head, joined), sizes), strict=True)
        return torch.cat([vectors[place] for place in range(len(chips))])

    def encode_speech(self, waveform: Tensor, num_samples: Tensor) -> Tensor:
        """Unit vectors f32[B,D] of utterances f32[B,T], 16 kHz, zero-padded, `num_samples` i64[B] of them real.

        Where the tower takes features, `waveform` is f32[B,F] and `num_samples` is not read.
        """
        if self.speech_tower is None:
            raise self._no_tower("speech")
        return self._project(self.speech_head, self.speech_tower(waveform, num_samples))

    def unit_prototypes(self) -> Tensor:
        """The labels as points of the space, f32[L,D] of length 1, in the order of `config.labels`."""
        return F.normalize(self.prototypes.float(), dim=-1)

    def _project(self, head: ProjectionHead, features: Tensor) -> Tensor:
        vectors: Tensor = head(features)
        return vectors

    def _no_tower(self, modality: str) -> DataError:
        return DataError(
            "this network has no tower for the modality",
            seen=modality,
            expected=" or ".join(self.config.modalities),
            fix="leave the modality out or train a network with it",
        )


def _image_tower(config: NetworkConfig) -> ImageTower | PretrainedImageTower:
    if config.pretrained_image is not None:
        return PretrainedImageTower(config.pretrained_image, config.image_modalities)
    return ImageTower(config.image.model_copy(update={"modalities": config.image_modalities}))
