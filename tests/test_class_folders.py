"""Listing of image folders and the ground of each image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmir.archive.class_folders import list_images, scene_ids
from cmir.errors import DataError
from tests.picture_files import ground, write_geotiff, write_image


def test_images_are_listed_with_class_and_key(tmp_path: Path) -> None:
    write_image(tmp_path / "Images/beach/beach01.png", 1)
    write_image(tmp_path / "Images/airplane/airplane00.tif", 2)
    write_image(tmp_path / "loose.jpg", 3)
    (tmp_path / "notes.txt").write_text("no image")
    images = list_images(str(tmp_path))
    assert [(image.key, image.scene_class, image.stem) for image in images] == [
        ("Images/airplane/airplane00.tif", "airplane", "airplane00"),
        ("Images/beach/beach01.png", "beach", "beach01"),
        ("loose.jpg", None, "loose"),
    ]


def test_a_folder_without_images_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="no images found: seen 1 files of other kinds"):
        list_images(str(tmp_path))
    with pytest.raises(DataError, match="input not found"):
        list_images(str(tmp_path / "gone"))


def test_ground_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    for i in range(3):
        write_image(tmp_path / f"a/Images/beach/beach0{i}.png", i)
        write_image(tmp_path / f"b/beach/beach0{i}.jpg", i)
    first = scene_ids(list_images(str(tmp_path / "a")))
    second = scene_ids(list_images(str(tmp_path / "b")))
    assert list(first.values()) == list(second.values())
    assert len(set(first.values())) == 3


def test_cuts_of_the_same_ground_share_it_within_their_class(tmp_path: Path) -> None:
    mosaic = ground(7, 400, 400)
    for name, row in (("beach/beach00.png", 0), ("beach/beach01.png", 90), ("river/river00.png", 90)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(mosaic[row : row + 256, 60:316]).save(tmp_path / name)
    write_image(tmp_path / "beach/beach02.png", 9, size_px=256)
    found = scene_ids(list_images(str(tmp_path)))
    assert found["beach/beach00.png"] == found["beach/beach01.png"]
    assert len(set(found.values())) == 3


def test_overlapping_footprints_share_their_ground_and_neighbours_do_not(tmp_path: Path) -> None:
    pixels = np.zeros((3, 100, 100), np.uint8)
    for name, west in (("2018_1.tif", 0.0), ("2020_1.tif", 50.0), ("2018_2.tif", 150.0), ("far.tif", 9000.0)):
        write_geotiff(tmp_path / name, pixels, west=500_000.0 + west)
    found = scene_ids(list_images(str(tmp_path)))
    assert found["2018_1.tif"] == found["2020_1.tif"]
    assert len(set(found.values())) == 3


def test_an_image_that_cannot_be_read_stays_alone(tmp_path: Path) -> None:
    write_image(tmp_path / "beach/beach00.png", 1)
    (tmp_path / "beach/beach01.jpg").write_text("no image")
    (tmp_path / "beach/beach02.tif").write_bytes(b"II*\0broken")
    (tmp_path / "beach/beach03.jpg").write_bytes(b"")
    assert len(set(scene_ids(list_images(str(tmp_path))).values())) == 4
