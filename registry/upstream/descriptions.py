"""Fetching of OpenAPI descriptions, whose URLs are given by people and by other descriptions."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from aiohttp import ClientSession, ClientTimeout

from registry.upstream.client import FAILURES, blocked
from registry.upstream.errors import (
    UnsafeAddressError,
    UpstreamConnectError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamTimeoutError,
    UpstreamTooLargeError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.pool import create_upstream_session
from registry.upstream.values import ReadingLimits

MAX_REDIRECTS = 5
ACCEPT = "application/json, application/yaml;q=0.9, text/yaml;q=0.8, */*;q=0.5"
REDIRECTS = frozenset({301, 302, 303, 307, 308})
REFUSED = frozenset({401, 403})
NOT_MODIFIED = 304


@dataclass(frozen=True, slots=True)
class FetchedDescription:
    """A fetched file.

    Attributes:
        url: Where it was, after redirects.
        content: None if it has not changed.
        etag: Its version, if the server told it.
    """

    url: str
    content: bytes | None = field(repr=False)
    etag: str | None


class DescriptionFetcher:
    """Fetches the files of one description, within bounds for all of them together.

    Args:
        headers: Credentials, sent to *origin* only.
        origin: Scheme, host and port that the credentials are for; None for none.
    """

    def __init__(
        self,
        guard: UrlGuard,
        limits: ReadingLimits,
        headers: Mapping[str, str],
        origin: str | None,
    ) -> None:
        self._guard = guard
        self._limits = limits
        self._headers = headers
        self._origin = origin
        self._left = limits.max_bytes

    async def fetch(self, url: str, etag: str | None = None) -> FetchedDescription:
        """Fetch one file.

        Args:
            url: Where it is.
            etag: The version that is known; it is not sent again.

        Raises:
            UnsafeAddressError: The URL, or one that it leads to, may not be contacted.
            UpstreamError: It cannot be fetched.
        """
        session = create_upstream_session(
            self._guard,
            connect_timeout_seconds=self._limits.connect_timeout_seconds,
            idle_timeout_seconds=self._limits.total_timeout_seconds,
        )
        try:
            async with asyncio.timeout(self._limits.total_timeout_seconds):
                return await self._follow(session, url, etag)
        except TimeoutError:
            raise UpstreamTimeoutError("The description was not sent in time.") from None
        except FAILURES as exc:
            refused = blocked(exc)
            if isinstance(refused, UnsafeAddressError):
                raise refused from None
            message = f"Could not connect to {origin_of(url)}."
            raise UpstreamConnectError(message) from None
        finally:
            await session.close()

    async def _follow(
        self, session: ClientSession, url: str, etag: str | None
    ) -> FetchedDescription:
        for _ in range(MAX_REDIRECTS + 1):
            self._guard.check_syntax(url)
            sent = {"Accept": ACCEPT}
            if origin_of(url) == self._origin:
                sent |= self._headers
            if etag is not None:
                sent["If-None-Match"] = etag
            timeout = ClientTimeout(sock_read=self._limits.total_timeout_seconds)
            async with session.get(
                url, headers=sent, allow_redirects=False, timeout=timeout
            ) as answer:
                if answer.status in REDIRECTS and "Location" in answer.headers:
                    url = urljoin(url, answer.headers["Location"])
                    continue
                if answer.status == NOT_MODIFIED and etag is not None:
                    return FetchedDescription(url, None, etag)
                if answer.status in REFUSED:
                    message = (
                        f"{origin_of(url)} wants credentials for the description. They are sent "
                        "to the origin of `base_url` alone: give it, or the description itself."
                    )
                    raise UpstreamRefusedError(message, is_forbidden=answer.status != 401)  # noqa: PLR2004
                if not answer.ok:
                    raise UpstreamError(
                        f"{origin_of(url)} answered {answer.status} instead of the description."
                    )
                content = bytearray()
                async for piece in answer.content.iter_any():
                    content += piece
                    self._left -= len(piece)
                    if self._left < 0:
                        raise UpstreamTooLargeError("The description is too large.")
                return FetchedDescription(url, bytes(content), answer.headers.get("ETag"))
        raise UpstreamError("The description's URL leads to too many others.")


def origin_of(url: str) -> str:
    """Return scheme, host and port of *url*, without the port if it is the scheme's own."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    try:
        port = parts.port
    except ValueError:
        port = None
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{host}" + ("" if port in {None, default} else f":{port}")


async def reach(url: str, guard: UrlGuard, limits: ReadingLimits) -> None:
    """Check that something answers at *url*, whatever it answers. Sends no credentials.

    Raises:
        UnsafeAddressError: It may not be contacted.
        UpstreamError: Nothing answers.
    """
    guard.check_syntax(url)
    session = create_upstream_session(
        guard,
        connect_timeout_seconds=limits.connect_timeout_seconds,
        idle_timeout_seconds=limits.total_timeout_seconds,
    )
    try:
        async with (
            asyncio.timeout(limits.total_timeout_seconds),
            session.head(url, allow_redirects=False),
        ):
            return
    except TimeoutError:
        raise UpstreamTimeoutError(f"{origin_of(url)} did not answer in time.") from None
    except FAILURES as exc:
        refused = blocked(exc)
        if isinstance(refused, UnsafeAddressError):
            raise refused from None
        raise UpstreamConnectError(f"Could not connect to {origin_of(url)}.") from None
    finally:
        await session.close()
