"""The pure parts of the data plane: headers, cursors, routes, request heads."""

import pytest
from multidict import CIMultiDict

from registry.access.policy import ServerFacts, ServerScope
from registry.gateway.errors import HeaderMismatch
from registry.gateway.headers import forwarded_lines, header_lines, read_headers
from registry.gateway.listing import CursorError, build_pages, page_members
from registry.gateway.values import tool_entry, upstream_headers
from registry.gateway.wire import request_head
from registry.servers.values import Era, Transport
from tests.gateway.fakes import make_route


def test_lists_in_several_lines_are_joined() -> None:
    found = read_headers([(b"accept", b"application/json"), (b"accept", b" text/event-stream")])

    assert found == {"accept": "application/json, text/event-stream"}


@pytest.mark.parametrize("name", [b"authorization", b"mcp-name", b"mcp-param-x", b"host"])
def test_other_headers_may_occur_once(name: bytes) -> None:
    with pytest.raises(HeaderMismatch):
        read_headers([(name, b"a"), (name, b"a")])


def test_a_value_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(HeaderMismatch):
        read_headers([(b"mcp-name", "é".encode())])


def test_stored_headers_win_over_the_clients() -> None:
    stored = CIMultiDict({"Traceparent": "ours", "Mcp-Param-Key": "ours"})
    sent = {"traceparent": "theirs", "mcp-param-key": "theirs", "accept": "*/*"}

    lines = forwarded_lines(header_lines(stored), sent, is_modern=True)

    assert lines.text == "Traceparent: ours\r\nMcp-Param-Key: ours\r\naccept: */*\r\n"
    assert lines.lines == 3


def test_stored_headers_cannot_replace_those_of_the_protocol() -> None:
    stored = {"HOST": "evil", "Content-Length": "1", "Transfer-Encoding": "chunked", "X-Key": "k"}

    headers = upstream_headers(stored | {"user-agent": "custom"})

    assert dict(headers) == {
        "Accept-Encoding": "identity",
        "user-agent": "custom",
        "X-Key": "k",
    }


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\rb", "a\0b"])
def test_a_header_cannot_become_two(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        request_head("POST", "/ HTTP/1.1\r\nHost: h\r\n", header_lines({"X-Key": value}), 0)


def test_a_request_head_is_complete() -> None:
    head = request_head("POST", "/m HTTP/1.1\r\nHost: h\r\n", header_lines({"X-Key": "k"}), 12)

    assert head == b"POST /m HTTP/1.1\r\nHost: h\r\nX-Key: k\r\nContent-Length: 12\r\n\r\n"


def test_a_tool_that_goes_between_two_pages_skips_no_other() -> None:
    before = build_pages([(name, name.encode()) for name in "abcd"], page_size=2)
    after = build_pages([(name, name.encode()) for name in "acd"], page_size=2)
    cursor = "YWZ0ZXI6Yg"

    first, second = (
        b",".join(page_members(pages, asked)) for pages, asked in ((before, None), (after, cursor))
    )

    assert first == b'"tools":[a,b],"nextCursor":"YWZ0ZXI6Yg"'
    assert second == b'"tools":[c,d]'


def test_no_tools_are_one_empty_page() -> None:
    assert page_members(build_pages([]), None) == [b'"tools":[]']


@pytest.mark.parametrize("cursor", ["", "a", "é", "YWJj", "____", 1, True, [], {}])
def test_foreign_cursors_are_refused(cursor: object) -> None:
    with pytest.raises(CursorError):
        page_members(build_pages([("a", b"a")]), cursor)


def test_only_tools_that_mirror_arguments_keep_their_schema() -> None:
    plain = tool_entry("a", '{"name":"a","inputSchema":{"type":"object"}}')
    mirrored = tool_entry(
        "b", '{"name":"b","inputSchema":{"properties":{"r":{"x-mcp-header":"R"}}}}'
    )

    assert plain.param_header_schema is None
    assert mirrored.param_header_schema == {"properties": {"r": {"x-mcp-header": "R"}}}


def test_a_route_shows_no_secret() -> None:
    route = make_route(headers={"Authorization": "Bearer very-secret"})

    assert "very-secret" not in repr(route)


def test_a_route_of_the_old_transport_speaks_the_handshake_only() -> None:
    route = make_route(transport=Transport.SSE, eras=frozenset(Era))

    assert route.eras == {Era.LEGACY}


@pytest.mark.parametrize("url", ["", "mcp", "ftp://a/", "http://", "//host/path"])
def test_a_route_needs_an_absolute_address(url: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        make_route(url, facts=ServerFacts("d" * 24, ServerScope.SHARED_APP))
