"""Fixtures shared by all tests: one Ray cluster a session, real data where it is, rows to write."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cmir.archive.schema import Media, ShardRow, make_group_id, make_item_id

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

MakeRow = Callable[..., ShardRow]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One small Ray cluster on loopback for the whole session; its address."""
    import ray

    context = ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        logging_level="WARNING",
        _node_ip_address="127.0.0.1",
        object_store_memory=512 * 2**20,
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


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
