"""The sources on real imagery: UC Merced, GID, NAIP, and PAN-MS pairs of three sensors."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cmir.archive.imagery import decode_chip
from cmir.archive.schema import ShardRow
from cmir.archive.sources import Item, Source
from cmir.archive.sources.folder import FolderSource
from cmir.archive.sources.pairs import PairsSource
from cmir.archive.sources.ucmerced import UcMercedSource
from cmir.archive.sources.wald import WaldSource
from cmir.archive.vocabulary import UCMERCED_LABELS
from cmir.evaluation.baseline import grey_vector

DATA = Path(os.environ.get("CMIR_REAL_DATA", "."))
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif("CMIR_REAL_DATA" not in os.environ, reason="CMIR_REAL_DATA does not name a folder of real data"),
]


@pytest.fixture(scope="module")
def ucmerced_items() -> list[Item]:
    return list(UcMercedSource(str(DATA / "ucmerced")).items())


def rows_of(source: Source, items: list[Item] | None = None) -> list[ShardRow]:
    return [row for item in (items or list(source.items())) for row in source.rows(item)]


def test_ucmerced_has_1680_images_of_21_classes_and_17_labels(ucmerced_items: list[Item]) -> None:
    rows = rows_of(UcMercedSource(str(DATA / "ucmerced")), ucmerced_items)
    assert len(rows) == len({row.item_id for row in rows}) == 1680
    assert len({row.scene_class for row in rows}) == 21
    assert {label for row in rows for label in row.labels} == set(UCMERCED_LABELS)
    counts = [len(row.labels) for row in rows]
    assert 1 <= min(counts) <= max(counts) <= 8
    assert np.mean(counts) == pytest.approx(3.34, abs=0.1)
    assert {row.media.shape[0] for row in rows} == {3}
    assert min(min(row.media.shape[1:]) for row in rows) >= 247


def test_ucmerced_shares_ground_and_few_images_are_joined(ucmerced_items: list[Item]) -> None:
    groups: dict[str, set[str]] = {}
    for item in ucmerced_items:
        groups.setdefault(item.scene_id, set()).add(Path(item.key).stem)
    joined = [names for names in groups.values() if len(names) > 1]
    assert 30 <= len(joined) <= 90
    assert max(map(len, joined)) <= 8
    for pair in ({"airplane01", "airplane02"}, {"parkinglot08", "parkinglot09"}, {"beach47", "beach48"}):
        assert any(pair <= names for names in joined)


def test_wald_gives_the_same_ground_and_a_hard_pair_is_no_gift(ucmerced_items: list[Item]) -> None:
    some = ucmerced_items[::10]
    grounds = {item.key: item.scene_id for item in ucmerced_items}
    for hard, low, high in ((False, 0.99, 1.0), (True, 0.5, 0.9)):
        source = WaldSource(str(DATA / "ucmerced"), hard=hard)
        rows = rows_of(source, [_wald_item(item) for item in some])
        assert all(row.scene_id in grounds.values() for row in rows)
        pan, ms = (np.stack([grey_vector(decode_chip(row.media)) for row in rows[k::2]]) for k in (0, 1))
        assert low <= ((pan @ ms.T).argmax(axis=1) == np.arange(len(some))).mean() <= high


def _wald_item(item: Item) -> Item:
    """What the wald source lists for the same image, without searching the overlaps once more."""
    detail = {"labels": item.detail["labels"], "scene_class": item.detail["scene_class"], "gsd_m": 0.3048}
    return Item(item.key, item.scene_id, item.num_bytes, source_uri=item.source_uri, detail=detail)


def test_gid_is_read_as_a_folder_and_as_wald_on_the_same_ground() -> None:
    folder, wald = FolderSource(str(DATA / "gid_mtl5")), WaldSource(str(DATA / "gid_mtl5"))
    rows, pairs = rows_of(folder), rows_of(wald)
    assert (len(rows), len(pairs)) == (125, 250)
    assert {row.scene_class for row in rows} == {"builtup", "farmland", "forest", "meadow", "water"}
    assert {row.media.shape for row in pairs} == {(1, 224, 224), (3, 56, 56)}
    assert [row.scene_id for row in rows] == [row.scene_id for row in pairs[::2]]


def test_naip_of_two_years_shares_its_ground() -> None:
    items = list(WaldSource(str(DATA / "naip")).items())
    ground = {item.key.removesuffix(".tif"): item.scene_id for item in items}
    assert len(ground) == 130
    assert len(set(ground.values())) == 80
    assert all(ground[key] == ground[key.replace("2018", "2020")] for key in ground if "claremont_2018" in key)
    pan, ms = rows_of(WaldSource(str(DATA / "naip")), items[:1])
    assert (pan.media.shape, ms.media.shape) == ((1, 256, 256), (4, 64, 64))
    assert ms.media.bands == ("red", "green", "blue", "nir")
    assert (pan.media.gsd_m, ms.media.gsd_m) == pytest.approx((0.6, 2.4))


@pytest.fixture(scope="module")
def panms(tmp_path_factory: pytest.TempPathFactory) -> list[ShardRow]:
    base = DATA / "panms"
    folder = tmp_path_factory.mktemp("panms")
    lines = [
        *(f"{base}/rotterdam/pan{i}.tif,{base}/rotterdam/ms{i}.tif,WorldView-2" for i in (1, 2)),
        f"{base}/navarra/pan_example.tif,{base}/navarra/ms_example.tif,",
        f"{base}/landsat8/Landsat8-5.mat:I_PAN,{base}/landsat8/Landsat8-5.mat:I_MS,Landsat-8",
    ]
    (folder / "manifest.csv").write_text("\n".join(["pan,ms,sensor", *lines]))
    return rows_of(PairsSource(str(folder)))


def test_real_pairs_are_cut_from_every_sensor(panms: list[ShardRow]) -> None:
    chips = Counter(Path(row.source_uri.partition(":I_")[0]).parent.name for row in panms)
    assert chips == {"rotterdam": 16, "navarra": 12, "landsat8": 8}
    assert len({row.item_id for row in panms}) == len(panms)
    shapes = {(row.media.modality, row.media.shape, row.media.dtype) for row in panms}
    assert ("pan", (1, 256, 256), "uint16") in shapes
    assert ("ms", (4, 128, 128), "float32") in shapes
    assert ("ms", (10, 128, 128), "uint16") in shapes
    navarra = next(row for row in panms if "navarra" in row.source_uri)
    assert navarra.crs == "EPSG:32630"
    assert navarra.bbox is not None
    assert -2 < navarra.bbox[0] < navarra.bbox[2] < -1.5
    assert 42.7 < navarra.bbox[1] < navarra.bbox[3] < 42.9


def test_real_pairs_show_the_same_ground(panms: list[ShardRow]) -> None:
    for pan_row, ms_row in zip(panms[::2], panms[1::2], strict=True):
        pan, ms = decode_chip(pan_row.media), decode_chip(ms_row.media)
        reduced = pan.pixels[0].astype(float).reshape(128, 2, 128, 2).mean((1, 3))
        visible = ms.pixels[[ms.bands.index(name) for name in ("blue", "green", "red")]].astype(float).mean(0)
        assert np.corrcoef(reduced.ravel(), visible.ravel())[0, 1] > 0.7, pan_row.source_uri
