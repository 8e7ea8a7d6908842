"""Item rows for tests of the gallery: made by hand, the same for the same arguments."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from cmir.archive.schema import gallery_schema

DIM = 16
SPACE = "s00112233445566aa"
VERSION_1, VERSION_2 = "1111aaaa", "2222bbbb"


def piece_name(shard: str, row_group: int, version: str = VERSION_1) -> str:
    return f"{shard}.{version}.{row_group}"


def vector_of(item_id: str, dim: int = DIM) -> np.ndarray:
    """The vector every test expects of an item: drawn from its id. Returns f32[dim], unit length."""
    seed = int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def rows(piece_id: str, items: Sequence[dict[str, Any]], dim: int = DIM) -> pa.Table:
    """Rows of gallery_schema; every item needs an item_id, all else has a default."""
    records = [
        {
            "modality": "ms",
            "split": "test",
            "vector": vector_of(item["item_id"], dim),
            "piece_id": piece_id,
            "labels": [],
            "scene_id": item["item_id"],
            "source_uri": f"{item['item_id']}.tif",
            "content_hash": "0",
            **item,
        }
        for item in items
    ]
    return pa.Table.from_pylist(records, schema=gallery_schema(dim))


def piece_rows(piece_id: str, num_rows: int, dim: int = DIM) -> pa.Table:
    """Rows named after their piece's shard and row group (not its version: a changed shard keeps its item ids)."""
    shard, _, row_group = piece_id.split(".")
    return rows(piece_id, [{"item_id": f"{shard}-{row_group}-{i}"} for i in range(num_rows)], dim)


def square(west: float, south: float, side: float = 1.0) -> dict[str, Any]:
    """bbox and geometry of a square footprint with its lower left corner there."""
    bbox = {"xmin": west, "ymin": south, "xmax": west + side, "ymax": south + side}
    return {"bbox": bbox, "geometry": shapely.to_wkb(shapely.box(west, south, west + side, south + side))}


def day(number: int) -> datetime:
    """Day `number` of 2020, noon UTC."""
    return datetime(2020, 1, 1, 12, tzinfo=UTC) + timedelta(days=number)
