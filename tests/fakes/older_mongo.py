"""A proxy to a MongoDB, which misspells `bulkWrite` so that it seems not to be known."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

KNOWN = b"bulkWrite\x00"
UNKNOWN = b"bulkWryte\x00"


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 20):
            writer.write(piece.replace(KNOWN, UNKNOWN))
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def older_mongo(port: int) -> AsyncIterator[int]:
    """Pass everything on to the server at *port*; yield the proxy's own port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.TaskGroup() as both:
            both.create_task(_pipe(reader, below))
            both.create_task(_pipe(above, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])
