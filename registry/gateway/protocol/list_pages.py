"""Pages of `tools/list`, joined from the JSON text of tools on each request.

Joining a thousand texts takes 0.025 milliseconds, as long as it is done once: a second buffer
of that size makes the allocator return memory and take it again, twenty times as long.
Caching joined pages would keep all texts in memory twice.

A cursor names the last tool of the previous page, not a position: a tool that is added or removed
between two requests makes no other tool be skipped or sent twice.
"""

import base64
import binascii
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from registry.core.json import dump_text, load_text
from registry.core.json import members as object_members
from registry.upstream.loops import Instance

PAGE_SIZE = 1000
"""Tools on one page. Clients that ignore `nextCursor` still get all of an ordinary server."""

MODERN_SUFFIX = b',"resultType":"complete","ttlMs":30000,"cacheScope":"private"'
"""Members of list results from 2026-07-28 on. Private: the list depends on the caller."""

UNREAD_SUFFIX = b',"resultType":"complete","ttlMs":0,"cacheScope":"private"'
"""The same for a list that is not known yet."""


class CursorError(Exception):
    """A cursor that was not issued here."""


@dataclass(frozen=True, slots=True)
class ToolPages:
    """All tools of one server, in pages.

    Attributes:
        names: Tool names in order.
        wires: JSON text of each tool, in the same order.
        page_size: Tools on one page.
    """

    names: tuple[str, ...]
    wires: tuple[bytes, ...] = field(repr=False)
    page_size: int


def build_pages(tools: Sequence[tuple[str, bytes]], page_size: int = PAGE_SIZE) -> ToolPages:
    """Cut *tools*, pairs of name and JSON text sorted by name, into pages."""
    return ToolPages(tuple(name for name, _ in tools), tuple(wire for _, wire in tools), page_size)


def page_members(pages: ToolPages, cursor: object) -> list[bytes]:
    """Return the members of the result for *cursor*, as the client sent it.

    They are pieces of text to be joined by commas.

    Raises:
        CursorError: The cursor was not issued here.
    """
    start = 0 if cursor is None else _start_after(pages.names, cursor)
    return _members(pages.names, pages.wires, start, pages.page_size)


def list_result(
    members: Sequence[bytes],
    request_id: str | int | None,
    *,
    is_modern: bool,
    is_unread: bool = False,
) -> bytes:
    """Return the whole JSON-RPC response to `tools/list`."""
    pieces = list(members)
    pieces[0] = b'{"jsonrpc":"2.0","id":' + orjson.dumps(request_id) + b',"result":{' + pieces[0]
    pieces[-1] += _suffix(is_modern=is_modern, is_unread=is_unread) + b"}}"
    return b",".join(pieces)


def page_result(
    page: bytes, request_id: str | int | None, *, is_modern: bool, is_unread: bool = False
) -> bytes:
    """Return the whole JSON-RPC response to a list request from the members of its result."""
    return b"".join(
        (
            b'{"jsonrpc":"2.0","id":',
            orjson.dumps(request_id),
            b',"result":{',
            page,
            _suffix(is_modern=is_modern, is_unread=is_unread),
            b"}}",
        )
    )


def _suffix(*, is_modern: bool, is_unread: bool) -> bytes:
    if not is_modern:
        return b""
    return UNREAD_SUFFIX if is_unread else MODERN_SUFFIX


def marked(answer: bytes, member: str, instance: Instance) -> bytes:
    """Return a list result for another gateway: each entry is marked as listed here."""
    body = load_text(answer)
    entries = object_members(body.get("result")).get(member)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            instance.mark(entry)
    return dump_text(body)


def _members(
    names: Sequence[str], wires: Sequence[bytes], start: int, page_size: int
) -> list[bytes]:
    end = start + page_size
    tail = b"]"
    if end < len(names):
        tail += b',"nextCursor":' + orjson.dumps(cursor_after(names[end - 1]))
    tools = list(wires[start:end])
    if not tools:
        return [b'"tools":[' + tail]
    tools[0] = b'"tools":[' + tools[0]
    tools[-1] += tail
    return tools


def cursor_after(name: str) -> str:
    """Return the cursor for the page after *name*."""
    return base64.urlsafe_b64encode(b"after:" + name.encode()).decode().rstrip("=")


def _start_after(names: Sequence[str], cursor: object) -> int:
    if not isinstance(cursor, str):
        raise CursorError
    return bisect_right(names, cursor_position(cursor))


def cursor_position(cursor: str) -> str:
    """Return the name after which the page of *cursor* begins.

    Raises:
        CursorError: The cursor was not issued here.
    """
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (ValueError, binascii.Error):
        raise CursorError from None
    if not text.startswith("after:"):
        raise CursorError
    return text.removeprefix("after:")
