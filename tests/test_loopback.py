"""A free port can be listened on, a taken one is refused."""

import socket

import pytest

from cmir.errors import ConfigError
from cmir.loopback import HOST, check_port_is_free, free_port


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    check_port_is_free(HOST, port)
    with socket.create_server((HOST, port)) as server, socket.create_connection((HOST, port)):
        assert server.getsockname() == (HOST, port)


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_taken_port_is_refused_also_where_its_server_would_share_it(is_shared: bool) -> None:
    with socket.create_server((HOST, 0), reuse_port=is_shared) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen: seen Address already in use \({HOST}:{port}\)"):
            check_port_is_free(HOST, port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot listen: seen Cannot assign requested address"):
        check_port_is_free("192.0.2.1", 8000)
