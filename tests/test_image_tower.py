"""The image tower's contract: any bands, any size, no influence of batch-mates, batches' order or sensors not given."""

import pytest
import torch
from pydantic import ValidationError

from cmir.network.image_tower import ImageTower, ImageTowerConfig, local_contrast

NAN = float("nan")
CONFIG = ImageTowerConfig(width=64, depths=(1, 1), layout_cells=2, layout_channels=8)
RGB_NM = torch.tensor([665.0, 560.0, 480.0])


@pytest.fixture(scope="module")
def tower() -> ImageTower:
    torch.manual_seed(0)
    return ImageTower(CONFIG).eval()


@pytest.mark.parametrize(("modality", "num_bands", "size_px"), [("pan", 1, 48), ("ms", 4, 16), ("ms", 13, 32)])
def test_any_bands_and_sizes_give_features_of_one_width(
    tower: ImageTower, modality: str, num_bands: int, size_px: int
) -> None:
    wavelength_nm = torch.linspace(430.0, 2200.0, num_bands)
    features = tower(modality, torch.randn(2, num_bands, size_px, size_px), wavelength_nm, torch.tensor([0.3, NAN]))
    assert features.shape == (2, CONFIG.num_features) == (2, 64 + 8 * 2 * 2)
    assert features.isfinite().all()


def test_features_do_not_depend_on_batch_mates(tower: ImageTower) -> None:
    pixels, gsd_m = torch.randn(5, 3, 32, 32), torch.tensor([0.3, 1.0, NAN, 10.0, 2.0])
    together = tower("rgb", pixels, RGB_NM, gsd_m)
    alone = torch.cat([tower("rgb", pixels[i : i + 1], RGB_NM, gsd_m[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_bands_are_known_by_wavelength_not_by_place(tower: ImageTower) -> None:
    pixels, gsd_m, turned = torch.randn(2, 3, 32, 32), torch.full((2,), NAN), [2, 0, 1]
    features = tower("ms", pixels, RGB_NM, gsd_m)
    torch.testing.assert_close(tower("ms", pixels[:, turned], RGB_NM[turned], gsd_m), features, atol=1e-5, rtol=1e-5)
    assert (tower("ms", pixels[:, turned], RGB_NM, gsd_m) - features).abs().max() > 1e-3


def test_bands_of_unknown_wavelength_are_told_apart_by_place(tower: ImageTower) -> None:
    pixels, gsd_m = torch.randn(2, 3, 32, 32), torch.full((2,), NAN)
    unknown = torch.full((3,), NAN)
    features = tower("ms", pixels, unknown, gsd_m)
    assert features.isfinite().all()
    assert (tower("ms", pixels.flip(1), unknown, gsd_m) - features).abs().max() > 1e-4


def test_local_contrast_sees_through_haze() -> None:
    """Haze of half the contrast on one side and a tenth on the other, and its light, change little of it."""
    torch.manual_seed(0)
    ground = torch.randn(1, 2, 48, 48)
    haze = torch.linspace(0.1, 0.5, 48)
    seen = ground * (1 - haze) + 5.0 * haze
    inside = (..., slice(4, -4), slice(4, -4))
    clear, hazy = local_contrast(ground, 4)[inside], local_contrast(seen, 4)[inside]
    assert (hazy - clear).square().mean() < 0.01 * (seen - ground)[inside].square().mean()
    assert torch.corrcoef(torch.stack([hazy.flatten(), clear.flatten()]))[0, 1] > 0.99


def test_local_contrast_by_hand_and_of_nothing() -> None:
    pixels = torch.zeros(1, 1, 9, 9)
    pixels[0, 0, 4, 4] = 9.0
    contrast = local_contrast(pixels, 1)
    detail = pixels - torch.nn.functional.avg_pool2d(pixels, 3, 1, 1)
    around = detail[0, 0, 3:6, 3:6]
    torch.testing.assert_close(contrast[0, 0, 4, 4], 8.0 / (around.square().mean() + 0.03**2).sqrt())
    assert local_contrast(torch.full((2, 3, 16, 16), 4.0), 4).abs().max() < 1e-4
    assert local_contrast(torch.full((1, 1, 16, 16), 4.0) + 1e-3 * torch.randn(1, 1, 16, 16), 4).abs().max() < 0.3


def test_gsd_is_ignored_until_it_was_learnt_and_when_unknown() -> None:
    tower = ImageTower(ImageTowerConfig(width=32, depths=(1,))).eval()
    pixels = torch.randn(1, 1, 32, 32)
    told, untold = (tower("pan", pixels, torch.tensor([650.0]), torch.tensor([gsd])) for gsd in (0.5, NAN))
    torch.testing.assert_close(told, untold)
    torch.nn.init.normal_(tower.gsd.layers[2].weight)  # type: ignore[arg-type]
    told, untold_again = (tower("pan", pixels, torch.tensor([650.0]), torch.tensor([gsd])) for gsd in (0.5, NAN))
    torch.testing.assert_close(untold_again, untold)
    assert (told - untold).abs().max() > 1e-3


def test_only_the_stems_asked_for_are_built() -> None:
    tower = ImageTower(ImageTowerConfig(modalities=("pan",), width=32, depths=(1,)))
    assert set(tower.stems) == {"pan"}
    with pytest.raises(KeyError, match="rgb"):
        tower("rgb", torch.zeros(1, 3, 32, 32), RGB_NM, torch.tensor([NAN]))


def test_signal_keeps_its_size_through_the_default_trunk() -> None:
    torch.manual_seed(0)
    tower = ImageTower(ImageTowerConfig())
    x = tower.stems["rgb"](torch.randn(4, 3, 96, 96), RGB_NM)
    assert 0.3 < float(x.detach().std()) < 3.0
    assert 0.1 < float(tower.trunk(x).detach().std()) < 3.0


def test_sizes_that_cannot_work_are_refused() -> None:
    assert ImageTowerConfig(width=64, depths=(1, 1, 1)).stage_widths == (32, 32, 64)
    with pytest.raises(ValidationError, match="depths"):
        ImageTowerConfig(depths=())


def test_the_layout_tells_where_things_are_and_can_be_left_out() -> None:
    pixels, gsd_m = torch.randn(1, 3, 64, 64), torch.full((1,), NAN)
    torch.manual_seed(0)
    tower = ImageTower(CONFIG).eval()
    upright, turned = (tower("rgb", chip, RGB_NM, gsd_m) for chip in (pixels, pixels.rot90(2, (2, 3))))
    assert (upright - turned)[:, 64:].abs().max() > 1e-3
    without = ImageTower(CONFIG.model_copy(update={"layout_cells": 0})).eval()
    assert without("rgb", pixels, RGB_NM, gsd_m).shape == (1, 64)
