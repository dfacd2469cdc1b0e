"""Feeds, as playbooks: what servers say outside of calls, and who hears of it."""

import pytest
from multidict import CIMultiDict

from registry.core.background_tasks import BackgroundTasks
from registry.core.metrics import Metrics
from registry.gateway.client.sessions import SessionOwner
from registry.gateway.notifications.attachments import Attachments, Wanted
from registry.gateway.notifications.feed import Feed
from registry.gateway.notifications.feeds import Feeds
from registry.gateway.notifications.stream_limits import StreamLimits
from registry.gateway.protocol.messages import Message, MessageKind
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.values import Route
from registry.servers.values import Era
from tests.fakes.clock import FakeClock
from tests.fakes.scripted_wire import Line, ScriptedWire, stream
from tests.gateway.fakes import FakeRoutes, make_route
from tests.gateway.offline import make_connector

NEW = make_route(eras=frozenset({Era.MODERN}))
OLD = make_route(eras=frozenset({Era.LEGACY}))
ALICE, BOB = SessionOwner("alice"), SessionOwner("bob")
ACKNOWLEDGED = {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged"}


class Fed:
    """Feeds from a server that follows a playbook."""

    def __init__(self, *playbook: Line) -> None:
        self.wire = ScriptedWire(*playbook)
        self.tasks = BackgroundTasks()
        self.to_sync: list[str] = []
        clock, metrics, routes = FakeClock(), Metrics(), FakeRoutes(NEW)
        self.announced = AnnouncedLists(routes, clock, metrics, self.to_sync.append)
        self.feeds = Feeds(
            make_connector(self.wire, routes, tasks=self.tasks, clock=clock),
            self.tasks,
            clock,
            metrics,
            streams=StreamLimits(9),
            announced_lists=self.announced,
        )

    def feed(self, route: Route = NEW, owner: SessionOwner = ALICE) -> Feed:
        """Return the feed of one client."""
        return self.feeds.feed(route, CIMultiDict(), owner, {})


class Heard:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.resources: list[tuple[str, str]] = []

    def resource_updated(self, subscribed: str, uri: str) -> None:
        """Note a change."""
        self.resources.append((subscribed, uri))


async def no_reply(_: bytes) -> None:
    raise AssertionError("Nothing was asked.")


def said(method: str, **params: object) -> Message:
    return Message(MessageKind.NOTICE, b"", {"method": method, "params": params})


def test_a_stateless_server_feeds_all_clients_alike_and_others_each_its_own() -> None:
    fed = Fed()

    assert fed.feed(NEW, ALICE) is fed.feed(NEW, BOB)
    assert fed.feed(OLD, ALICE) is not fed.feed(OLD, BOB)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("file:///a", [("file:///a", "file:///a")]),
        ("file:///a/b/c", [("file:///a", "file:///a/b/c")]),
        ("file:///ab", []),
        ("file:///", []),
    ],
)
def test_a_change_concerns_what_was_subscribed_to_and_what_lies_above(
    changed: str, expected: list[tuple[str, str]]
) -> None:
    feed, heard = Fed().feed(), Heard()
    feed.add("file:///a", heard)

    feed.updated(changed)

    assert heard.resources == expected


async def test_a_server_that_announces_a_list_change_is_read_again() -> None:
    fed = Fed()

    await fed.feed().receive(said("notifications/tools/list_changed"), no_reply)

    assert fed.to_sync == [NEW.server_id]


async def test_a_server_outside_of_calls_gets_a_pong_and_no_other_answer() -> None:
    replies: list[bytes] = []

    async def reply(text: bytes) -> None:
        replies.append(text)

    for method in ("ping", "sampling/createMessage"):
        body = {"method": method, "id": 1}
        await Fed().feed().receive(Message(MessageKind.REQUEST, b"", body), reply)

    assert [b'"result"' in text for text in replies] == [True, False]


async def test_a_feed_is_open_while_somebody_listens() -> None:
    fed, heard = Fed(stream(ACKNOWLEDGED, is_open=True)), Heard()
    feed = fed.feed()

    fed.feeds.listen(feed, ["file:///a"], heard)
    await feed.subscribed()
    [opened] = fed.wire.answers
    fed.feeds.leave(feed, ["file:///a"], heard)
    await fed.tasks.close()

    assert fed.wire.sent[0].message["params"]["notifications"]["resourceSubscriptions"] == [
        "file:///a"
    ]
    assert (opened.is_closed, len(fed.feeds)) == (True, 0)


async def test_a_stream_hears_of_exactly_what_it_wants_now() -> None:
    fed, told = Fed(), list[str]()
    attachments = Attachments(fed.feeds, told.append)
    feed = fed.feed()
    first = Wanted(NEW, CIMultiDict(), ALICE, {}, {"file:///a": ["gw://a"]})
    second = Wanted(NEW, CIMultiDict(), ALICE, {}, {"file:///b": ["gw://b"]})

    attachments.replace({first.feed_key: first})
    attachments.replace({second.feed_key: second})
    feed.updated("file:///a")
    feed.updated("file:///b/c")
    attachments.close()
    await fed.tasks.close()

    assert told == ["gw://b/c"]
