"""The embed job, in this process or as one of its own that can be watched, killed and started again."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from cmir.archive.storage import absolute
from cmir.gallery import commits
from cmir.gallery.table import CommittedPiece, Gallery
from jobs import embed
from jobs.entrypoint import run_command
from jobs.workers import EmbedWork, EmbedWorker, from_ipc, storage_error

ROOT = Path(__file__).resolve().parent.parent.parent


class EmbedJob:
    """`tests.faults.driver`, or the job itself, on these shards."""

    def __init__(
        self,
        bundle: str,
        shards: Sequence[str],
        gallery: str,
        *flags: str,
        module: str = "tests.faults.driver",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.gallery = gallery
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read when the job has ended
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments(bundle, shards, gallery), *flags],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def end(self, timeout_s: float = 600) -> tuple[int, dict[str, Any]]:
        """Wait for the end; returns the exit code and the last line."""
        out, _ = self.process.communicate(timeout=timeout_s)
        self._errors.seek(0)
        print(self._errors.read()[-4000:])
        return self.process.returncode, json.loads(out.strip().splitlines()[-1]) if out.strip() else {}

    def kill(self) -> None:
        """SIGKILL, without a word."""
        self.process.kill()
        self.process.wait()

    def wait_for_rows(self, more_than: int) -> int:
        """Wait until the gallery holds more rows than that, or the job has ended; returns how many."""
        return wait_for(lambda: (found := count_rows(self.gallery)) > more_than and found, self.has_ended)

    def has_ended(self) -> bool:
        """True once the process is no more."""
        return self.process.poll() is not None


def embed_here(bundle: str, shards: Sequence[str], gallery: str, *flags: str) -> tuple[int, dict[str, Any]]:
    """Run the job in this process; returns the exit code and the last line."""
    given = [*arguments(bundle, shards, gallery), *flags]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = run_command("embed", embed.EmbedConfig, embed.run, given)
    return code, json.loads(out.getvalue().strip().splitlines()[-1])


def arguments(bundle: str, shards: Sequence[str], gallery: str) -> list[str]:
    """The job's flags."""
    given = ["--bundle", bundle, "--gallery", gallery, "--device", "cpu"]
    return given + [part for uri in shards for part in ("--shards", uri)]


def embedded_here(config: embed.EmbedConfig, plan: Any) -> Iterator[tuple[CommittedPiece, pa.Table]]:
    """In the place of the job's `_embedded_pieces`: its worker without a cluster, in this process."""
    worker = EmbedWorker(
        EmbedWork(
            bundle_uri=absolute(config.bundle),
            space_id=plan.table.space_id,
            gallery_uri=absolute(config.gallery),
            device="cpu",
            precision="fp32",
            with_thumbnails=config.thumbnails,
            num_threads=1,
        )
    )
    for piece in plan.todo:
        (record,) = worker(pa.Table.from_pylist([asdict(piece)])).to_pylist()
        if (error := storage_error(record)) is not None:
            raise error
        rows = CommittedPiece(record["piece_id"], from_ipc(record["rows"]), record["num_rejected"])
        yield rows, from_ipc(record["thumbnails"])


def count_rows(gallery_uri: str) -> int:
    """Rows of all spaces of a gallery, 0 where there is none yet."""
    gallery = Gallery(gallery_uri)
    places = [gallery.table_uri(space_id) for space_id in gallery.space_ids()]
    return sum(commits.open_table(place).count_rows() for place in places if commits.exists_table(place))


def wait_for(found: Callable[[], Any], is_over: Callable[[], bool] = lambda: False, timeout_s: float = 120) -> Any:
    """Poll until something is found, or it is over; returns what was found last."""
    deadline = time.monotonic() + timeout_s
    while not (value := found()):
        if is_over():
            return found()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)
    return value
