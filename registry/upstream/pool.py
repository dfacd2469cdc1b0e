"""The gateway's one pool of connections to upstreams.

Addresses are judged when a connection is made, not per request: a pooled connection goes where
it was judged to go.
"""

import asyncio
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from typing_extensions import override

from registry.http.client.connector import CheckedConnector
from registry.http.client.exchange import KEEP_ALIVE_SECONDS
from registry.upstream.errors import UnsafeAddressError, UpstreamConnectError
from registry.upstream.guard import AddressInfo, Lookup, UrlGuard

DNS_CACHE_SECONDS = 10
"""Short: a moved upstream must be found again soon, and its addresses checked again."""

LOOKUP_THREADS = 32
"""Lookups under way at a time, at most one for each name. They have threads of their own, and more
than the event loop has: a name server that is silent holds a thread for up to half a minute, and
with a few of such names no other name could be looked up."""


class BlockedAddressError(OSError):
    """The guard refused the target; aiohttp reports it as a failed connection."""


class GuardedResolver(AbstractResolver):
    """Resolves names to addresses that the guard allows."""

    def __init__(self, guard: UrlGuard, lookup: Lookup | None = None) -> None:
        self._guard = guard
        self._threads = ThreadPoolExecutor(LOOKUP_THREADS, "upstream-lookup")
        self._lookup = lookup or self._look_up

    @override
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the checked addresses of *host*.

        Raises:
            OSError: One may not be contacted, or there are none.
        """
        try:
            checked = await self._guard.resolve(host, port, lookup=self._lookup)
        except (UnsafeAddressError, UpstreamConnectError) as exc:
            raise BlockedAddressError(exc.message) from exc
        return [
            ResolveResult(
                hostname=host,
                host=address.host,
                port=address.port,
                family=address.family,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in checked
            if family in {socket.AF_UNSPEC, address.family}
        ]

    async def _look_up(self, host: str, port: int) -> Sequence[AddressInfo]:
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    @override
    async def close(self) -> None:
        """Let the threads go, without a wait for lookups that are still under way."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def guarded_connector(
    guard: UrlGuard, lookup: Lookup | None = None, **options: Any
) -> CheckedConnector:
    """Return a connector that connects to what *guard* allows."""

    def check_host(host: str) -> None:
        try:
            guard.judge_literal(host)
        except UnsafeAddressError as exc:
            raise BlockedAddressError(exc.message) from exc

    return CheckedConnector(GuardedResolver(guard, lookup), check_host, **options)


def create_upstream_session(
    guard: UrlGuard,
    *,
    connect_timeout_seconds: float,
    idle_timeout_seconds: float,
    lookup: Lookup | None = None,
) -> aiohttp.ClientSession:
    """Return the pool. Callers close it, never follow redirects, and set their own timeouts.

    It has no limit of its own, which could only be one for each address: servers that share one
    would share it. `registry.gateway.transport.bulkhead` bounds the calls to each server.
    """
    connector = guarded_connector(
        guard,
        lookup,
        limit=0,
        ttl_dns_cache=DNS_CACHE_SECONDS,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        raise_for_status=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_seconds, sock_read=idle_timeout_seconds
        ),
    )
