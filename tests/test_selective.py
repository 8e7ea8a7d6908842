"""Filters of a given share, made of what the rows hold."""

import pyarrow as pa
import pytest

from cmir.archive.schema import gallery_schema
from cmir.gallery.selective import SAMPLED_COLUMNS, selective_condition
from tests.gallery_rows import day, rows


def sample(**columns: list[object]) -> pa.Table:
    """1,000 rows with these columns, ids from i000 to i999."""
    items = [{"item_id": f"i{i:03}", **{name: values[i] for name, values in columns.items()}} for i in range(1000)]
    return rows("a.1.0", items).select(list(SAMPLED_COLUMNS))


SENSORS: list[object] = ["rare" if i < 12 else "some" if i < 120 else "often" for i in range(1000)]
LABELS: list[object] = [["l"] if i < 9 else ["m", "n"] if i < 200 else [] for i in range(1000)]


@pytest.mark.parametrize(
    ("columns", "share", "condition"),
    [
        ({"labels": LABELS, "sensor": SENSORS}, 0.01, "array_has_all(labels, ['l'])"),
        ({"labels": LABELS, "sensor": SENSORS}, 0.1, "array_has_all(labels, ['m'])"),  # 19% are near enough
        ({"sensor": SENSORS}, 0.1, "sensor = 'some'"),
        ({"sensor": SENSORS}, 0.001, "item_id <= 'i000'"),
        ({}, 0.1, "item_id <= 'i099'"),
    ],
)
def test_labels_then_sensors_then_ids(columns: dict[str, list[object]], share: float, condition: str) -> None:
    assert selective_condition(sample(**columns), share) == condition


def test_times_where_neither_label_nor_sensor_fits() -> None:
    table = sample(acquired_at=[day(i) if i % 2 else None for i in range(1000)])
    micros = int(day(199).timestamp()) * 1_000_000  # the hundredth of those that have a time
    assert selective_condition(table, 0.1) == f"acquired_at <= to_timestamp_micros({micros})"
    assert selective_condition(sample(acquired_at=[day(0)] * 1000), 0.1) == "item_id <= 'i099'", "all at once"


def test_a_quote_in_a_label_stays_in_its_literal() -> None:
    labels: list[object] = [["it's"] if i < 10 else [] for i in range(1000)]
    assert selective_condition(sample(labels=labels), 0.01) == "array_has_all(labels, ['it''s'])"


def test_sampled_columns_stand_in_the_gallery() -> None:
    assert set(SAMPLED_COLUMNS) <= set(gallery_schema(2).names)
