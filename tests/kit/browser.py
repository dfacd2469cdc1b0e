"""A browser that follows a user's authorization by hand, one page at a time."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape

import httpx

from tests.fakes.rest import BASE_URL, Rest

CALLBACK = "/api/v1/mcp/oauth/callback"


@dataclass(frozen=True, slots=True)
class Page:
    """What a browser shows."""

    status: int
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Browser:
    """A browser with cookies of its own.

    Attributes:
        registry: Requests to the registry.
        web: Requests to other places.
    """

    registry: httpx.AsyncClient
    web: httpx.AsyncClient

    async def press(self, link: str) -> str:
        """Press the button on the page of a link; return where it leads."""
        answer = await self.registry.post(link)
        assert answer.status_code == 303, answer.text
        return str(answer.headers["location"])

    async def sign_in(self, url: str) -> str:
        """Consent at the authorization server; return where it sends the browser back to."""
        answer = await self.web.get(url)
        assert answer.status_code == 302, answer.text
        return str(answer.headers["location"])

    async def show(self, url: str) -> Page:
        """Open a page of the registry."""
        return _page(await self.registry.get(url))

    async def post(self, url: str) -> Page:
        """Send the form on a page of the registry, which does not lead elsewhere."""
        return _page(await self.registry.post(url))

    async def authorise(self, link: str) -> Page:
        """Go the whole way."""
        return await self.show(await self.sign_in(await self.press(link)))


def _page(answer: httpx.Response) -> Page:
    title = re.search(r"<h1>(.*?)</h1>", answer.text, re.DOTALL)
    return Page(answer.status_code, unescape(title[1]) if title else "", answer.text)


@asynccontextmanager
async def browser_at(rest: Rest) -> AsyncIterator[Browser]:
    """Open a browser."""
    transport = httpx.ASGITransport(rest.app)
    async with (
        httpx.AsyncClient(transport=transport, base_url=BASE_URL) as registry,
        httpx.AsyncClient(timeout=30) as web,
    ):
        yield Browser(registry, web)
