"""Servers that users authorise the registry at, from the first authorization on."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from registry.auth.identity import UserContext
from tests.fakes.oauth.serving import RunningOAuth, serving_oauth
from tests.fakes.rest import Rest, rest_settings, running
from tests.kit.waiting import until_async

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_rest(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    """Return one real application for all tests of a module."""
    home = tmp_path_factory.mktemp("home")
    async with running(rest_settings(mongo_uri, key_files, home)) as rest:
        yield rest


@pytest_asyncio.fixture(loop_scope="module")
async def rest(module_rest: Rest) -> AsyncIterator[Rest]:
    """Return the application with an empty database."""
    yield module_rest
    await module_rest.forget_everything()


@pytest_asyncio.fixture(loop_scope="module")
async def oauth() -> AsyncIterator[RunningOAuth]:
    """Return a server that wants tokens of a provider."""
    async with serving_oauth() as serving:
        yield serving


async def authorise(rest: Rest, user: UserContext, server_id: str) -> None:
    """Authorise the registry, as a person does in a browser."""
    begun = await rest.ask(user, "GET", f"/mcp/{server_id}/oauth/initiate")
    assert begun.status_code == 200, begun.text
    await follow(rest, begun.json()["authorizationUrl"])


async def follow(rest: Rest, link: str) -> None:
    """Press the button behind a link, and let the provider answer."""
    parts = urlsplit(link)
    started = await rest.client.post(f"{parts.path}?{parts.query}")
    assert started.status_code == 303, started.text
    async with httpx.AsyncClient(timeout=30) as provider:
        consented = await provider.get(started.headers["location"])
    answer = urlsplit(consented.headers["location"])
    finished = await rest.client.get(f"{answer.path}?{answer.query}")
    assert finished.status_code == 200, finished.text


async def detail(rest: Rest, user: UserContext, server_id: str) -> dict[str, Any]:
    answer = await rest.call(user, "GET", f"/{server_id}")
    return dict(answer.json())


async def status(rest: Rest, user: UserContext, server_id: str) -> tuple[str, bool, bool]:
    answer = await rest.ask(user, "GET", f"/mcp/connection/status/{server_id}")
    shown = answer.json()
    return shown["connectionStatus"], shown["authorized"], shown["needsReauth"]


async def until_read(rest: Rest, user: UserContext, server_id: str) -> dict[str, Any]:
    async def is_read() -> bool:
        return bool((await detail(rest, user, server_id))["numTools"])

    await until_async(is_read)
    return await detail(rest, user, server_id)


@pytest.mark.requirement("R-125")
async def test_the_first_authorization_of_any_user_makes_the_tools_known(
    rest: Rest, oauth: RunningOAuth, root: UserContext, alice: UserContext, bob: UserContext
) -> None:
    server = await rest.register(root, "github", oauth.url, requiresOAuth=True, scope="shared_app")
    before = await detail(rest, alice, server["id"])

    await authorise(rest, alice, server["id"])

    read = await until_read(rest, bob, server["id"])
    assert "Nobody has authorised" in before["errorMessage"]
    assert "oauth/initiate" in before["notice"]
    assert (read["errorMessage"], "notice" in read) == (None, False)
    assert "whoami" in read["tools"]


@pytest.mark.requirement("R-282")
@pytest.mark.requirement("R-283")
async def test_the_state_is_told_per_person_and_survives_a_restart(
    rest: Rest,
    oauth: RunningOAuth,
    root: UserContext,
    alice: UserContext,
    bob: UserContext,
) -> None:
    server = await rest.register(root, "github", oauth.url, requiresOAuth=True, scope="shared_app")
    before = await status(rest, alice, server["id"])
    begun = await rest.ask(alice, "GET", f"/mcp/{server['id']}/oauth/initiate")
    under_way = await status(rest, alice, server["id"])
    await follow(rest, begun.json()["authorizationUrl"])
    await until_read(rest, alice, server["id"])

    connected = await status(rest, alice, server["id"])
    others = await status(rest, bob, server["id"])
    vars(rest.parts.connections)["_tracker"].forget([server["id"]])
    restarted = await status(rest, alice, server["id"])
    revoked = await rest.ask(alice, "DELETE", f"/mcp/{server['id']}/oauth/token")
    after = await status(rest, alice, server["id"])

    assert before == others == after == ("disconnected", False, False)
    assert under_way == ("connecting", False, False)
    assert connected == restarted == ("connected", True, False)
    assert revoked.status_code == 200


async def test_connecting_anew_says_where_to_authorise_and_works_then(
    rest: Rest, oauth: RunningOAuth, alice: UserContext
) -> None:
    server = await rest.register(alice, "github", oauth.url, requiresOAuth=True)
    path = f"/mcp/{server['id']}/reinitialize"
    without = (await rest.ask(alice, "POST", path)).json()
    await follow(rest, without["oauthUrl"])

    made = (await rest.ask(alice, "POST", path)).json()

    assert (without["success"], without["oauthRequired"]) == (False, True)
    assert without["connectionStatus"] == "disconnected"
    assert (made["success"], made["oauthRequired"]) == (True, False)
    assert (made["connectionStatus"], made["authorized"]) == ("connected", True)


async def test_a_refresh_of_its_author_uses_their_token(
    rest: Rest, oauth: RunningOAuth, alice: UserContext
) -> None:
    server = await rest.register(alice, "github", oauth.url, requiresOAuth=True)
    await authorise(rest, alice, server["id"])
    await until_read(rest, alice, server["id"])
    oauth.provider.expire()

    refreshed = (await rest.call(alice, "POST", f"/{server['id']}/refresh")).json()

    assert (refreshed["ok"], refreshed["errorMessage"]) == (True, None)
    await rest.ask(alice, "POST", f"/sync/owners/{server['id']}")
    jobs = await rest.jobs(alice, server, at_least=1)
    assert [(job["state"], job.get("note")) for job in jobs] == [("succeeded", None)]
