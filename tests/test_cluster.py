"""How a job joins its cluster."""

import logging

import pytest
import ray
from ray.data._internal.usage import collector, util

from jobs import cluster


def test_where_there_is_no_prometheus_ray_data_writes_no_tracebacks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    usage = logging.getLogger("ray.data._internal.usage")
    monkeypatch.setattr(usage, "level", logging.DEBUG)
    monkeypatch.setattr(util.logger, "handlers", [caplog.handler])
    util.logger.manager._clear_cache()  # type: ignore[attr-defined]
    collector.cluster_oom_kills()
    assert [record for record in caplog.records if record.exc_info], "as Ray has it"
    caplog.clear()
    cluster.connect()
    collector.cluster_oom_kills()
    assert not caplog.records
