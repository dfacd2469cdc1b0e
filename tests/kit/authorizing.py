"""A person who opens an authorization link, in a browser without scripts."""

import re
from dataclasses import dataclass
from urllib.parse import urljoin

import httpx

MAX_REDIRECTS = 10
BUTTON = '<form method="post">'
TITLE = re.compile(r"<title>(.*?)</title>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the browser showed at the end.

    Attributes:
        urls: Everything that was opened, in order.
    """

    status: int
    title: str
    text: str
    urls: tuple[str, ...]

    @property
    def is_connected(self) -> bool:
        """Whether the page says that it worked."""
        return self.status == 200 and self.title.endswith("is connected")


async def authorize(browser: httpx.AsyncClient, link: str) -> Seen:
    """Open a link, press its button, and follow where that leads.

    Args:
        browser: Keeps cookies as a browser does; one for each person.
        link: As a client is given it.
    """
    page = await browser.get(link)
    if BUTTON not in page.text:
        return _seen(page, [link])
    answer = await browser.post(link)
    urls = [link]
    while answer.is_redirect and len(urls) <= MAX_REDIRECTS:
        urls.append(urljoin(str(answer.url), answer.headers["location"]))
        answer = await browser.get(urls[-1])
    return _seen(answer, urls)


def _seen(page: httpx.Response, urls: list[str]) -> Seen:
    title = TITLE.search(page.text)
    return Seen(page.status_code, title[1] if title else "", page.text, tuple(urls))
