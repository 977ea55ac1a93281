import socket

import pytest

from fer_ignite.apps.web_server import (
    host_names,
    is_loopback,
    reserve_port,
    server_address,
    strip_port,
)
from fer_ignite.errors import ConfigError


def test_port_0_is_any_free_one_and_the_address_names_it():
    with reserve_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port > 0 and server_address(taken) == f"http://127.0.0.1:{port}/"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass  # who calls early waits instead of being refused


def test_a_port_in_use_is_said_in_a_sentence():
    with reserve_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError,
            match=rf"port {port} of 127.0.0.1: address already in use; name another with --port",
        ):
            reserve_port("127.0.0.1", port)
    reserve_port("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["no such host", "300.1.1.1", "a" * 300, "192.0.2.1"])
def test_an_address_that_is_not_this_machine_s_is_refused(host):
    with pytest.raises(ConfigError):
        reserve_port(host, 0)


def test_only_a_loopback_page_is_bound_to_its_names():
    with reserve_port("127.0.0.1", 0) as taken:
        assert is_loopback(taken) and "evil.example" not in host_names(taken)
    with reserve_port("0.0.0.0", 0) as taken:
        assert (
            not is_loopback(taken)
            and host_names(taken) == frozenset()
            and server_address(taken).startswith("http://127.0.0.1:")
        )


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("localhost:8000", "localhost"),
        ("LOCALHOST", "localhost"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_the_name_in_a_host_header_has_no_port_and_no_brackets(header, name):
    assert strip_port(header) == name
