"""Chips that end the process that decodes them; see deadly/sitecustomize.py."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmir.archive.schema import Media, ShardRow
from tests.tiny_archives import chip_row

_FOLDER = Path(__file__).parent / "deadly"


def make_deadly(monkeypatch: pytest.MonkeyPatch, tally: Path, *, frail_deaths: int = 0) -> None:
    """Have processes started from now on die of chips of the sensors "deadly" and, so many times, "frail"."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_FOLDER), str(_FOLDER.parent.parent)]))
    monkeypatch.setenv("FRAIL_TALLY", str(tally))
    monkeypatch.setenv("FRAIL_DEATHS", str(frail_deaths))


def png_row(i: int, sensor: str | None = None) -> ShardRow:
    """An rgb chip as a PNG file, which is decoded by itself."""
    pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    media = Media("rgb", file.getvalue(), "png", sensor=sensor, bands=("red", "green", "blue"))
    return replace(chip_row(i, "rgb"), media=media)
