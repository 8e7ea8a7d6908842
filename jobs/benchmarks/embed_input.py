"""What the ways to embed are given, and what a run of one took."""

from dataclasses import dataclass

from cmir.archive.shards import Piece, ShardFile
from jobs.benchmarks.material import pieces_of


@dataclass(frozen=True)
class EmbedInput:
    """What is embedded, by which bundle, and a folder for galleries."""

    bundle_uri: str
    files: list[ShardFile]
    work_uri: str

    @property
    def pieces(self) -> list[Piece]:
        return pieces_of(self.files)

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)


@dataclass(frozen=True)
class RunSeconds:
    """Seconds over all rows, and over a single one."""

    num_rows: int
    seconds: float
    seconds_for_one_row: float

    @property
    def rows_per_s(self) -> float:
        """Of the rows beyond the first, so that planning and the workers' start are left out."""
        return (self.num_rows - 1) / max(self.seconds - self.seconds_for_one_row, 1e-9)
