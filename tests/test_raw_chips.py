"""Raw rows of one form are one array; whatever is not is left to the reader of single items."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from cmir.archive.imagery import decode_chip, raw_media
from cmir.archive.raw_chips import raw_chips
from cmir.archive.schema import Media, ShardRow
from cmir.archive.shards import medias, table_of_rows
from tests.conftest import MakeRow

BANDS = ("blue", "green", "red", "nir")


def ms_rows(make_row: MakeRow, num_rows: int, *, dtype: str = "uint16") -> list[ShardRow]:
    rows = []
    for i in range(num_rows):
        pixels = np.random.default_rng(i).integers(0, 200, (4, 6, 5)).astype(dtype)
        media = raw_media("ms", pixels, bands=BANDS, sensor="A", gsd_m=None if i == 1 else 2.0 + i)
        rows.append(replace(make_row(i), media=media))
    return rows


def table_of(rows: list[ShardRow]) -> pa.Table:
    return table_of_rows(rows, "train")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_rows_of_one_form_are_the_chips_of_their_media(make_row: MakeRow, dtype: str) -> None:
    table = table_of(ms_rows(make_row, 5, dtype=dtype))
    for part in (table, table.slice(2, 2)):
        found = raw_chips(part)
        assert found is not None
        assert len(found) == len(part)
        for i, media in enumerate(medias(part)):
            chip, exact = found.chip(i), decode_chip(media)
            assert np.array_equal(chip.pixels, exact.pixels)
            assert chip.pixels.dtype == exact.pixels.dtype
            told = [(c.bands, c.wavelength_nm, c.sensor, c.gsd_m) for c in (chip, exact)]
            assert told[0] == told[1]


def test_pixels_are_not_copied(make_row: MakeRow) -> None:
    table = table_of(ms_rows(make_row, 3))
    found = raw_chips(table)
    assert found is not None
    address = table["data"].chunk(0).buffers()[2].address
    assert found.pixels.__array_interface__["data"][0] == address


def shape_differs(row: ShardRow) -> Media:
    return raw_media("ms", np.zeros((4, 5, 6), np.uint16), bands=BANDS, sensor="A")


def bands_differ(row: ShardRow) -> Media:
    return replace(row.media, bands=("blue", "green", "nir", "red"))


def wavelengths_differ(row: ShardRow) -> Media:
    return replace(row.media, wavelength_nm=(450.0, 550.0, 650.0, 900.0))


def cut_short(row: ShardRow) -> Media:
    return replace(row.media, data=row.media.data[:-1])


def other_sensor(row: ShardRow) -> Media:
    return replace(row.media, sensor="B")


def no_names(row: ShardRow) -> Media:
    return replace(row.media, bands=())


def encoded(row: ShardRow) -> Media:
    return replace(row.media, encoding="png")


def dtype_differs(row: ShardRow) -> Media:
    return replace(row.media, dtype="int16")


@pytest.mark.parametrize(
    "change",
    [shape_differs, bands_differ, wavelengths_differ, cut_short, other_sensor, no_names, encoded, dtype_differs],
)
@pytest.mark.parametrize("place", [0, 2])
def test_anything_else_is_left_to_the_reader_of_items(
    make_row: MakeRow, change: Callable[[ShardRow], Media], place: int
) -> None:
    rows = ms_rows(make_row, 3)
    rows[place] = replace(rows[place], media=change(rows[place]))
    assert raw_chips(table_of(rows)) is None


def test_values_that_are_not_finite_speech_and_no_rows_are_left_too(make_row: MakeRow) -> None:
    rows = ms_rows(make_row, 2, dtype="float32")
    spoilt = np.frombuffer(rows[1].media.data, np.float32).copy()
    spoilt[7] = np.nan
    rows[1] = replace(rows[1], media=replace(rows[1].media, data=spoilt.tobytes()))
    assert raw_chips(table_of(rows)) is None
    sound = Media("speech", np.zeros(9, np.float32).tobytes(), "raw", "float32", (9,), sample_rate_hz=16_000)
    assert raw_chips(table_of([replace(make_row(0), media=sound)])) is None
    assert raw_chips(table_of(ms_rows(make_row, 1)).slice(1)) is None
