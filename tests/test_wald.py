"""The wald source: pairs of one ground, the same split as the image they were made of, hard ones by seed."""

from pathlib import Path

import numpy as np
import pytest

from cmir.archive.imagery import decode_chip
from cmir.archive.schema import ShardRow
from cmir.archive.sources.folder import FolderSource
from cmir.archive.sources.ucmerced import UcMercedSource
from cmir.archive.sources.wald import WaldSource
from cmir.archive.vocabulary import UCMERCED_LABELS
from cmir.errors import DataError
from tests.picture_files import ground, write_geotiff, write_image


def rows_of(folder: Path, **settings: object) -> list[ShardRow]:
    source = WaldSource(str(folder), **settings)
    return [row for item in source.items() for row in source.rows(item)]


@pytest.fixture
def ucmerced(tmp_path: Path) -> Path:
    flags = ",".join(str(int(label in ("sand", "sea"))) for label in UCMERCED_LABELS)
    lines = ["image," + ",".join(UCMERCED_LABELS), f"beach00,{flags}", f"beach01,{flags}"]
    for i in range(2):
        write_image(tmp_path / f"Images/beach/beach0{i}.png", i)
    (tmp_path / "multilabels.csv").write_text("\n".join(lines))
    return tmp_path


def test_each_image_gives_a_pan_and_an_ms_of_the_same_ground(ucmerced: Path) -> None:
    rows = rows_of(ucmerced)
    assert [row.media.modality for row in rows] == ["pan", "ms", "pan", "ms"]
    assert rows[0].pair_id == rows[1].pair_id != rows[2].pair_id
    assert len({row.item_id for row in rows}) == 4
    pan, ms = (decode_chip(row.media) for row in rows[:2])
    assert (pan.pixels.shape, ms.pixels.shape) == ((1, 64, 64), (3, 16, 16))
    assert (pan.sensor, ms.sensor) == ("synthesised", "synthesised")
    assert (pan.gsd_m, ms.gsd_m) == pytest.approx((0.3048, 4 * 0.3048))
    np.testing.assert_allclose(ms.pixels, ground(0).transpose(2, 0, 1).reshape(3, 16, 4, 16, 4).mean((2, 4)), atol=0.5)
    # flat response 450..700 nm: shares 87.5, 92.5, 70 nm of red 665, green 560, blue 480
    assert pan.wavelength_nm[0] == pytest.approx((87.5 * 665 + 92.5 * 560 + 70 * 480) / 250)


def test_labels_class_and_ground_are_those_of_the_source_folder(ucmerced: Path) -> None:
    made = rows_of(ucmerced, hard=True)
    assert {(row.labels, row.scene_class) for row in made} == {(("sand", "sea"), "beach")}
    grounds = [item.scene_id for item in UcMercedSource(str(ucmerced)).items()]
    assert [row.scene_id for row in made] == [grounds[0], grounds[0], grounds[1], grounds[1]]
    assert [item.scene_id for item in FolderSource(str(ucmerced)).items()] == grounds


def test_hard_pairs_depend_on_the_seed_and_the_item_only(ucmerced: Path) -> None:
    first, again, other = (rows_of(ucmerced, hard=True, seed=seed) for seed in (1, 1, 2))
    assert [row.media.data for row in first] == [row.media.data for row in again]
    assert all(a.media.data != b.media.data for a, b in zip(first, other, strict=True))
    source = WaldSource(str(ucmerced), hard=True, seed=1)
    last = list(source.items())[-1]
    assert [row.media.data for row in source.rows(last)] == [row.media.data for row in first[2:]]


def test_a_georeferenced_scene_is_cut_into_chips_with_their_places(tmp_path: Path) -> None:
    pixels = np.repeat(np.arange(600, dtype=np.uint16)[None, None, :], 4, 0).repeat(530, 1)
    write_geotiff(tmp_path / "scene.tif", pixels, gsd_m=0.6)
    rows = rows_of(tmp_path)
    assert [row.window for row in rows[::2]] == [
        (0, 0, 256, 256),
        (256, 0, 256, 256),
        (0, 256, 256, 256),
        (256, 256, 256, 256),
    ]
    assert len({row.item_id for row in rows}) == 8
    assert len({row.pair_id for row in rows}) == 4
    assert len({row.scene_id for row in rows}) == 1
    assert decode_chip(rows[3].media).pixels[0, 0].tolist() == [round(256 + 4 * i + 1.5) for i in range(64)]
    assert rows[3].media.gsd_m == pytest.approx(2.4)
    assert rows[0].bbox is not None
    assert rows[2].bbox is not None
    assert rows[0].bbox[2] == pytest.approx(rows[2].bbox[0], abs=1e-6)


def test_images_without_bands_to_choose_from_are_rejected(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a/one.tif", np.zeros((1, 64, 64), np.uint8))
    write_image(tmp_path / "a/tiny.png", 1, size_px=12)
    source = WaldSource(str(tmp_path))
    items = {item.key: item for item in source.items()}
    with pytest.raises(DataError, match="wrong band count: seen 1 band"):
        list(source.rows(items["a/one.tif"]))
    with pytest.raises(DataError, match="image is too small"):
        list(source.rows(items["a/tiny.png"]))
