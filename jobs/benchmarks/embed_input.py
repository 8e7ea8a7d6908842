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
    """Seconds of a run over all rows, and of one over a first part that keeps every worker busy.

    Both start as many workers, so that their difference is of rows alone.
    """

    num_rows: int
    seconds: float
    num_first_rows: int
    seconds_for_first_rows: float

    @property
    def rows_per_s(self) -> float:
        """Of the rows beyond the first part: planning and the workers' start are left out."""
        return (self.num_rows - self.num_first_rows) / max(self.seconds - self.seconds_for_first_rows, 1e-9)

    @property
    def start_s(self) -> float:
        """What the run takes beyond its rows at that rate."""
        return self.seconds - self.num_rows / self.rows_per_s
