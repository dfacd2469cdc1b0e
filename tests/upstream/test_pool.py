"""The gateway's pool of connections obeys the guard."""

import socket

import aiohttp
import pytest
from yarl import URL

from registry.upstream.guard import AddressInfo, UrlGuard
from registry.upstream.pool import BlockedAddressError, create_upstream_session
from tests.fakes.plain_upstream import plain_upstream
from tests.fakes.wires import TIMEOUT, wire_over

pytestmark = pytest.mark.integration

CALL = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
JSON = {"Content-Type": "application/json"}


def pool(*networks: str) -> aiohttp.ClientSession:
    return create_upstream_session(
        UrlGuard(networks),
        connect_timeout_seconds=1,
        idle_timeout_seconds=2,
    )


@pytest.mark.requirement("E-04")
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_an_address_that_is_not_allowed_gets_no_connection(
    host: str,
) -> None:
    async with plain_upstream() as upstream, pool() as session, wire_over(session) as wire:
        url = URL(upstream.url.replace("127.0.0.1", host))
        with pytest.raises((aiohttp.ClientConnectorError, BlockedAddressError)):
            await wire.request("POST", url, JSON, CALL, timeout=TIMEOUT)

    assert upstream.seen == []


async def test_an_allowed_address_is_reached_without_headers_of_our_own() -> None:
    async with (
        plain_upstream() as upstream,
        pool("127.0.0.0/8") as session,
        wire_over(session) as wire,
    ):
        answer = await wire.request("POST", URL(upstream.url), JSON, CALL, timeout=TIMEOUT)
        status = answer.status
        answer.close()

    assert status == 200
    assert "user-agent" not in upstream.seen[0]
    assert "cookie" not in upstream.seen[0]


def named(*addresses: str) -> aiohttp.ClientSession:
    """Return a pool to which every name has these addresses."""

    async def look_up(_host: str, port: int) -> list[AddressInfo]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses
        ]

    return create_upstream_session(
        UrlGuard(("127.0.0.0/8",)),
        connect_timeout_seconds=5,
        idle_timeout_seconds=2,
        lookup=look_up,
    )


async def test_each_address_of_a_name_is_tried_until_one_takes_a_connection() -> None:
    async with (
        plain_upstream() as upstream,
        named("127.9.9.9", "127.8.8.8", "127.0.0.1") as session,
        wire_over(session) as wire,
    ):
        url = URL(upstream.url.replace("127.0.0.1", "upstream.test"))
        answer = await wire.request("POST", url, JSON, CALL, timeout=TIMEOUT)
        answer.close()

    assert "upstream.test" in upstream.seen[0]["host"]


async def test_one_address_that_may_not_be_contacted_is_enough() -> None:
    async with (
        plain_upstream() as upstream,
        named("127.0.0.1", "10.0.0.1") as session,
        wire_over(session) as wire,
    ):
        url = URL(upstream.url.replace("127.0.0.1", "upstream.test"))
        with pytest.raises(aiohttp.ClientConnectorError):
            await wire.request("POST", url, JSON, CALL, timeout=TIMEOUT)

    assert upstream.seen == []
