"""Chips f32[B,C,H,W] of any bands -> features f32[B,F] by a pretrained vision transformer: ViT, DINOv2, DINOv3, SigLIP.

The transformer knows three channels, chips have any number of bands: a projection in front of it mixes them, every band
with the weights that its wavelength asks for. At the start that is a choice of bands, so that red, green and blue reach
the transformer as they are and a panchromatic chip as grey; what training adds is learned by wavelength, as the kernels
of our own stems are (image_tower). Chips are normalised by their archive's statistics: they come with mean 0 and
deviation 1, and go on with the mean and deviation that photographs have in the transformer's own normalisation.

Features are what the transformer says of the whole chip (its class token or its pooling head), the mean over its
patches, and, as in our own tower, a layout: what there is in each of 4 x 4 cells. The gsd is not told to it.
"""

import math
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import Tensor, nn

from cmir.archive.schema import Modality
from cmir.network.image_tower import NUM_BAND_NUMBERS, describe_bands
from cmir.network.transformers_import import import_transformers, refused

ImageFamily = Literal[
    "vit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "siglip_vision_model",
    "siglip2_vision_model",
]
# Red, green, blue: the centres that bands of these names have (archive/sensors.py).
_CHANNELS_NM: Final = (665.0, 560.0, 480.0)
# Mean and deviation of photographs, 0..1: ImageNet's, as torchvision states them.
PHOTO_MEAN: Final = (0.485, 0.456, 0.406)
PHOTO_STD: Final = (0.229, 0.224, 0.225)


class PretrainedImageConfig(BaseModel):
    """A vision transformer inside our network: `transformer` is its own config.json, complete.

    `mean` and `std` are those it wants pixels of 0..1 to be normalised with, channel by channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: ImageFamily
    transformer: dict[str, JsonValue]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layout_cells: int = Field(default=4, ge=1, description="cells along each side of the layout")
    layout_channels: int = Field(default=16, ge=1, description="what the layout tells of each cell")

    @property
    def width(self) -> int:
        """Components of a patch, H."""
        return int(str(self.transformer["hidden_size"]))

    @property
    def patch_px(self) -> int:
        """Side of a patch."""
        return int(str(self.transformer["patch_size"]))

    @property
    def num_features(self) -> int:
        """F: of the whole chip, the mean over patches, then the layout, cell by cell."""
        return 2 * self.width + self.layout_channels * self.layout_cells**2


class BandProjection(nn.Module):
    """Chips f32[B,C,H,W] of any bands -> the three channels of a vision transformer, f32[B,3,H,W].

    weight[o,c] = choice[o,c] + learned(wavelength of c)[o] / sqrt(C), the second part 0 at the start.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mixer = nn.Sequential(nn.Linear(NUM_BAND_NUMBERS, 64), nn.GELU(), nn.Linear(64, len(_CHANNELS_NM)))
        nn.init.zeros_(self.mixer[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.mixer[2].bias)  # type: ignore[arg-type]
        photo_mean, photo_std, own_std = (torch.tensor(values) for values in (PHOTO_MEAN, PHOTO_STD, std))
        self.register_buffer("scale", (photo_std / own_std).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((photo_mean - torch.tensor(mean)) / own_std).view(3, 1, 1), persistent=False)

    def forward(self, x_BCHW: Tensor, wavelength_nm_C: Tensor) -> Tensor:
        wavelength_nm_C = wavelength_nm_C.to(x_BCHW.device)
        learned_CO = self.mixer(describe_bands(wavelength_nm_C)) / math.sqrt(len(wavelength_nm_C))
        weight_OC = choose_bands(wavelength_nm_C) + learned_CO.T
        channels: Tensor = F.conv2d(x_BCHW, weight_OC[:, :, None, None]) * self.scale + self.shift
        return channels


def choose_bands(wavelength_nm: Tensor) -> Tensor:
    """Which band stands for red, green and blue, f32[3,C]: the nearest on a log scale, of those that are known.

    Where no wavelength is known, each is the mean of all bands.

    >>> choose_bands(torch.tensor([480.0, 560.0, 665.0, 842.0])).tolist()
    [[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    >>> choose_bands(torch.tensor([675.0])).tolist()
    [[1.0], [1.0], [1.0]]
    """
    known = torch.isfinite(wavelength_nm) & (wavelength_nm > 0)
    if not bool(known.any()):
        return wavelength_nm.new_full((len(_CHANNELS_NM), len(wavelength_nm)), 1.0 / len(wavelength_nm))
    wanted = torch.tensor(_CHANNELS_NM, device=wavelength_nm.device).log()
    distance = (wanted[:, None] - wavelength_nm.clamp(min=1.0).log()).abs()
    nearest = torch.where(known, distance, math.inf).argmin(dim=1)
    return F.one_hot(nearest, len(wavelength_nm)).to(torch.float32)


class PretrainedImageTower(nn.Module):
    """A projection of bands per modality in front of one vision transformer, with our layout behind it."""

    def __init__(self, config: PretrainedImageConfig, modalities: tuple[Modality, ...]) -> None:
        super().__init__()
        self.config = config
        self.stems = nn.ModuleDict({name: BandProjection(config.mean, config.std) for name in modalities})
        model_type, arguments = image_model(config.family)
        with refused("cannot build the image tower", where=config.family):
            self.backbone = model_type(model_type.config_class.from_dict(config.transformer), **arguments)
        self.layout = nn.Conv2d(config.width, config.layout_channels, 1)

    def train(self, mode: bool = True) -> "PretrainedImageTower":
        """As of any module, but a frozen transformer keeps embedding as it does when it is not trained."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def forward(self, modality: str, x_BCHW: Tensor, wavelength_nm_C: Tensor, gsd_m_B: Tensor) -> Tensor:
        """Features f32[B,num_features], of arguments as `ImageTower.forward` takes them; H and W of any size."""
        return self.features(self.stem(modality, x_BCHW, wavelength_nm_C, gsd_m_B))

    def stem(self, modality: str, x_BCHW: Tensor, wavelength_nm_C: Tensor, gsd_m_B: Tensor) -> Tensor:
        """What the transformer takes, f32[B,3,H',W']: sides are whole patches, resized to the nearest where not."""
        x: Tensor = self.stems[modality](x_BCHW, wavelength_nm_C)
        patch_px = self.config.patch_px
        size = [max(1, round(side / patch_px)) * patch_px for side in x.shape[-2:]]
        if list(x.shape[-2:]) != size:
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True)
        return x

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Features f32[B,num_features] of what stems made, of any modalities."""
        whole_BH, patches_BHhw = self._look(x_BCHW)
        cells = F.adaptive_avg_pool2d(self.layout(patches_BHhw), self.config.layout_cells)
        return torch.cat([whole_BH, patches_BHhw.mean(dim=(2, 3)), cells.flatten(1)], dim=1)

    def _look(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What the transformer says of the whole chip f32[B,H] and of its patches f32[B,H,h,w].

        Of the whole: the class token after the last norm, as the heads of ViT and DINO take it; SigLIP has no such
        token but a pooling head, or, where a checkpoint was made without that, the mean.
        """
        grid = [side // self.config.patch_px for side in x_BCHW.shape[-2:]]
        is_siglip = self.config.family.startswith("siglip")
        seen = self.backbone(**self._inputs(x_BCHW, grid))
        tokens_BNH: Tensor = seen.last_hidden_state
        patches_BNH = tokens_BNH[:, -grid[0] * grid[1] :]  # class and register tokens stand before the patches
        whole = seen.pooler_output if is_siglip else tokens_BNH[:, 0]
        whole = patches_BNH.mean(dim=1) if whole is None else whole
        return whole, patches_BNH.transpose(1, 2).reshape(len(whole), -1, *grid)

    def _inputs(self, x_BCHW: Tensor, grid: list[int]) -> dict[str, Tensor | bool]:
        match self.config.family:
            case "vit" | "siglip_vision_model":
                return {"pixel_values": x_BCHW, "interpolate_pos_encoding": True}
            case "siglip2_vision_model":  # takes patches that are cut already, each (row, column, channel)
                side = self.config.patch_px
                patches = F.unfold(x_BCHW, side, stride=side).transpose(1, 2)
                patches = patches.reshape(*patches.shape[:2], 3, side * side).transpose(2, 3).flatten(2)
                mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=x_BCHW.device)
                shapes = torch.tensor([grid] * len(x_BCHW), device=x_BCHW.device)
                return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}
            case _:  # DINOv2 fits its position embeddings to any size by itself, DINOv3 has none to fit
                return {"pixel_values": x_BCHW}


def image_model(family: ImageFamily) -> tuple[Any, dict[str, bool]]:
    """The class of transformers for a family, and what its constructor is told to leave out heads that are not used.

    Raises ConfigError where the package is not installed.
    """
    hf = import_transformers()
    match family:
        case "vit":
            return hf.ViTModel, {"add_pooling_layer": False}
        case "dinov2":
            return hf.Dinov2Model, {}
        case "dinov2_with_registers":
            return hf.Dinov2WithRegistersModel, {}
        case "dinov3_vit":
            return hf.DINOv3ViTModel, {}
        case "siglip_vision_model":
            return hf.SiglipVisionModel, {}
        case "siglip2_vision_model":
            return hf.Siglip2VisionModel, {}
