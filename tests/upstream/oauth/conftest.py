"""The OAuth client, and hosts that answer what a test tells them to."""

from collections.abc import AsyncIterator

import pytest

from registry.upstream.guard import UrlGuard
from registry.upstream.oauth.http import OAuthHttp, oauth_http
from tests.fakes.oauth.documents import Documents, serving_documents

GUARD = UrlGuard(["127.0.0.0/8"])


@pytest.fixture
async def http() -> AsyncIterator[OAuthHttp]:
    """Return what sends requests to hosts on loopback."""
    async with oauth_http(GUARD, connect_timeout_seconds=5, total_timeout_seconds=10) as made:
        yield made


@pytest.fixture
async def host() -> AsyncIterator[Documents]:
    """Return a host."""
    async with serving_documents() as served:
        yield served


@pytest.fixture
async def other_host() -> AsyncIterator[Documents]:
    """Return another host."""
    async with serving_documents() as served:
        yield served
