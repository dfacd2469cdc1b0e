"""Several sockets on one port, which nobody else can have."""

import socket
from collections import Counter

import pytest

from registry.processes.supervisor import listening

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"


def test_each_worker_gets_a_fair_share_of_a_burst() -> None:
    with listening(HOST, 0, 4) as listeners:
        port = listeners[0].getsockname()[1]
        clients = [socket.create_connection((HOST, port)) for _ in range(200)]
        shares: Counter[int] = Counter()
        for number, listener in enumerate(listeners):
            listener.setblocking(False)
            shares[number] = _accepted(listener)
        for client in clients:
            client.close()

    assert shares.total() == 200
    # Twenty is eight standard deviations below fifty.
    assert min(shares.values()) > 20


def _accepted(listener: socket.socket) -> int:
    count = 0
    try:
        while True:
            listener.accept()[0].close()
            count += 1
    except BlockingIOError:
        return count


@pytest.mark.parametrize("count", [1, 3])
def test_a_port_that_is_served_is_taken(count: int) -> None:
    with listening(HOST, 0, count) as listeners:
        port = listeners[0].getsockname()[1]

        with pytest.raises(OSError, match="in use"), listening(HOST, port, count):
            pass


def test_the_port_is_free_again_afterwards() -> None:
    with listening(HOST, 0, 3) as listeners:
        port = listeners[0].getsockname()[1]

    with listening(HOST, port, 3) as again:
        assert {listener.getsockname()[1] for listener in again} == {port}
        assert len(again) == 3
