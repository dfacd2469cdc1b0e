"""The pure parts of the data plane: headers, cursors, routes, request heads."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import validate_mcp_param_headers, x_mcp_header_map
from multidict import CIMultiDict

from registry.access.policy import ServerFacts, ServerScope
from registry.core.json import JsonObject
from registry.gateway.errors import HeaderMismatch
from registry.gateway.protocol.headers import forwarded_lines, read_headers
from registry.gateway.protocol.list_pages import CursorError, build_pages, page_members
from registry.gateway.protocol.param_headers import mirrored_part
from registry.gateway.values import tool_entry
from registry.http.client.exchange import header_lines, request_head
from registry.servers.values import Era, Transport
from registry.upstream.headers import upstream_headers
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
    inner = {"type": "string", "x-mcp-header": "R", "enum": ["a", "b"]}
    other = {"type": "object", "properties": {"r": inner, "s": {"type": "string"}}}
    schema = {"type": "object", "properties": {"o": other, "p": {"type": "integer"}}}
    mirrored = tool_entry("b", json.dumps({"name": "b", "inputSchema": schema}))

    assert plain.param_header_schema is None
    kept = {"r": {"type": "string", "x-mcp-header": "R"}}
    assert mirrored.param_header_schema == {"properties": {"o": {"properties": kept}}}


def test_a_tool_that_mirrors_arguments_wrongly_mirrors_none() -> None:
    schema = {"type": "object", "properties": {"r": {"type": "array", "x-mcp-header": "R"}}}

    assert mirrored_part(schema) is None
    assert mirrored_part(None) is None


def test_a_tool_that_mirrors_too_many_arguments_has_no_entry() -> None:
    properties = {
        f"p{number}": {"type": "string", "x-mcp-header": f"P{number}"} for number in range(101)
    }
    definition = {"name": "a", "inputSchema": {"type": "object", "properties": properties}}

    with pytest.raises(ValueError, match="mirrored"):
        tool_entry("a", json.dumps(definition))


POSITIONS = st.recursive(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "integer", "boolean"])},
        optional={"x-mcp-header": st.sampled_from(["A", "B", "C", "D"]), "enum": st.just([1])},
    ),
    lambda inner: st.fixed_dictionaries(
        {"type": st.just("object")},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            "items": inner,
        },
    ),
    max_leaves=6,
)


@given(
    POSITIONS,
    st.dictionaries(
        st.sampled_from("abc"),
        st.sampled_from(["1", 1, True, None, {"a": "1", "b": 1}]),
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(["mcp-param-a", "mcp-param-b"]), st.just("1"), max_size=2),
)
def test_the_mirrored_part_decides_as_the_whole_schema_does(
    schema: JsonObject, arguments: dict[str, Any], headers: dict[str, str]
) -> None:
    part = mirrored_part(schema)

    told = None if part is None else validate_mcp_param_headers(part, arguments, headers)

    # Of several that do not agree another one may be named.
    assert (told is None) is (validate_mcp_param_headers(schema, arguments, headers) is None)
    assert x_mcp_header_map(part) == (x_mcp_header_map(schema) if part is not None else {})


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
