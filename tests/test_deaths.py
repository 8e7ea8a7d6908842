"""The count of workers that died with a piece under way."""

import pytest

from jobs.deaths import _Deaths
from tests.conftest import RayCluster


def test_only_those_who_began_and_did_not_end_count() -> None:
    deaths = _Deaths()
    assert [deaths.begin("a"), deaths.begin("b"), deaths.begin("a")] == [0, 0, 1]
    deaths.end("a")
    deaths.end("a")
    assert [deaths.begin("a"), deaths.begin("b")] == [0, 1]


@pytest.mark.cluster
def test_workers_share_a_count(on_cluster: RayCluster) -> None:
    import ray

    from jobs import cluster
    from jobs.deaths import Deaths

    cluster.connect()
    deaths = Deaths()

    def begin(shared: Deaths) -> int:
        return shared.begin("a")

    assert [ray.get(ray.remote(begin).remote(deaths)) for _ in range(3)] == [0, 1, 2]
    deaths.end("a")
    assert deaths.begin("a") == 0
