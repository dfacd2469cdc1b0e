"""Streams that stay open: what is told there, to whom, and when they end."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message

from registry.auth.identity import Role, UserContext
from registry.core.drain import Drain
from registry.gateway.notifications import streams as standing
from registry.gateway.values import FeatureEntry, tool_entry
from registry.servers.values import Era
from tests.conftest import ALICE
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.fakes import PRIVATE, make_route
from tests.gateway.listening import begin, hearing, listening, post
from tests.kit.waiting import until

MODERN_ONLY = frozenset({Era.MODERN})
ALL = {"toolsListChanged": True, "promptsListChanged": True, "resourcesListChanged": True}
ONE_TOOL = [tool_entry("echo", '{"name":"echo","inputSchema":{"type":"object"}}')]
PROMPT = [FeatureEntry("greet", b'{"name":"greet"}')]
RESOURCE = [FeatureEntry("note://a", b'{"uri":"note://a","name":"a"}')]
TEMPLATE = [FeatureEntry("note://{id}", b'{"uriTemplate":"note://{id}","name":"t"}')]
TOOLS_CHANGED = "tools/list_changed"
PROMPTS_CHANGED = "prompts/list_changed"
RESOURCES_CHANGED = "resources/list_changed"

CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"tools": ONE_TOOL}, TOOLS_CHANGED),
    ({"prompts": PROMPT}, PROMPTS_CHANGED),
    ({"resources": RESOURCE}, RESOURCES_CHANGED),
    ({"templates": TEMPLATE}, RESOURCES_CHANGED),
]


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    """Return a gateway to one server."""
    started: Gateway = await start_gateway(make_route())
    return started


def open_streams(gateway: Gateway) -> float | None:
    """Return how many streams the metrics know of."""
    return gateway.metrics.registry.get_sample_value("mcp_gateway_streams")


@pytest.mark.parametrize(("change", "told"), CHANGES)
async def test_a_session_hears_which_list_changed(
    gateway: Gateway, change: dict[str, Any], told: str
) -> None:
    async with hearing(gateway, await begin(gateway)) as stream:
        gateway.routes.replace(make_route(**change))

        assert await stream.next() == {"jsonrpc": "2.0", "method": f"notifications/{told}"}


@pytest.mark.parametrize(("change", "told"), CHANGES)
async def test_a_listening_client_hears_which_list_changed(
    gateway: Gateway, change: dict[str, Any], told: str
) -> None:
    meta = {"io.modelcontextprotocol/subscriptionId": "sub-1"}
    async with listening(gateway, ALL) as stream:
        acknowledged = await stream.next()

        gateway.routes.replace(make_route(**change))

        assert acknowledged == {
            "jsonrpc": "2.0",
            "method": "notifications/subscriptions/acknowledged",
            "params": {"notifications": ALL, "_meta": meta},
        }
        assert await stream.next() == {
            "jsonrpc": "2.0",
            "method": f"notifications/{told}",
            "params": {"_meta": meta},
        }


async def test_a_listening_client_hears_only_what_it_asked_for(gateway: Gateway) -> None:
    asked = {"promptsListChanged": True, "toolsListChanged": False, "unknown": True}
    async with listening(gateway, asked, request_id=7) as stream:
        acknowledged = await stream.next()

        gateway.routes.replace(make_route(tools=ONE_TOOL))
        gateway.routes.replace(make_route(tools=ONE_TOOL, prompts=PROMPT))

        assert acknowledged is not None
        assert acknowledged["params"]["notifications"] == {"promptsListChanged": True}
        assert await stream.method() == PROMPTS_CHANGED


async def test_a_server_that_was_read_again_and_is_the_same_is_not_told_of(
    gateway: Gateway,
) -> None:
    async with hearing(gateway, await begin(gateway)) as stream:
        gateway.routes.replace(make_route())
        gateway.routes.replace(make_route(headers={"Authorization": "Bearer other"}))
        gateway.routes.replace(make_route(prompts=PROMPT))

        assert await stream.method() == PROMPTS_CHANGED


async def test_a_server_that_comes_and_goes_is_told_of(gateway: Gateway) -> None:
    async with hearing(gateway, await begin(gateway)) as stream:
        gateway.routes.replace(make_route(), make_route(slug="other", prompts=PROMPT))
        come = [await stream.method(), await stream.method()]
        gateway.routes.replace(make_route())
        gone = [await stream.method(), await stream.method()]

    assert come == gone == [TOOLS_CHANGED, PROMPTS_CHANGED]


async def test_what_changes_for_others_is_not_told(gateway: Gateway) -> None:
    hidden: dict[str, Any] = {"slug": "hidden", "facts": PRIVATE}
    async with hearing(gateway, await begin(gateway)) as stream:
        gateway.routes.replace(make_route(), make_route(**hidden))
        gateway.routes.replace(make_route(), make_route(**hidden, tools=ONE_TOOL))
        gateway.routes.replace(make_route())
        gateway.routes.replace(make_route(prompts=PROMPT))

        assert await stream.method() == PROMPTS_CHANGED


async def test_a_right_that_is_taken_away_is_told_of(gateway: Gateway) -> None:
    async with hearing(gateway, await begin(gateway)) as stream:
        gateway.routes.replace(make_route(facts=PRIVATE))

        assert await stream.method() == TOOLS_CHANGED


async def test_a_caller_who_became_somebody_else_hears_of_another_list(
    start_gateway: StartGateway,
) -> None:
    gateway: Gateway = await start_gateway(make_route(facts=PRIVATE), admin_uses_private=True)
    async with hearing(gateway, await begin(gateway)) as stream:
        promoted = UserContext(ALICE.user_id, "alice", Role.ADMIN, ALICE.scopes)
        gateway.authenticate.change(promoted)
        gateway.routes.change.set()

        assert await stream.method() == TOOLS_CHANGED


async def test_it_does_not_matter_which_request_finds_out_that_a_caller_changed(
    start_gateway: StartGateway,
) -> None:
    gateway: Gateway = await start_gateway(make_route(facts=PRIVATE), admin_uses_private=True)
    session = await begin(gateway)
    async with hearing(gateway, session) as stream:
        gateway.authenticate.change(UserContext(ALICE.user_id, "alice", Role.ADMIN, ALICE.scopes))
        await post(gateway, {"jsonrpc": "2.0", "id": 1, "method": "ping"}, session)
        gateway.routes.change.set()

        assert await stream.method() == TOOLS_CHANGED


async def test_many_changes_are_told_once(gateway: Gateway) -> None:
    async with hearing(gateway, await begin(gateway)) as stream:
        gateway.routes.replace(make_route(tools=ONE_TOOL))
        gateway.routes.replace(make_route())
        gateway.routes.replace(make_route(tools=ONE_TOOL, prompts=PROMPT))

        assert [await stream.method(), await stream.method()] == [TOOLS_CHANGED, PROMPTS_CHANGED]


async def test_one_server_tells_of_its_own_lists(start_gateway: StartGateway) -> None:
    other = make_route(slug="other", tools=ONE_TOOL)
    gateway: Gateway = await start_gateway(make_route(eras=MODERN_ONLY))
    async with hearing(gateway, await begin(gateway, "demo"), "demo") as stream:
        gateway.routes.replace(make_route(eras=MODERN_ONLY), other)
        gateway.routes.replace(make_route(eras=MODERN_ONLY, prompts=PROMPT), other)

        assert await stream.method() == PROMPTS_CHANGED


LOST = [
    (),
    (make_route(eras=frozenset({Era.LEGACY}), facts=PRIVATE),),
    (make_route(eras=frozenset({Era.LEGACY}), server_id="f" * 24),),
    (make_route(eras=MODERN_ONLY),),
]


@pytest.mark.parametrize("routes", LOST, ids=["gone", "hidden", "replaced", "served otherwise"])
async def test_a_stream_about_one_server_ends_with_it(
    start_gateway: StartGateway, routes: tuple[Any, ...]
) -> None:
    gateway: Gateway = await start_gateway(make_route(eras=frozenset({Era.LEGACY})))
    async with listening(gateway, ALL, "demo") as stream:
        await stream.next()
        gateway.routes.replace(*routes)

        assert await stream.next() == {
            "jsonrpc": "2.0",
            "id": "sub-1",
            "result": {
                "resultType": "complete",
                "_meta": {"io.modelcontextprotocol/subscriptionId": "sub-1"},
            },
        }
        assert await stream.next() is None


async def test_a_stream_ends_at_once_when_its_token_is_refused(gateway: Gateway) -> None:
    async with hearing(gateway, await begin(gateway)) as stream:
        gateway.authenticate.forget("alice")
        gateway.routes.change.set()

        assert await stream.next() is None
    assert gateway.count("GET", "unauthorized", "-") == 1


async def test_a_stream_ends_soon_after_its_token(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "TICK_SECONDS", 0.05)
    async with hearing(gateway, await begin(gateway)) as stream:
        gateway.authenticate.forget("alice")

        assert await stream.next() is None


async def test_others_streams_go_on_when_one_is_refused(gateway: Gateway) -> None:
    async with (
        hearing(gateway, await begin(gateway)) as alices,
        hearing(gateway, await begin(gateway, user="bob")) as bobs,
    ):
        gateway.authenticate.forget("alice")
        gateway.routes.replace(make_route(prompts=PROMPT))

        assert await bobs.method() == PROMPTS_CHANGED
        await until(lambda: open_streams(gateway) == 1)
        del alices


async def test_streams_end_when_the_view_is_too_old(gateway: Gateway) -> None:
    async with hearing(gateway, await begin(gateway)) as stream:
        gateway.routes.fresh = False
        gateway.routes.change.set()

        assert await stream.next() is None


async def test_a_silent_stream_is_kept_alive(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(standing, "QUIET_SECONDS", 0.05)
    async with hearing(gateway, await begin(gateway)) as stream:
        assert await stream.comment() == await stream.comment() == ": keep-alive"


async def test_a_second_stream_of_a_session_ends_the_first(gateway: Gateway) -> None:
    session = await begin(gateway)
    async with hearing(gateway, session) as first, hearing(gateway, session) as second:
        assert await first.next() is None

        gateway.routes.replace(make_route(prompts=PROMPT))

        assert await second.method() == PROMPTS_CHANGED


async def test_the_end_of_a_session_ends_its_stream(gateway: Gateway) -> None:
    session = await begin(gateway)
    async with hearing(gateway, session) as stream:
        await gateway.http.delete("/mcp", headers=session)

        assert await stream.next() is None


async def test_a_client_that_leaves_leaves_nothing(gateway: Gateway) -> None:
    async with hearing(gateway, await begin(gateway)), listening(gateway, ALL) as stream:
        await stream.next()
        assert open_streams(gateway) == 2

    await until(lambda: open_streams(gateway) == 0)
    await until(lambda: len(gateway.background_tasks) == 0)


async def test_one_users_streams_are_bounded(start_gateway: StartGateway) -> None:
    gateway: Gateway = await start_gateway(
        make_route(), gateway_streams_per_user=1, gateway_streams_per_worker=2
    )
    async with hearing(gateway, await begin(gateway)):
        async with listening(gateway, ALL) as too_many:
            refused = too_many.answer.status_code
        async with listening(gateway, ALL, user="bob") as bobs:
            await bobs.next()
            async with listening(gateway, ALL, user="root") as one_too_many:
                full = one_too_many.answer.status_code

    assert (refused, full) == (503, 503)


async def test_a_drain_ends_all_streams_with_a_word(start_gateway: StartGateway) -> None:
    drain = Drain()
    gateway: Gateway = await start_gateway(make_route(), drain=drain)
    async with hearing(gateway, await begin(gateway)) as old, listening(gateway, ALL) as new:
        await new.next()
        drain.begin()

        assert await old.next() is None
        last = await new.next()
        assert last is not None
        assert last["result"]["resultType"] == "complete"
    async with listening(gateway, ALL) as late:
        assert late.answer.status_code == 503


REFUSED: list[tuple[Any, int]] = [
    (None, 400),
    ([], 400),
    ({"resourceSubscriptions": "note://a"}, 400),
    ({"resourceSubscriptions": [1]}, 400),
    ({"resourceSubscriptions": ["note://a"] * 1001}, 400),
]


@pytest.mark.parametrize(("wanted", "status"), REFUSED)
async def test_odd_wishes_are_refused(gateway: Gateway, wanted: Any, status: int) -> None:
    async with listening(gateway, wanted) as stream:
        assert stream.answer.status_code == status


async def test_a_stream_is_for_clients_that_take_one(gateway: Gateway) -> None:
    session = await begin(gateway)

    answer = await gateway.http.get("/mcp", headers={**session, "accept": "application/json"})

    assert answer.status_code == 406


async def test_anothers_session_has_no_stream(gateway: Gateway) -> None:
    session = await begin(gateway)

    answer = await gateway.http.get("/mcp", headers={**session, "authorization": "Bearer bob"})

    assert answer.status_code == 404


async def test_a_subscription_where_nobody_tells_is_refused(
    start_gateway: StartGateway,
) -> None:
    gateway: Gateway = await start_gateway(
        make_route(resources=RESOURCE, capabilities={"resources": {}})
    )

    session = await begin(gateway)
    answer = await post(
        gateway,
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "resources/subscribe",
            "params": {"uri": "note://a"},
        },
        session,
    )

    assert answer.json()["error"]["code"] == -32601


async def test_a_client_that_reads_nothing_is_cut_off(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(standing, "UNREAD_SECONDS", 0.05)
    session = await begin(gateway)
    never = asyncio.Event()
    sent: list[Message] = []

    async def receive() -> Message:
        await never.wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        if b"list_changed" in message.get("body", b""):
            await never.wait()

    headers = [(name.encode(), value.encode()) for name, value in session.items()]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/mcp",
        "query_string": b"",
        "headers": [*headers, (b"host", b"gateway.example")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        task = group.create_task(gateway.endpoint(scope, receive, send))
        await until(lambda: open_streams(gateway) == 1)
        gateway.routes.replace(make_route(prompts=PROMPT))
        await task

    assert open_streams(gateway) == 0
    assert b"list_changed" in sent[-1]["body"]
