"""The UC Merced source: rows with labels and class, grounds, tables and images that cannot be used."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmir.archive.imagery import decode_chip
from cmir.archive.sources.ucmerced import UcMercedSource
from cmir.archive.vocabulary import UCMERCED_LABELS
from cmir.errors import DataError
from tests.picture_files import encoded, ground, write_image

NAMES = ("airplane00", "airplane01", "beach00")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of two classes, as TIFF, and their table."""
    for seed, name in enumerate(NAMES):
        write_image(tmp_path / f"Images/{name[:-2]}/{name}.tif", seed)
    labels = {"airplane00": {"airplane", "pavement"}, "airplane01": set(), "beach00": {"sea", "sand"}}
    lines = [f"{name}," + ",".join(str(int(label in labels[name])) for label in UCMERCED_LABELS) for name in NAMES]
    (tmp_path / "multilabels.csv").write_text("\n".join(["image," + ",".join(UCMERCED_LABELS), *lines]))
    return tmp_path


def test_rows_carry_pixels_labels_and_class(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(UcMercedSource(str(folder))))
    rows = [row for item in source.items() for row in source.rows(item)]
    assert [(row.labels, row.scene_class) for row in rows] == [
        (("airplane", "pavement"), "airplane"),
        ((), "airplane"),
        (("sand", "sea"), "beach"),
    ]
    assert len({row.item_id for row in rows}) == len({row.scene_id for row in rows}) == 3
    chip = decode_chip(rows[2].media)
    np.testing.assert_array_equal(chip.pixels, ground(2).transpose(2, 0, 1))
    assert chip.bands == ("red", "green", "blue")
    assert chip.gsd_m == pytest.approx(0.3048)
    assert rows[0].source_uri == str(folder / "Images/airplane/airplane00.tif")


def test_ids_do_not_depend_on_where_the_folder_lies(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "set"
    before = UcMercedSource(str(folder))
    first = [row.item_id for item in before.items() for row in before.rows(item)]
    folder.rename(moved)
    after = UcMercedSource(f"{moved}/")
    assert first == [row.item_id for item in after.items() for row in after.rows(item)]


def test_an_image_that_the_table_lacks_is_rejected_alone(folder: Path) -> None:
    write_image(folder / "Images/beach/beach09.tif", 9)
    source = UcMercedSource(str(folder))
    items = {Path(item.key).stem: item for item in source.items()}
    with pytest.raises(DataError, match="not in the label table: seen beach09"):
        list(source.rows(items["beach09"]))
    assert len(list(source.rows(items["beach00"]))) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded(ground(1), "JPEG")[:900], "image cannot be decoded"),
        (b"", "image is empty"),
        (b"a text that is named .tif", "not an image"),
        (encoded(ground(1, bands=1)[..., 0]), "wrong bands: seen pan, expected red, green, blue"),
    ],
)
def test_a_bad_image_is_rejected_alone(folder: Path, data: bytes, message: str) -> None:
    (folder / "Images/airplane/airplane01.tif").write_bytes(data)
    source = UcMercedSource(str(folder))
    items = list(source.items())
    with pytest.raises(DataError, match=message):
        list(source.rows(items[1]))
    assert len(list(source.rows(items[0]))) == 1


def test_without_a_table_or_with_that_of_other_images_nothing_is_listed(folder: Path) -> None:
    table = folder / "multilabels.csv"
    table.write_text(table.read_text().replace("airplane0", "scene0").replace("beach0", "shore0"))
    with pytest.raises(DataError, match="label table is of other images: seen scene00, expected names like airplane00"):
        list(UcMercedSource(str(folder)).items())
    table.unlink()
    with pytest.raises(DataError, match="no label table"):
        list(UcMercedSource(str(folder)).items())
    with pytest.raises(DataError, match="input not found"):
        list(UcMercedSource(str(folder / "gone")).items())


def test_images_of_one_ground_share_scene_id(folder: Path) -> None:
    mosaic = ground(5, 400, 400)
    for name, row in (("airplane00", 0), ("airplane01", 100)):
        Image.fromarray(mosaic[row : row + 256, 20:276]).save(folder / f"Images/airplane/{name}.tif")
    scenes = [item.scene_id for item in UcMercedSource(str(folder)).items()]
    assert scenes[0] == scenes[1] != scenes[2]
