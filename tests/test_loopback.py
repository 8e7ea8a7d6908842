"""A free port can be listened on, and is not given out while somebody does."""

import socket

from cmir.loopback import HOST, free_port


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server((HOST, free_port())) as server:
        assert free_port() != server.getsockname()[1]
