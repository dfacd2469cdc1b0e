"""Sessions of the handshake's era that are opened, used a little, and dropped without a word."""

import asyncio

from scripts.bench.load import OK, Client, Target
from scripts.bench.stage import Stage

AT_ONCE = 16
LEVEL = {"jsonrpc": "2.0", "id": 2, "method": "logging/setLevel", "params": {"level": "error"}}


def drop_sessions(stage: Stage, sessions: int) -> int:
    """Open and drop *sessions*, and return how many of them went wrong."""
    return asyncio.run(_drop_all(stage, sessions))


async def _drop_all(stage: Stage, sessions: int) -> int:
    remaining = iter(range(sessions))
    errors = 0

    async def worker() -> None:
        nonlocal errors
        for number in remaining:
            errors += not await (_used(stage) if number % 2 else _streamed(stage))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())
    return errors


async def _used(stage: Stage) -> bool:
    """Open a session with the one server and call its tool."""
    client = Client(stage.one())
    await client.connect()
    good = await client.ask("dropped")
    client.close()
    return good


async def _streamed(stage: Stage) -> bool:
    """Open a session with the combined server, set a level, call, and open its stream."""
    target = stage.combined()
    client = Client(target)
    await client.connect()
    good = await client.ask("dropped")
    status, _, _ = await client.send(LEVEL)
    client.close()
    return good and status == OK and await _stream(target, client.session)


async def _stream(target: Target, session: str | None) -> bool:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    writer.write(
        f"GET {target.path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
        f"Authorization: Bearer {target.token}\r\nAccept: text/event-stream\r\n"
        f"MCP-Protocol-Version: 2025-06-18\r\nMcp-Session-Id: {session}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return b" 200 " in head.partition(b"\r\n")[0]
