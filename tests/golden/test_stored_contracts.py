"""What is stored for years must not change unnoticed: schemas of files and tables, ids, keys of report.json.

`contracts.json` is what they were; a change that is meant is written by `python -m tests.golden.test_stored_contracts`.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from cmir.archive.schema import (
    QUARANTINE_SCHEMA,
    SHARD_SCHEMA,
    THUMBNAIL_SCHEMA,
    content_hash,
    gallery_schema,
    make_group_id,
    make_item_id,
)
from cmir.archive.shards import shard_id_of
from cmir.evaluation.measurement import evaluate
from cmir.evaluation.report import report_json
from cmir.gallery.ledger import LEDGER_SCHEMA, SHARDS_SCHEMA
from tests.made_items import Made, items_of

GOLDEN = Path(__file__).with_name("contracts.json")
MADE = [Made("rgb", ("a",)), Made("rgb", ("a", "b")), Made("speech", ("a",)), Made("speech", ("b",))]


def contracts() -> dict[str, Any]:
    """Everything of it as JSON."""
    report = json.loads(report_json(evaluate(items_of(MADE), space_id="s0123456789abcdef").report))
    schemas = {
        "shard": SHARD_SCHEMA,
        "quarantine": QUARANTINE_SCHEMA,
        "thumbnails": THUMBNAIL_SCHEMA,
        "ledger": LEDGER_SCHEMA,
        "shards of the ledger": SHARDS_SCHEMA,
        "space of 8 dimensions": gallery_schema(8),
    }
    return {
        "schemas": {name: _columns(schema) for name, schema in schemas.items()},
        "ids": {
            "item": make_item_id("folder", "river/1.png", "rgb"),
            "item of a window": make_item_id("pairs", "scene", "pan", (0, 256, 256, 256)),
            "scene": make_group_id("scene", "river", "1"),
            "content": content_hash(b"cmir"),
            "shard": shard_id_of("s3://cmir/archive/rgb/train/part-00000.parquet"),
        },
        "report": sorted(report),
        "direction": sorted(report["directions"]["speech_to_rgb"]),
    }


def test_what_is_stored_is_what_it_was() -> None:
    assert contracts() == json.loads(GOLDEN.read_text())


def _columns(schema: pa.Schema) -> list[str]:
    return [f"{field.name}: {field.type}{'' if field.nullable else ' not null'}" for field in schema]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(contracts(), indent=1) + "\n")
