"""A manifest.csv and the files it names, wherever it lies.

Its paths are absolute or relative to it. The own name of a file, from which its item_id is made, never depends on
where the input lay: the path as the manifest gives it where that is relative; the file's name where it is absolute,
with as many folders before it as it takes to tell it from the manifest's others.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cmir.archive import storage
from cmir.errors import DataError

FILE_NAME: Final = "manifest.csv"


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One line: its number in the file, and its cells by column name, without blanks at their ends."""

    line: int
    cells: dict[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The lines of a manifest and the folder that its relative paths start from."""

    uri: str
    folder_uri: str
    rows: tuple[ManifestRow, ...]

    def resolve(self, path: str) -> str:
        """The URI of a path of the manifest."""
        return path if _is_absolute(path) else storage.join(self.folder_uri, path)

    def own_names(self, column: str) -> list[str]:
        """The own name of each row's file of a column, in the order of the rows."""
        paths = [row.cells[column] for row in self.rows]
        names = {path: _tail(path, 1) if _is_absolute(path) else path for path in paths}
        depth = 1
        while True:
            counts = Counter(names.values())
            alike = [path for path, name in names.items() if counts[name] > 1 and _is_absolute(path) and name != path]
            if not alike:
                return [names[path] for path in paths]
            depth += 1
            names.update({path: _tail(path, depth) for path in alike})


def is_manifest(input_uri: str) -> bool:
    """Whether an input is a manifest: a .csv file, or a folder that holds a manifest.csv."""
    return input_uri.endswith(".csv") or storage.exists(storage.join(input_uri, FILE_NAME))


def read_manifest(input_uri: str, required_columns: Sequence[str]) -> Manifest:
    """The manifest at `input_uri`, the file itself or the folder that holds it.

    Raises DataError where it is missing, is not a table in UTF-8, lacks a column or a row, or a required cell is empty
    in every row.
    """
    uri = input_uri if input_uri.endswith(".csv") else storage.join(input_uri, FILE_NAME)
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("cannot read manifest", seen=str(error), expected="a table in UTF-8", where=uri) from error
    header = [name.strip() for name in lines[0]] if lines else []
    missing = [name for name in required_columns if name not in header]
    if missing:
        seen, expected = ", ".join(header) or "an empty file", ", ".join(required_columns)
        raise DataError("manifest lacks columns", seen=seen, expected=expected, where=uri)
    rows = tuple(
        ManifestRow(number, dict(zip(header, map(str.strip, [*cells, *[""] * len(header)]), strict=False)))
        for number, cells in enumerate(lines[1:], start=2)
        if any(cell.strip() for cell in cells)
    )
    if not rows:
        raise DataError("manifest names nothing", seen="no rows", expected="at least one", where=uri)
    return Manifest(uri, uri.rpartition("/")[0] or ".", rows)


def _is_absolute(path: str) -> bool:
    return path.startswith("/") or "://" in path


def _tail(path: str, num_parts: int) -> str:
    """The last parts of a path; the whole path where it has no more."""
    parts = path.split("/")
    return "/".join(parts[-num_parts:]) if num_parts < len(parts) else path
