"""The gateway's pool of connections obeys the guard."""

import aiohttp
import pytest

from registry.upstream.guard import UrlGuard
from registry.upstream.pool import BlockedAddressError, create_upstream_session
from tests.fakes.plain_upstream import plain_upstream

CALL = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def pool(*networks: str) -> aiohttp.ClientSession:
    return create_upstream_session(
        UrlGuard(networks),
        connect_timeout_seconds=1,
        idle_timeout_seconds=2,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_an_address_that_is_not_allowed_gets_no_connection(
    host: str,
) -> None:
    async with plain_upstream() as upstream, pool() as session:
        url = upstream.url.replace("127.0.0.1", host)
        with pytest.raises((aiohttp.ClientConnectorError, BlockedAddressError)):
            await session.post(url, json=CALL)

    assert upstream.seen == []


async def test_an_allowed_address_is_reached_without_headers_of_our_own() -> None:
    async with (
        plain_upstream() as upstream,
        pool("127.0.0.0/8") as session,
        session.post(upstream.url, json=CALL) as answer,
    ):
        status = answer.status

    assert status == 200
    assert "user-agent" not in upstream.seen[0]
    assert "cookie" not in upstream.seen[0]
