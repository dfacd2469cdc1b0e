"""Find an upstream's protected resource metadata (RFC 9728)."""

import asyncio
import json
from urllib.parse import urlsplit

from aiohttp import ClientTimeout
from yarl import URL

from registry.core.json import JsonObject
from registry.http.client.exchange import UpstreamHttp
from registry.upstream.client import FAILURES, OK, RESOURCE_METADATA, blocked, reading_http
from registry.upstream.errors import (
    UpstreamConnectError,
    UpstreamTimeoutError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.values import ReadingLimits, UpstreamTarget

MAX_METADATA_BYTES = 64 * 1024
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
    wait = ClientTimeout(
        sock_connect=limits.connect_timeout_seconds, sock_read=limits.total_timeout_seconds
    )
    try:
        async with (
            asyncio.timeout(limits.total_timeout_seconds),
            reading_http(guard, limits) as http,
        ):
            headers = {"Accept": "text/event-stream"}
            answer = await http.request("GET", URL(target.url), headers, b"", timeout=wait)
            answer.close()
            for url in _candidates(target.url, answer.headers.get("www-authenticate")):
                guard.check_syntax(url)
                document = await _document(http, url, wait)
                if document is not None:
                    return document
    except TimeoutError:
        raise UpstreamTimeoutError("The OAuth metadata did not arrive in time.") from None
    except FAILURES as exc:
        raise blocked(exc) or UpstreamConnectError(
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


async def _document(http: UpstreamHttp, url: str, wait: ClientTimeout) -> JsonObject | None:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    answer = await http.request("GET", URL(url), headers, b"", timeout=wait)
    body = b""
    try:
        if answer.status != OK:
            return None
        async for piece in answer.body.iter_any():
            body += piece
            if len(body) > MAX_METADATA_BYTES:
                return None
    finally:
        answer.close()
    try:
        return _known_members(json.loads(body))
    except (ValueError, RecursionError):
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
