"""The actor of the embed job, without a cluster."""

from pathlib import Path

import pytest

from cmir.errors import SpaceMismatchError
from jobs.workers import EmbedWork, EmbedWorker


def test_a_bundle_that_was_replaced_since_the_job_began_is_refused(tiny_bundle: str, tmp_path: Path) -> None:
    with pytest.raises(SpaceMismatchError, match=r"bundle changed: seen s[0-9a-f]{16}, expected s0{16}.*start the job"):
        EmbedWorker(EmbedWork(tiny_bundle, "s" + 16 * "0", str(tmp_path), "cpu", "fp32", True, 1))
