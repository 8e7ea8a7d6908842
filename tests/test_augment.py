"""Augmentation keeps what a chip shows, draws the same for the same seed, and varies what its settings name."""

import math

import pytest
import torch

from cmir.network.augment import ImageAugmentation, augment_chips, draw_bands, draw_frames
from cmir.network.batches import Batch, ImagePart
from cmir.network.catalogue import UNKNOWN
from cmir.network.objectives.contrastive import Targets

STILL = ImageAugmentation(
    min_area=1, stretch=0, registration=0, gain=0, offset=0, band_offset=0, own_moments=0, fewer_bands=0,
    blur=0, noise=0, unknown_gsd=0, gsd_jitter=0,
)  # fmt: skip


def augmented(pixels: torch.Tensor, settings: ImageAugmentation, seed: int = 0, size_px: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    (frames,) = draw_frames(batch_of([[UNKNOWN] * len(pixels)]), settings, generator)
    return augment_chips(pixels, torch.ones(len(pixels)), frames, size_px, settings, generator)[0]


def batch_of(pair_ids: list[list[int]]) -> Batch:
    """One image part for each list, and an utterance."""
    parts = [ImagePart("pan", torch.zeros(len(ids), 1, 4, 4), torch.zeros(1), torch.ones(len(ids))) for ids in pair_ids]
    every = torch.tensor([*(pair_id for ids in pair_ids for pair_id in ids), UNKNOWN])
    none = torch.zeros(len(every))
    return Batch(tuple(parts), (), Targets(none, none[:, None], none.bool(), none, every))


def test_still_settings_only_turn_and_mirror() -> None:
    chip = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    symmetries = [torch.rot90(side, k, (2, 3)) for side in (chip, chip.flip(3)) for k in range(4)]
    seen = set()
    for seed in range(64):
        result = augmented(chip, STILL, seed)
        matches = [i for i, symmetry in enumerate(symmetries) if torch.allclose(result, symmetry, atol=1e-4)]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == set(range(8)), "all eight symmetries of the square occur"


def test_the_same_seed_draws_the_same() -> None:
    pixels = torch.randn(3, 4, 20, 20)
    first, again = (augmented(pixels, ImageAugmentation(), seed=5) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augmented(pixels, ImageAugmentation(), seed=6))
    assert first.shape == (3, 4, 16, 16)


def test_a_cut_stays_inside_the_chip() -> None:
    ramp = torch.linspace(-1, 1, 40).expand(200, 1, 40, 40)
    cut = augmented(ramp, STILL.model_copy(update={"min_area": 0.3, "stretch": 0.2}), size_px=24)
    assert cut.min() >= -1 - 1e-5
    assert cut.max() <= 1 + 1e-5
    spans = cut.flatten(1).amax(1) - cut.flatten(1).amin(1)
    assert spans.max() < 2.01
    assert 0.85 < spans.min() < 1.2, "sqrt(0.3) of the side, stretched"
    assert len(torch.unique(cut.flatten(1).mean(1).round(decimals=3))) > 50, "cuts lie in different places"


@pytest.mark.parametrize("field", ["gain", "offset", "band_offset", "noise"])
def test_each_amount_varies_the_radiometry(field: str) -> None:
    pixels = torch.randn(8, 3, 16, 16)
    settings = STILL.model_copy(update={field: 0.5})
    changed = augmented(pixels, settings)
    difference = changed - augmented(pixels, STILL)
    assert difference.abs().max() > 0.05
    if field == "band_offset":
        per_band = difference.mean((2, 3))
        assert (per_band[:, 0] - per_band[:, 1]).abs().min() > 1e-4
    if field == "offset":
        torch.testing.assert_close(difference.amax((1, 2, 3)), difference.amin((1, 2, 3)), atol=1e-4, rtol=0)


def test_chips_normalised_by_themselves_have_mean_0_and_deviation_1() -> None:
    pixels = torch.randn(6, 3, 16, 16) * 2 + 5
    pixels[0, 0] = 7.0  # no contrast
    alone = augmented(pixels, STILL.model_copy(update={"own_moments": 1.0}))
    torch.testing.assert_close(alone.mean((2, 3)), torch.zeros(6, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(alone[1:].std((2, 3), correction=0), torch.ones(5, 3), atol=1e-4, rtol=0)
    some = augmented(torch.cat([pixels] * 20), STILL.model_copy(update={"own_moments": 0.3}))
    assert 0.15 < (some.mean((1, 2, 3)).abs() < 0.5).float().mean() < 0.45


def test_multispectral_chips_lose_bands_and_no_others_do() -> None:
    generator = torch.Generator().manual_seed(0)
    settings = STILL.model_copy(update={"fewer_bands": 0.5})
    drawn = [tuple(draw_bands("ms", 4, settings, generator)) for _ in range(200)]
    assert 60 < sum(len(bands) < 4 for bands in drawn) < 140
    assert {len(bands) for bands in drawn} == {2, 3, 4}
    assert all(bands == tuple(sorted(set(bands))) for bands in drawn)
    always = STILL.model_copy(update={"fewer_bands": 1.0})
    for modality, num_bands in (("pan", 1), ("rgb", 3), ("ms", 2)):
        assert draw_bands(modality, num_bands, always, generator) == list(range(num_bands))


def test_blur_smooths_and_never_brightens() -> None:
    pixels = torch.randn(16, 1, 16, 16)
    blurred = augmented(pixels, STILL.model_copy(update={"blur": 1.0}))
    assert (blurred.var((1, 2, 3)) < pixels.var((1, 2, 3))).all()
    torch.testing.assert_close(blurred.mean((1, 2, 3)), pixels.mean((1, 2, 3)), atol=0.05, rtol=0)


def test_gsd_is_jittered_and_sometimes_withheld() -> None:
    settings = STILL.model_copy(update={"unknown_gsd": 0.3, "gsd_jitter": 0.2})
    gsd_m = torch.full((2000,), 2.0)
    frames = torch.eye(2, 3).expand(2000, 2, 3)
    _, told = augment_chips(torch.zeros(2000, 1, 4, 4), gsd_m, frames, 4, settings, torch.Generator().manual_seed(0))
    assert 0.25 < float(told.isnan().float().mean()) < 0.35
    known = told[~told.isnan()]
    assert float(known.log().mean()) == pytest.approx(math.log(2.0), abs=0.02)
    assert float(known.log().std()) == pytest.approx(0.2, abs=0.02)


def test_chips_of_one_pair_are_looked_at_alike() -> None:
    settings = ImageAugmentation(registration=0.05)
    pan, ms = draw_frames(
        batch_of([[7, 3, UNKNOWN, UNKNOWN], [3, 7, UNKNOWN]]), settings, torch.Generator().manual_seed(0)
    )
    for one, other in ((pan[0], ms[1]), (pan[1], ms[0])):
        torch.testing.assert_close(one[:, :2], other[:, :2])
        assert 0 < (one[:, 2] - other[:, 2]).abs().max() <= 4 * 0.05, "registered, not exactly"
    alone = torch.cat([pan[2:], ms[2:], pan[:2]])[:, :, :2].flatten(1)
    assert len(torch.unique(alone.round(decimals=4), dim=0)) == 5, "those without a pair are drawn one by one"


def test_no_chips_have_no_frames() -> None:
    assert draw_frames(batch_of([]), ImageAugmentation(), torch.Generator()) == ()
