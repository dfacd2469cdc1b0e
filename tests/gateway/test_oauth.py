"""Servers that take each caller's own access token: what callers get who have none yet."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from registry.gateway.edge.error_responses import refusal_for
from registry.gateway.values import Route, tool_entry
from registry.oauth.errors import AGAIN_SECONDS, AuthorizationUnavailableError
from registry.servers.values import Era
from tests.conftest import ALICE, BOB
from tests.fakes.oauth.access_tokens import FakeAccessTokens, make_oauth_server, token_of
from tests.gateway.conftest import Gateway, StartGateway, head, request
from tests.gateway.eras import modern
from tests.gateway.fakes import Request, ScriptedUpstream, echo, make_route
from tests.gateway.listening import hearing, listening
from tests.gateway.serving import serve
from tests.kit.waiting import others_ran, until

SERVER = "demo".ljust(24, "0")
LINK = "https://registry.test/start/flow-alice-demo?"
URLS: Any = {"elicitation": {"url": {}}}
LEGACY, MODERN = frozenset({Era.LEGACY}), frozenset({Era.MODERN})
CALL = {"name": "echo", "arguments": {}}


@pytest.fixture
async def gateway(stack: Any, start_gateway: StartGateway, upstream: ScriptedUpstream) -> Gateway:
    """Return a gateway in front of a server of both eras that wants OAuth."""
    url = await stack.enter_async_context(serve(upstream)) + "/mcp"
    route = make_route(url, oauth=make_oauth_server(SERVER, url), headers={})
    started: Gateway = await start_gateway(route)
    return started


@pytest.fixture
def tokens(gateway: Gateway) -> FakeAccessTokens:
    """Return the tokens of the gateway's callers."""
    return gateway.routes.tokens


async def begin(gateway: Gateway, path: str = "demo", user: str = "alice", **can: Any) -> str:
    """Begin a session of the handshake's era; return its id."""
    params = {"protocolVersion": "2025-11-25", "capabilities": can, "clientInfo": {}}
    answer = await gateway.post(request("initialize", params), slug=path, user=user)
    assert answer.status_code == 200
    return str(answer.headers.get("mcp-session-id"))


async def answer_all(received: Request) -> None:
    """Behave as a server that keeps sessions."""
    message = received.message if received.body else {}
    if message.get("method") == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}
        await received.result(result, mcp_session_id="of-the-server")
    elif "id" in message:
        await echo(received)
    else:
        await received.answer(405 if received.method == "GET" else 202, b"")


def refusing(status: int, challenge: str | None, until_token: str | None = None) -> Any:
    """Return a behaviour: refuse all tokens but one."""
    headers = {} if challenge is None else {"www_authenticate": challenge}

    async def behave(received: Request) -> None:
        if received.headers.get("authorization") != f"Bearer {until_token}":
            await received.answer(status, b"{}", **headers)
        else:
            await answer_all(received)

    return behave


async def test_a_call_carries_the_callers_token_and_no_others(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream
) -> None:
    tokens.give(ALICE.user_id, SERVER, "t-alice")
    tokens.give(BOB.user_id, SERVER, "t-bob")

    for user in ("alice", "bob"):
        await gateway.post(request("tools/call", CALL), user=user)

    sent = [one.headers["authorization"] for one in upstream.requests]
    assert sent == ["Bearer t-alice", "Bearer t-bob"]


async def test_nothing_is_sent_for_a_caller_without_a_token(
    gateway: Gateway, upstream: ScriptedUpstream, tokens: FakeAccessTokens
) -> None:
    tokens.give(BOB.user_id, SERVER, "t-bob")

    answer = await gateway.post(request("tools/call", CALL))

    result = answer.json()["result"]
    assert result["isError"] is True
    assert LINK in result["content"][0]["text"]
    assert upstream.requests == []
    assert gateway.count("tools/call", "refused") == 1


@pytest.mark.parametrize("path", ["demo", ""])
async def test_a_session_that_opens_urls_gets_a_url_elicitation(
    gateway: Gateway, path: str
) -> None:
    session = await begin(gateway, path, **URLS)
    name = "echo" if path else "demo__echo"

    message = request("tools/call", {**CALL, "name": name})
    answer = await gateway.post(message, slug=path, mcp_session_id=session)

    error = answer.json()["error"]
    assert error["code"] == -32042
    [page] = error["data"]["elicitations"]
    assert page["mode"] == "url"
    assert page["url"].startswith(LINK)
    assert page["elicitationId"] == "flow-alice-demo"


@pytest.mark.parametrize("path", ["demo", ""])
async def test_a_session_that_does_not_open_urls_gets_the_link_as_text(
    gateway: Gateway, path: str
) -> None:
    session = await begin(gateway, path, elicitation={})
    name = "echo" if path else "demo__echo"

    message = request("tools/call", {**CALL, "name": name})
    answer = await gateway.post(message, slug=path, mcp_session_id=session)

    result = answer.json()["result"]
    assert result["isError"] is True
    assert LINK in result["content"][0]["text"]


@pytest.mark.parametrize("path", ["demo", ""])
async def test_a_request_of_the_stateless_era_is_repeated_once_its_user_has_finished(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream, path: str
) -> None:
    params = {**CALL, "name": "echo" if path else "demo__echo"}
    message, headers = modern("tools/call", params, **URLS)
    asked = (await gateway.post(message, slug=path, **headers)).json()["result"]
    [(key, wanted)] = asked["inputRequests"].items()
    again = {
        **params,
        "inputResponses": {key: {"action": "accept"}},
        "requestState": asked["requestState"],
    }
    message, headers = modern("tools/call", again, **URLS)

    waiting = asyncio.ensure_future(gateway.post(message, slug=path, **headers))
    await until(lambda: gateway.in_flight == 1)
    tokens.give(ALICE.user_id, SERVER, "t-alice")
    answer = await waiting

    assert asked["resultType"] == "input_required"
    assert wanted["method"] == "elicitation/create"
    assert wanted["params"]["mode"] == "url"
    assert wanted["params"]["url"].startswith(LINK)
    assert "elicitationId" not in wanted["params"]
    assert answer.json()["result"]
    [sent] = upstream.requests
    assert sent.headers["authorization"] == "Bearer t-alice"
    assert "requestState" not in sent.message["params"]
    assert "inputResponses" not in sent.message["params"]
    assert sent.message["params"]["name"] == "echo"


async def test_a_state_is_of_no_use_to_another_caller(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream
) -> None:
    message, headers = modern("tools/call", CALL, **URLS)
    asked = (await gateway.post(message, **headers)).json()["result"]
    tokens.give(BOB.user_id, SERVER, "t-bob")
    again = {**CALL, "requestState": asked["requestState"], "inputResponses": {}}
    message, headers = modern("tools/call", again, **URLS)

    answer = await gateway.post(message, user="bob", **headers)

    assert answer.json()["error"]["data"]["error"] == "state_mismatch"
    assert upstream.requests == []


async def test_a_user_who_declines_is_not_asked_again(gateway: Gateway) -> None:
    message, headers = modern("tools/call", CALL, **URLS)
    asked = (await gateway.post(message, **headers)).json()["result"]
    [key] = asked["inputRequests"]
    again = {
        **CALL,
        "inputResponses": {key: {"action": "decline"}},
        "requestState": asked["requestState"],
    }
    message, headers = modern("tools/call", again, **URLS)

    answer = await gateway.post(message, **headers)

    assert "declined" in answer.text


async def test_a_client_of_the_stateless_era_that_opens_no_urls_gets_a_failed_result(
    gateway: Gateway,
) -> None:
    message, headers = modern("tools/call", CALL)

    result = (await gateway.post(message, **headers)).json()["result"]

    assert result["isError"] is True
    assert result["resultType"] == "complete"
    assert LINK in result["content"][0]["text"]


@pytest.mark.parametrize("method", ["prompts/list", "resources/list", "resources/templates/list"])
async def test_lists_that_nobody_has_read_are_empty_for_all(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    session = await begin(gateway, **URLS)
    message, headers = modern(method)

    old = await gateway.post(request(method), mcp_session_id=session)
    new = await gateway.post(message, **headers)

    kinds = {"resources/templates/list": "resourceTemplates"}
    kind = kinds.get(method, method.split("/", maxsplit=1)[0])
    assert [one.json()["result"][kind] for one in (old, new)] == [[], []]
    assert upstream.requests == []


async def test_tools_are_listed_for_callers_without_a_token(gateway: Gateway) -> None:
    session = await begin(gateway)
    message, headers = modern("tools/list")

    old = await gateway.post(request("tools/list"), mcp_session_id=session)
    new = await gateway.post(message, **headers)

    for answer in (old, new):
        assert [tool["name"] for tool in answer.json()["result"]["tools"]] == ["add", "echo"]


async def test_discovery_is_answered_for_callers_without_a_token(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    message, headers = modern("server/discover")

    result = (await gateway.post(message, **headers)).json()["result"]

    assert result["serverInfo" if "serverInfo" in result else "_meta"]
    assert upstream.requests == []


async def test_a_session_that_began_without_a_token_goes_on_with_one(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream
) -> None:
    upstream.behaviour = answer_all
    session = await begin(gateway, **URLS)
    message = request("tools/call", CALL)
    before = await gateway.post(message, mcp_session_id=session)

    tokens.give(ALICE.user_id, SERVER, "t-alice")
    after = await gateway.post(message, mcp_session_id=session)

    assert before.json()["error"]["code"] == -32042
    assert after.json()["result"]
    assert {one.headers.get("authorization") for one in upstream.requests} == {"Bearer t-alice"}


async def test_a_session_that_began_with_a_token_is_passed_through(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream
) -> None:
    tokens.give(ALICE.user_id, SERVER, "t-alice")

    async def behave(received: Request) -> None:
        await received.result({"protocolVersion": "2025-11-25"}, mcp_session_id="theirs")

    upstream.behaviour = behave
    session = await begin(gateway)
    upstream.behaviour = echo
    await gateway.post(request("tools/call", CALL), mcp_session_id=session)

    assert upstream.requests[-1].headers["mcp-session-id"] == "theirs"


@pytest.mark.parametrize("is_modern", [True, False])
@pytest.mark.parametrize("eras", [LEGACY, MODERN])
async def test_a_call_whose_token_is_refused_is_sent_again_with_a_new_one(
    gateway: Gateway,
    tokens: FakeAccessTokens,
    upstream: ScriptedUpstream,
    eras: frozenset[Era],
    *,
    is_modern: bool,
) -> None:
    route = gateway.routes.routes["demo"]
    gateway.routes.replace(make_route(route.url, oauth=route.oauth, headers={}, eras=eras))
    tokens.give(ALICE.user_id, SERVER, "t-old")
    tokens.next[ALICE.user_id, SERVER] = token_of("t-new")
    upstream.behaviour = refusing(401, 'Bearer error="invalid_token"', "t-new")
    message, headers = (
        modern("tools/call", CALL) if is_modern else (request("tools/call", CALL), {})
    )

    answer = await gateway.post(message, **headers)

    assert tokens.rejected == ["t-old"]
    assert "t-old" not in answer.text
    calls = [one for one in upstream.requests if b"tools/call" in one.body]
    accepted = [one for one in calls if one.headers["authorization"] == "Bearer t-new"]
    assert len(accepted) == 1


async def test_a_token_that_is_refused_again_asks_for_the_user(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream
) -> None:
    tokens.give(ALICE.user_id, SERVER, "t-old")
    tokens.next[ALICE.user_id, SERVER] = token_of("t-new")
    upstream.behaviour = refusing(401, None)

    answer = await gateway.post(request("tools/call", CALL))

    assert LINK in answer.json()["result"]["content"][0]["text"]
    assert len(upstream.requests) == 2


@pytest.mark.parametrize(
    "challenge",
    [
        'Basic realm="x"',
        'Bearer resource_metadata="http://gateway.example/.well-known/oauth-protected-resource"',
    ],
)
async def test_a_server_that_asks_for_other_credentials_gets_nothing(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream, challenge: str
) -> None:
    tokens.give(ALICE.user_id, SERVER, "t-alice")
    upstream.behaviour = refusing(401, challenge)

    answer = await gateway.post(request("tools/call", CALL))

    assert "rejected the credentials" in answer.text
    assert tokens.rejected == []
    assert [one.headers["authorization"] for one in upstream.requests] == ["Bearer t-alice"]


async def test_missing_scopes_are_asked_for_by_name(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream
) -> None:
    tokens.give(ALICE.user_id, SERVER, "t-alice")
    upstream.behaviour = refusing(403, 'Bearer error="insufficient_scope", scope="read write"')

    answer = await gateway.post(request("tools/call", CALL))

    text = answer.json()["result"]["content"][0]["text"]
    assert f"{LINK}read+write and then repeat the request." in text
    assert text.startswith("demo wants more than was granted: read, write. ")
    assert len(upstream.requests) == 1


def test_a_client_is_told_to_come_back_when_something_is_tried_again() -> None:
    refusal = refusal_for(AuthorizationUnavailableError("Demo"))

    assert refusal.facts == {"retry_after_seconds": AGAIN_SECONDS}
    assert refusal.headers == ((b"retry-after", b"5"),)


async def test_a_403_for_another_reason_is_no_reason_to_ask_for_the_user(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream
) -> None:
    tokens.give(ALICE.user_id, SERVER, "t-alice")
    upstream.behaviour = refusing(403, None)

    answer = await gateway.post(request("tools/call", CALL))

    assert "HTTP 403" in answer.text
    assert LINK not in answer.text


async def test_refused_tokens_of_one_user_are_no_failure_of_the_server(
    stack: Any, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    url = await stack.enter_async_context(serve(upstream)) + "/mcp"
    route = make_route(url, oauth=make_oauth_server(SERVER, url), headers={})
    gateway: Gateway = await start_gateway(route, gateway_breaker_failures=2)
    tokens = gateway.routes.tokens
    upstream.behaviour = refusing(401, None, "t-bob")
    tokens.give(BOB.user_id, SERVER, "t-bob")
    for _ in range(6):
        tokens.give(ALICE.user_id, SERVER, "t-alice")
        await gateway.post(request("tools/call", CALL))

    answer = await gateway.post(request("tools/call", CALL), user="bob")

    assert answer.json()["result"]["message"]["method"] == "tools/call"


async def test_one_server_without_authorization_leaves_the_others(
    stack: Any, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    url = await stack.enter_async_context(serve(upstream)) + "/mcp"
    gateway: Gateway = await start_gateway(
        make_route(url, oauth=make_oauth_server(SERVER, url), headers={}, eras=MODERN),
        make_route(url, slug="open", eras=MODERN),
    )
    listing, listing_headers = modern("tools/list")
    calling, calling_headers = modern("tools/call", {**CALL, "name": "open__echo"})

    listed = await gateway.post(listing, slug="", **listing_headers)
    called = await gateway.post(calling, slug="", **calling_headers)

    names = [tool["name"] for tool in listed.json()["result"]["tools"]]
    assert names == ["demo__add", "demo__echo", "open__add", "open__echo"]
    assert called.json()["result"]


def with_tools(gateway: Gateway, *names: str) -> Route:
    """Return the route with these tools."""
    route = gateway.routes.routes["demo"]
    entries = [tool_entry(name, f'{{"name":"{name}","inputSchema":{{}}}}') for name in names]
    return make_route(route.url, oauth=route.oauth, headers={}, tools=entries)


@pytest.mark.parametrize("is_read", [True, False])
async def test_a_session_learns_that_its_user_has_finished(
    gateway: Gateway, tokens: FakeAccessTokens, *, is_read: bool
) -> None:
    if not is_read:
        gateway.routes.replace(with_tools(gateway))
    session = await begin(gateway, **URLS)
    async with hearing(gateway, head(mcp_session_id=session), "demo") as stream:
        asked = await gateway.post(request("tools/call", CALL), mcp_session_id=session)
        [page] = asked.json()["error"]["data"]["elicitations"]

        tokens.give(ALICE.user_id, SERVER, "t-alice")
        told = await stream.next()

    assert told is not None
    assert told["method"] == "notifications/elicitation/complete"
    assert told["params"] == {"elicitationId": page["elicitationId"]}


async def test_sessions_of_all_users_learn_of_tools_that_become_known(gateway: Gateway) -> None:
    gateway.routes.replace(with_tools(gateway))
    session = head("bob", mcp_session_id=await begin(gateway, user="bob"))
    async with hearing(gateway, session, "demo") as stream:
        gateway.routes.replace(with_tools(gateway, "whoami"))
        told = await stream.method()

    assert told == "tools/list_changed"


async def test_streams_of_the_stateless_era_learn_of_tools_that_become_known(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    gateway.routes.replace(with_tools(gateway))
    async with listening(gateway, {"toolsListChanged": True}, "demo") as stream:
        acknowledged = await stream.method()
        gateway.routes.replace(with_tools(gateway, "whoami"))
        told = await stream.method()

    assert (acknowledged, told) == ("subscriptions/acknowledged", "tools/list_changed")
    assert upstream.requests == []


@pytest.mark.parametrize("can", [URLS, {}])
async def test_a_session_that_is_passed_through_asks_in_the_form_that_its_client_knows(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream, can: Any
) -> None:
    upstream.behaviour = answer_all
    tokens.give(ALICE.user_id, SERVER, "t-alice")
    session = await begin(gateway, **can)
    message = request("tools/call", CALL)
    await gateway.post(message, mcp_session_id=session)

    tokens.held.clear()
    answer = (await gateway.post(message, mcp_session_id=session)).json()

    assert upstream.requests[-1].headers["mcp-session-id"] == "of-the-server"
    code = answer.get("error", {}).get("code")
    assert code == (-32042 if can else None)
    assert LINK in str(answer)


async def test_a_session_that_is_passed_through_learns_between_events_that_its_user_has_finished(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream
) -> None:
    may_end = asyncio.Event()
    event = b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/own"}\r\n\r\n'

    async def behave(received: Request) -> None:
        if received.method != "GET":
            await answer_all(received)
            return
        await received.start(content_type="text/event-stream")
        await received.chunk(event + event[:30])
        await may_end.wait()
        await received.chunk(event[30:])
        await received.wait_for_disconnect()

    upstream.behaviour = behave
    tokens.give(ALICE.user_id, SERVER, "t-alice")
    session = await begin(gateway, **URLS)
    async with hearing(gateway, head(mcp_session_id=session), "demo") as stream:
        first = await stream.method()
        tokens.held.clear()
        asked = await gateway.post(request("tools/call", CALL), mcp_session_id=session)
        [page] = asked.json()["error"]["data"]["elicitations"]
        tokens.give(ALICE.user_id, SERVER, "t-alice")
        await others_ran()
        may_end.set()
        second, told = await stream.method(), await stream.next()

    assert (first, second) == ("own", "own")
    assert told is not None
    assert told["method"] == "notifications/elicitation/complete"
    assert told["params"] == {"elicitationId": page["elicitationId"]}


@pytest.mark.parametrize("can", [URLS, {}])
async def test_links_and_tokens_are_logged_nowhere(
    gateway: Gateway, tokens: FakeAccessTokens, upstream: ScriptedUpstream, can: Any
) -> None:
    upstream.behaviour = refusing(401, 'Bearer error="invalid_token"')
    session = await begin(gateway, **can)
    with capture_logs() as logs:
        await gateway.post(request("tools/call", CALL), mcp_session_id=session)
        tokens.give(ALICE.user_id, SERVER, "t-alice")
        await gateway.post(request("tools/call", CALL), mcp_session_id=session)
        message, headers = modern("tools/call", CALL, **can)
        await gateway.post(message, **headers)

    assert upstream.requests
    assert "t-alice" not in str(logs)
    assert "registry.test" not in str(logs)
