"""The label table of multi-label UC Merced (CSV, or the published MATLAB table) -> the labels of each image.

A table names images in any of the ways in use: `beach07`, `beach07.tif`, `Images/beach/beach07.tif`. The MATLAB table
names none: its columns are the 21 classes in alphabetical order times 00 to 99 (Chaudhuri et al. 2018). Whatever is not
a complete table of zeros and ones is refused, since a shifted column would label an archive wrongly without a sign.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from cmir.archive import storage
from cmir.archive.matlab import read_matrices
from cmir.archive.vocabulary import UCMERCED_LABELS
from cmir.errors import DataError

TABLE_SUFFIXES: Final = (".csv", ".tsv", ".txt", ".mat")
PREFERRED_NAME: Final = "multilabels.csv"
# Yang and Newsam 2010, the folders of the published set.
UCMERCED_CLASSES: Final = (
    "agricultural",
    "airplane",
    "baseballdiamond",
    "beach",
    "buildings",
    "chaparral",
    "denseresidential",
    "forest",
    "freeway",
    "golfcourse",
    "harbor",
    "intersection",
    "mediumresidential",
    "mobilehomepark",
    "overpass",
    "parkinglot",
    "river",
    "runway",
    "sparseresidential",
    "storagetanks",
    "tenniscourt",
)
_IMAGES_PER_CLASS: Final = 100
_FLAGS: Final[Mapping[str, int]] = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_ONE_OF_17: Final = {"".join(c for c in label if c.isalnum()): label for label in UCMERCED_LABELS}

Labels = Mapping[str, tuple[str, ...]]


def find_table(uri: str) -> str | None:
    """The label table in a folder: `multilabels.csv`, else the only file that can be one; None where there is none.

    Raises DataError where several could be meant.
    """
    files = [file.uri for file in storage.list_files(uri) if file.uri.lower().endswith(TABLE_SUFFIXES)]
    files = [file for file in files if "readme" not in storage.name_of(file).lower()]
    preferred = [file for file in files if storage.name_of(file).lower() == PREFERRED_NAME]
    found = preferred or files
    if len(found) > 1:
        names = ", ".join(storage.name_of(file) for file in found[:5])
        raise DataError("which label table is meant?", seen=names, expected=f"one, named {PREFERRED_NAME}", where=uri)
    return found[0] if found else None


def read_labels(uri: str) -> Labels:
    """Labels of each image by its plain name (`beach07`), in the order of the 17.

    Raises DataError: unreadable, not 17 columns of 0 and 1, unknown label, image named twice with different labels.
    """
    data = storage.read_bytes(uri)
    return _from_matlab(data, uri) if uri.lower().endswith(".mat") else _from_text(data, uri)


def plain_name(name: str) -> str:
    """The name that a table and a folder agree on.

    >>> plain_name("Images\\\\beach\\\\Beach07.TIF")
    'beach07'
    """
    return name.strip().replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0].lower()


def _from_text(data: bytes, uri: str) -> Labels:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            "label table is not text", seen=f"bytes {data[:8].hex(' ')}", expected="CSV", where=uri
        ) from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=delimiter)]
    rows = [row for row in rows if any(row)]
    if not rows:
        raise DataError("label table is empty", seen="no rows", expected="a row per image", where=uri)
    columns, body = _columns(rows, uri)
    if not body:
        raise DataError("label table is empty", seen="a header only", expected="a row per image", where=uri)
    table: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(body, start=len(rows) - len(body) + 1):
        labels = _labels_of_row(row, columns, f"{uri}, row {number}")
        if table.setdefault(plain_name(row[0]), labels) != labels:
            raise DataError(
                "image has two rows of labels", seen=row[0], expected="one row", where=f"{uri}, row {number}"
            )
    return table


def _columns(rows: Sequence[Sequence[str]], uri: str) -> tuple[tuple[str, ...], Sequence[Sequence[str]]]:
    """The label of each column after the first, and the rows below the header; without a header the usual order."""
    head = rows[0]
    if len(head) == 1 + len(UCMERCED_LABELS) and all(cell.lower() in _FLAGS for cell in head[1:]):
        return UCMERCED_LABELS, rows
    names = tuple(_ONE_OF_17.get("".join(c for c in cell.lower() if c.isalnum()), "") for cell in head[1:])
    if sorted(names) != sorted(UCMERCED_LABELS):
        unknown = [cell for cell, name in zip(head[1:], names, strict=True) if not name]
        missing = [label for label in UCMERCED_LABELS if label not in names]
        seen = f"{len(head) - 1} columns after the first; unknown: {unknown[:5]}; missing: {missing[:5]}"
        expected = "image, then the 17 labels: " + ", ".join(UCMERCED_LABELS)
        raise DataError("label table has other columns", seen=seen, expected=expected, where=uri)
    return names, rows[1:]


def _labels_of_row(row: Sequence[str], columns: Sequence[str], where: str) -> tuple[str, ...]:
    flags = [_FLAGS.get(cell.lower()) for cell in row[1:]]
    if len(flags) != len(columns) or None in flags:
        bad = [cell for cell in row[1:] if cell.lower() not in _FLAGS]
        seen = f"{len(flags)} columns" + (f", values {bad[:3]}" if bad else "")
        raise DataError("label row is not zeros and ones", seen=seen, expected=f"{len(columns)} of 0 or 1", where=where)
    present = {label for label, flag in zip(columns, flags, strict=True) if flag}
    return tuple(label for label in UCMERCED_LABELS if label in present)


def _from_matlab(data: bytes, uri: str) -> Labels:
    num_images = len(UCMERCED_CLASSES) * _IMAGES_PER_CLASS
    shapes: dict[str, tuple[int, ...]] = {}
    for name, values in read_matrices(data, uri).items():
        shapes[name] = values.shape
        if sorted(values.shape) == [len(UCMERCED_LABELS), num_images] and np.isin(values, (0, 1)).all():
            flags = values if values.shape[1] == num_images else values.T
            images = [f"{group}{i:02d}" for group in UCMERCED_CLASSES for i in range(_IMAGES_PER_CLASS)]
            return {
                image: tuple(label for label, flag in zip(UCMERCED_LABELS, column, strict=True) if flag)
                for image, column in zip(images, flags.T, strict=True)
            }
    expected = f"a {len(UCMERCED_LABELS)} x {num_images} table of 0 and 1"
    raise DataError("no label table in MATLAB file", seen=shapes or "no matrices", expected=expected, where=uri)
