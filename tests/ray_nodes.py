"""Nodes that join a test's cluster and are lost from it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.util.state import list_nodes

from tests.conftest import RayCluster


@contextmanager
def joined_node(cluster: RayCluster, folder: Path, num_cpus: int) -> Iterator[int]:
    """One more node on loopback; gives the id of the process that all of it descends from, and ends it."""
    with (folder / "node.log").open("wb") as log:
        command = [str(Path(sys.executable).parent / "ray"), "start", f"--address={cluster.address}", "--block"]
        command += ["--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}", f"--object-store-memory={128 * 2**20}"]
        while not (num_nodes := _num_alive(cluster)):  # Ray's dashboard lists the head late
            time.sleep(0.5)
        node = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 120
            while _num_alive(cluster) <= num_nodes:
                assert time.monotonic() < deadline, "the node did not join"
                time.sleep(0.5)
            yield node.pid
        finally:
            if node.poll() is None:
                kill_with_children(node.pid)
            node.wait()
        deadline = time.monotonic() + 120
        while _num_alive(cluster) > num_nodes:  # a driver that joined before might pick its raylet, and end with code 1
            assert time.monotonic() < deadline, "the lost node is still listed"
            time.sleep(0.5)


def kill_with_children(pid: int) -> None:
    """A node with all that runs on it; what Ray starts leads process groups of its own."""
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            parents[int(file.parent.name)] = int(file.read_text().rsplit(")", 1)[1].split()[1])
    found, start = [pid], 0
    while start < len(found):
        found += [child for child, parent in parents.items() if parent == found[start]]
        start += 1
    for one in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def _num_alive(cluster: RayCluster) -> int:
    return sum(node.state == "ALIVE" for node in list_nodes(address=cluster.dashboard_url))
