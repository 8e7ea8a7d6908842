"""The sources geotiff and stac: chips of scenes by windows, bands by name, nodata and clouds left out."""

import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from cmir.archive.imagery import decode_chip
from cmir.archive.product_names import parse_product_name
from cmir.archive.schema import ShardRow
from cmir.archive.sources import Source
from cmir.archive.sources.geotiff import GeotiffSource
from cmir.archive.sources.stac import StacSource
from cmir.errors import DataError
from tests.picture_files import ground, write_geotiff

S2 = "S2A_29RKH_20200219_0_L2A"


def rows_of(source: Source) -> list[ShardRow]:
    copy = pickle.loads(pickle.dumps(source))
    return [row for item in source.items() for row in copy.rows(pickle.loads(pickle.dumps(item)))]


def pixels_of(seed: int, bands: int, size_px: int = 64, dtype: str = "uint16") -> np.ndarray:
    return (ground(seed, size_px, size_px, bands).transpose(2, 0, 1) + 1).astype(dtype)


def write_sentinel2(folder: Path) -> dict[str, np.ndarray]:
    """Four files of 10 m, two of 20 m and a classification of 20 m whose upper left quarter is cloud."""
    bands = {code: pixels_of(i, 1, 64) for i, code in enumerate(("B02", "B03", "B04", "B08"))}
    bands |= {code: pixels_of(i, 1, 32) for i, code in enumerate(("B05", "B8A"), start=5)}
    for code, pixels in bands.items():
        write_geotiff(folder / f"{S2}__{code}.tif", pixels, gsd_m=640 / pixels.shape[1], nodata=0)
    classes = np.full((1, 32, 32), 4, np.uint8)
    classes[0, :16, :16] = 9
    write_geotiff(folder / f"{S2}__SCL.tif", classes, gsd_m=20)
    return bands


def test_files_of_one_band_are_layers_of_their_scene_and_clouds_are_left_out(tmp_path: Path) -> None:
    bands = write_sentinel2(tmp_path)
    rows = rows_of(GeotiffSource(str(tmp_path), chip_size_px=32))
    fine = [row for row in rows if len(row.media.bands) == 4]
    assert [row.window for row in fine] == [(32, 0, 32, 32), (0, 32, 32, 32), (32, 32, 32, 32)], "one chip is clouded"
    chip = decode_chip(fine[0].media)
    assert chip.bands == ("blue", "green", "red", "nir")
    assert chip.wavelength_nm == (492.4, 559.8, 664.6, 832.8)
    np.testing.assert_array_equal(chip.pixels[3], bands["B08"][0, :32, 32:])
    assert (fine[0].media.modality, fine[0].media.sensor, fine[0].media.gsd_m) == ("ms", "Sentinel-2-MSI", 10.0)
    assert (fine[0].cloud_cover, fine[0].acquired_at) == (0.0, datetime(2020, 2, 19, tzinfo=UTC))
    assert fine[0].bbox is not None
    assert fine[0].bbox == pytest.approx(shapely.from_wkb(fine[0].geometry).bounds)
    assert [row for row in rows if row not in fine] == [], "the whole 20 m grid is one chip, a quarter of it cloud"
    open_to_clouds = rows_of(GeotiffSource(str(tmp_path), chip_size_px=32, max_cloud_cover=50))
    assert len(open_to_clouds) == 4
    assert [(row.media.bands, row.cloud_cover) for row in open_to_clouds[3:]] == [(("rededge", "nir2"), 25.0)]
    assert len({row.item_id for row in open_to_clouds}) == 4
    assert len({row.scene_id for row in open_to_clouds}) == 1


@pytest.mark.parametrize(
    ("descriptions", "modality"), [(("red", "green", "blue"), "rgb"), (("pan",), "pan"), (("red", "nir"), "ms")]
)
def test_the_names_of_bands_tell_the_modality(tmp_path: Path, descriptions: tuple[str, ...], modality: str) -> None:
    write_geotiff(tmp_path / "a.tif", pixels_of(0, len(descriptions), dtype="uint8"), descriptions=descriptions)
    [row] = rows_of(GeotiffSource(f"{tmp_path}/a.tif"))
    assert (row.media.modality, row.media.bands, row.window) == (modality, descriptions, (0, 0, 64, 64))


def test_nodata_masks_and_alpha_bands_leave_chips_out(tmp_path: Path) -> None:
    holed = pixels_of(1, 3)
    holed[1, 40, 10] = 0
    write_geotiff(tmp_path / "value.tif", holed, nodata=0)
    masked = write_geotiff(tmp_path / "mask.tif", pixels_of(2, 3), west=600_000)
    valid = np.full((64, 64), 255, np.uint8)
    valid[10, 40] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(masked, "r+") as dataset:
        dataset.write_mask(valid)
    alpha = write_geotiff(
        tmp_path / "alpha.tif", np.concatenate([pixels_of(3, 3, dtype="uint8"), valid[None]]), west=7e5
    )
    infrared = write_geotiff(tmp_path / "infrared.tif", pixels_of(4, 4, dtype="uint8"), west=8e5)
    for path in (alpha, infrared):
        with rasterio.open(path, "r+") as dataset:
            dataset.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    kept: dict[str, set[object]] = {}
    for row in rows_of(GeotiffSource(f"{tmp_path}/*.tif", chip_size_px=32)):
        kept.setdefault(Path(row.source_uri).stem, set()).add((row.media.bands, row.window[:2]))
    corners = {(0, 0), (32, 0), (0, 32), (32, 32)}
    rgb = ("red", "green", "blue")
    assert kept == {
        "value": {(rgb, corner) for corner in corners - {(0, 32)}},
        "mask": {(rgb, corner) for corner in corners - {(32, 0)}},
        "alpha": {(rgb, corner) for corner in corners - {(32, 0)}},
        "infrared": {((*rgb, "nir"), corner) for corner in corners},
    }


def test_scenes_of_overlapping_ground_share_scene_id(tmp_path: Path) -> None:
    for name, west in (("a", 0), ("b", 32), ("c", 500)):
        write_geotiff(tmp_path / f"{name}.tif", pixels_of(0, 3), west=500_000 + west)
    a, b, c = (item.scene_id for item in GeotiffSource(str(tmp_path)).items())
    assert a == b != c


def test_what_cannot_be_read_is_told_and_disturbs_no_other(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scenes found"):
        list(GeotiffSource(str(tmp_path)).items())
    write_geotiff(tmp_path / "good.tif", pixels_of(0, 3))
    (tmp_path / "bad.tif").write_bytes(b"II*\0 no more than that")
    bad, good = GeotiffSource(str(tmp_path)).items()
    assert len(list(GeotiffSource("").rows(good))) == 1
    with pytest.raises(DataError, match=r"scene cannot be used: seen .*raster cannot be decoded"):
        list(GeotiffSource("").rows(bad))


def test_a_sensor_that_is_given_names_the_bands(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "cut.tif", pixels_of(0, 6, dtype="uint8"))
    [row] = rows_of(GeotiffSource(str(tmp_path), sensor="landsat7"))
    assert row.media.bands == ("blue", "green", "red", "nir", "swir1", "swir2")
    assert row.media.wavelength_nm[0] == 482.5


def test_product_names() -> None:
    landsat = parse_product_name("LC08_L2SP_193024_20200219_20200823_02_T1_SR_B5")
    assert (landsat.scene, landsat.sensor) == ("LC08_L2SP_193024_20200219_20200823_02_T1", "Landsat-8-OLI-TIRS")
    assert landsat.band(landsat.sensor) == "nir"
    assert landsat.day == datetime(2020, 2, 19, tzinfo=UTC)
    quality = parse_product_name("LC08_L2SP_193024_20200219_20200823_02_T1_QA_PIXEL")
    assert (quality.scene, quality.clouds) == (landsat.scene, "qa_pixel")
    assert parse_product_name("T29RKH_20200219T110000_B8A_20m").band("Sentinel-2-MSI") == "nir2"
    assert parse_product_name("harbour_20200230_cloud") == parse_product_name("harbour_20200230_cloudmask")
    assert parse_product_name("harbour_20200230").day is None
    assert parse_product_name("mosaic_B7").band(None) == "b07"


def stac_item(name: str, **changes: Any) -> dict[str, Any]:
    codes = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
    assets = {
        key: {"href": f"./{S2}__{code}.tif", "roles": ["data"], "eo:bands": [{"name": code, "common_name": key}]}
        for key, code in codes.items()
    }
    properties = {"datetime": "2020-02-19T11:39:18Z", "eo:cloud_cover": 12.5, "platform": "sentinel-2a"}
    return {
        "type": "Feature",
        "id": name,
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]},
        "properties": properties,
        "assets": assets | {"thumbnail": {"href": "t.jpg", "roles": ["thumbnail"]}},
        **changes,
    }


def test_a_stac_item_gives_its_id_time_clouds_and_sensor(tmp_path: Path) -> None:
    bands = write_sentinel2(tmp_path)
    (tmp_path / "items").mkdir()
    item = stac_item("one")
    for asset in item["assets"].values():
        asset["href"] = "../" + asset["href"].removeprefix("./")
    (tmp_path / "items" / "one.json").write_text(json.dumps(item))
    rows = rows_of(StacSource(f"{tmp_path}/items/one.json", chip_size_px=32))
    assert len(rows) == 4
    chip = decode_chip(rows[0].media)
    assert (chip.bands, rows[0].media.sensor) == (("blue", "green", "red", "nir"), "Sentinel-2-MSI")
    np.testing.assert_array_equal(chip.pixels[0], bands["B02"][0, :32, :32])
    assert rows[0].acquired_at == datetime(2020, 2, 19, 11, 39, 18, tzinfo=UTC)
    assert rows[0].cloud_cover == 12.5, "the item's, where no mask tells the chip's"
    assert json.loads(rows[0].attributes or "") == {"stac_id": "one", "collection": "sentinel-2-l2a"}
    item["assets"]["scl"] = {"href": f"../{S2}__SCL.tif", "roles": ["data"]}
    (tmp_path / "items" / "one.json").write_text(json.dumps(item))
    masked = rows_of(StacSource(f"{tmp_path}/items/one.json", chip_size_px=32))
    assert [(row.item_id, row.cloud_cover) for row in masked] == [(row.item_id, 0.0) for row in rows[1:]]


def test_a_collection_and_a_parquet_of_the_same_items_give_the_same_rows(tmp_path: Path) -> None:
    write_sentinel2(tmp_path)
    items = [stac_item("one"), stac_item("two", geometry=None)]
    (tmp_path / "all.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    rows = rows_of(StacSource(f"{tmp_path}/all.json"))
    assert len({row.item_id for row in rows}) == 2
    table = pa.table(
        {
            "id": ["one", "two"],
            "collection": ["sentinel-2-l2a"] * 2,
            "geometry": pa.array([shapely.to_wkb(shapely.box(0, 0, 1, 1)), None], pa.binary()),
            "datetime": pa.array([datetime(2020, 2, 19, 11, 39, 18, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC")),
            "eo:cloud_cover": [12.5] * 2,
            "platform": ["sentinel-2a"] * 2,
            "assets": [item["assets"] for item in items],
        }
    )
    pq.write_table(table, tmp_path / "all.parquet")
    assert rows_of(StacSource(f"{tmp_path}/all.parquet")) == rows


def test_the_items_place_is_told_where_a_raster_has_none(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", pixels_of(0, 3, dtype="uint8"), crs=None)
    item = stac_item("one", assets={"image": {"href": "a.tif", "type": "image/tiff; application=geotiff"}})
    (tmp_path / "one.json").write_text(json.dumps(item))
    [row] = rows_of(StacSource(f"{tmp_path}/one.json"))
    assert (row.bbox, row.crs, row.media.modality) == ((0, 0, 1, 1), None, "rgb")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a STAC file"),
        ('{"type": "Catalog"}', "not a STAC item or item collection: seen type Catalog"),
        (
            '{"type": "FeatureCollection", "features": [{"assets": {}}]}',
            "no STAC items: seen 1 records, 1 without an id",
        ),
        ("[]", "seen type list"),
    ],
)
def test_what_is_no_stac_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "one.json").write_text(text)
    with pytest.raises(DataError, match=message):
        list(StacSource(f"{tmp_path}/one.json").items())


@pytest.mark.parametrize(
    ("assets", "message"),
    [
        ({"t": {"href": "t.jpg"}}, "the item has no raster: seen assets t"),
        ({"a": {"href": "https://x.example/a.tif"}}, "cannot read this place: seen https"),
        ({"a": {"href": "gone.tif"}}, "input not found"),
        (["a.tif"], "assets: Input should be a valid dictionary"),
        ({"a": {"href": "a.tif", "eo:bands": ["red"]}}, "assets.a.eo:bands.0: Input should be a valid"),
        ({"a": {"href": 5}}, "assets.a.href: Input should be a valid string"),
        ({"a": {"href": "../" * 40 + "a.tif"}}, "an href leads out of its storage"),
    ],
)
def test_an_item_without_rasters_is_told(tmp_path: Path, assets: Any, message: str) -> None:
    (tmp_path / "one.json").write_text(json.dumps(stac_item("one", assets=assets)))
    source = StacSource(f"{tmp_path}/one.json")
    [item] = source.items()
    with pytest.raises(DataError, match=message):
        list(source.rows(item))


@pytest.mark.parametrize("properties", [[1], {"instruments": 7}, {"eo:cloud_cover": "much"}])
def test_properties_of_another_kind_are_told(tmp_path: Path, properties: Any) -> None:
    (tmp_path / "one.json").write_text(json.dumps(stac_item("one", properties=properties)))
    [item] = StacSource(f"{tmp_path}/one.json").items()
    with pytest.raises(DataError, match="scene cannot be used: seen properties"):
        list(StacSource("").rows(item))


def test_a_place_outside_its_projection_is_no_place(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "a.tif", pixels_of(0, 3), transform=Affine(1e300, 0, 1e300, 0, -1e300, 1e300))
    [row] = rows_of(GeotiffSource(str(tmp_path)))
    assert (row.bbox, row.crs, row.media.gsd_m) == (None, None, None)


def test_real_scenes_become_chips(real_data: Path) -> None:
    rows = rows_of(GeotiffSource(f"{real_data}/scenes"))
    bands = {row.media.bands for row in rows if row.media.sensor == "Sentinel-2-MSI"}
    assert bands == {("blue", "green", "red", "nir")}
    assert {row.media.modality for row in rows} == {"ms"}
    assert all(row.bbox is not None and row.media.gsd_m is not None for row in rows)
