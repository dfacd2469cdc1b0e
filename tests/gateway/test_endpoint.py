"""Requests to `/mcp/<server>` over a socket: who may do what, and what they are told."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from packages.database.errors import DatabaseUnavailable
from packages.models.states import AuditOutcome
from registry.access.policy import AccessRule, ServerFacts, ServerScope
from registry.audit.values import AuditAction
from registry.auth.errors import REALM
from registry.servers.errors import UserKeyMissingError
from tests.fakes.loop_lag import loop_lag
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.failing import error_of, outcome
from tests.gateway.fakes import PRIVATE, ScriptedUpstream, make_route


async def test_a_call_reaches_the_upstream_and_its_answer_comes_back(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await gateway.call()

    assert answer.status_code == 200
    assert answer.json()["result"]["message"]["params"] == {"name": "echo", "arguments": {}}
    assert gateway.count("tools/call", "ok") == 1


@pytest.mark.requirement("R-235")
async def test_only_listed_headers_go_upstream_and_credentials_are_swapped(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    await gateway.call(
        cookie="session=1",
        x_forwarded_for="10.0.0.1",
        forwarded="for=10.0.0.1",
        x_custom="1",
        mcp_protocol_version="2025-11-25",
        mcp_method="tools/call",
        mcp_name="echo",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        last_event_id="7",
    )

    sent = upstream.requests[0].headers
    assert sent == {
        "host": sent["host"],
        "accept-encoding": "identity",
        "user-agent": "mcp-gateway-registry",
        "authorization": "Bearer upstream-secret",
        "accept": "application/json, text/event-stream",
        "content-type": "application/json",
        "mcp-protocol-version": "2025-11-25",
        "last-event-id": "7",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "content-length": sent["content-length"],
    }


async def test_the_upstream_is_told_of_plain_json_however_the_client_put_it(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await gateway.call(content_type='Application/JSON; charset="UTF-8"; x=y')

    assert answer.status_code == 200
    assert upstream.requests[0].headers["content-type"] == "application/json"


async def test_metrics_name_the_servers_that_everybody_may_know(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        make_route(slug="open"),
        make_route(slug="hidden", facts=PRIVATE),
        admin_uses_private=True,
    )

    await gateway.post(request("tools/list"), slug="open", user="root")
    await gateway.post(request("tools/list"), slug="hidden", user="root")

    assert gateway.count("tools/list", "ok", "open") == 1
    assert gateway.count("tools/list", "ok", "(not public)") == 1
    assert b"hidden" not in gateway.metrics.render()


async def test_the_bytes_of_the_body_are_forwarded_unchanged(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    body = (
        b'{ "params": {"name":"echo","arguments":{"b":1.0,"a":"\\u00e9 \\/"}, "x-unknown":[1]},'
        b'"id":"one", "method":"tools/call","jsonrpc":"2.0"}'
    )

    await gateway.post(body)

    assert upstream.requests[0].body == body


async def test_listed_response_headers_come_back_and_others_do_not(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def behaviour(received: Any) -> None:
        await received.result(
            {}, set_cookie="a=b", server="secret/1", cache_control="no-store", retry_after="3"
        )

    upstream.behaviour = behaviour

    answer = await gateway.call()

    assert dict(answer.headers) == {
        "content-type": "application/json",
        "cache-control": "no-store",
        "retry-after": "3",
        "content-length": answer.headers["content-length"],
    }


async def test_without_a_token_the_answer_says_where_to_get_one(gateway: Gateway) -> None:
    answer = await gateway.post(request("ping"), user=None)

    assert answer.status_code == 401
    # No `resource_metadata`: there is no authorization server to lead anybody to.
    assert answer.headers["www-authenticate"] == REALM
    assert answer.json()["error"]["data"] == {"error": "unauthorized"}
    assert answer.json()["id"] == 1


async def test_a_bad_token_is_called_invalid(gateway: Gateway) -> None:
    answer = await gateway.post(request("ping"), user="mallory")

    assert answer.headers["www-authenticate"].startswith(
        f'{REALM}, error="invalid_token", error_description="'
    )


async def test_calling_needs_the_scope_to_invoke_tools(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await gateway.post(
        request("tools/call", {"name": "echo", "arguments": {}}), user="reader"
    )

    assert answer.status_code == 403
    assert answer.headers["www-authenticate"] == (
        f'{REALM}, error="insufficient_scope", scope="read:tools invoke:tools"'
    )
    assert upstream.requests == []


@pytest.mark.parametrize("method", ["tools/list", "initialize", "resources/read", "x/y"])
async def test_everything_else_needs_the_scope_to_read_tools(
    gateway: Gateway, method: str
) -> None:
    answer = await gateway.post(request(method), user="nobody")

    assert answer.status_code == 403
    assert 'scope="read:tools invoke:tools"' in answer.headers["www-authenticate"]


async def test_hidden_and_unknown_servers_are_answered_alike(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(make_route(slug="hidden", facts=PRIVATE))

    hidden = await gateway.post(request("tools/list"), slug="hidden")
    unknown = await gateway.post(request("tools/list"), slug="unknown")

    assert hidden.status_code == unknown.status_code == 404
    assert hidden.content == unknown.content
    assert list(hidden.headers) == list(unknown.headers)


async def test_unknown_servers_are_not_told_apart_without_a_token(gateway: Gateway) -> None:
    known = await gateway.post(request("ping"), user=None)
    unknown = await gateway.post(request("ping"), user=None, slug="unknown")

    assert (known.status_code, known.content) == (unknown.status_code, unknown.content)


@pytest.mark.requirement("R-242")
async def test_authors_alone_reach_their_private_servers(
    start_gateway: StartGateway,
) -> None:
    mine = ServerFacts("a" * 24, ServerScope.PRIVATE_USER)
    gateway = await start_gateway(make_route(facts=mine))

    answers = [
        await gateway.post(request("tools/list"), user=user) for user in ("alice", "bob", "root")
    ]

    assert [answer.status_code for answer in answers] == [200, 404, 404]
    assert [
        (user, event.action, event.outcome, event.entity_id, event.reason)
        for user, event in gateway.refusals.events
    ] == [
        (user, AuditAction.CALL, AuditOutcome.DENIED, "demo".ljust(24, "0"), AccessRule.PRIVATE)
        for user in ("bob", "root")
    ]


@pytest.mark.requirement("R-017")
@pytest.mark.requirement("R-010")
@pytest.mark.requirement("R-221")
async def test_a_tool_that_is_not_registered_is_refused_without_asking_the_upstream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await gateway.call("hidden")

    assert answer.status_code == 200
    assert answer.json() == {
        "jsonrpc": "2.0",
        "id": 1,
        "error": {
            "code": -32602,
            "message": "Unknown tool: hidden",
            "data": {"error": "not_found"},
        },
    }
    assert upstream.requests == []


async def test_a_call_without_a_name_is_refused(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await gateway.post(request("tools/call", {"name": ["echo"]}))

    assert answer.json()["error"]["code"] == -32602
    assert upstream.requests == []


SMUGGLED = {
    "a second name": b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
    b'"params":{"name":"hidden","name":"echo"}}',
    "an escaped second name": b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
    b'"params":{"n\\u0061me":"hidden","name":"echo"}}',
    "a name in another case": b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
    b'"params":{"name":"echo","Name":"hidden"}}',
    "a second method": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"ping",'
    b'"params":{"name":"hidden"}}',
    "a method in another case": b'{"jsonrpc":"2.0","id":1,"method":"ping","METHOD":"tools/call",'
    b'"params":{"name":"hidden"}}',
    "two params": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"hidden"},'
    b'"params":{"name":"echo"}}',
    "a call that looks like an answer": b'{"jsonrpc":"2.0","id":1,"method":"tools/call",'
    b'"params":{"name":"hidden"},"result":{}}',
    "a call that looks like a notification": b'{"jsonrpc":"2.0","method":"tools/call",'
    b'"params":{"name":"echo"}}',
    "a batch": b'[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"hidden"}}]',
}


@pytest.mark.parametrize("body", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_nothing_is_smuggled_past_the_policy(
    gateway: Gateway, upstream: ScriptedUpstream, body: bytes
) -> None:
    answer = await gateway.post(body)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32600
    assert upstream.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        b'{"name":"a","name":"b","id":1,"method":2}',
        b'{"a":[{"b":{"c":1,"\\u0063":2}}]}',
        b'{"a":1, "a":1}',
        b'{"\\"a":1,"\\"a":2}',
    ],
)
async def test_members_that_are_repeated_anywhere_are_refused(
    gateway: Gateway, upstream: ScriptedUpstream, arguments: bytes
) -> None:
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",'
        b'"arguments":' + arguments + b"}}"
    )

    answer = await gateway.post(body)

    assert answer.status_code == 400
    assert "is repeated" in answer.json()["error"]["message"]
    assert upstream.requests == []


@pytest.mark.parametrize(
    "arguments",
    [
        b'{ "a" : "b:c" , "d" : {"a": ":"} }',
        b'{"a":"\\"x\\":1, \\\\", "b":"\\\\\\":{"}',
        b'{"a": 1e2, "b": 123456789012345678901234567890, "c": "\\u00e9"}',
    ],
)
async def test_what_is_written_in_another_way_goes_on_as_it_came(
    gateway: Gateway, upstream: ScriptedUpstream, arguments: bytes
) -> None:
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",'
        b'"arguments":' + arguments + b"}}"
    )

    answer = await gateway.post(body)

    assert answer.status_code == 200
    assert upstream.requests[0].body == body


@pytest.mark.parametrize(
    "method",
    [
        "Tools/Call",
        "TOOLS/CALL",
        "tools/call ",
        " tools/call",
        "tools/call\0",
        "tools/call\n",
        "tools//call",
        "tools/call/",
        "tool\u017f/call",
        "tasks/list",
        "tasks/get",
        "tasks/result",
        "tasks/cancel",
        "x.example/do",
    ],
)
@pytest.mark.parametrize("user", ["alice", "reader"])
async def test_no_method_goes_on_but_known_ones_as_they_are_spelled(
    gateway: Gateway, upstream: ScriptedUpstream, method: str, user: str
) -> None:
    params = {"name": "echo", "arguments": {}, "taskId": "t"}

    answer = await gateway.post(request(method, params), user=user)

    assert (answer.status_code, answer.json()["error"]["code"]) == (200, -32601)
    assert upstream.requests == []


@pytest.mark.parametrize("method", ["notifications/x", "notifications/tasks/status"])
async def test_a_notification_that_nobody_knows_is_taken_and_goes_nowhere(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    answer = await gateway.post({"jsonrpc": "2.0", "method": method, "params": {}})

    assert answer.status_code == 202
    assert upstream.requests == []


@pytest.mark.parametrize("task", [{}, {"ttl": 60000}, None])
async def test_a_call_as_a_task_is_refused_as_its_result_could_not_be_kept_apart(
    gateway: Gateway, upstream: ScriptedUpstream, task: Any
) -> None:
    answer = await gateway.post(request("tools/call", {"name": "echo", "task": task}))

    assert answer.json()["error"]["code"] == -32602
    assert upstream.requests == []


async def test_a_stranger_has_nothing_read_and_nothing_parsed(gateway: Gateway) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{' + b" " * 3_900_000

    answer = await gateway.post(body, user=None)

    assert answer.status_code == 401
    assert answer.json()["id"] is None


@pytest.mark.parametrize(
    "values",
    [
        b"[" + b",".join([b"[]"] * 1_200_000) + b"]",
        b"{" + b",".join(b'"%d":0' % number for number in range(300_000)) + b"}",
        b"[" + b",".join([b'"\\""'] * 500_000) + b"]",
        b"[" + b",".join([b'"\\\\"'] * 500_000) + b"]",
    ],
)
async def test_a_body_of_too_many_values_stops_nobody(
    gateway: Gateway, upstream: ScriptedUpstream, values: bytes
) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":' + values + b"}}"
    await gateway.post(request("ping"))

    with loop_lag() as lag:
        answer = await gateway.post(body)

    assert answer.status_code == 400
    assert "more than 200000 JSON values" in answer.json()["error"]["message"]
    assert lag.longest_seconds < 0.25
    assert len(upstream.requests) == 1


async def test_a_long_text_may_hold_whatever_it_likes(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    text = '[{"a,b":[1,2]}]\\' * 150_000

    answer = await gateway.post(request("tools/call", {"name": "echo", "arguments": {"t": text}}))

    assert answer.status_code == 200
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(("depth", "status"), [(200, 200), (300, 400), (1000, 400)])
async def test_deeply_nested_arguments_are_served_or_refused(
    gateway: Gateway, upstream: ScriptedUpstream, depth: int, status: int
) -> None:
    async def accept(received: Any) -> None:
        await received.answer(200, b"{}")

    upstream.behaviour = accept
    nested = b"[" * depth + b"]" * depth
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo",'
        b'"arguments":{"x":' + nested + b"}}}"
    )

    answer = await gateway.post(body)

    assert answer.status_code == status


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff", -32700),
        (b'{"a":NaN}', -32700),
        (b"[" * 100_000, -32700),
        (b"null", -32600),
        (b'"text"', -32600),
        (b'{"id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":{"$ne":1},"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":""}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602),
    ],
)
async def test_malformed_messages_get_a_json_rpc_error(
    gateway: Gateway, body: bytes, code: int
) -> None:
    answer = await gateway.post(body)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize("meta", ["x", 7, True, [], [{}], None])
@pytest.mark.parametrize("slug", ["demo", "", "toolsets/agent"])
async def test_a_meta_that_is_no_object_is_refused_in_both_eras_and_nothing_is_sent(
    gateway: Gateway, upstream: ScriptedUpstream, slug: str, meta: object
) -> None:
    call = request("tools/call", {"name": "echo", "arguments": {}, "_meta": meta})
    old = await gateway.post(call, slug=slug)
    new = await gateway.post(
        call,
        slug=slug,
        mcp_protocol_version="2026-07-28",
        mcp_method="tools/call",
        mcp_name="echo",
    )

    refusals = [answer.json() for answer in (old, new)]
    assert [(one["id"], one["error"]["code"]) for one in refusals] == [(1, -32602), (1, -32602)]
    assert [answer.status_code for answer in (old, new)] == [200, 400]
    assert all("params._meta must be an object" in one["error"]["message"] for one in refusals)
    assert upstream.requests == []


async def test_a_body_over_the_limit_is_refused_by_its_declared_length(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(make_route(), gateway_max_body_bytes=100)

    answer = await gateway.post(b" " * 101)

    assert answer.status_code == 413
    assert answer.json()["error"]["data"] == {"error": "payload_too_large"}


async def test_a_body_over_the_limit_is_refused_while_it_is_read(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(make_route(), gateway_max_body_bytes=100)

    async def chunks() -> Any:
        for _ in range(3):
            yield b" " * 50

    answer = await gateway.http.post("/mcp/demo", content=chunks(), headers=head())

    assert answer.status_code == 413


@pytest.mark.parametrize("begun", [b"", b"{"])
async def test_a_body_that_does_not_arrive_is_not_waited_for(
    start_gateway: StartGateway, begun: bytes
) -> None:
    gateway = await start_gateway(make_route(), request_body_timeout_seconds=0.05)
    port = gateway.http.base_url.port
    assert port is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [
        "POST /mcp/demo HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        *(f"{name}: {value}" for name, value in head().items()),
        "Content-Length: 10",
    ]

    writer.write("\r\n".join([*lines, "", ""]).encode() + begun)
    async with asyncio.timeout(30):
        answer = await reader.read()

    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"error":"request_timeout"' in answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/json; charset=utf-7"}, 415),
        ({"content_type": 'application/json; charset="utf-16"'}, 415),
        ({"content_encoding": "gzip"}, 415),
        ({"accept": "text/html"}, 406),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
async def test_requests_that_pages_of_others_could_make_are_refused(
    gateway: Gateway, upstream: ScriptedUpstream, headers: dict[str, str], status: int
) -> None:
    answer = await gateway.call(**headers)

    assert answer.status_code == status
    assert upstream.requests == []


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "application/json; charset=utf-8"},
        {"accept": "*/*"},
        {"host": "gateway.example"},
        {"origin": "http://gateway.example"},
    ],
)
async def test_ordinary_variations_are_served(gateway: Gateway, headers: dict[str, str]) -> None:
    answer = await gateway.call(**headers)

    assert answer.status_code == 200


async def test_allowed_origins_are_served(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(make_route(), allowed_origins=("https://console.example",))

    answer = await gateway.post(request("tools/list"), origin="https://console.example")

    assert answer.status_code == 200


async def test_other_methods_name_those_that_are_allowed(gateway: Gateway) -> None:
    answer = await gateway.http.put("/mcp/demo", headers=head())

    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST, GET, DELETE"


async def test_a_repeated_header_is_refused(gateway: Gateway) -> None:
    headers = [*head().items(), ("mcp-session-id", "a"), ("mcp-session-id", "b")]

    answer = await gateway.http.post("/mcp/demo", json=request("ping"), headers=headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32020


async def test_white_space_around_header_values_does_not_matter(gateway: Gateway) -> None:
    body = orjson.dumps(request("tools/list"))
    target = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(target.hostname, target.port)

    writer.write(
        b"POST /mcp/demo HTTP/1.1\r\nhost:  %b \t\r\nauthorization: \t Bearer alice  \r\n"
        b"content-type: application/json\t\r\nmcp-protocol-version:  2025-11-25  \r\n"
        b"connection: close\r\ncontent-length: %d\r\n\r\n%b"
        % (target.netloc.encode(), len(body), body)
    )
    status = await reader.readline()

    writer.close()
    await writer.wait_closed()
    assert status.split()[1] == b"200"


async def test_a_stale_view_of_the_database_closes_the_gateway(gateway: Gateway) -> None:
    gateway.routes.fresh = False

    answer = await gateway.call()

    assert outcome(answer) == 503
    assert answer.headers["retry-after"] == "2"
    assert error_of(answer)["data"] == {"error": "service_unavailable", "retry_after_seconds": 2}


async def test_a_database_that_is_away_during_authentication_gives_503(gateway: Gateway) -> None:
    gateway.authenticate.problem = DatabaseUnavailable()

    answer = await gateway.call()

    assert outcome(answer) == 503
    assert error_of(answer)["data"] == {"error": "service_unavailable", "retry_after_seconds": 2}


async def test_an_unforeseen_error_is_no_bare_500_and_tells_nothing(gateway: Gateway) -> None:
    gateway.authenticate.problem = RuntimeError("secret")

    answer = await gateway.call()

    assert answer.status_code == 200
    assert error_of(answer)["code"] == -32603
    assert "secret" not in answer.text


async def test_calls_without_readable_credentials_are_never_forwarded(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(make_route(credential_problem="Enter the key again."))

    called = await gateway.call()
    listed = await gateway.post(request("tools/list"))

    assert outcome(called) == 502
    assert error_of(called)["message"] == "Enter the key again."
    assert outcome(listed) == 200


async def test_each_callers_own_key_is_sent(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    url = gateway.routes.routes["demo"].url
    gateway.routes.routes["own"] = make_route(url, slug="own", per_user=True, headers={})
    gateway.routes.own_headers = {
        ("a" * 24, "own"): {"X-Key": "of alice"},
        ("b" * 24, "own"): {"X-Key": "of bob"},
    }

    for user in ("alice", "bob"):
        await gateway.post(
            request("tools/call", {"name": "echo", "arguments": {}}), slug="own", user=user
        )

    assert [sent.headers["x-key"] for sent in upstream.requests] == ["of alice", "of bob"]


async def test_a_caller_without_a_key_of_their_own_is_told_so(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(make_route(per_user=True))
    gateway.routes.problem = UserKeyMissingError()

    answer = await gateway.call()

    assert outcome(answer) == 502
    assert "API key of your own" in error_of(answer)["message"]


async def test_notifications_and_answers_are_forwarded(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def accept(received: Any) -> None:
        await received.start(202, content_length="0")
        await received.chunk(b"", more=False)

    upstream.behaviour = accept

    noted = await gateway.post({"jsonrpc": "2.0", "method": "notifications/initialized"})
    answered = await gateway.post({"jsonrpc": "2.0", "id": 7, "result": {"roots": []}})

    assert (noted.status_code, answered.status_code) == (202, 202)
    assert len(upstream.requests) == 2
    assert gateway.count("response", "ok") == 1


async def test_methods_that_clients_invent_share_one_metric(gateway: Gateway) -> None:
    await gateway.post(request("invented/a"))
    await gateway.post(request("invented/b"))

    assert gateway.count("other", "refused") == 2


async def test_requests_in_flight_return_to_zero(gateway: Gateway) -> None:
    await gateway.call()
    await gateway.call("hidden")

    in_flight = gateway.metrics.registry.get_sample_value("mcp_gateway_requests_in_flight")
    assert in_flight == 0


async def test_a_page_of_an_allowed_origin_may_ask_and_read(start_gateway: StartGateway) -> None:
    origin = "https://console.example"
    gateway = await start_gateway(make_route(), allowed_origins=(origin,))

    asked = await gateway.http.options(
        "/mcp/demo",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "Authorization, mcp-param-x,x-other",
        },
    )
    refused = await gateway.post(request("ping"), user=None, origin=origin)

    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == origin
    assert asked.headers["access-control-allow-headers"] == "authorization, mcp-param-x"
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == origin
    assert "www-authenticate" in refused.headers["access-control-expose-headers"]


async def test_other_origins_are_told_nothing(gateway: Gateway) -> None:
    answer = await gateway.http.options(
        "/mcp/demo",
        headers={"origin": "https://evil.example", "access-control-request-method": "POST"},
    )

    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
