"""Ceph's gateway as a real S3 server on loopback: one monitor, manager, store and gateway, from Debian's packages.

`apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr ceph-common`; nothing is installed here.
"""

import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cmir.loopback import free_port

PROGRAMS = ("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph-mgr", "ceph", "ceph-authtool", "monmaptool")
_CAPABILITIES = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
}
_SETTINGS = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}/0]
public addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
mon allow pool size one = true
mon warn on pool no redundancy = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = bluestore
osd memory target = 939524096
bluestore block size = 10737418240
"""


@dataclass(frozen=True)
class Gateway:
    """Where it listens and who may ask."""

    url: str
    access_key: str = "cmir-tests"
    secret_key: str = "cmir-tests-secret"


def missing_programs() -> list[str]:
    """What of Ceph is not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def running_gateway() -> Iterator[Gateway]:
    """A gateway on a free port that ends, with all behind it, with the block."""
    with tempfile.TemporaryDirectory(prefix="rgw-") as name, ExitStack() as stack:
        folder, port = Path(name), free_port()
        _prepare(folder)
        stack.enter_context(_daemon(folder, "ceph-mon", "-i", "a"))
        stack.enter_context(_daemon(folder, "ceph-mgr", "-i", "x"))
        identity = str(uuid.uuid4())
        _call(folder, "ceph", "osd", "new", identity)
        _call(folder, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        stack.enter_context(_daemon(folder, "ceph-osd", "-i", "0"))
        frontend = f"beast endpoint=127.0.0.1:{port}"
        gateway = _daemon(folder, "radosgw", "-n", "client.admin", "--rgw-frontends", frontend)
        stack.enter_context(gateway)
        _wait_listening(port)
        given = Gateway(f"http://127.0.0.1:{port}")
        user = ["--uid", "cmir", "--display-name", "cmir", "--access-key", given.access_key]
        _call(folder, "radosgw-admin", "-n", "client.admin", "user", "create", *user, "--secret-key", given.secret_key)
        yield given


def _prepare(folder: Path) -> None:
    fsid, mon_port, keyring = str(uuid.uuid4()), free_port(), str(folder / "keyring")
    (folder / "ceph.conf").write_text(_SETTINGS.format(fsid=fsid, mon_port=mon_port, folder=folder))
    for part in ("mon", "mgr", "osd"):
        (folder / part).mkdir()
    _call(folder, "ceph-authtool", "--create-keyring", keyring)
    for who, capabilities in _CAPABILITIES.items():
        caps = [part for what, allowed in capabilities.items() for part in ("--cap", what, allowed)]
        _call(folder, "ceph-authtool", keyring, "--gen-key", "-n", who, *caps)
    monmap = str(folder / "monmap")
    address = f"[v2:127.0.0.1:{mon_port}/0]"
    _call(folder, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
    _call(folder, "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)


def _call(folder: Path, *command: str) -> None:
    given = [command[0], "-c", str(folder / "ceph.conf"), *command[1:]]
    done = subprocess.run(given, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"


@contextmanager
def _daemon(folder: Path, *command: str) -> Iterator[None]:
    given = [command[0], "-c", str(folder / "ceph.conf"), "-f", *command[1:]]
    with (folder / f"{command[0]}.out").open("wb") as log:
        process = subprocess.Popen(given, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()  # nothing of it is kept
            process.wait()


def _wait_listening(port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "the gateway did not come up"
            time.sleep(0.5)
