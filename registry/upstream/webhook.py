"""Posts webhook messages to a receiver, over connections whose addresses are judged."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import ClientTimeout
from yarl import URL

from registry.core.latency_watcher import LatencyWatcher
from registry.http.client.exchange import UpstreamHttp
from registry.upstream.client import FAILURES, blocked
from registry.upstream.errors import UpstreamError
from registry.upstream.guard import UrlGuard
from registry.upstream.pool import create_upstream_session

TOTAL_SECONDS = 15.0
ACCEPTED = range(200, 300)
MAX_ANSWER_BYTES = 64 * 1024


class WebhookReceiver:
    """Where messages are posted to. Get it from `webhook_receiver`.

    Args:
        http: Its connections are judged by *guard*.
        guard: Says which addresses may be contacted.
        url: Address of the receiver.
        connect_timeout_seconds: Longest wait for a connection.
    """

    def __init__(
        self, http: UpstreamHttp, guard: UrlGuard, url: str, *, connect_timeout_seconds: float
    ) -> None:
        self._http = http
        self._guard = guard
        self._url = url
        self._timeout = ClientTimeout(
            connect=connect_timeout_seconds,
            sock_connect=connect_timeout_seconds,
            sock_read=TOTAL_SECONDS,
        )

    async def post(self, body: bytes, headers: Mapping[str, str]) -> str | None:
        """Post a message, and return why it was not accepted; None if it was.

        Redirections are not followed, and the bodies of answers are not read.
        """
        try:
            self._guard.check_syntax(self._url)
            async with asyncio.timeout(TOTAL_SECONDS):
                answer = await self._http.request(
                    "POST", URL(self._url, encoded=True), headers, body, timeout=self._timeout
                )
                answer.close()
        except UpstreamError as exc:
            return exc.message
        except FAILURES as exc:
            refused = blocked(exc)
            return type(exc).__name__ if refused is None else refused.message
        return None if answer.status in ACCEPTED else f"HTTP {answer.status}"


@asynccontextmanager
async def webhook_receiver(
    guard: UrlGuard, url: str, *, connect_timeout_seconds: float
) -> AsyncIterator[WebhookReceiver]:
    """Yield a receiver, over connections of its own, which are closed after it."""
    session = create_upstream_session(
        guard,
        connect_timeout_seconds=connect_timeout_seconds,
        idle_timeout_seconds=TOTAL_SECONDS,
    )
    http = UpstreamHttp(session, LatencyWatcher(), max_response_bytes=MAX_ANSWER_BYTES)
    try:
        yield WebhookReceiver(http, guard, url, connect_timeout_seconds=connect_timeout_seconds)
    finally:
        # In this order: the session waits until connections are closed that are still its own.
        await session.close()
        http.close()
