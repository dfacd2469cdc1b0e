"""The pages that browsers open, without a database."""

from datetime import timedelta
from types import SimpleNamespace

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from registry.oauth.errors import LinkInvalidError
from registry.oauth.links import START_PATH
from registry.oauth.pages import STYLE_HASH
from registry.oauth.routes import pages
from registry.oauth.service import BegunFlow, LinkPage
from tests.fakes.clock import NOON

BASE = "https://registry.example"
TICKET = "sealed"
PROVIDER = "https://as.example/authorize?client_id=registry"
SCRIPT = "<script>alert(1)</script>"


class FakeAuthorizations(SimpleNamespace):
    """Knows one link, and begins its flow."""

    origin = BASE
    cookie_path = "/api/v1/mcp/oauth/callback"
    is_https = True

    async def page(self, sealed: str) -> LinkPage:
        """Return what a link is about."""
        if sealed != TICKET:
            raise LinkInvalidError
        return LinkPage(SCRIPT, SCRIPT, "mcp.example", (f"write{SCRIPT}",))

    async def begin(self, sealed: str) -> BegunFlow:
        """Begin the flow of a link."""
        if sealed != TICKET:
            raise LinkInvalidError
        return BegunFlow("flow", PROVIDER, "secret", NOON + timedelta(minutes=10))


@pytest_asyncio.fixture
async def browser() -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(pages)
    app.state.authorizations = FakeAuthorizations()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)


async def press(browser: httpx.AsyncClient, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await browser.post(START_PATH, params={"ticket": TICKET}, headers=named)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param({"sec_fetch_site": "cross-site", "origin": BASE}, id="another site"),
        pytest.param({"sec_fetch_site": "same-site"}, id="another host of the same site"),
        pytest.param({"origin": "https://evil.example"}, id="an old browser on another site"),
        pytest.param({"origin": "null"}, id="a sandboxed frame"),
        pytest.param({"origin": f"{BASE}.evil.example"}, id="a longer name"),
    ],
)
async def test_a_flow_is_not_begun_by_another_site(
    browser: httpx.AsyncClient, sent: dict[str, str]
) -> None:
    # An attacker's own link, in a form that sends itself: the victim would not see the page that
    # says whose account gets access, nor another one if the provider remembers a consent.
    answer = await press(browser, **sent)

    assert answer.status_code == 403
    assert "location" not in answer.headers
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "sent", [{"sec_fetch_site": "same-origin", "origin": BASE}, {"origin": BASE}, {}]
)
async def test_the_button_of_the_page_leads_to_the_provider(
    browser: httpx.AsyncClient, sent: dict[str, str]
) -> None:
    answer = await press(browser, **sent)

    assert (answer.status_code, answer.headers["location"]) == (303, PROVIDER)
    assert answer.headers["referrer-policy"] == "no-referrer"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("registry_oauth_flow=secret;")
    for part in ("HttpOnly", "Path=/api/v1/mcp/oauth/callback", "SameSite=lax", "Secure"):
        assert f"; {part}" in cookie


async def test_a_page_shows_names_as_text_and_runs_nothing(browser: httpx.AsyncClient) -> None:
    page = await browser.get(START_PATH, params={"ticket": TICKET})

    assert page.status_code == 200
    assert "<script" not in page.text
    assert page.text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
    assert "wants more than was granted before: <strong>write&lt;script&gt;" in page.text
    assert page.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["cache-control"] == "no-store"
    # Browsers leave out who sends a form where the policy is `no-referrer`.
    assert page.headers["referrer-policy"] == "same-origin"
    assert "set-cookie" not in page.headers


@pytest.mark.parametrize("ticket", ["forged", "x" * 20_000])
async def test_a_link_that_was_made_elsewhere_is_a_page_that_says_so(
    browser: httpx.AsyncClient, ticket: str
) -> None:
    page = await browser.get(START_PATH, params={"ticket": ticket})

    assert page.status_code == 422
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "not valid, or has expired" in page.text
    assert page.headers["referrer-policy"] == "no-referrer"
