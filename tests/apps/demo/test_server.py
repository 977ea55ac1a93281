import socket

import pytest

from fer_ignite.apps.demo.server import address_of, is_loopback, names_of, take_port
from fer_ignite.errors import ConfigError


def test_port_0_is_any_free_one_and_the_address_names_it():
    with take_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert port > 0 and address_of(taken) == f"http://127.0.0.1:{port}/"
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass  # who calls early waits instead of being refused


def test_a_port_in_use_is_said_in_a_sentence():
    with take_port("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError,
            match=rf"port {port} of 127.0.0.1: address already in use; name another with --port",
        ):
            take_port("127.0.0.1", port)
    take_port("127.0.0.1", port).close()


@pytest.mark.parametrize("host", ["no such host", "300.1.1.1", "a" * 300, "192.0.2.1"])
def test_an_address_that_is_not_this_machine_s_is_refused(host):
    with pytest.raises(ConfigError):
        take_port(host, 0)


def test_only_a_loopback_page_is_bound_to_its_names():
    with take_port("127.0.0.1", 0) as taken:
        assert is_loopback(taken) and "evil.example" not in names_of(taken)
    with take_port("0.0.0.0", 0) as taken:
        assert (
            not is_loopback(taken)
            and names_of(taken) == frozenset()
            and address_of(taken).startswith("http://127.0.0.1:")
        )
