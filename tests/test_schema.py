from datetime import UTC, datetime

import pyarrow as pa

from cmir.archive import schema
from cmir.archive.schema import SHARD_SCHEMA, gallery_schema, make_item_id
from cmir.archive.shards import table_of_rows
from tests.conftest import MakeRow


def test_the_columns_of_a_shard_row_are_the_contract() -> None:
    assert SHARD_SCHEMA.names == [
        *("item_id", "modality", "split", "data", "encoding", "dtype", "shape", "bands", "wavelength_nm", "sensor"),
        *("gsd_m", "sample_rate_hz", "labels", "scene_class", "pair_id", "scene_id", "acquired_at", "cloud_cover"),
        *("crs", "bbox", "geometry", "source_uri", "window", "content_hash", "attributes"),
    ]
    assert SHARD_SCHEMA.field("acquired_at").type == pa.timestamp("us", tz="UTC")
    assert SHARD_SCHEMA.field("wavelength_nm").type == pa.list_(pa.float32())


def test_a_gallery_row_holds_a_vector_and_never_pixels() -> None:
    fields = gallery_schema(16)
    assert fields.field("vector").type == pa.list_(pa.float32(), 16)
    assert not {"data", "encoding", "dtype", "shape"} & set(fields.names)
    assert {"item_id", "piece_id", "labels", "bbox", "geometry"} <= set(fields.names)


def test_an_item_id_tells_items_apart_and_nothing_else() -> None:
    ids = {
        make_item_id("folder", "a/1.png", "rgb"),
        make_item_id("folder", "a/2.png", "rgb"),
        make_item_id("wald", "a/1.png", "rgb"),
        make_item_id("folder", "a/1.png", "pan"),
        make_item_id("folder", "a/1.png", "rgb", (0, 0, 256, 256)),
        make_item_id("folder", "a/1.pngr", "gb"),
    }
    assert len(ids) == 6
    assert all(len(item_id) == 24 and int(item_id, 16) >= 0 for item_id in ids)


def test_every_column_of_a_row_reaches_the_table(make_row: MakeRow) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    row = make_row(
        1,
        labels=("sea",),
        scene_class="harbor",
        pair_id="p",
        acquired_at=moment,
        cloud_cover=5.0,
        crs="EPSG:32631",
        bbox=(1.0, 2.0, 3.0, 4.0),
        geometry=b"wkb",
        window=(0, 1, 2, 3),
        attributes="{}",
    )
    (read,) = table_of_rows([row], "val").to_pylist()
    expected = {
        "split": "val",
        "labels": ["sea"],
        "scene_class": "harbor",
        "pair_id": "p",
        "acquired_at": moment,
        "cloud_cover": 5.0,
        "crs": "EPSG:32631",
        "bbox": {"xmin": 1.0, "ymin": 2.0, "xmax": 3.0, "ymax": 4.0},
        "geometry": b"wkb",
        "window": [0, 1, 2, 3],
        "attributes": "{}",
        "content_hash": schema.content_hash(row.media.data),
    }
    assert {name: read[name] for name in expected} == expected
