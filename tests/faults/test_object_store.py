"""The embed job over a store that answers 5xx, slowly, or not at all: exact rows, or a clear end and a resume."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
import pytest

from cmir.archive import storage
from jobs import embed
from tests.faults import archive
from tests.faults.archive import assert_same, rows_of, vectors_of
from tests.faults.flaky_store import FAULTS, FlakyStore, flaky_store
from tests.faults.process import embed_here, embedded_here

pytestmark = [pytest.mark.usefixtures("without_cluster"), pytest.mark.slow, pytest.mark.timeout(900)]
NUM_ROWS = 24


@pytest.fixture
def store(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyStore]:
    """A proxy before moto's server, faultless until told otherwise; this process goes through it."""
    with flaky_store(urlsplit(boto3.client("s3").meta.endpoint_url).netloc, seed=7) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def places(store: FlakyStore, s3_bucket: str, bundle: str, tmp_path: Path) -> tuple[str, str, str]:
    """(bundle, shards, gallery) on the store: 48 rows in 16 pieces, and no gallery yet."""
    local = archive.write_archive(str(tmp_path / "in"), NUM_ROWS, modalities=("rgb", "speech"))
    root = f"{s3_bucket}/{tmp_path.name}"
    for source, name in ((bundle, "bundle"), (local, "in")):
        for file in storage.list_files(source):
            storage.upload(Path(file.uri), f"{root}/{name}{file.uri.removeprefix(source)}")
    return f"{root}/bundle", f"{root}/in", f"{root}/gallery"


@pytest.fixture
def expected(bundle: str) -> dict[str, np.ndarray]:
    """The vectors of the 48 rows."""
    return vectors_of(bundle, [*rows_of("rgb", range(NUM_ROWS)), *rows_of("speech", range(NUM_ROWS))])


@pytest.mark.parametrize("fault_ratio", [0.05, 0.2])
def test_a_store_that_fails_now_and_then_is_asked_again(
    fault_ratio: float, store: FlakyStore, places: tuple[str, str, str], expected: dict[str, np.ndarray]
) -> None:
    bundle, shards, gallery = places
    store.fault_ratio = fault_ratio
    code, line = embed_here(bundle, [shards], gallery)
    store.fault_ratio = 0.0
    assert (code, line.get("num_rows_committed")) == (0, 48), line
    assert set(store.seen) == set(FAULTS), "every fault was met"
    assert_same(gallery, expected)


def until_down(store: FlakyStore, seconds: float) -> Callable[[Any, Any], Iterator[Any]]:
    """The workers' results, with the store going down for so long after the fifth."""

    def embedded(config: Any, plan: Any) -> Iterator[Any]:
        for i, done in enumerate(embedded_here(config, plan)):
            if i == 5:
                store.down_until = time.monotonic() + seconds
            yield done

    return embedded


def test_an_outage_of_a_minute_is_waited_out(
    store: FlakyStore, places: tuple[str, str, str], expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, shards, gallery = places
    monkeypatch.setattr(embed, "_embedded_pieces", until_down(store, 60))
    code, line = embed_here(bundle, [shards], gallery)
    assert (code, line.get("num_rows_committed")) == (0, 48), line
    assert store.seen["down"] > 1, "it was asked again"
    assert_same(gallery, expected)


def test_an_outage_that_lasts_ends_the_job_and_the_same_command_finishes(
    store: FlakyStore, places: tuple[str, str, str], expected: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, shards, gallery = places
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    with monkeypatch.context() as patch:
        patch.setattr(embed, "_embedded_pieces", until_down(store, float("inf")))
        code, line = embed_here(bundle, [shards], gallery)
    assert (code, line["status"]) == (1, "failed")
    assert "\n" not in line["error"]
    assert len(line["error"]) < 1000, line["error"]
    assert "s3://" in line["error"], line["error"]
    code, line = embed_here(bundle, [shards], gallery)
    assert (code, line["status"]) == (2, "refused"), "nothing was begun"
    assert "\n" not in line["error"]
    store.down_until = 0.0
    code, line = embed_here(bundle, [shards], gallery)
    assert code == 0, line
    assert 0 < line["num_rows_skipped"] < 48
    assert_same(gallery, expected)
