"""Failures that clients of the handshake's era find within the answer, and those they do not."""

import pytest

from registry.gateway.edge.error_responses import ERROR_META_KEY
from registry.servers.values import Era
from tests.gateway.conftest import Gateway, StartGateway, request
from tests.gateway.eras import modern
from tests.gateway.fakes import ScriptedUpstream, make_route

AWAY = "http://127.0.0.1:9/mcp"
ERAS = {"bytes pass": frozenset(Era), "crossing": frozenset({Era.MODERN})}


@pytest.mark.parametrize("eras", ERAS.values(), ids=ERAS)
@pytest.mark.parametrize("path", ["demo", ""])
async def test_a_call_of_a_server_that_is_away_is_a_failed_result(
    start_gateway: StartGateway, path: str, eras: frozenset[Era]
) -> None:
    gateway: Gateway = await start_gateway(make_route(AWAY, eras=eras))
    tool = "echo" if path else "demo__echo"

    answer = await gateway.post(request("tools/call", {"name": tool}, "c"), slug=path)

    assert (answer.status_code, answer.json()["id"]) == (200, "c")
    assert answer.json()["result"] == {
        "content": [{"type": "text", "text": "The server demo cannot be reached."}],
        "isError": True,
        "_meta": {ERROR_META_KEY: {"code": 502, "error": "upstream_error"}},
    }
    assert gateway.count("tools/call", "upstream_error") == 1


async def test_other_requests_of_it_get_an_error_with_the_status_200(
    start_gateway: StartGateway,
) -> None:
    gateway: Gateway = await start_gateway(make_route(AWAY))

    answer = await gateway.post(request("prompts/get", {"name": "p"}))

    assert answer.status_code == 200
    assert answer.json()["error"]["code"] == 502


@pytest.mark.parametrize("path", ["demo", ""])
@pytest.mark.parametrize("params", [{}, {"name": 7}, {"name": "no such tool"}, {"name": None}])
async def test_a_call_of_nothing_is_an_error_with_the_status_200(
    gateway: Gateway, params: dict[str, object], path: str
) -> None:
    answer = await gateway.post(request("tools/call", params, 3), slug=path)

    assert (answer.status_code, answer.json()["id"]) == (200, 3)
    assert answer.json()["error"]["code"] == -32602


async def test_a_closed_gateway_says_inside_when_to_come_again(gateway: Gateway) -> None:
    gateway.routes.fresh = False

    answer = await gateway.post(request("tools/list"))

    assert (answer.status_code, answer.headers["retry-after"]) == (200, "2")
    assert answer.json()["error"]["data"]["retry_after_seconds"] == 2


async def test_what_clients_act_on_themselves_stays_a_status(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def forgets(received: object) -> None:
        await upstream.requests[-1].answer(404, b"no session", content_type="text/plain")

    call = request("tools/call", {"name": "echo"})
    read_only = await gateway.post(call, user="reader")
    nobody = await gateway.post(call, user=None)
    no_server = await gateway.post(call, slug="other")
    no_session = await gateway.post(call, mcp_session_id="made up")
    upstream.behaviour = forgets
    forgotten = await gateway.post(call)

    answers = (nobody, read_only, no_server, no_session, forgotten)
    assert [answer.status_code for answer in answers] == [401, 403, 404, 404, 404]
    assert "www-authenticate" in nobody.headers
    assert "www-authenticate" in read_only.headers


async def test_the_stateless_era_keeps_its_statuses(start_gateway: StartGateway) -> None:
    gateway: Gateway = await start_gateway(make_route(AWAY))

    message, headers = modern("tools/call", {"name": "echo", "arguments": {}})

    answer = await gateway.post(message, **headers)

    assert answer.status_code == 502
    assert answer.json()["error"]["message"] == "The server demo cannot be reached."
