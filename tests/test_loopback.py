"""A free port can be listened on."""

import socket

from cmir.loopback import HOST, free_port


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    with socket.create_server((HOST, port)) as server, socket.create_connection((HOST, port)):
        assert server.getsockname() == (HOST, port)
