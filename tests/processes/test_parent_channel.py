"""Connections that go from the parent to a worker, and those that do not arrive."""

import asyncio
import socket
from collections.abc import Iterator

import pytest

from registry.processes.parent_channel import READY, ParentEnd, WorkerEnd


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return both ends of a channel."""
    parent, worker = socket.socketpair()
    with parent, worker:
        yield parent, worker


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return both ends of a connection: the client's, ours."""
    client, ours = socket.socketpair()
    client.settimeout(5)
    with client, ours:
        yield client, ours


async def test_a_connection_arrives_and_is_the_workers_alone(
    ends: tuple[socket.socket, socket.socket], connection: tuple[socket.socket, socket.socket]
) -> None:
    taken: asyncio.Queue[socket.socket] = asyncio.Queue()
    said: asyncio.Queue[bytes] = asyncio.Queue()
    parent = ParentEnd(ends[0], said.put_nowait)
    worker = WorkerEnd(ends[1], taken.put_nowait, lambda: None)
    client, ours = connection

    with ours:
        handed = parent.send_connection(ours)
    async with asyncio.timeout(30):
        with await taken.get() as arrived:
            arrived.sendall(b"hello")
        # Said after the receipt, so that this has been read when it is heard.
        worker.send(READY)
        heard = await said.get()

    assert (handed, heard) == (True, READY)
    assert [client.recv(16), client.recv(16)] == [b"hello", b""]
    assert parent.close() == []
    worker.close()


async def test_a_connection_that_a_worker_did_not_take_outlives_it(
    ends: tuple[socket.socket, socket.socket], connection: tuple[socket.socket, socket.socket]
) -> None:
    parent = ParentEnd(ends[0], lambda _: None)
    client, ours = connection

    with ours:
        parent.send_connection(ours)
    ends[1].close()
    (left,) = parent.close()
    with left:
        left.sendall(b"hello")

    assert [client.recv(16), client.recv(16)] == [b"hello", b""]


async def test_a_worker_that_is_gone_is_handed_nothing(
    ends: tuple[socket.socket, socket.socket], connection: tuple[socket.socket, socket.socket]
) -> None:
    parent = ParentEnd(ends[0], lambda _: None)

    ends[1].close()
    handed = parent.send_connection(connection[1])

    assert (handed, parent.close()) == (False, [])
