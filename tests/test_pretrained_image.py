"""Any bands reach a vision transformer: as they are where they are red, green, blue; features as it would give them."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cmir.network.pretrained_checkpoint import read_image_checkpoint
from cmir.network.pretrained_image import PHOTO_MEAN, PHOTO_STD, BandProjection, PretrainedImageTower, choose_bands
from cmir.network.transformers_import import import_transformers
from tests.tiny_towers import IMAGE_FAMILIES, write_tower

RGB = torch.tensor([665.0, 560.0, 480.0])
SENTINEL2 = torch.tensor([490.0, 560.0, 665.0, 705.0, 740.0, 783.0, 842.0, 865.0, 1610.0, 2190.0])
NAN = math.nan


def make_tower(folder: Path, family: str) -> PretrainedImageTower:
    checkpoint = read_image_checkpoint(write_tower(folder, family))
    tower = PretrainedImageTower(checkpoint.config, ("pan", "ms", "rgb"))
    tower.backbone.load_state_dict(checkpoint.tensors())
    return tower.eval().requires_grad_(False)


def photo_as_normalised(photo: Tensor) -> Tensor:
    """Pixels 0..1 as an archive of photographs would be normalised."""
    return (photo - torch.tensor(PHOTO_MEAN).view(3, 1, 1)) / torch.tensor(PHOTO_STD).view(3, 1, 1)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_features_do_not_depend_on_batch_mates(family: str, tmp_path: Path) -> None:
    tower = make_tower(tmp_path, family)
    gsd_m = torch.ones(3)
    for modality, bands in (("pan", torch.tensor([675.0])), ("ms", SENTINEL2), ("ms", SENTINEL2[:8]), ("rgb", RGB)):
        chips = torch.randn(3, len(bands), 32, 32)
        together = tower(modality, chips, bands, gsd_m)
        assert together.shape == (3, tower.config.num_features)
        alone = torch.cat([tower(modality, chip[None], bands, gsd_m[:1]) for chip in chips])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
        assert together.std(dim=0).mean() > 1e-4, "chips are told apart"


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov2_with_registers", "dinov3_vit"])
def test_a_photograph_has_the_class_token_and_the_patches_it_has_in_transformers(family: str, tmp_path: Path) -> None:
    tower = make_tower(tmp_path, family)
    model = import_transformers().AutoModel.from_pretrained(tmp_path).eval()
    photos = torch.rand(2, 3, 32, 32)
    normalised = (photos - torch.tensor(tower.config.mean).view(3, 1, 1)) / torch.tensor(tower.config.std).view(3, 1, 1)
    tokens = model(normalised).last_hidden_state
    features = tower("rgb", photo_as_normalised(photos), RGB, torch.ones(2))
    torch.testing.assert_close(features[:, :32], tokens[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(features[:, 32:64], tokens[:, -16:].mean(dim=1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_a_photograph_has_the_vector_it_has_in_the_whole_siglip(family: str, tmp_path: Path) -> None:
    tower = make_tower(tmp_path, family)
    whole = import_transformers().AutoModel.from_pretrained(tmp_path).eval()
    photos = torch.rand(2, 3, 32, 32)
    inputs = (photos - 0.5) / 0.5
    if family == "siglip2":
        # as convert_image_to_patches of its image processor, which needs torchvision
        patches = inputs.reshape(2, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(2, 16, -1)
        seen = whole.vision_model(patches, torch.ones(2, 16), torch.tensor([[4, 4], [4, 4]]))
    else:
        seen = whole.vision_model(inputs)
    features = tower("rgb", photo_as_normalised(photos), RGB, torch.ones(2))
    torch.testing.assert_close(features[:, :32], seen.pooler_output, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", IMAGE_FAMILIES)
def test_chips_of_other_sizes_are_brought_to_whole_patches(family: str, tmp_path: Path) -> None:
    tower = make_tower(tmp_path, family)
    assert tower.stem("rgb", torch.randn(2, 3, 70, 44), RGB, torch.ones(2)).shape == (2, 3, 72, 48)
    assert tower.stem("rgb", torch.randn(2, 3, 3, 3), RGB, torch.ones(2)).shape == (2, 3, 8, 8)
    assert tower("rgb", torch.randn(2, 3, 48, 48), RGB, torch.ones(2)).isfinite().all()


def test_the_layout_says_where(tmp_path: Path) -> None:
    tower = make_tower(tmp_path, "vit")
    left = torch.zeros(1, 3, 32, 32)
    left[..., :16] = 3.0
    cells = tower("rgb", torch.cat([left, left.flip(3)]), RGB, torch.ones(2))[:, 64:].reshape(2, 16, 4, 4)
    assert (cells[0] - cells[1]).abs().max() > 1e-3


def test_red_green_and_blue_arrive_as_the_model_wants_photographs() -> None:
    photo = torch.rand(2, 3, 5, 5)
    own = BandProjection((0.5, 0.5, 0.5), (0.5, 0.25, 0.125))
    expected = (photo - 0.5) / torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1)
    torch.testing.assert_close(own(photo_as_normalised(photo), RGB), expected)
    chip = photo_as_normalised(photo)
    blue_green_red_nir = torch.cat([chip.flip(1), torch.randn(2, 1, 5, 5)], dim=1)
    torch.testing.assert_close(own(blue_green_red_nir, torch.tensor([480.0, 560.0, 665.0, 842.0])), expected)
    same = BandProjection(PHOTO_MEAN, PHOTO_STD)
    torch.testing.assert_close(same(chip, RGB), chip)


@pytest.mark.parametrize(
    ("wavelength_nm", "chosen"),
    [
        ([675.0], [0, 0, 0]),
        ([635.0, 555.0, 465.0, 845.0], [0, 1, 2]),
        ([443.0, 485.0, 555.0, 660.0, 830.0], [3, 2, 1]),
        (SENTINEL2.tolist(), [2, 1, 0]),
        ([NAN, 560.0, NAN], [1, 1, 1]),
        ([842.0, 1610.0], [0, 0, 0]),
    ],
)
def test_the_nearest_band_stands_for_a_channel(wavelength_nm: list[float], chosen: list[int]) -> None:
    weight = choose_bands(torch.tensor(wavelength_nm))
    assert weight.argmax(dim=1).tolist() == chosen
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(3))


def test_bands_of_unknown_wavelength_are_averaged() -> None:
    torch.testing.assert_close(choose_bands(torch.full((4,), NAN)), torch.full((3, 4), 0.25))


def test_what_training_learns_goes_by_wavelength_not_by_place() -> None:
    torch.manual_seed(0)
    projection = BandProjection(PHOTO_MEAN, PHOTO_STD)
    torch.nn.init.normal_(projection.mixer[2].weight)  # type: ignore[arg-type]
    chips, order = torch.randn(2, 10, 4, 4), torch.randperm(10)
    straight = projection(chips, SENTINEL2)
    torch.testing.assert_close(projection(chips[:, order], SENTINEL2[order]), straight, atol=1e-4, rtol=1e-4)
    assert (straight - projection(chips, SENTINEL2.flip(0))).abs().max() > 0.1
