"""The forwarder, as playbooks: bytes of a server, and what a client gets of them."""

from typing import Any

import pytest
from aiohttp import ClientPayloadError, ServerDisconnectedError

from registry.core.latency_watcher import LatencyWatcher
from registry.core.metrics import Metrics
from registry.gateway.errors import CredentialsRejected, UpstreamFailed
from registry.gateway.transport.announced_lists import AnnouncedLists
from registry.gateway.transport.bulkhead import Bulkheads, bulkhead_limits
from registry.gateway.transport.forwarder import Forwarder
from registry.http.client.exchange import header_lines
from registry.upstream.rest.caller import RestCaller
from registry.upstream.rest.server import RestServer
from tests.fakes.asgi_client import AsgiClient
from tests.fakes.clock import FakeClock
from tests.fakes.scripted_wire import (
    Line,
    ScriptedAnswer,
    ScriptedWire,
    SentRequest,
    as_upstream_http,
    body,
    failing,
    stream,
)
from tests.gateway.conftest import make_settings
from tests.gateway.fakes import FakeRoutes, make_route

ROUTE = make_route()
RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
REPORT = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}


class Forwarding:
    """A forwarder to a server that follows a playbook."""

    def __init__(self, *playbook: Line) -> None:
        self.wire = ScriptedWire(*playbook)
        self.to_sync: list[str] = []
        clock, metrics = FakeClock(), Metrics()
        self._forwarder = Forwarder(
            as_upstream_http(self.wire),
            RestServer(RestCaller(as_upstream_http(self.wire), retries_idempotent=False)),
            LatencyWatcher(),
            Bulkheads(bulkhead_limits(make_settings()), clock, metrics),
            AnnouncedLists(FakeRoutes(ROUTE), clock, metrics, self.to_sync.append),
            connect_timeout_seconds=1,
            total_timeout_seconds=60,
        )

    async def call(self, client: AsgiClient, **options: Any) -> None:
        """Forward one call."""
        sent = header_lines({"authorization": "Bearer stored"})
        client.exchange.client.awaits_answer = True
        await self._forwarder.exchange(
            "POST", ROUTE, sent, b"{}", client.exchange.client, **options
        )


async def test_an_answer_passes_unchanged() -> None:
    forwarding, client = Forwarding(body(RESULT)), AsgiClient()

    await forwarding.call(client)

    assert (client.status, client.text) == (200, RESULT)
    assert forwarding.wire.sent[0].headers == {"authorization": "Bearer stored"}
    assert forwarding.wire.answers[0].is_closed


async def test_events_pass_unchanged_and_a_list_change_is_noticed_however_it_is_cut() -> None:
    def cut(_: SentRequest) -> ScriptedAnswer:
        answer = ScriptedAnswer(200, {"content-type": "text/event-stream"})
        answer.body.feed(b'data: {"method":"notifications/tools/list_ch')
        return answer

    forwarding, client = Forwarding(cut), AsgiClient()

    async def send_rest() -> None:
        [answer] = forwarding.wire.answers
        answer.body.feed(b'anged"}\n\n')
        answer.body.complete()

    client.on_first_body = send_rest
    await forwarding.call(client)

    assert client.text == b'data: {"method":"notifications/tools/list_changed"}\n\n'
    assert forwarding.to_sync == [ROUTE.server_id]


async def test_a_body_that_breaks_off_before_its_end_is_no_answer() -> None:
    def broken(_: SentRequest) -> ScriptedAnswer:
        headers = {"content-type": "application/json", "content-length": str(len(RESULT))}
        answer = ScriptedAnswer(200, headers)
        answer.body.feed(RESULT[:10])
        answer.body.fail(ClientPayloadError("cut off"))
        return answer

    client = AsgiClient()

    with pytest.raises(UpstreamFailed):
        await Forwarding(broken).call(client)

    assert client.sent == []


async def test_what_has_no_effects_is_sent_once_more() -> None:
    forwarding, client = Forwarding(failing(ServerDisconnectedError()), body(RESULT)), AsgiClient()

    await forwarding.call(client, may_repeat=True)

    assert (len(forwarding.wire.sent), client.text) == (2, RESULT)


async def test_what_may_have_effects_is_sent_once() -> None:
    forwarding, client = Forwarding(failing(ServerDisconnectedError()), body(RESULT)), AsgiClient()

    with pytest.raises(UpstreamFailed):
        await forwarding.call(client)

    assert (len(forwarding.wire.sent), client.sent) == (1, [])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (body(b"{}", 401), CredentialsRejected),
        (body(b"", 302, location="http://127.0.0.1:9/"), UpstreamFailed),
        (body(b"<html>", content_type="text/html"), UpstreamFailed),
        (body(b"{}"), UpstreamFailed),
    ],
    ids=["credentials", "redirect", "HTML", "no JSON-RPC"],
)
async def test_what_would_mislead_a_client_is_not_passed_on(
    line: Line, problem: type[Exception]
) -> None:
    client = AsgiClient()

    with pytest.raises(problem):
        await Forwarding(line).call(client)

    assert client.sent == []


async def test_a_stored_credential_in_an_error_is_cut_out() -> None:
    said = b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"stored-secret is wrong"}}'
    client = AsgiClient()
    client.exchange.client.sent = ({"authorization": "Bearer stored-secret"}, ROUTE)

    await Forwarding(body(said, 400)).call(client)

    assert client.status == 400
    assert b"stored-secret" not in client.text


async def test_a_stream_of_events_ends_as_it_does() -> None:
    client = AsgiClient()

    await Forwarding(stream(REPORT, {"jsonrpc": "2.0", "id": 1, "result": {}})).call(client)

    assert client.messages == [REPORT, {"jsonrpc": "2.0", "id": 1, "result": {}}]
    assert not client.sent[-1].get("more_body")
