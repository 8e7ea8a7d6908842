"""The sources read object storage as they read a disk: the same ids, the same pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from cmir.archive import storage
from cmir.archive.schema import ShardRow
from cmir.archive.sources import Source
from cmir.archive.sources.dsrsid import DsrsidSource
from cmir.archive.sources.folder import FolderSource
from cmir.archive.sources.geotiff import GeotiffSource
from cmir.archive.sources.pairs import PairsSource
from cmir.archive.sources.stac import StacSource
from cmir.archive.sources.ucmerced import UcMercedSource
from cmir.archive.sources.wald import WaldSource
from cmir.archive.vocabulary import UCMERCED_LABELS
from tests.picture_files import ground, write_geotiff, write_image
from tests.test_dsrsid import write_file


def identity(source: Source) -> list[tuple[str, str, bytes]]:
    rows: list[ShardRow] = [row for item in source.items() for row in source.rows(item)]
    return [(row.item_id, row.scene_id, row.media.data) for row in rows]


def upload(folder: Path, uri: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            storage.put_atomic(storage.join(uri, path.relative_to(folder).as_posix()), path.read_bytes())


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A small input of each kind."""
    for i in range(2):
        write_image(tmp_path / f"ucmerced/Images/beach/beach0{i}.tif", i)
    flags = ",".join("01"[label == "sand"] for label in UCMERCED_LABELS)
    table = "\n".join(["image," + ",".join(UCMERCED_LABELS), f"beach00,{flags}", f"beach01,{flags}"])
    (tmp_path / "ucmerced/multilabels.csv").write_text(table)
    pairs = tmp_path / "pairs"
    write_geotiff(pairs / "pan.tif", ground(1, 128, 128, 1).transpose(2, 0, 1).copy(), gsd_m=1.0)
    write_geotiff(pairs / "ms.tif", ground(2, 32, 32, 4).transpose(2, 0, 1).copy(), gsd_m=4.0)
    scipy.io.savemat(pairs / "scene.mat", {"P": ground(3, 64, 64, 1)[..., 0], "M": ground(4, 16, 16, 4)})
    (pairs / "manifest.csv").write_text("pan,ms\npan.tif,ms.tif\nscene.mat:P,scene.mat:M")
    asset = {"href": "../pairs/ms.tif", "roles": ["data"]}
    item = {"type": "Feature", "id": "a", "geometry": None, "properties": {}, "assets": {"ms": asset}}
    (tmp_path / "stac").mkdir()
    (tmp_path / "stac/item.json").write_text(json.dumps(item))
    (tmp_path / "dsrsid").mkdir()
    write_file(tmp_path / "dsrsid/DSRSID.mat", size_px=16)
    return tmp_path


def test_every_source_gives_the_same_rows_from_object_storage(archives: Path, s3_bucket: str) -> None:
    base = storage.join(s3_bucket, "sources")
    upload(archives, base)
    for kind, name in (
        (UcMercedSource, "ucmerced"),
        (WaldSource, "ucmerced"),
        (FolderSource, "ucmerced"),
        (DsrsidSource, "dsrsid"),
    ):
        here, there = identity(kind(str(archives / name))), identity(kind(storage.join(base, name)))
        assert here == there, name
        assert here
    here = identity(PairsSource(str(archives / "pairs"), 64))
    assert here == identity(PairsSource(storage.join(base, "pairs"), 64))
    assert len(here) == 10
    for source, name, num_chips in ((GeotiffSource, "pairs/*.tif", 5), (StacSource, "stac/item.json", 1)):
        cut = identity(source(str(archives / name), 64))
        assert cut == identity(source(storage.join(base, name), 64)), name
        assert len(cut) == num_chips
    assert np.unique([item_id for item_id, _, _ in here]).size == 10
