"""One archive, its bundle and the vectors of an uninterrupted run, for all tests of faults."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from jobs import cluster, committer, embed
from tests.conftest import RayCluster
from tests.faults import archive
from tests.faults.process import EmbedJob, embedded_here


@dataclass(frozen=True)
class Given:
    """An archive, its bundle and what a gallery of both holds."""

    shards: str
    bundle: str
    vectors: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle of an untrained network for every modality."""
    return archive.make_bundle(str(tmp_path_factory.mktemp("faults") / "bundle"))


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory, bundle: str, ray_cluster: RayCluster) -> Given:
    """900 rows of four modalities in 8 shards and 304 pieces, embedded by a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("faults")
    shards = archive.write_archive(str(folder / "in"), 225)
    gallery = str(folder / "gallery")
    job = EmbedJob(bundle, [shards], gallery, module="jobs.embed", environment={"RAY_ADDRESS": ray_cluster.address})
    code, line = job.end()
    assert (code, line["num_rows_committed"], line["num_rows_quarantined"]) == (0, 900, 0), line
    return Given(shards, bundle, archive.vectors_in(gallery))


@pytest.fixture
def without_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of this process embed in it, and commit every piece."""
    monkeypatch.setattr(cluster, "connect", lambda: None)
    monkeypatch.setattr(embed, "_embedded_pieces", embedded_here)
    monkeypatch.setattr(committer, "COMMIT_BYTES", 1)


@pytest.fixture
def start(bundle: str, tmp_path: Path) -> Iterator[Callable[..., EmbedJob]]:
    """Starts the embed job; what still runs at the end is ended."""
    jobs: list[EmbedJob] = []

    def started(shards: list[str], *flags: str, gallery: str = "gallery", **named: object) -> EmbedJob:
        place = gallery if "://" in gallery else str(tmp_path / gallery)
        jobs.append(EmbedJob(bundle, shards, place, *flags, **named))  # type: ignore[arg-type]
        return jobs[-1]

    yield started
    for job in jobs:
        job.kill()
