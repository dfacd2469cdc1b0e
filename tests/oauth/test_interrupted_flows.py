"""Flows whose user is disabled on the way, and responses that come late or several times."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
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
        httpx.AsyncClient() as elsewhere,
    ):
        server = await rest.register(
            ROOT, "protected", oauth.url, requiresOAuth=True, scope="shared_app"
        )
        begun = await rest.ask(ALICE, "GET", f"/mcp/{server['id']}/oauth/initiate")
        pressed = await browser.post(begun.json()["authorizationUrl"])
        consented = await elsewhere.get(pressed.headers["location"])
        yield SentBack(rest, oauth, browser, begun.json()["flowId"], consented.headers["location"])


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
