"""Find an upstream's protected resource metadata (RFC 9728)."""

import asyncio
import re
from urllib.parse import urlsplit

import httpx2

from registry.core.json import JsonObject
from registry.upstream.errors import (
    UpstreamConnectError,
    UpstreamError,
    UpstreamTimeoutError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.http import ExchangeRecord, carrying, guarded_client
from registry.upstream.values import ReadingLimits, UpstreamTarget

MAX_METADATA_BYTES = 64 * 1024
RESOURCE_METADATA = re.compile(r'resource_metadata="([^"]+)"')
TEXTS = ("resource", "resource_name", "resource_documentation", "jwks_uri")
TEXT_LISTS = ("authorization_servers", "scopes_supported", "bearer_methods_supported")


async def read_oauth_metadata(
    target: UpstreamTarget, guard: UrlGuard, limits: ReadingLimits
) -> JsonObject | None:
    """Return the metadata that *target* publishes, or None.

    It is looked for where a 401 of the endpoint points, then at the well-known addresses.

    Raises:
        UpstreamError: The upstream may not be contacted or cannot be reached.
    """
    guard.check_syntax(target.url)
    exchange = ExchangeRecord(4 * MAX_METADATA_BYTES)
    try:
        async with (
            asyncio.timeout(limits.total_timeout_seconds),
            carrying() as carrier,
            guarded_client(
                guard,
                exchange,
                {"Accept": "application/json"},
                carrier,
                connect_timeout_seconds=limits.connect_timeout_seconds,
                read_timeout_seconds=limits.total_timeout_seconds,
            ) as client,
        ):
            await client.get(target.url, headers={"Accept": "text/event-stream"})
            for url in _candidates(target.url, exchange.authenticate):
                document = await _document(client, guard, url)
                if document is not None:
                    return document
    except UpstreamError:
        raise
    except (TimeoutError, httpx2.TimeoutException):
        raise UpstreamTimeoutError("The OAuth metadata did not arrive in time.") from None
    except (httpx2.HTTPError, httpx2.InvalidURL):
        raise exchange.refusal or UpstreamConnectError(
            "Could not connect to read the OAuth metadata."
        ) from None
    return None


def _candidates(url: str, challenge: str | None) -> list[str]:
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    well_known = f"{origin}/.well-known/oauth-protected-resource"
    pointed = RESOURCE_METADATA.search(challenge or "")
    candidates = [pointed[1]] if pointed else []
    if parts.path.strip("/"):
        candidates.append(f"{well_known}{parts.path.rstrip('/')}")
    return [*candidates, well_known]


async def _document(client: httpx2.AsyncClient, guard: UrlGuard, url: str) -> JsonObject | None:
    try:
        guard.check_syntax(url)
        async with client.stream("GET", url) as response:
            if response.status_code != httpx2.codes.OK:
                return None
            body = b""
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_METADATA_BYTES:
                    return None
        return _known_members(httpx2.Response(200, content=body).json())
    except ValueError:
        return None


def _known_members(document: object) -> JsonObject | None:
    """Return the members we know, in the shapes they must have; it is hostile input."""
    if not isinstance(document, dict) or not isinstance(document.get("resource"), str):
        return None
    known: JsonObject = {
        name: document[name] for name in TEXTS if isinstance(document.get(name), str)
    }
    for name in TEXT_LISTS:
        value = document.get(name)
        if isinstance(value, list):
            known[name] = [item for item in value if isinstance(item, str)]
    return known
