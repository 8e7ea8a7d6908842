"""Small pictures of items: chips as the eye sees them, speech as a spectrogram."""

import io

import numpy as np
import pytest
from PIL import Image

from cmir.archive.imagery import raw_media
from cmir.archive.schema import Media
from cmir.archive.speech import pcm_media
from cmir.errors import DataError
from cmir.evaluation import pictures
from cmir.evaluation.pictures import picture_of


def opened(webp: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(webp)) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB")).astype(int)


def test_ms_is_shown_in_its_natural_colours() -> None:
    pixels = np.zeros((4, 64, 64), np.uint8)
    pixels[2] = 220  # red
    red = opened(picture_of(raw_media("ms", pixels, bands=("blue", "green", "red", "nir"))))
    assert red.shape[:2] == (pictures.SIZE_PX, pictures.SIZE_PX)
    assert red[..., 0].mean() > 180
    assert red[..., 1].mean() < 60


def test_pan_is_grey_and_small() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 256, 256)).astype(np.uint8)
    webp = picture_of(raw_media("pan", pixels, bands=("pan",)))
    grey = opened(webp)
    assert len(webp) <= pictures.MAX_BYTES
    assert np.abs(grey[..., 0] - grey[..., 2]).max() <= 4


def test_a_high_tone_lies_above_a_low_one() -> None:
    time_s = np.arange(16_000) / 16_000
    heights = []
    for frequency_hz in (200, 4000):
        shown = opened(picture_of(pcm_media((0.5 * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32))))
        assert shown.shape == (128, 128, 3)
        heights.append(int(shown[:92].sum(axis=2).mean(axis=1).argmax()))
    assert heights[1] < heights[0] - 30


def test_features_are_shown_too() -> None:
    values = np.linspace(-1, 1, 128, dtype=np.float32)
    media = Media("speech", values.tobytes(), "raw", dtype="float32", shape=(128,))
    shown = opened(picture_of(media)).sum(axis=2)
    assert shown[:64, 100:].mean() > 2 * shown[:64, :28].mean()


def test_silence_has_a_picture() -> None:
    assert opened(picture_of(pcm_media(np.zeros(4000, np.float32)))).shape == (128, 128, 3)


def test_what_is_cut_short_has_none() -> None:
    media = raw_media("pan", np.ones((1, 8, 8), np.uint8), bands=("pan",))
    with pytest.raises(DataError, match="wrong size"):
        picture_of(Media(**{**{name: getattr(media, name) for name in Media.__slots__}, "data": media.data[:-1]}))
