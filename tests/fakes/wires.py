"""Requests over the gateway's own connections, without a gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import ClientTimeout

from registry.core.latency_watcher import LatencyWatcher
from registry.http.client.exchange import UpstreamHttp

TIMEOUT = ClientTimeout(connect=5, sock_connect=5, sock_read=5)


@asynccontextmanager
async def wire_over(session: aiohttp.ClientSession) -> AsyncIterator[UpstreamHttp]:
    """Give what sends over connections that *session* makes."""
    wire = UpstreamHttp(session, LatencyWatcher(), max_response_bytes=2**20)
    yield wire
    wire.close()
