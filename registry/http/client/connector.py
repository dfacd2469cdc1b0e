"""Connectors of aiohttp, with what it offers no public way for."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from typing_extensions import override

from registry.http.client.connection import UpstreamConnection

MAX_HEADER_BYTES = 64 * 1024


class CheckedConnector(aiohttp.TCPConnector):
    """Makes each connection an `UpstreamConnection`, and checks literal addresses too.

    Args:
        resolver: Returns addresses of names that may be contacted; closed with the connector.
        check_host: Raises OSError for an address that may not be. Literal addresses never reach
            a resolver.
        options: Of `aiohttp.TCPConnector`.
    """

    def __init__(
        self, resolver: AbstractResolver, check_host: Callable[[str], None], **options: Any
    ) -> None:
        super().__init__(resolver=resolver, **options)
        self._names = resolver
        self._check_host = check_host
        self._factory = cast(
            "partial[ResponseHandler]", partial(UpstreamConnection, loop=self._loop)
        )

    @override
    async def _resolve_host(
        self, host: str, port: int, traces: Sequence[aiohttp.tracing.Trace] | None = None
    ) -> list[ResolveResult]:
        self._check_host(host)
        return await super()._resolve_host(host, port, traces)

    @override
    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections."""
        await super().close(abort_ssl=abort_ssl)
        await self._names.close()


def unix_socket_session(path: Path, *, connect_timeout_seconds: float) -> aiohttp.ClientSession:
    """Return a session whose requests go to one unix socket, each at most once and as it is."""
    session = aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(path)),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_seconds),
        skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )
    # It would send a GET or DELETE again when the other end dies.
    session._retry_connection = False  # noqa: SLF001 - there is no public way; tested
    return session
