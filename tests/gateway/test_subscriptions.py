"""Subscriptions to resources, from clients of either era to servers of every kind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.subscriptions import ResourceUpdated, ToolsListChanged
from mcp_types import ResourceUpdatedNotification

from registry.gateway.notifications import feeds
from registry.gateway.values import FeatureEntry
from registry.servers.values import Era, Transport
from tests.fakes.everything.serving import serving_everything
from tests.fakes.everything.tools import WATCHED
from tests.fakes.telling import TellingServer
from tests.gateway.conftest import Gateway, StartGateway
from tests.gateway.fakes import PRIVATE, linked, make_route
from tests.gateway.listening import MODERN, ask, begin, hearing, listening, path
from tests.gateway.serving import serve
from tests.kit.waiting import until

NOTE = "note://a"
OTHER = "note://b"
LEGACY_ONLY = frozenset({Era.LEGACY})
MODERN_ONLY = frozenset({Era.MODERN})
CAN_SUBSCRIBE = {"resources": {"subscribe": True, "listChanged": True}}


def resources(*uris: str) -> list[FeatureEntry]:
    """Return resources with these URIs."""
    return [FeatureEntry(uri, b'{"uri":"%s","name":"n"}' % uri.encode()) for uri in uris]


@dataclass
class Telling:
    """A gateway in front of a server that tells of resources."""

    gateway: Gateway
    server: TellingServer
    url: str

    def feeds(self) -> float | None:
        """Return how many feeds the metrics know of."""
        return self.gateway.metrics.registry.get_sample_value("mcp_gateway_notification_feeds")

    def route(self, **changes: Any) -> Any:
        """Return the route to the server."""
        facts: dict[str, Any] = {
            "url": self.url,
            "eras": LEGACY_ONLY,
            "resources": resources(NOTE, OTHER),
            "capabilities": CAN_SUBSCRIBE,
            "features_known": True,
        }
        return make_route(**(facts | changes))


@pytest.fixture(params=[Transport.STREAMABLE_HTTP, Transport.SSE])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Return each transport of the handshake's era."""
    kind: Transport = request.param
    return kind


@pytest.fixture
async def telling(
    stack: AsyncExitStack,
    start_gateway: StartGateway,
    transport: Transport,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Telling]:
    """Return a gateway in front of a server of the handshake's era."""
    monkeypatch.setattr(feeds, "FIRST_PAUSE_SECONDS", 0.05)
    server = TellingServer(is_sse=transport is Transport.SSE)
    url = await stack.enter_async_context(serve(server))
    gateway = await start_gateway(
        gateway_upstream_session_idle_seconds=0.5, gateway_watched_servers=0
    )
    started = Telling(gateway, server, f"{url}/mcp")
    started.gateway.routes.replace(started.route(transport=transport))
    yield started
    server.break_off()


async def subscribe(telling: Telling, session: dict[str, str], uri: str, slug: str = "") -> Any:
    """Subscribe in a session."""
    return await ask(telling.gateway, session, "resources/subscribe", {"uri": uri}, slug)


async def test_a_session_hears_of_the_resource_it_subscribed_to(telling: Telling) -> None:
    session = await begin(telling.gateway)
    async with hearing(telling.gateway, session) as stream:
        answer = await subscribe(telling, session, NOTE)
        telling.server.update(OTHER)
        telling.server.update(NOTE)

        assert answer["result"] == {}
        assert await stream.uri() == NOTE


async def test_a_subscription_made_before_the_stream_holds(telling: Telling) -> None:
    session = await begin(telling.gateway)
    await subscribe(telling, session, NOTE)
    async with hearing(telling.gateway, session) as stream:
        await until(lambda: telling.server.wanted == {NOTE})
        telling.server.update(NOTE)

        assert await stream.uri() == NOTE


async def test_a_listening_client_hears_of_resources(telling: Telling) -> None:
    wanted = {"resourceSubscriptions": [NOTE, "note://none", NOTE]}
    async with listening(telling.gateway, wanted) as stream:
        acknowledged = await stream.next()
        telling.server.update(OTHER)
        telling.server.update(NOTE)

        assert acknowledged is not None
        assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": [NOTE]}
        assert await stream.next() == {
            "jsonrpc": "2.0",
            "method": "notifications/resources/updated",
            "params": {
                "uri": NOTE,
                "_meta": {"io.modelcontextprotocol/subscriptionId": "sub-1"},
            },
        }


async def test_a_listening_client_hears_of_one_servers_resources(telling: Telling) -> None:
    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE]}, "demo") as stream:
        await stream.next()
        telling.server.update(NOTE)

        assert await stream.uri() == NOTE


async def test_what_lies_below_a_resource_is_told_too(telling: Telling) -> None:
    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as stream:
        await stream.next()
        telling.server.update("note://ab/x")
        telling.server.update(f"{NOTE}/x/y")

        assert await stream.uri() == f"{NOTE}/x/y"


async def test_a_resource_is_told_of_under_the_name_that_its_reader_knows(
    telling: Telling, transport: Transport
) -> None:
    older = make_route(slug="a-other", server_id="0" * 24, resources=resources(NOTE))
    telling.gateway.routes.replace(older, telling.route(transport=transport))
    qualified = f"mcp.demo+{NOTE}"
    async with listening(telling.gateway, {"resourceSubscriptions": [qualified]}) as stream:
        await stream.next()
        telling.server.update(NOTE)
        telling.server.update(f"{NOTE}/x")

        assert {await stream.uri(), await stream.uri()} == {qualified, f"{qualified}/x"}


async def test_what_is_unsubscribed_from_is_not_told(telling: Telling) -> None:
    session = await begin(telling.gateway)
    async with hearing(telling.gateway, session) as stream:
        await subscribe(telling, session, NOTE)
        await subscribe(telling, session, OTHER)
        await ask(telling.gateway, session, "resources/unsubscribe", {"uri": NOTE})
        telling.server.update(NOTE)
        telling.server.update(OTHER)

        assert await stream.uri() == OTHER
    assert telling.server.wanted <= {OTHER}


async def test_clients_of_one_person_share_a_feed_and_people_do_not(telling: Telling) -> None:
    async with (
        listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as alices,
        listening(telling.gateway, {"resourceSubscriptions": [NOTE, OTHER]}) as alices_other,
        listening(telling.gateway, {"resourceSubscriptions": [NOTE]}, user="bob") as bobs,
    ):
        await alices.next()
        await alices_other.next()
        await bobs.next()
        telling.server.update(NOTE)

        assert await alices.uri() == await alices_other.uri() == await bobs.uri() == NOTE
        assert (telling.server.open_streams, telling.feeds()) == (2, 2)


async def test_clients_with_credentials_of_their_own_have_feeds_of_their_own(
    telling: Telling, transport: Transport
) -> None:
    telling.gateway.routes.replace(telling.route(transport=transport, per_user=True))
    own = telling.gateway.routes.own_headers
    own["a" * 24, "demo"] = {"X-Key": "alice"}
    own["b" * 24, "demo"] = {"X-Key": "bob"}
    async with (
        listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as alices,
        listening(telling.gateway, {"resourceSubscriptions": [NOTE]}, user="bob") as bobs,
    ):
        await alices.next()
        await bobs.next()

        assert telling.server.open_streams == 2


async def test_a_feed_ends_when_nobody_listens(telling: Telling) -> None:
    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as stream:
        await stream.next()

    await until(lambda: telling.server.open_streams == 0)
    await until(lambda: not telling.server.subscribed)
    await until(lambda: len(telling.gateway.background_tasks) == 0)
    assert telling.feeds() == 0


@pytest.mark.parametrize("forgetting", [True, False])
async def test_a_feed_survives_that_its_server_goes_away(
    telling: Telling, *, forgetting: bool
) -> None:
    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as stream:
        await stream.next()
        telling.server.break_off(forgetting=forgetting)
        await until(lambda: telling.server.open_streams == 0)
        await until(lambda: telling.server.open_streams == 1 and telling.server.wanted == {NOTE})
        telling.server.update(NOTE)

        assert await stream.uri() == NOTE


async def test_a_feed_waits_for_a_server_that_is_away(telling: Telling) -> None:
    telling.server.is_away = True
    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as stream:
        await stream.next()
        telling.server.is_away = False
        await until(lambda: telling.server.open_streams == 1 and telling.server.wanted == {NOTE})
        telling.server.update(NOTE)

        assert await stream.uri() == NOTE


async def test_a_refused_subscription_costs_the_others_nothing(telling: Telling) -> None:
    telling.server.refused = {NOTE}
    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE, OTHER]}) as stream:
        await stream.next()
        telling.server.update(OTHER)

        assert await stream.uri() == OTHER
    assert telling.server.wanted <= {OTHER}


async def test_a_server_is_answered_that_asks_outside_of_calls(telling: Telling) -> None:
    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as stream:
        await stream.next()
        telling.server.heard.clear()
        telling.server.tell("ping", request_id="p")
        telling.server.tell("sampling/createMessage", request_id="s")
        await until(lambda: len(telling.server.heard) == 2)

    pong, refusal = telling.server.heard
    assert pong == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert (refusal["id"], refusal["error"]["code"]) == ("s", -32601)


async def test_a_list_that_changed_upstream_is_taken_note_of(telling: Telling) -> None:
    def heard() -> float | None:
        registry = telling.gateway.metrics.registry
        return registry.get_sample_value("mcp_gateway_upstream_list_changes_total")

    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as stream:
        await stream.next()
        telling.server.tell("notifications/tools/list_changed")

        await until(lambda: heard() == 1)


async def test_a_feed_ends_with_the_right_to_hear_it(
    telling: Telling, transport: Transport
) -> None:
    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as stream:
        await stream.next()
        telling.gateway.routes.replace(telling.route(transport=transport, facts=PRIVATE))

        await until(lambda: telling.server.open_streams == 0)


async def test_a_feed_moves_with_its_server(
    telling: Telling, transport: Transport, stack: AsyncExitStack
) -> None:
    elsewhere = TellingServer(is_sse=transport is Transport.SSE)
    url = await stack.enter_async_context(serve(elsewhere))
    async with listening(telling.gateway, {"resourceSubscriptions": [NOTE]}) as stream:
        await stream.next()
        moved = telling.route(transport=transport, url=f"{url}/mcp")
        telling.gateway.routes.replace(moved)
        await until(lambda: elsewhere.open_streams == 1 and elsewhere.wanted == {NOTE})
        elsewhere.update(NOTE)

        assert await stream.uri() == NOTE
        await until(lambda: telling.server.open_streams == 0)


async def test_a_stream_in_one_worker_follows_what_is_said_in_another(
    telling: Telling, start_gateway: StartGateway, transport: Transport
) -> None:
    here, there = linked("worker01", "worker02")
    routes = telling.route(transport=transport)
    first: Gateway = await start_gateway(routes, peers=here)
    session = await begin(first)
    await ask(first, session, "resources/subscribe", {"uri": NOTE})
    second: Gateway = await start_gateway(routes, peers=there)
    async with hearing(second, session) as stream:
        await until(lambda: telling.server.wanted == {NOTE})
        await ask(first, session, "resources/subscribe", {"uri": OTHER})
        telling.server.update(OTHER)
        told = [await stream.uri()]
        await ask(first, session, "resources/unsubscribe", {"uri": OTHER})
        telling.server.update(OTHER)
        telling.server.update(NOTE)
        told.append(await stream.uri())

    assert told == [OTHER, NOTE]


async def test_a_stream_in_one_worker_ends_that_in_another(start_gateway: StartGateway) -> None:
    here, there = linked("worker01", "worker02")
    first: Gateway = await start_gateway(make_route(), peers=here)
    second: Gateway = await start_gateway(make_route(), peers=there)
    session = await begin(first)
    async with hearing(first, session) as old, hearing(second, session) as new:
        assert await old.next() is None

        await first.http.delete("/mcp", headers=session)
        assert await new.next() is None


@dataclass
class Everything:
    """A gateway in front of the everything server, as a server of the stateless era."""

    gateway: Gateway
    bus: Any


@pytest.fixture
async def everything(stack: AsyncExitStack, start_gateway: StartGateway) -> Everything:
    """Return a gateway in front of an official server."""
    running = await stack.enter_async_context(serving_everything())
    route = make_route(
        running.url,
        eras=MODERN_ONLY,
        resources=resources(WATCHED, "test://static-text"),
        capabilities={**CAN_SUBSCRIBE, "tools": {"listChanged": True}},
        features_known=True,
    )
    return Everything(await start_gateway(route), running.state.bus)


@pytest.mark.filterwarnings("ignore:resources/subscribe is removed")
@pytest.mark.parametrize("slug", ["", "demo"])
async def test_the_official_client_hears_of_a_stateless_server_in_a_session(
    everything: Everything, slug: str
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def note(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.put_nowait(str(message.params.uri))

    async with connect(everything.gateway, slug, "legacy", message_handler=note) as client:
        await until(lambda: open_streams(everything.gateway) == 1)
        await client.subscribe_resource(WATCHED)
        await everything.bus.publish(ResourceUpdated(uri="test://static-text"))
        await everything.bus.publish(ResourceUpdated(uri=WATCHED))
        async with asyncio.timeout(30):
            assert await heard.get() == WATCHED
        # Another URI: the subscription with the server is opened anew, and nothing is missed.
        await client.subscribe_resource("test://static-text")
        await everything.bus.publish(ResourceUpdated(uri="test://static-text"))
        async with asyncio.timeout(30):
            assert await heard.get() == "test://static-text"


async def test_the_official_client_listens_to_a_stateless_server(everything: Everything) -> None:
    async with (
        connect(everything.gateway, "", MODERN) as client,
        client.listen(resource_subscriptions=[WATCHED], tools_list_changed=True) as listened,
    ):
        await everything.bus.publish(ToolsListChanged())
        await everything.bus.publish(ResourceUpdated(uri=WATCHED))
        async with asyncio.timeout(30):
            event = await anext(aiter(listened))

    # That the server says so is not yet that the list, as it is served here, changed.
    assert event == ResourceUpdated(uri=WATCHED)


@pytest.mark.parametrize("mode", ["legacy", MODERN])
async def test_the_official_client_hears_of_changed_lists(
    everything: Everything, mode: str
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def note(message: Any) -> None:
        heard.put_nowait(message.method)

    async def wait_for_event(client: Client) -> None:
        async with client.listen(prompts_list_changed=True) as listened:
            change()
            heard.put_nowait(type(await anext(aiter(listened))).__name__)

    def change() -> None:
        prompts = [FeatureEntry("greet", b'{"name":"greet"}')]
        everything.gateway.routes.replace(make_route(prompts=prompts))

    async with asyncio.timeout(30):
        if mode == "legacy":
            async with connect(everything.gateway, "", mode, message_handler=note):
                await until(lambda: open_streams(everything.gateway) == 1)
                change()
                assert {await heard.get(), await heard.get()} == {
                    "notifications/prompts/list_changed",
                    "notifications/resources/list_changed",
                }
        else:
            async with connect(everything.gateway, "", mode) as client:
                await wait_for_event(client)
                assert await heard.get() == "PromptsListChanged"


def open_streams(gateway: Gateway) -> float | None:
    """Return how many streams the metrics know of."""
    return gateway.metrics.registry.get_sample_value("mcp_gateway_streams")


@asynccontextmanager
async def connect(gateway: Gateway, slug: str, mode: Any, **options: Any) -> AsyncIterator[Client]:
    """Connect the official client as alice."""
    async with httpx2.AsyncClient(headers={"Authorization": "Bearer alice"}, timeout=30) as http:
        transport = streamable_http_client(f"{gateway.url}{path(slug)}", http_client=http)
        async with Client(transport, mode=mode, **options) as client:
            yield client
