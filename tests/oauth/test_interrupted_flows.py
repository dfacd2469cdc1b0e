"""Flows whose user is disabled on the way, and responses that come late or several times."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import ObjectId

from registry.auth.identity import ALL_SCOPES, Role, UserContext, default_scopes
from tests.fakes.oauth.serving import RunningOAuth, serving_oauth
from tests.fakes.rest import BASE_URL, Rest, rest_settings, running
from tests.kit.waiting import until

pytestmark = pytest.mark.wire

ALICE = UserContext("a" * 24, "alice", Role.USER, default_scopes(Role.USER))
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)


@dataclass(frozen=True, slots=True)
class SentBack:
    """A user whom the authorization server has just sent back.

    Attributes:
        browser: With the cookie of the flow.
        callback: The URL that it is to open.
    """

    rest: Rest
    oauth: RunningOAuth
    browser: httpx.AsyncClient
    server_id: str
    flow_id: str
    callback: str

    async def status(self) -> dict[str, Any]:
        """Return what the registry says of the flow."""
        answer = await self.rest.ask(ALICE, "GET", f"/mcp/oauth/status/{self.flow_id}")
        return dict(answer.json())


@pytest.fixture
async def sent_back(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> AsyncIterator[SentBack]:
    async with (
        serving_oauth() as oauth,
        running(rest_settings(mongo_uri, key_files, tmp_path)) as rest,
        httpx.AsyncClient(transport=httpx.ASGITransport(rest.app), base_url=BASE_URL) as browser,
        httpx.AsyncClient(timeout=30) as elsewhere,
    ):
        server = await rest.register(
            ROOT, "protected", oauth.url, requiresOAuth=True, scope="shared_app"
        )
        begun = await rest.ask(ALICE, "GET", f"/mcp/{server['id']}/oauth/initiate")
        pressed = await browser.post(begun.json()["authorizationUrl"])
        consented = await elsewhere.get(pressed.headers["location"])
        callback = consented.headers["location"]
        yield SentBack(rest, oauth, browser, server["id"], begun.json()["flowId"], callback)


async def test_a_user_who_is_disabled_on_the_way_gets_no_token(sent_back: SentBack) -> None:
    users = sent_back.rest.parts.database.db["users"]
    await users.insert_one(
        {"_id": ObjectId(ALICE.user_id), "username": "alice", "role": "USER", "disabled": True}
    )

    page = await sent_back.browser.get(sent_back.callback)

    assert page.status_code == 502
    assert "no longer exists, or is disabled" in page.text
    assert sent_back.oauth.provider.counts["token"] == 0
    records = await sent_back.rest.ask(ROOT, "GET", "/audit?action=authorize")
    steps = [(one["changes"]["step"], one["outcome"]) for one in records.json()["records"]]
    assert steps == [("failed", "failed"), ("started", "success")]


async def test_a_response_that_arrives_twice_at_once_is_taken_once(sent_back: SentBack) -> None:
    pages = await asyncio.gather(*(sent_back.browser.get(sent_back.callback) for _ in range(5)))

    assert Counter(page.status_code for page in pages) == {200: 1, 409: 4}
    assert sent_back.oauth.provider.counts["token"] == 1
    assert (await sent_back.status())["status"] == "completed"


async def test_a_response_that_comes_too_late_is_refused(sent_back: SentBack) -> None:
    flows = sent_back.rest.parts.database.db["oauth_flows"]
    past = sent_back.rest.parts.clock.now() - timedelta(seconds=1)
    await flows.update_one({"_id": sent_back.flow_id}, {"$set": {"expires_at": past}})

    page = await sent_back.browser.get(sent_back.callback)

    assert page.status_code == 409
    assert sent_back.oauth.provider.counts["token"] == 0
    assert (await sent_back.status())["error"] == "The authorization was not completed in time."


async def test_an_exchange_whose_flow_is_cancelled_stores_nothing(sent_back: SentBack) -> None:
    async with exchanging(sent_back) as page:
        cancelled = await sent_back.rest.ask(
            ALICE, "POST", f"/mcp/oauth/cancel/{sent_back.flow_id}"
        )

    assert cancelled.json()["status"] == "cancelled"
    assert (await page).status_code == 409
    assert (await sent_back.status())["status"] == "cancelled"
    await nothing_is_left(sent_back)


async def test_revoking_during_an_exchange_stores_nothing(sent_back: SentBack) -> None:
    async with exchanging(sent_back) as page:
        revoked = await sent_back.rest.ask(
            ALICE, "DELETE", f"/mcp/{sent_back.server_id}/oauth/token"
        )

    assert revoked.status_code == 200
    assert (await page).status_code == 409
    assert (await sent_back.status())["status"] == "cancelled"
    await nothing_is_left(sent_back)


async def test_a_server_that_is_removed_during_an_exchange_is_named_as_the_reason(
    sent_back: SentBack,
) -> None:
    async with exchanging(sent_back) as page:
        removed = await sent_back.rest.call(ROOT, "DELETE", f"/{sent_back.server_id}")

    assert removed.status_code < 300, removed.text
    assert (await page).status_code == 502
    assert "The server was removed during the authorization." in (await page).text
    await nothing_is_left(sent_back)


async def test_a_server_that_gets_another_client_during_an_exchange_gets_no_token_of_the_former(
    sent_back: SentBack,
) -> None:
    async with exchanging(sent_back) as page:
        path = f"/{sent_back.server_id}"
        changed = await sent_back.rest.call(
            ROOT, "PATCH", path, json={"oauth": {"client_id": "another"}}
        )

    assert changed.status_code == 200, changed.text
    assert (await page).status_code == 409
    await nothing_is_left(sent_back)


@asynccontextmanager
async def exchanging(sent_back: SentBack) -> AsyncIterator[asyncio.Task[httpx.Response]]:
    """Open the callback; within, the token endpoint has the code and has not answered."""
    provider = sent_back.oauth.provider
    provider.token_answers.clear()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        page = group.create_task(sent_back.browser.get(sent_back.callback))
        await until(lambda: provider.counts["token"] == 1)
        yield page
        provider.token_answers.set()


async def nothing_is_left(sent_back: SentBack) -> None:
    """Assert that no token is stored, and that those issued were revoked."""
    stored = sent_back.rest.parts.database.db["tokens"]
    assert await stored.count_documents({"type": {"$in": ["mcp_oauth", "mcp_oauth_refresh"]}}) == 0
    assert sent_back.oauth.provider.counts["revoke"] == 2
