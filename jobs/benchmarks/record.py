"""What a benchmark found becomes one JSON file and tables on stderr: figures beside the machine, versions and command.

Figures are frozen models; the names of their fields are the keys of the file and the headings of the tables, so a
number never stands without its unit.
"""

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Annotated, Final, Self, TypeAlias

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from rich.console import Console
from rich.table import Table

from cmir.archive import storage
from cmir.errors import ConfigError
from jobs.entrypoint import JobConfig, JobResult

_PACKAGES: Final = ("cmir", "torch", "ray", "pyarrow", "lancedb", "pylance", "numpy", "faiss-cpu")
_LOG_WIDTH: Final = 116  # columns of a table where there is no terminal
_LONGEST_WORD: Final = 13  # characters of a cell that is not folded


def sizes_of(text: str) -> list[int]:
    """The numbers of `a,b,c`, the smallest first; none where that is not one.

    >>> sizes_of("64, 8")
    [8, 64]
    """
    parts = [part.strip() for part in text.split(",")]
    return sorted(map(int, parts)) if all(part.isdigit() for part in parts) else []


def _check_sizes(text: str) -> str:
    if not sizes_of(text) or min(sizes_of(text)) < 1:
        raise ValueError("expected numbers as a,b,c")
    return text


Sizes = Annotated[str, AfterValidator(_check_sizes)]


class BenchmarkConfig(JobConfig):
    """Settings that every benchmark has."""

    output: str = Field(description="JSON file for the figures; one that is there is replaced at the end.")


class Findings(BaseModel):
    """Base of all figures: a frozen row of named numbers."""

    model_config = ConfigDict(frozen=True)


Figures: TypeAlias = Mapping[str, Findings | Sequence[Findings]]


class Machine(BaseModel):
    """Where it ran. `load_before` is the one-minute load average: above 0, others were at work too."""

    model_config = ConfigDict(frozen=True)

    system: str
    cpu: str
    num_cores: int
    num_threads: int
    memory_gb: float
    gpu: str | None
    load_before: float
    versions: dict[str, str]

    @classmethod
    def here(cls) -> Self:
        """This machine as this process may use it."""
        return cls(
            system=platform.platform(),
            cpu=_cpu_name(),
            num_cores=len(os.sched_getaffinity(0)),
            num_threads=torch.get_num_threads(),
            memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            load_before=round(os.getloadavg()[0], 2),
            versions={"python": platform.python_version(), **_versions()},
        )


class Record(BaseModel):
    """The content of the JSON file."""

    what: str
    command: str
    started_at: datetime
    seconds: float
    machine: Machine
    parameters: dict[str, JsonValue]
    figures: dict[str, JsonValue]


@dataclass(frozen=True)
class Run:
    """A benchmark under way: begin it before the first measurement, `finish` it with the figures."""

    what: str
    config: BenchmarkConfig
    machine: Machine = field(default_factory=Machine.here)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    began_s: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        output = self.config.output
        if not storage.is_s3(output) and storage.local_path(output).is_dir():
            raise ConfigError("--output is a folder", seen=output, expected="a file", fix="name a .json file in it")

    def write(self, figures: Figures) -> None:
        """Write the file with what has been found so far."""
        record = Record(
            what=self.what,
            command=shlex.join(["python", "jobs/benchmark.py", *sys.argv[1:]]),
            started_at=self.started_at,
            seconds=round(monotonic() - self.began_s, 2),
            machine=self.machine,
            parameters=self.config.model_dump(mode="json"),
            figures={name: _json_of(found) for name, found in figures.items()},
        )
        storage.put_atomic(storage.absolute(self.config.output), (record.model_dump_json(indent=1) + "\n").encode())

    def finish(
        self, figures: Figures, headline: Mapping[str, float | None], *, shown: Figures | None = None
    ) -> JobResult:
        """Write the file and print the tables, those of `shown` where not all; `headline` goes into the last line."""
        self.write(figures)
        _print(self, figures if shown is None else shown)
        told = {name: value if value is None else round(value, 4) for name, value in headline.items()}
        return JobResult({"benchmark": storage.absolute(self.config.output)}, {}, {"what": self.what, **told})


def _json_of(found: Findings | Sequence[Findings]) -> JsonValue:
    if isinstance(found, Findings):
        return found.model_dump(mode="json")
    return [one.model_dump(mode="json") for one in found]


def _print(run: Run, figures: Figures) -> None:
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = _LOG_WIDTH
    machine = run.machine
    console.print(
        f"{run.what}: {machine.gpu or machine.cpu}, {machine.num_cores} cores, {machine.num_threads} threads, "
        f"load {machine.load_before} before",
        highlight=False,
    )
    for name, found in figures.items():
        console.print(_upright(name, found) if isinstance(found, Findings) else _rows(name, found))


def _upright(name: str, found: Findings) -> Table:
    """One set of figures: a line each."""
    table = Table("figure", "value", title=name.replace("_", " "), title_justify="left")
    for key, value in found:
        table.add_row(key.replace("_", " "), _text(value))
    return table


def _rows(name: str, found: Sequence[Findings]) -> Table:
    """Alternatives side by side: a row each."""
    table = Table(title=name.replace("_", " "), title_justify="left")
    for number, key in enumerate(type(found[0]).model_fields if found else ()):
        longest = max(len(_text(getattr(one, key))) for one in found)
        width = longest if longest <= _LONGEST_WORD else None
        table.add_column(key.replace("_", " "), overflow="fold", no_wrap=number == 0, min_width=width)
    for one in found:
        table.add_row(*(_text(value) for _, value in one))
    return table


def _text(value: object) -> str:
    """Four digits of a number, a dash for what was not measured."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    """The processor's name as Linux tells it, else its architecture."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
