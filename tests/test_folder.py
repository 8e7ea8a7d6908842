"""The folder source: modality by bands, class by folder, place by georeference."""

from pathlib import Path

import numpy as np
import pytest
import shapely

from cmir.archive.imagery import decode_chip
from cmir.archive.schema import ShardRow
from cmir.archive.sources.folder import FolderSource
from cmir.errors import DataError
from tests.picture_files import encoded, ground, write_geotiff, write_image


def rows_of(folder: Path) -> list[ShardRow]:
    source = FolderSource(str(folder))
    return [row for item in source.items() for row in source.rows(item)]


def test_pictures_become_rgb_rows_of_their_class(tmp_path: Path) -> None:
    write_image(tmp_path / "river/1.png", 1)
    write_image(tmp_path / "forest/1.webp", 2)
    rows = rows_of(tmp_path)
    assert [(row.scene_class, row.media.modality, row.media.bands) for row in rows] == [
        ("forest", "rgb", ("red", "green", "blue")),
        ("river", "rgb", ("red", "green", "blue")),
    ]
    np.testing.assert_array_equal(decode_chip(rows[1].media).pixels, ground(1).transpose(2, 0, 1))
    assert rows[0].bbox is None
    assert len({row.scene_id for row in rows}) == 2


@pytest.mark.parametrize(
    ("bands", "modality", "names"),
    [
        (1, "pan", ("pan",)),
        (4, "ms", ("blue", "green", "red", "nir")),
        (6, "ms", tuple(f"band_{i}" for i in range(1, 7))),
    ],
)
def test_geotiffs_become_rows_with_a_place(tmp_path: Path, bands: int, modality: str, names: tuple[str, ...]) -> None:
    pixels = np.arange(bands * 20 * 30, dtype=np.uint16).reshape(bands, 20, 30)
    write_geotiff(tmp_path / "town/a.tif", pixels, gsd_m=0.5, tags={"TIFFTAG_DATETIME": "2019:01:02 03:04:05"})
    (row,) = rows_of(tmp_path)
    assert (row.media.modality, row.media.bands, row.crs) == (modality, names, "EPSG:32631")
    assert row.media.gsd_m == pytest.approx(0.5)
    assert row.acquired_at is not None
    assert row.acquired_at.isoformat() == "2019-01-02T03:04:05+00:00"
    assert row.bbox is not None
    assert shapely.from_wkb(row.geometry).bounds == pytest.approx(row.bbox)
    assert (row.bbox[2] - row.bbox[0]) * 111_320 * np.cos(np.radians(45.15)) == pytest.approx(15, rel=0.01)
    np.testing.assert_array_equal(decode_chip(row.media).pixels, pixels)


def test_bad_images_are_rejected_alone(tmp_path: Path) -> None:
    write_image(tmp_path / "a/good.png", 1)
    (tmp_path / "a/cut.png").write_bytes(encoded(ground(2))[:700])
    spoilt = np.full((1, 8, 8), np.nan, np.float32)
    write_geotiff(tmp_path / "a/nan.tif", spoilt)
    source = FolderSource(str(tmp_path))
    items = {item.key: item for item in source.items()}
    with pytest.raises(DataError, match="image cannot be decoded"):
        list(source.rows(items["a/cut.png"]))
    with pytest.raises(DataError, match="pixels are not finite"):
        list(source.rows(items["a/nan.tif"]))
    assert len(list(source.rows(items["a/good.png"]))) == 1


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input not found"):
        rows_of(tmp_path / "gone")
