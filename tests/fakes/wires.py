"""Requests over the gateway's own connections, without a gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import ClientTimeout

from registry.gateway.patience import Patience
from registry.gateway.wire import Wire

TIMEOUT = ClientTimeout(connect=5, sock_connect=5, sock_read=5)


@asynccontextmanager
async def wire_over(session: aiohttp.ClientSession) -> AsyncIterator[Wire]:
    """Give what sends over connections that *session* makes."""
    wire = Wire(session, Patience(), max_answer_bytes=2**20)
    yield wire
    wire.close()
