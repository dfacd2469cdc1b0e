"""The quick tier is what opens no socket and starts no process."""

import asyncio
import socket
import subprocess
import sys

import pytest

from tests.gateway.serving import serve
from tests.kit import tiers
from tests.kit.tiers import Openings


class Serving:
    """Opens a socket in one of its methods."""

    async def start(self) -> asyncio.Server:
        """Listen."""
        return await asyncio.start_server(lambda *_: None)


def names_a_class() -> None:
    Serving()


def names_nothing() -> None:
    sys.intern("nothing")


def runs_a_program() -> None:
    subprocess.run([sys.executable], check=True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (names_nothing, False),
        (Serving, True),
        (names_a_class, True),
        (runs_a_program, True),
        (serve, True),
        (asyncio.start_server, False),
        ("a text", False),
    ],
)
def test_what_opens_a_socket_is_seen_in_the_code(found: object, *, expected: bool) -> None:
    assert Openings().has(found) is expected


def test_a_test_without_the_marker_cannot_connect() -> None:
    with socket.socket() as unmarked, pytest.raises(RuntimeError, match="lacks @pytest"):
        getattr(unmarked, "conn" + "ect")(("127.0.0.1", 9))

    assert tiers.opened == ["socket.connect"]
    tiers.opened.clear()
