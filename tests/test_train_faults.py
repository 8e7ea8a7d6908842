"""A worker, the driver or a node is killed in the middle of an epoch; the training still does all of its steps."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.util.state import list_nodes

from cmir.network.bundle import load_bundle
from tests.conftest import RayCluster, running_cluster
from tests.ray_nodes import kill_with_children
from tests.tiny_archives import chip_row, tone_row, write_archive

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]
NUM_STEPS = 300
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six steps an epoch."""
    folder = tmp_path_factory.mktemp("archive")
    for split, start, count in (("train", 0, 45), ("val", 50, 6)):
        rows = [chip_row(start + i, "rgb") for i in range(count)] + [tone_row(start + i) for i in range(count)]
        write_archive(folder, rows, split=split)  # type: ignore[arg-type]
    return str(folder)


class Job:
    """The train job as a process."""

    def __init__(self, archive: str, output: str, *flags: str, num_workers: str = "2") -> None:
        self.output = output
        given = ["--shards", archive, "--output", output, "--num-workers", num_workers, "--device", "cpu"]
        command = [sys.executable, "-m", "tests.train_driver", *given, "--max-steps", str(NUM_STEPS), *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for_checkpoint(self) -> int:
        """Wait until it has some; returns the process id of the worker that writes them.

        Ray may not have taken notice yet of the one that was written last when its writer dies.
        """
        folder = Path(self.output + ".partial")
        seen: set[str] = set()

        def writer() -> int:
            files = folder.glob("tensorboard/events.out.tfevents.*")
            pids = {int(re.findall(r"\.(\d+)\.\d+$", file.name)[0]) for file in files}
            alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
            seen.update(file.parent.name for file in folder.glob("_checkpoints/run/checkpoint_*/state.pt"))
            return alive[0] if alive and len(seen) >= 3 else 0

        return self.wait_for(writer)

    def wait_for(self, found: Callable[[], int]) -> int:
        deadline = time.monotonic() + 200
        while not (value := found()):
            assert self.process.poll() is None, self.process.communicate()[1][-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return value

    def end(self) -> tuple[int, dict]:
        stdout, self.stderr = self.process.communicate(timeout=240)
        print(self.stderr[-6000:])
        return self.process.returncode, json.loads(stdout.strip().splitlines()[-1])


@pytest.fixture
def start(archive: str, tmp_path: Path, on_cluster: RayCluster) -> Iterator[Callable[..., Job]]:
    """Starts the job on the session's cluster; what still runs at the end is ended."""
    jobs: list[Job] = []

    def started(*flags: str, num_workers: str = "2") -> Job:
        jobs.append(Job(archive, str(tmp_path / "out"), *flags, num_workers=num_workers))
        return jobs[-1]

    yield started
    for job in jobs:
        job.process.kill()
        job.process.wait()


def test_a_killed_worker_is_replaced_and_training_goes_on(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start()
    os.kill(job.wait_for_checkpoint(), signal.SIGKILL)
    code, line = job.end()
    assert (code, line["num_steps"]) == (0, NUM_STEPS)
    assert 0 < line["num_steps_before"] < NUM_STEPS, "from a checkpoint, not from the start"
    assert load_bundle(str(tmp_path / "out")).metrics["num_steps"] == NUM_STEPS


def test_after_a_killed_driver_the_same_command_resumes(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start()
    worker = job.wait_for_checkpoint()
    job.process.kill()
    job.process.communicate()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline, "the workers of a dead driver go"
        time.sleep(0.2)
    assert not (tmp_path / "out").exists()
    code, line = start().end()
    assert (code, "a partial output exists" in line["error"]) == (2, True)
    code, line = start("--resume").end()
    assert (code, line["num_steps"]) == (0, NUM_STEPS)
    assert 0 < line["num_steps_before"] < NUM_STEPS, "from a checkpoint, not from the start"


def wait_for_nodes(cluster: RayCluster, num_nodes: int) -> None:
    deadline = time.monotonic() + 60
    while sum(node.state == "ALIVE" for node in list_nodes(address=cluster.dashboard_url)) < num_nodes:
        assert time.monotonic() < deadline, "the node did not join"
        time.sleep(0.5)


@pytest.mark.long
def test_a_lost_node_leaves_a_smaller_group_that_finishes(
    start: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers on the head and one on a second node; without that node two go on, each with a larger share.

    On a cluster of its own: for three minutes Ray keeps reserving what killed drivers asked for, and counts a new
    node late, so that a group on the session's cluster may start, rightly, with two.
    """
    with running_cluster(tmp_path) as cluster, (tmp_path / "node.log").open("wb") as log:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        command = [str(Path(sys.executable).parent / "ray"), "start", f"--address={cluster.address}", "--block"]
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=1", f"--object-store-memory={128 * 2**20}"]
        node = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for_nodes(cluster, 2)
            job = start(num_workers="1:3")
            job.wait_for_checkpoint()
            kill_with_children(node.pid)
            code, line = job.end()
        finally:
            if node.poll() is None:
                kill_with_children(node.pid)
            node.wait()
    sizes = re.findall(r"training by (\d) workers", job.stderr)
    assert (sizes[0], sizes[-1]) == ("3", "2")
    assert (code, line["num_steps"]) == (0, NUM_STEPS)
    assert line["num_steps_before"] > 0
