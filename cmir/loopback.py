"""This machine's own address, on which whatever a command starts for itself listens."""

import ipaddress
import socket
from typing import Final

from cmir.errors import ConfigError

HOST: Final = "127.0.0.1"


def is_loopback(host: str) -> bool:
    """Whether what listens there can be reached from this machine alone.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "192.168.0.7", "server")]
    [True, True, True, False, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def check_port_is_free(host: str, port: int) -> None:
    """Raises ConfigError where something listens there already, or the address is not this machine's.

    Servers of Ray share a port with others that do (SO_REUSEPORT): two services would answer in turn.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that are closing do not count
        try:
            probe.bind((host, port))
        except OSError as error:
            fix = "end what listens there, or give another --port"
            raise ConfigError("cannot listen", seen=error.strerror, where=f"{host}:{port}", fix=fix) from error


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
