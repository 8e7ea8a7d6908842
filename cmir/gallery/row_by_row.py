"""The rows of a piece embedded one after the other in a process of their own, so that those that end it can be named.

For pieces whose workers died again and again: decoders are native code, and a file can make one fault or ask for more
memory than there is. A row becomes what it becomes in a batch; only the process is another, started anew after a death.
"""

from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from cmir.archive.imagery import Chip, thumbnail
from cmir.errors import DataError, GalleryError
from cmir.lone_process import LoneProcess
from cmir.network.embedder import Device, EmbeddedTable, Embedder, Precision

DEATHS_OF_A_ROW: Final = 3  # after so many it is the row: one or two may come from outside


@dataclass(frozen=True, slots=True)
class HowToEmbed:
    """What the process opens the bundle with, and whether it draws a preview of every chip."""

    bundle_uri: str
    device: Device
    precision: Precision
    with_thumbnails: bool


@dataclass(frozen=True, slots=True)
class EmbeddedRow:
    """What came of one row: `vectors` f32[1,D] and `errors` of row 0, the WebP bytes of its chip where it was drawn."""

    embedded: EmbeddedTable
    webp: bytes | None


@dataclass(slots=True)
class RowByRow:
    """Rows of a SHARD_SCHEMA table, each embedded by a process that it may end."""

    how: HowToEmbed
    drawn: dict[int, bytes] = field(default_factory=dict)  # of the rows so far: WebP bytes

    def embed(self, table: pa.Table, dim: int) -> EmbeddedTable:
        """What `Embedder.embed_table` gives; a row that ended its process three times is an error of that row.

        Raises GalleryError where the process ends already while it opens the bundle.
        """
        vectors = np.zeros((table.num_rows, dim), np.float32)
        errors: dict[int, DataError] = {}
        row, num_deaths = 0, 0
        while row < table.num_rows:
            with _opened(self.how) as pool:
                try:
                    while row < table.num_rows:
                        done = pool.submit(_embed_row, table.slice(row, 1).combine_chunks()).result()
                        vectors[row] = done.embedded.vectors[0]
                        if done.embedded.errors:
                            errors[row] = done.embedded.errors[0]
                        if done.webp is not None:
                            self.drawn[row] = done.webp
                        row, num_deaths = row + 1, 0
                except BrokenProcessPool:
                    num_deaths += 1
            if num_deaths == DEATHS_OF_A_ROW:
                errors[row] = DataError(
                    "the process that embeds it ends", seen=f"{num_deaths} deaths", expected="an embedding or an error"
                )
                row, num_deaths = row + 1, 0
        return EmbeddedTable(vectors, errors)


@contextmanager
def _opened(how: HowToEmbed) -> Iterator[LoneProcess]:
    """One new process, the bundle open in it."""
    with LoneProcess(_open, how) as pool:
        try:
            pool.submit(_is_open).result()
        except BrokenProcessPool as error:
            what, fix = "a process cannot open the bundle", "see above why, and give workers more memory"
            raise GalleryError(what, seen="its end", where=how.bundle_uri, fix=fix) from error
        yield pool


_embedder: Embedder | None = None  # of the process
_draws = False


def _open(how: HowToEmbed) -> None:
    global _embedder, _draws
    _embedder = Embedder.open(how.bundle_uri, device=how.device, precision=how.precision, num_threads=1)
    _draws = how.with_thumbnails


def _is_open() -> bool:
    return _embedder is not None


def _embed_row(table: pa.Table) -> EmbeddedRow:
    assert _embedder is not None
    drawn: list[bytes] = []

    def draw(_: int, chip: Chip) -> None:
        drawn.append(thumbnail(chip))

    embedded = _embedder.embed_table(table, on_chip=draw if _draws else None)
    return EmbeddedRow(embedded, drawn[0] if drawn else None)
