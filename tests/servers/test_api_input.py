"""Bad input to the servers API: refused by name, stored nowhere, never a 500."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from registry.auth.identity import UserContext
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import Rest

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

URL = "http://127.0.0.1:9/mcp"
GOOD = {"serverName": "s", "url": URL}
UNKNOWN = "0" * 24
JSON = {"Content-Type": "application/json"}


async def post(rest: Rest, user: UserContext, text: str | bytes) -> httpx.Response:
    """Register with a body that no JSON library would write."""
    return await rest.call(user, "POST", content=text, headers=JSON)


async def stored(rest: Rest) -> int:
    return await rest.parts.database.collection("mcpservers").count_documents({})


def fields(answer: httpx.Response) -> list[str]:
    """Return the fields that a refusal names."""
    assert answer.status_code == 422, answer.text
    body = answer.json()
    assert body["error"] == "validation_error"
    assert body["message"]
    return [item["field"] for item in body["details"]]


@pytest.mark.requirement("E-14")
@pytest.mark.requirement("R-037")
@pytest.mark.requirement("R-040")
@pytest.mark.requirement("R-041")
@pytest.mark.requirement("R-126")
@pytest.mark.requirement("R-138")
@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"nmae": "typo"}, "nmae"),
        ({"author": "0" * 24}, "author"),
        ({"status": "active"}, "status"),
        ({"config": {}}, "config"),
        ({"$set": {"role": "ADMIN"}}, "$set"),
        ({"serverName": 7}, "serverName"),
        ({"serverName": ""}, "serverName"),
        ({"serverName": "a b"}, "serverName"),
        ({"serverName": "a/b"}, "serverName"),
        ({"serverName": "x" * 65}, "serverName"),
        ({"serverName": "good\n"}, "serverName"),
        ({"serverName": {"$ne": None}}, "serverName"),
        ({"url": ["http://a"]}, "url"),
        ({"url": None}, "url"),
        ({"url": ""}, "url"),
        ({"url": "http://a/\x00"}, "url"),
        ({"type": "stdio"}, "type"),
        ({"type": "websocket"}, "type"),
        ({"scope": "everyone"}, "scope"),
        ({"scope": {"$gt": ""}}, "scope"),
        ({"tags": "one"}, "tags"),
        ({"tags": ["ok", 1]}, "tags.1"),
        ({"tags": ["x" * 65]}, "tags.0"),
        ({"tags": ["a\x00b"]}, "tags.0"),
        ({"tags": ["x"] * 51}, "tags"),
        ({"title": "a\x00b"}, "title"),
        ({"title": "x" * 257}, "title"),
        ({"description": "a\x00b"}, "description"),
        ({"description": "x" * 8193}, "description"),
        ({"path": "/mcp/a/b"}, "path"),
        ({"path": "/api/v1"}, "path"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": 10**30}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"requiresOAuth": "perhaps"}, "requiresOAuth"),
        ({"apiKey": "sk"}, "apiKey"),
        ({"apiKey": {"key": "sk", "kind": "x"}}, "apiKey.kind"),
        ({"apiKey": {"key": "sk", "source": "thief"}}, "apiKey.source"),
        ({"apiKey": {"key": {"$gt": ""}}}, "apiKey.key"),
        ({"apiKey": {"key": "a\nb"}}, "apiKey.key"),
        ({"apiKey": {"key": "x", "authorization_type": "custom"}}, "apiKey"),
        ({"oauth": {"client": "x"}}, "oauth.client"),
        ({"headers": {"X-A": "a\r\nX-B: b"}}, "headers.X-A"),
    ],
)
async def test_a_field_that_cannot_be_taken_is_named(
    rest: Rest, alice: UserContext, changed: dict[str, object], field: str
) -> None:
    answer = await rest.call(alice, "POST", json={**GOOD, **changed})

    assert fields(answer) == [field]
    assert await stored(rest) == 0


async def test_a_program_is_refused_with_the_bridge_to_use(rest: Rest, alice: UserContext) -> None:
    answer = await rest.call(alice, "POST", json={**GOOD, "type": "stdio"})

    assert "npx -y supergateway --stdio PROGRAM" in answer.json()["message"]


async def test_refusals_quote_no_values(rest: Rest, alice: UserContext) -> None:
    answer = await rest.call(alice, "POST", json={**GOOD, "apiKey": {"key": ["sk-sentinel"]}})

    assert fields(answer) == ["apiKey.key"]
    assert "sk-sentinel" not in answer.text


@pytest.mark.requirement("R-042")
async def test_a_missing_field_is_named(rest: Rest, alice: UserContext) -> None:
    answer = await rest.call(alice, "POST", json={"serverName": "s"})

    assert answer.json() == {
        "error": "validation_error",
        "message": "url: Field required, unless the server is a package",
        "details": [{"field": "url", "message": "Field required, unless the server is a package"}],
    }


@pytest.mark.parametrize(
    "name", ["Host", "Content-Length", "Mcp-Session-Id", "X-Forwarded-For", "Connection"]
)
async def test_headers_that_the_gateway_decides_cannot_be_stored(
    rest: Rest, alice: UserContext, name: str
) -> None:
    answer = await rest.call(alice, "POST", json={**GOOD, "headers": {name: "x"}})

    fields(answer)
    assert f"{name} is set by the gateway itself" in answer.json()["message"]


NAMES = ",".join(f'"m{number}":0' for number in range(50_000))


@pytest.mark.requirement("E-16")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("", "Field required"),
        ("null", "valid dictionary"),
        ("[]", "valid dictionary"),
        ('"text"', "valid dictionary"),
        (
            '{"serverName":"a","serverName":"b","url":"http://a"}',
            "has two members named 'serverName'",
        ),
        (
            '{"serverName":"a","url":"u","apiKey":{"key":"a","key":"b"}}',
            "has two members named 'key'",
        ),
        ('{"serverName":"a","url":"http://a","timeout":NaN}', "is not valid JSON"),
        ('{"serverName":"a","url":"http://a","timeout":Infinity}', "is not valid JSON"),
        ('{"serverName":"a","url":"http://a","timeout":1%s}' % ("0" * 5000), "is not valid JSON"),
        ('{"serverName":"a","url":"http://a","title":"\\ud800"}', "is not valid JSON"),
        ('{"serverName":"a","url":"http://a","\\udfff":1}', "is not valid JSON"),
        ('{"a":[' + "[]," * 250_000 + "1]}", "more than 200000 values"),
        ("{" + NAMES + "," + NAMES + "}", "two members named 'm0'"),
        ("[" * 900 + "]" * 900, "valid dictionary"),
        ("[" * 100_000, "is not valid JSON"),
        ('{"a":' * 100_000, "is not valid JSON"),
    ],
)
async def test_a_body_that_is_no_plain_json_object_is_refused(
    rest: Rest, alice: UserContext, text: str, message: str
) -> None:
    answer = await post(rest, alice, text)

    assert fields(answer) == ["body"]
    assert message in answer.json()["message"]


@pytest.mark.parametrize(
    "content", [b'{"serverName":"\xff","url":"http://a"}', '{"serverName":"a"}'.encode("utf-16")]
)
async def test_a_body_that_is_not_utf_8_is_refused(
    rest: Rest, alice: UserContext, content: bytes
) -> None:
    assert fields(await post(rest, alice, content)) == ["body"]


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain", "", "multipart/form-data"]
)
async def test_a_body_of_another_type_is_refused(
    rest: Rest, alice: UserContext, content_type: str
) -> None:
    answer = await rest.call(
        alice, "POST", content=json.dumps(GOOD), headers={"Content-Type": content_type}
    )

    assert (answer.status_code, answer.json()) == (
        415,
        {
            "error": "validation_error",
            "message": "The body must be JSON; send it with Content-Type: application/json.",
        },
    )


async def test_a_body_over_the_limit_is_refused_by_its_length(
    rest: Rest, alice: UserContext
) -> None:
    limit = rest.parts.settings.gateway_max_body_bytes

    answer = await post(rest, alice, b" " * (limit + 1))

    assert (answer.status_code, answer.json()) == (
        413,
        {"error": "payload_too_large", "message": "The request body is too large."},
    )


async def test_a_body_over_the_limit_without_a_length_is_refused_while_it_is_read(
    rest: Rest, alice: UserContext
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    limit = rest.parts.settings.gateway_max_body_bytes
    answer = await rest.call(alice, "POST", content=endless(), headers=JSON)

    assert (answer.status_code, answer.json()) == (
        413,
        {"error": "payload_too_large", "message": "The request body is too large."},
    )
    assert sent <= limit + 2 * 65_536


async def test_a_body_with_thousands_of_mistakes_gets_a_short_answer(
    rest: Rest, alice: UserContext
) -> None:
    body: dict[str, Any] = {f"{'k' * 1000}{n}": n for n in range(1000)}

    answer = await rest.call(alice, "POST", json={**GOOD, **body})

    assert len(fields(answer)) == 50
    assert len(answer.content) < 20_000


@pytest.mark.requirement("R-111")
@pytest.mark.parametrize(
    "server_id", ["1", "z" * 24, "0" * 23, "0" * 25, "0" * 23 + "%0A", "$ne", "%00", "..", "é"]
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_malformed_id_is_refused_by_name(
    rest: Rest, alice: UserContext, server_id: str, method: str
) -> None:
    answer = await rest.call(alice, method, f"/{server_id}")

    assert answer.status_code in {404, 405, 422}
    assert answer.json()["error"] in {"not_found", "method_not_allowed", "validation_error"}


async def test_an_unknown_id_is_not_found(rest: Rest, alice: UserContext) -> None:
    answer = await rest.call(alice, "GET", f"/{UNKNOWN}")

    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "not_found", "message": "Server not found"},
    )


@pytest.mark.requirement("R-115")
@pytest.mark.requirement("R-116")
@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("page=0", "page"),
        ("page=-1", "page"),
        ("page=one", "page"),
        ("page=1.5", "page"),
        ("page=99999999999999999999", "page"),
        ("per_page=0", "per_page"),
        ("per_page=101", "per_page"),
        ("scope=everyone", "scope"),
        ("status=ACTIVE", "status"),
        ("author=me", "author"),
        ("author[$ne]=x", "author[$ne]"),
        ("author=%00", "author"),
        ("perPage=5", "perPage"),
        ("query=%00", "query"),
        ("query=" + "x" * 201, "query"),
    ],
)
async def test_a_query_parameter_out_of_range_is_named(
    rest: Rest, alice: UserContext, query: str, field: str
) -> None:
    answer = await rest.call(alice, "GET", f"?{query}")

    assert fields(answer) == [field]


async def test_the_last_page_that_can_be_asked_for_is_answered(
    rest: Rest, alice: UserContext
) -> None:
    answer = await rest.call(alice, "GET", "?page=1000000&per_page=100")

    assert (answer.status_code, answer.json()["servers"]) == (200, [])


@pytest.mark.requirement("E-15")
@pytest.mark.parametrize(
    "text", ['{"$gt": ""}', "$where", "(a+)+$", "[", "\\", "%", "\ufffd", "💥"]
)
async def test_a_search_for_operators_and_patterns_is_a_search_for_text(
    rest: Rest, alice: UserContext, text: str
) -> None:
    await rest.register(alice, "plain", URL, description=f"about {text} things")
    await rest.register(alice, "other", URL, description="about nothing")

    answer = await rest.call(alice, "GET", params={"query": text})

    assert [server["serverName"] for server in answer.json()["servers"]] == ["plain"]


@pytest.mark.requirement("E-15")
async def test_header_names_with_operators_are_stored_as_names(
    rest: Rest, alice: UserContext
) -> None:
    headers = {"$where": "1", "a.b": "2", "$set.x": "3"}

    created = await rest.register(alice, "s", URL, headers=headers)
    answer = await rest.call(
        alice, "PATCH", f"/{created['id']}", json={"headers": headers | {"n": "4"}}
    )

    assert created["headers"] == dict.fromkeys(headers, "***")
    assert answer.json()["headers"] == dict.fromkeys([*headers, "n"], "***")
    (stored,) = await rest.parts.database.collection("mcpservers").find({}).to_list()
    assert set(stored["config"]["headers"]) == {*headers, "n"}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"url": None}, "url"),
        ({"author": "0" * 24}, "author"),
        ({"id": "0" * 24}, "id"),
        ({"serverName": "renamed"}, "serverName"),
        ({"numTools": 99}, "numTools"),
        ({"toolFunctions": {"$x": 1}}, "toolFunctions"),
        ({"status": "error"}, "status"),
        ({"status": "on"}, "status"),
        ({"path": "/mcp/toolsets"}, "path"),
        ({"updatedAt": "yesterday"}, "updatedAt"),
        ({"updatedAt": "2026-01-01T00:00:00"}, "updatedAt"),
        ({"nmae": "typo"}, "nmae"),
        ({"syncMode": None}, "syncMode"),
        ({"sync_mode": None}, "sync_mode"),
        ({"autoExpose": None}, "autoExpose"),
        ({"server_name": "renamed"}, "server_name"),
        ({"num_tools": 99}, "num_tools"),
        ({"apiKey": {"source": "admin"}}, "apiKey.key"),
        ({"api_key": {"source": "admin"}}, "api_key.key"),
        ({"api_key": {"key": ""}}, "api_key.key"),
        ({"init_timeout": -1}, "init_timeout"),
    ],
)
async def test_an_update_that_cannot_be_made_names_the_field(
    rest: Rest,
    upstream: PlainUpstream,
    alice: UserContext,
    changed: dict[str, object],
    field: str,
) -> None:
    created = await rest.register(alice, "s", upstream.url)

    answer = await rest.call(alice, "PATCH", f"/{created['id']}", json=changed)

    assert fields(answer) == [field]
    detail = await rest.call(alice, "GET", f"/{created['id']}")
    assert detail.json() == created


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
async def test_a_time_at_the_end_of_the_calendar_is_only_another_time(
    rest: Rest, alice: UserContext, moment: str
) -> None:
    created = await rest.register(alice, "s", URL)
    path = f"/{created['id']}"

    body = await rest.call(alice, "PATCH", path, json={"title": "x", "updatedAt": moment})
    header = await rest.call(alice, "PATCH", path, json={}, headers={"If-Match": f'"{moment}"'})

    assert [body.status_code, header.status_code] == [409, 409]


@pytest.mark.parametrize("body", [{}, {"enabled": "yes"}, {"enabled": 1}, {"enabled": None}])
async def test_a_toggle_takes_a_boolean_and_nothing_like_it(
    rest: Rest, alice: UserContext, body: dict[str, object]
) -> None:
    created = await rest.register(alice, "s", URL)

    answer = await rest.call(alice, "POST", f"/{created['id']}/toggle", json=body)

    assert fields(answer) == ["enabled"]


@pytest.mark.parametrize("name", ["toolsets", "Connection", "oauth"])
async def test_a_reserved_name_cannot_be_registered(
    rest: Rest, alice: UserContext, name: str
) -> None:
    answer = await rest.call(alice, "POST", json={"serverName": name, "url": URL})

    fields(answer)
    assert f"/mcp/{name} is reserved" in answer.json()["message"]


@pytest.mark.requirement("R-042")
@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ws://example.com/mcp",
        "gopher://127.0.0.1/",
        "example.com/mcp",
        "http://",
        "http://[::1",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/mcp",
        "http://10.0.0.1/mcp",
        "http://192.168.1.1/mcp",
        "http://[::ffff:10.0.0.1]/mcp",
        "http://2130706433/mcp",
        "http://0x7f.1/mcp",
        "http://0.0.0.0/mcp",
        "http://user:sentinel@127.0.0.1/mcp",
        "http://127.0.0.1:99999/mcp",
        "http://127.0.0.1:0/mcp",
        "http://127.0.0.1\\@10.0.0.1/mcp",
    ],
)
@pytest.mark.parametrize("path", ["", "/connection"])
async def test_an_unsafe_url_is_refused_and_not_stored(
    rest: Rest, alice: UserContext, url: str, path: str
) -> None:
    name = {} if path else {"serverName": "s"}

    answer = await rest.call(alice, "POST", path, json={"url": url, **name})

    assert fields(answer) == ["url"]
    assert "sentinel" not in answer.text
    assert await stored(rest) == 0


async def test_an_unsafe_url_is_refused_in_an_update(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    created = await rest.register(alice, "s", upstream.url)

    answer = await rest.call(alice, "PATCH", f"/{created['id']}", json={"url": "http://10.0.0.1/"})

    assert fields(answer) == ["url"]
    detail = await rest.call(alice, "GET", f"/{created['id']}")
    assert detail.json() == created


async def test_an_unsafe_url_is_refused_for_an_oauth_server_too(
    rest: Rest, alice: UserContext
) -> None:
    answer = await rest.call(
        alice,
        "POST",
        json={"serverName": "s", "url": "http://169.254.169.254/", "requiresOAuth": True},
    )

    assert fields(answer) == ["url"]


@pytest.mark.requirement("E-04")
async def test_a_redirect_to_a_forbidden_address_is_not_followed(
    rest: Rest, upstream: PlainUpstream, alice: UserContext
) -> None:
    upstream.redirects_to = "http://169.254.169.254/latest"

    answer = await rest.call(alice, "POST", "/connection", json={"url": upstream.url})

    assert answer.status_code in {422, 502}
    assert answer.json()["error"] in {"validation_error", "upstream_error"}


async def test_an_address_that_does_not_exist_is_not_found(rest: Rest) -> None:
    answer = await rest.client.get("/api/v1/nothing")

    assert (answer.status_code, answer.json()) == (
        404,
        {"error": "not_found", "message": "No route matches this path."},
    )


async def test_a_method_that_an_address_does_not_take_is_refused(
    rest: Rest, alice: UserContext
) -> None:
    answer = await rest.call(alice, "DELETE")

    assert answer.status_code == 405
    assert answer.json()["error"] == "method_not_allowed"
    assert answer.headers["Allow"]
