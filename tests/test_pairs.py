"""The pairs source: chips of the same ground from rasters of any size, ratio and type."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from cmir.archive.imagery import decode_chip
from cmir.archive.schema import ShardRow
from cmir.archive.sources.pairs import PairsSource
from cmir.errors import DataError
from tests.picture_files import ground, write_geotiff


def manifest(folder: Path, *lines: str, header: str = "pan,ms,labels,scene_id,sensor") -> Path:
    (folder / "manifest.csv").write_text("\n".join([header, *lines]))
    return folder


def rows_of(source: PairsSource) -> list[ShardRow]:
    copy = pickle.loads(pickle.dumps(source))
    return [row for item in source.items() for row in copy.rows(pickle.loads(pickle.dumps(item)))]


def write_scene(folder: Path, name: str, ratio: int, *, west: float = 0.0, size_px: int = 128) -> np.ndarray:
    """A PAN uint16 and an MS float32 whose pixels are the means of the PAN's, times 1, 2, 3, 4."""
    pan = ground(len(name), size_px, size_px, 1).transpose(2, 0, 1).astype(np.uint16)
    small = pan[0].reshape(size_px // ratio, ratio, size_px // ratio, ratio).mean((1, 3))
    ms = np.stack([small * k for k in (1, 2, 3, 4)]).astype(np.float32)
    tags = {"TIFFTAG_DATETIME": "2021:06:01 10:00:00"}
    write_geotiff(folder / f"{name}_pan.tif", pan, gsd_m=0.5, west=500_000 + west, tags=tags)
    write_geotiff(folder / f"{name}_ms.tif", ms, gsd_m=0.5 * ratio, west=500_000 + west)
    return pan


@pytest.mark.parametrize("ratio", [2, 4])
def test_chips_show_the_same_ground_at_both_resolutions(tmp_path: Path, ratio: int) -> None:
    pan = write_scene(tmp_path, "a", ratio)
    manifest(tmp_path, "a_pan.tif,a_ms.tif,water; ship ;water,port,WorldView-3")
    rows = rows_of(PairsSource(str(tmp_path), chip_size_px=64))
    assert [row.media.modality for row in rows] == ["pan", "ms"] * 4
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        chip, under = decode_chip(first.media), decode_chip(second.media)
        column, row, width, height = first.window
        np.testing.assert_array_equal(chip.pixels, pan[:, row : row + height, column : column + width])
        means = chip.pixels[0].reshape(64 // ratio, ratio, 64 // ratio, ratio).mean((1, 3))
        np.testing.assert_allclose(under.pixels[2], 3 * means, rtol=1e-6)
        assert first.pair_id == second.pair_id
        assert second.window == tuple(n // ratio for n in first.window)
        assert first.bbox == pytest.approx(second.bbox, abs=1e-9)
        assert (chip.gsd_m, under.gsd_m) == pytest.approx((0.5, 0.5 * ratio))
    assert len({row.item_id for row in rows}) == 8
    assert len({row.pair_id for row in rows}) == 4
    assert {(row.labels, row.scene_id, row.media.sensor) for row in rows} == {
        (("water", "ship"), "port", "WorldView-3")
    }
    assert decode_chip(rows[1].media).wavelength_nm == (481.9, 547.1, 660.1, 824.0)
    assert rows[0].acquired_at is not None
    assert rows[0].acquired_at.year == 2021


def test_scenes_of_overlapping_ground_share_scene_id(tmp_path: Path) -> None:
    for name, west in (("a", 0.0), ("bb", 32.0), ("ccc", 500.0)):
        write_scene(tmp_path, name, 4, west=west)
    manifest(tmp_path, *(f"{name}_pan.tif,{name}_ms.tif" for name in ("a", "bb", "ccc")), header="pan,ms")
    scenes = [item.scene_id for item in PairsSource(str(tmp_path), 128).items()]
    assert len(scenes) == 3
    assert scenes[0] == scenes[1] != scenes[2]


def test_a_ratio_that_is_not_whole_is_resampled(tmp_path: Path) -> None:
    columns = np.arange(799, dtype=np.float32)
    pan = np.tile(columns, (620, 1))[None]
    ms = np.stack([np.tile((np.arange(400) + 0.5) * 799 / 400 - 0.5, (310, 1))] * 2).astype(np.float32)
    scipy.io.savemat(tmp_path / "scene.mat", {"P": pan[0], "M": ms.transpose(1, 2, 0)})
    manifest(tmp_path, "scene.mat:P,scene.mat:M", header="pan,ms")
    rows = rows_of(PairsSource(f"{tmp_path}/manifest.csv"))
    assert len(rows) == 12
    assert [row.window for row in rows[1:6:2]] == [(0, 0, 128, 128), (128, 0, 128, 128), (256, 0, 128, 128)]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        wide = decode_chip(first.media).pixels[0]
        narrow = decode_chip(second.media).pixels[0]
        np.testing.assert_allclose(narrow[0], wide[0].reshape(128, 2).mean(1), atol=0.6)  # the end may be repeated


def test_chips_with_nodata_are_left_out(tmp_path: Path) -> None:
    pan = ground(1, 64, 128, 1).transpose(2, 0, 1).astype(np.int16) + 1
    pan[0, 3, 100] = -1
    write_geotiff(tmp_path / "pan.tif", pan, gsd_m=1.0, nodata=-1)
    write_geotiff(tmp_path / "ms.tif", ground(2, 16, 32, 4).transpose(2, 0, 1).copy(), gsd_m=4.0)
    rows = rows_of(PairsSource(str(manifest(tmp_path, "pan.tif,ms.tif", header="pan,ms")), chip_size_px=64))
    assert [row.window for row in rows] == [(0, 0, 64, 64), (0, 0, 16, 16)]


def test_ids_of_absolute_paths_are_made_of_file_names(tmp_path: Path) -> None:
    ids = []
    for place in ("here", "there"):
        write_scene(tmp_path / place, "a", 4)
        manifest(tmp_path / place, f"{tmp_path}/{place}/a_pan.tif,{tmp_path}/{place}/a_ms.tif", header="pan,ms")
        ids.append([row.item_id for row in rows_of(PairsSource(str(tmp_path / place)))])
    assert ids[0] == ids[1]


def test_other_columns_are_kept_as_attributes(tmp_path: Path) -> None:
    write_scene(tmp_path, "a", 4)
    manifest(tmp_path, "a_pan.tif,a_ms.tif,PX-7", header="pan,ms,product")
    assert rows_of(PairsSource(str(tmp_path)))[0].attributes == '{"product": "PX-7"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gone.tif,a_ms.tif", r"input not found.*gone\.tif.*line 3"),
        ("a_pan.tif,text.tif", r"raster cannot be decoded.*line 3"),
        ("a_ms.tif,a_pan.tif", "wrong band count: seen 4 bands, expected 1 for pan"),
        ("a_pan.tif,a_pan.tif", "wrong band count: seen 1 band, expected 2 or more for ms"),
        ("a_pan.tif,far_ms.tif", "no chip of pan lies inside ms"),
        (",a_ms.tif", "line 3"),
    ],
)
def test_a_bad_line_is_rejected_alone(tmp_path: Path, line: str, message: str) -> None:
    write_scene(tmp_path, "a", 4)
    write_scene(tmp_path, "far", 4, west=90_000)
    (tmp_path / "text.tif").write_text("no raster")
    source = PairsSource(str(manifest(tmp_path, "a_pan.tif,a_ms.tif", line, header="pan,ms")))
    good, bad = source.items()
    assert len(list(source.rows(good))) == 2
    with pytest.raises(DataError, match=message):
        list(source.rows(bad))


def test_a_manifest_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="input not found"):
        list(PairsSource(str(tmp_path)).items())
    with pytest.raises(DataError, match="manifest lacks columns: seen pan, sensor"):
        list(PairsSource(str(manifest(tmp_path, "a,b", header="pan,sensor"))).items())
