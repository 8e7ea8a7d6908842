"""Fixtures shared by all tests: one Ray cluster a session, real data where it is, rows to write."""

import atexit
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401 - its plug-in imports it at the session's end, where CPython 3.11 may fail to compile it
import numpy as np
import pytest

from cmir.archive.schema import Media, ShardRow, make_group_id, make_item_id
from cmir.loopback import free_port

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Every cluster of the session asks for this token; set before any ray is loaded, since Ray reads it once per process.
_TOKEN = Path(tempfile.mkdtemp(prefix="cmir-tests-")) / "ray-token"
_TOKEN.write_text(secrets.token_hex(32))
atexit.register(shutil.rmtree, _TOKEN.parent, ignore_errors=True)
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(_TOKEN)}


# The object store of the session, in the environment before the cluster starts, so that its workers know it too.
_S3_PORT = free_port()
os.environ |= {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{_S3_PORT}",
    "AWS_ACCESS_KEY_ID": "cmir-tests",
    "AWS_SECRET_ACCESS_KEY": "cmir-tests",
    "AWS_REGION": "us-east-1",
}

MakeRow = Callable[..., ShardRow]


@dataclass(frozen=True)
class RayCluster:
    """Where the session's cluster listens: drivers connect to `address`, `ray job submit` to `dashboard_url`."""

    address: str
    dashboard_url: str


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One small Ray cluster on loopback for the whole session."""
    with running_cluster(tmp_path_factory.mktemp("ray")) as cluster:
        yield cluster


@contextmanager
def running_cluster(folder: Path) -> Iterator[RayCluster]:
    """A cluster of one node of two cores, a process of its own as in production; its log is in `folder`."""
    port, dashboard_port = free_port(), free_port()
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    log = (folder / "head.log").open("wb")
    command = [str(binaries / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"]
    command += ["--num-cpus=2", "--disable-usage-stats", f"--object-store-memory={512 * 2**20}"]
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    cluster = RayCluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}")
    try:
        _wait_listening(cluster, process)
        yield cluster
    finally:
        _disconnect()
        process.terminate()
        process.wait(timeout=60)
        log.close()


def _disconnect() -> None:
    """End this process's part in a cluster: Ray ends a driver at once, with code 1, when its raylet goes away."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def _wait_listening(cluster: RayCluster, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 120
    for place in (cluster.address, cluster.dashboard_url.removeprefix("http://")):
        host, port = place.split(":")
        _wait_open(host, int(port), process, deadline)


def _wait_open(host: str, port: int, process: "subprocess.Popen[bytes]", deadline: float) -> None:
    while True:
        assert process.poll() is None, f"the process that should listen at {port} ended"
        assert time.monotonic() < deadline, f"nothing listens at {port}"
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """The URI of an empty bucket of moto's server, which enforces conditional puts."""
    import boto3

    command = [sys.executable, "-m", "tests.object_store_server", str(_S3_PORT)]
    root = Path(__file__).parent.parent
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_open("127.0.0.1", _S3_PORT, process, time.monotonic() + 60)
        boto3.client("s3").create_bucket(Bucket="cmir-tests")
        yield "s3://cmir-tests"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def on_cluster(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """Jobs of this test run on the session's cluster, and this process leaves it afterwards."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster.address)
    yield ray_cluster
    _disconnect()


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


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle of an untrained network for pan and rgb: what a job does does not depend on what it has learnt."""
    return make_tiny_bundle(str(tmp_path_factory.mktemp("bundle") / "tiny"))


def make_tiny_bundle(uri: str, seed: int = 0) -> str:
    """Write an untrained pan and rgb network of 16 components as a bundle; another seed gives another space."""
    import torch

    from cmir.archive.imagery import Chip
    from cmir.network.bundle import save_bundle
    from cmir.network.image_tower import ImageTowerConfig
    from cmir.network.model import NetworkConfig, SharedSpaceNet
    from cmir.network.preprocessing import Preprocessing
    from cmir.network.statistics import RunningStatistics

    torch.manual_seed(seed)
    image = ImageTowerConfig(width=32, depths=(1,))
    net = SharedSpaceNet(NetworkConfig(modalities=("pan", "rgb"), dim=16, labels=("sea", "ship"), image=image))
    running = RunningStatistics()
    for modality, bands in (("pan", ("pan",)), ("rgb", ("red", "green", "blue"))):
        pixels = np.random.default_rng(0).integers(0, 256, (len(bands), 16, 16), dtype=np.uint8)
        running.add_chip(modality, Chip(pixels, bands, (None,) * len(bands), None, None))
    preprocessing = Preprocessing.fit(running, chip_size_px={"pan": 32, "rgb": 32})
    save_bundle(uri, net.eval(), preprocessing, metrics={}, training={})
    return uri
