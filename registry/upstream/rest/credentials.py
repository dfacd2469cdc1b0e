"""What a caller's stored credentials add to a request of an API. Pure.

They come as the headers that are made for every server, whatever their scheme: keys, Basic and
Bearer, tokens of OAuth. The key of a query parameter is a header whose name begins with
`QUERY_MARK`; one of a cookie is in `Cookie`. The caller's own token for the gateway is never among
them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote

from registry.core.header_names import is_secret_name

QUERY_MARK: Final = "?"
"""Begins the names of headers that are sent as query parameters; no header has such a name."""

OF_MCP: Final = frozenset(
    {
        "accept",
        "content-length",
        "content-type",
        "host",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
    }
)
"""Headers of messages to MCP servers; an API gets none of them."""

LINE_BREAK = re.compile(r"[\r\n\0]")
OF_MCP_PARAMETERS: Final = "mcp-param-"
OF_EVERY_REQUEST: Final = frozenset(
    {"accept-encoding", "baggage", "traceparent", "tracestate", "user-agent", "via"}
)
"""Headers that say nothing of the caller; other origins than the API's get no others."""


class LineBreakError(ValueError):
    """A header holds a line break, which would make it several."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Headers and query parameters that a request gets beside those of its arguments.

    Attributes:
        headers: By name as stored.
        query: Names and values, encoded.
        cookie: The value of `Cookie`; empty if there is none.
    """

    headers: Mapping[str, str] = field(repr=False)
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    cookie: str = field(default="", repr=False)

    def of_nobody(self) -> "Credentials":
        """Return what may be sent to an operation that wants no credentials."""
        return Credentials({k: v for k, v in self.headers.items() if not _is_secret(k)})

    @property
    def sent(self) -> list[tuple[str, str]]:
        """Return all that must not come back: names and values."""
        found = [
            (name, value)
            for name, value in self.headers.items()
            if name.lower() not in OF_EVERY_REQUEST
        ]
        found += [(name, unquote(value)) for name, value in self.query]
        found += [
            ("cookie", part.partition("=")[2].strip()) for part in self.cookie.split(";") if part
        ]
        return found


@lru_cache(1024)
def _is_secret(name: str) -> bool:
    return name.lower() not in OF_EVERY_REQUEST and is_secret_name(name)


def credentials_of(headers: Iterable[tuple[str, str]]) -> Credentials:
    """Return what the headers for an MCP server mean for an API.

    Raises:
        LineBreakError: One holds a line break.
    """
    plain: dict[str, str] = {}
    query: list[tuple[str, str]] = []
    cookie = ""
    for name, value in headers:
        if not value.isprintable() and LINE_BREAK.search(value):
            raise LineBreakError("A header holds a control character.")
        use = _use(name)
        if use is HEADER:
            plain[name] = value
        elif use is QUERY:
            query.append((quote(name[1:], safe=""), quote(value, safe="")))
        elif use is COOKIE:
            cookie = value
    return Credentials(plain, tuple(query), cookie)


class _Use(Enum):
    """What becomes of a header for an API."""

    HEADER = 1
    QUERY = 2
    COOKIE = 3
    NONE = 4


HEADER, QUERY, COOKIE = _Use.HEADER, _Use.QUERY, _Use.COOKIE


@lru_cache(1024)
def _use(name: str) -> _Use:
    """Return what becomes of a header; the same few names come with each call."""
    lower = name.lower()
    if name.startswith(QUERY_MARK):
        return _Use.QUERY
    if lower == "cookie":
        return _Use.COOKIE
    if lower in OF_MCP or lower.startswith(OF_MCP_PARAMETERS):
        return _Use.NONE
    return _Use.HEADER
