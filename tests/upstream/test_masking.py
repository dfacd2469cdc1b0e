"""What was sent upstream does not come back in what is told of it."""

import base64
import logging

import pytest
import structlog
from aiohttp import web

from registry.core.logs import configure_logging
from registry.core.settings import Settings
from registry.servers.errors import DiscoveryFailedError
from registry.servers.values import ConnectionSpec, Transport
from registry.upstream.masking import without_sent
from tests.fakes.upstreams import serve
from tests.sync.test_discovery import service

BASIC = base64.b64encode(b"user:pa:ss word").decode()


def connection(**headers: str) -> ConnectionSpec:
    url = "http://a.example/mcp?key=of-the-query"
    return ConnectionSpec(url, Transport.STREAMABLE_HTTP, headers)


@pytest.mark.requirement("R-102")
@pytest.mark.parametrize(
    ("headers", "said", "told"),
    [
        ({"X-Api-Key": "zzQKEY9"}, "unknown key zzQKEY9!", "unknown key ***!"),
        ({"Authorization": "Bearer sk-abcdef"}, "no sk-abcdef here", "no *** here"),
        ({"Authorization": "Bearer sk-abcdef"}, "sent Bearer sk-abcdef", "sent ***"),
        ({"Authorization": f"Basic {BASIC}"}, "wrong password pa:ss word", "wrong password ***"),
        ({"Authorization": f"Basic {BASIC}"}, f"bad {BASIC}", "bad ***"),
        ({"X-Api-Key": "zzQKEYplain9"}, "unknown key zzQKEYpla…", "unknown key ***"),
        ({}, "no such key: of-the-query", "no such key: ***"),
        ({"X-Team": "ab"}, "about abs", "about abs"),
        ({"X-Api-Key": "zzQKEY9"}, "It is away.", "It is away."),
    ],
)
def test_values_that_were_sent_are_cut_out(headers: dict[str, str], said: str, told: str) -> None:
    sent = connection(**headers)

    assert without_sent(said, sent.headers.items(), sent.url) == told


@pytest.mark.requirement("R-102")
@pytest.mark.parametrize("is_json", [True, False])
async def test_an_upstream_that_quotes_the_key_does_not_make_us_tell_it(
    settings: Settings, capsys: pytest.CaptureFixture[str], *, is_json: bool
) -> None:
    async def quoting(request: web.Request) -> web.StreamResponse:
        key = request.headers["X-Api-Key"]
        if not is_json:
            return web.Response(text=f"what is {key}?", content_type="application/json")
        message = await request.json()
        error = {"code": -32000, "message": f"unknown key {key}"}
        return web.json_response({"jsonrpc": "2.0", "id": message.get("id"), "error": error})

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging("debug", "json")
    async with serve(quoting) as url:
        spec = ConnectionSpec(
            f"{url}/mcp", Transport.STREAMABLE_HTTP, {"X-Api-Key": "zz-sentinel-1"}
        )
        with pytest.raises(DiscoveryFailedError) as caught:
            await service(settings).discover(spec)
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()

    logged = capsys.readouterr()
    assert "zz-sentinel" not in caught.value.message
    assert "zz-sentinel" not in logged.err + logged.out


async def test_what_a_stream_beside_the_requests_answers_is_not_told_for_the_failure(
    settings: Settings,
) -> None:
    async def failing(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.Response(status=405)
        message = await request.json()
        if message["method"] == "initialize":
            result = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "x", "version": "1"},
            }
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})
        if "id" not in message:
            return web.Response(status=202)
        return web.Response(status=500, text="broken", content_type="text/plain")

    async with serve(failing) as url:
        with pytest.raises(DiscoveryFailedError) as caught:
            await service(settings).discover(ConnectionSpec(url, Transport.STREAMABLE_HTTP))

    assert caught.value.message.endswith("answered 500.")
