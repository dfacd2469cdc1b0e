"""Head and body of an answer leave in one piece."""

import asyncio
from typing import Any

from typing_extensions import override

from registry.http.server.transport import MAX_JOINED_BYTES, JoiningTransport
from tests.kit.waiting import others_ran


class Written(asyncio.Transport):
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    @override
    def write(self, data: Any) -> None:
        self.pieces.append(bytes(data))

    @override
    def close(self) -> None:
        self.closed = True


async def test_what_is_written_in_one_turn_leaves_in_one_piece() -> None:
    written = Written()
    transport = JoiningTransport(written)

    transport.write(b"head ")
    transport.write(b"body")
    await others_ran()
    transport.write(b"next")
    await others_ran()

    assert written.pieces == [b"head body", b"next"]


async def test_closing_writes_what_was_collected_first() -> None:
    written = Written()
    transport = JoiningTransport(written)

    transport.write(b"last words")
    transport.close()
    await others_ran()

    assert (written.pieces, written.closed) == ([b"last words"], True)


async def test_much_is_passed_on_at_once_so_that_the_writer_can_be_paused() -> None:
    written = Written()
    transport = JoiningTransport(written)

    transport.write(b"a")
    transport.write(b"x" * MAX_JOINED_BYTES)
    passed_on = list(written.pieces)
    await others_ran()

    assert [len(piece) for piece in passed_on] == [MAX_JOINED_BYTES + 1]
    assert written.pieces == passed_on
