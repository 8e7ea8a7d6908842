"""Fixtures shared by all tests: one Ray cluster a session, real data where it is, rows to write."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cmir.archive.schema import Media, ShardRow, make_group_id, make_item_id

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

MakeRow = Callable[..., ShardRow]


@dataclass(frozen=True)
class RayCluster:
    """Where the session's cluster listens: drivers connect to `address`, `ray job submit` to `dashboard_url`."""

    address: str
    dashboard_url: str


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One small Ray cluster on loopback for the whole session, a process of its own as in production."""
    port, dashboard_port = free_port(), free_port()
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    log = (tmp_path_factory.mktemp("ray") / "head.log").open("wb")
    command = [str(binaries / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
    command += ["--num-cpus=2", "--disable-usage-stats", f"--object-store-memory={512 * 2**20}"]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    cluster = RayCluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}")
    try:
        _wait_listening(cluster, process)
        yield cluster
    finally:
        process.terminate()
        process.wait(timeout=60)
        log.close()


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_listening(cluster: RayCluster, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    for place in (cluster.address, cluster.dashboard_url.removeprefix("http://")):
        host, port = place.split(":")
        while True:
            assert process.poll() is None, "ray start ended"
            assert time.monotonic() < deadline, f"nothing listens at {place}"
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)


@pytest.fixture
def on_cluster(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> RayCluster:
    """Jobs of this test run on the session's cluster."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    return ray_cluster


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real imagery and speech, or a skip that says how to have it."""
    folder = os.environ.get("CMIR_REAL_DATA")
    if not folder:
        pytest.skip("CMIR_REAL_DATA is not set: real imagery and speech are not here")
    return Path(folder)


@pytest.fixture
def make_row() -> MakeRow:
    """Makes shard rows of small random RGB chips: make_row(3, labels=("water",))."""

    def make(i: int, *, modality: str = "rgb", size_px: int = 16, **columns: object) -> ShardRow:
        bands = {"rgb": ("red", "green", "blue"), "pan": ("pan",), "ms": ("blue", "green", "red", "nir")}[modality]
        shape = (len(bands), size_px, size_px)
        pixels = np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)
        media = Media(
            modality=modality,  # type: ignore[arg-type]
            data=pixels.tobytes(),
            encoding="raw",
            dtype="uint8",
            shape=shape,
            bands=bands,
            wavelength_nm=(None,) * len(bands),
        )
        values: dict[str, object] = {"scene_id": make_group_id("scene", str(i)), "source_uri": f"chip-{i}", **columns}
        return ShardRow(item_id=make_item_id("test", str(i), modality), media=media, **values)  # type: ignore[arg-type]

    return make
