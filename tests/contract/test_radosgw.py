"""The contract of object stores against Ceph's gateway, a real S3 server, where it is installed."""

import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from cmir.archive import storage
from tests.conftest import running_cluster
from tests.contract.test_gallery_on_s3 import Ask, ask, check_a_gallery_lives_on_an_object_store
from tests.contract.test_s3_path import check_conditional_puts_and_outputs, check_path_from_source_to_search
from tests.radosgw import missing_programs, running_gateway
from tests.test_publish import check_of_publishers_at_once_none_is_lost
from tests.test_storage import check_of_many_that_replace_at_once_none_is_lost, check_replaces_only_what_was_read
from tests.test_table import check_three_processes_that_begin_at_once_double_nothing

__all__ = ["ask"]  # a fixture

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def gateway() -> Iterator[dict[str, str]]:
    """The variables that lead to a running gateway."""
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)}")
    with running_gateway() as given:
        keys = {"AWS_ACCESS_KEY_ID": given.access_key, "AWS_SECRET_ACCESS_KEY": given.secret_key}
        yield {"AWS_ENDPOINT_URL": given.url, **keys}


@pytest.fixture
def bucket(gateway: dict[str, str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket of the gateway, which this process asks from now on."""
    for name, value in gateway.items():
        monkeypatch.setenv(name, value)
    name = f"cmir-{abs(hash(request.node.name)) % 10**9}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


def test_the_path_from_source_to_search(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a cluster of its own, since the workers of the session's ask another store."""
    with running_cluster(tmp_path) as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        check_path_from_source_to_search(bucket, capsys)


def test_conditional_puts_and_outputs(bucket: str) -> None:
    check_conditional_puts_and_outputs(bucket)


def test_of_sixteen_that_put_at_once_one_wins(bucket: str) -> None:
    won: list[int] = []

    def put(i: int) -> None:
        try:
            storage.put_atomic(f"{bucket}/claim", str(i).encode(), if_absent=True)
        except FileExistsError:
            return
        won.append(i)

    threads = [threading.Thread(target=put, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes(f"{bucket}/claim") == str(won[0]).encode()


def test_a_file_is_replaced_only_where_what_was_read_still_stands(bucket: str) -> None:
    check_replaces_only_what_was_read(f"{bucket}/file.json")
    check_of_many_that_replace_at_once_none_is_lost(f"{bucket}/many.json", num_threads=8, num_each=8)


def test_of_processes_that_publish_at_once_none_is_lost(bucket: str, tmp_path: Path) -> None:
    check_of_publishers_at_once_none_is_lost(f"{bucket}/gallery", tmp_path)


def test_three_processes_that_begin_at_once_double_nothing(bucket: str) -> None:
    check_three_processes_that_begin_at_once_double_nothing(f"{bucket}/gallery", num_pieces=15)


def test_a_gallery_lives_on_it(bucket: str, ask: Ask) -> None:
    check_a_gallery_lives_on_an_object_store(f"{bucket}/life", ask)
