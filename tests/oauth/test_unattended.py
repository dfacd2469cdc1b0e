"""Servers for which the registry obtains access tokens by itself, and what warm calls cost."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from registry.auth.identity import ALL_SCOPES, Role, UserContext, default_scopes
from tests.fakes.oauth.provider import TOKEN_EXCHANGE, Client
from tests.fakes.oauth.serving import RunningOAuth, serving_oauth
from tests.fakes.rest import Rest, rest_settings, running
from tests.kit.browser import browser_at
from tests.kit.commands import commands
from tests.kit.waiting import until_async

pytestmark = pytest.mark.wire

ALICE = UserContext("a" * 24, "alice", Role.USER, default_scopes(Role.USER))
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)


@pytest.fixture
async def oauth() -> AsyncIterator[RunningOAuth]:
    async with serving_oauth() as running_oauth:
        grants = ("client_credentials", TOKEN_EXCHANGE)
        client = Client("app", "right", "client_secret_post", (), grants)
        running_oauth.provider.clients["app"] = client
        yield running_oauth


@pytest.fixture
async def rest(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path
) -> AsyncIterator[Rest]:
    # Records of calls are written in batches later, and jobs are looked for.
    quiet = {"usage_retention_days": 0, "sync_worker_enabled": False}
    async with running(rest_settings(mongo_uri, key_files, tmp_path, **quiet)) as started:
        yield started


async def register(
    rest: Rest, oauth: RunningOAuth, name: str, grant: str, **changed: Any
) -> dict[str, Any]:
    """Register a server whose tokens are obtained by *grant*."""
    issuer = oauth.issuer
    given = {
        "authorization_url": f"{issuer}/authorize",
        "token_url": f"{issuer}/token",
        "client_id": "app",
        "client_secret": "right",
        "grant_types_supported": [grant],
        **changed,
    }
    return await rest.register(
        ROOT, name, oauth.url, requiresOAuth=True, scope="shared_app", oauth=given
    )


async def state_of(rest: Rest, server: dict[str, Any], user: UserContext) -> dict[str, Any]:
    """Return the state of a user's connection."""
    answer = await rest.ask(user, "GET", f"/mcp/connection/status/{server['id']}")
    return dict(answer.json())


async def test_who_cannot_be_given_a_token_is_told_why(rest: Rest, oauth: RunningOAuth) -> None:
    exchanged = await register(rest, oauth, "exchanged", TOKEN_EXCHANGE)
    app = await register(rest, oauth, "app", "client_credentials", client_secret="wrong")

    begun = await rest.ask(ALICE, "GET", f"/mcp/{exchanged['id']}/oauth/initiate")
    connected = await rest.ask(ALICE, "POST", f"/mcp/{exchanged['id']}/reinitialize")
    call = await rest.call_tool(ALICE, "exchanged", "whoami")
    states = [await state_of(rest, one, ALICE) for one in (exchanged, app)]

    why = "could be obtained: The authorization server answered unsupported_grant_type"
    assert why in exchanged["errorMessage"]
    assert "invalid_client" in app["errorMessage"]
    assert begun.status_code == 409
    assert "obtains access tokens for it by itself" in begun.json()["message"]
    assert why in connected.json()["error"]
    assert why in call
    assert [(one["connectionStatus"], one["authorized"]) for one in states] == [
        ("error", False),
        ("error", False),
    ]
    assert why in states[0]["error"]
    assert "invalid_client" in states[1]["error"]


async def test_an_assertion_about_each_caller_is_exchanged_for_their_token(
    rest: Rest, oauth: RunningOAuth
) -> None:
    oauth.provider.switches.exchanges = True
    oauth.provider.trusted = (await rest.client.get("/.well-known/jwks.json")).json()
    server = await register(rest, oauth, "exchanged", TOKEN_EXCHANGE)

    before = await state_of(rest, server, ALICE)
    answers = [await rest.call_tool(user, "exchanged", "whoami") for user in (ALICE, ROOT)]
    after = await state_of(rest, server, ALICE)

    assert "alice" in answers[0]
    assert "root" in answers[1]
    assert (before["connectionStatus"], after["connectionStatus"]) == ("disconnected", "connected")
    assert server["numTools"] == 3


async def test_a_warm_call_with_an_access_token_sends_no_command_to_the_database(
    rest: Rest, oauth: RunningOAuth
) -> None:
    oauth.provider.switches.exchanges = True
    oauth.provider.trusted = (await rest.client.get("/.well-known/jwks.json")).json()
    await register(rest, oauth, "exchanged", TOKEN_EXCHANGE)
    server = await rest.register(
        ROOT, "protected", oauth.url, requiresOAuth=True, scope="shared_app"
    )
    begun = await rest.ask(ALICE, "GET", f"/mcp/{server['id']}/oauth/initiate")
    async with browser_at(rest) as browser:
        await browser.authorise(begun.json()["authorizationUrl"])
    answers: list[str] = []

    async def is_warm() -> bool:
        """Call often; return whether that sent no command, be it of other work."""
        before = commands(rest.parts.metrics)
        names = 10 * ("protected", "exchanged")
        answers[:] = [await rest.call_tool(ALICE, name, "whoami") for name in names]
        return commands(rest.parts.metrics) == before

    await until_async(is_warm)

    assert "ada" in answers[0]
    assert "alice" in answers[1]
    assert answers == 10 * answers[:2]
