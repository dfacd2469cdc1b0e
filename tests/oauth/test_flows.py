"""Users authorise the registry at a server: the way through the browser, and attacks on it."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit, urlunsplit

import pytest
import pytest_asyncio
from bson import ObjectId
from joserfc.jwk import RSAKey

from registry.auth.identity import ALL_SCOPES, OPERATOR, Role, UserContext, default_scopes
from registry.core.metrics import Metrics
from registry.servers.reconciliation.orphaned_data import OrphanedServerData
from registry.wiring.commands import NotedRemovals, command_services
from tests.fakes.oauth.provider import Client
from tests.fakes.oauth.serving import RunningOAuth, serving_oauth
from tests.fakes.rest import BASE_URL, Rest, rest_settings, running
from tests.kit.browser import Browser, browser_at
from tests.kit.waiting import until, until_async

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

ALICE = UserContext("a" * 24, "alice", Role.USER, default_scopes(Role.USER))
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)
BOB = UserContext("b" * 24, "bob", Role.USER, default_scopes(Role.USER))
UNWANTED = "http://evil.example.com/"


@dataclass(frozen=True, slots=True)
class World:
    """A registry, a server that wants OAuth, and a browser."""

    rest: Rest
    oauth: RunningOAuth
    browser: Browser
    server: dict[str, Any]

    async def initiate(self, user: UserContext = ALICE) -> tuple[str, str]:
        """Return the id of a new flow and its link."""
        path = f"/mcp/{self.server['id']}/oauth/initiate"
        answer = await self.rest.ask(user, "GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()["flowId"], answer.json()["authorizationUrl"]

    async def status(self, flow_id: str, user: UserContext = ALICE) -> dict[str, Any]:
        """Return what the registry says of a flow."""
        answer = await self.rest.ask(user, "GET", f"/mcp/oauth/status/{flow_id}")
        return dict(answer.json())

    async def connection(self, user: UserContext = ALICE) -> dict[str, Any]:
        """Return the state of a user's connection."""
        path = f"/mcp/connection/status/{self.server['id']}"
        return dict((await self.rest.ask(user, "GET", path)).json())

    async def tokens(self, user: UserContext = ALICE) -> list[str]:
        """Return the types of a user's stored tokens."""
        answer = await self.rest.ask(user, "GET", "/tokens")
        return sorted(token["type"] for token in answer.json()["tokens"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Rest]:
    async with running(
        rest_settings(mongo_uri, key_files, tmp_path_factory.mktemp("home"))
    ) as rest:
        yield rest


@pytest_asyncio.fixture(loop_scope="module")
async def world(rest: Rest) -> AsyncIterator[World]:
    async with serving_oauth() as oauth, browser_at(rest) as browser:
        server = await rest.register(
            ROOT, "protected", oauth.url, requiresOAuth=True, scope="shared_app"
        )
        yield World(rest, oauth, browser, server)
    await rest.forget_everything()


def changed(url: str, **parameters: str | None) -> str:
    """Return *url* with other query parameters; None leaves one out."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    query |= {name: value for name, value in parameters.items() if value is not None}
    left_out = {name for name, value in parameters.items() if value is None}
    kept = {name: value for name, value in query.items() if name not in left_out}
    return urlunsplit(parts._replace(query=urlencode(kept)))


async def test_a_user_authorises_and_revokes(world: World) -> None:
    flow_id, link = await world.initiate()

    page = await world.browser.authorise(link)

    assert (page.status, page.title) == (200, "protected is connected")
    assert (await world.status(flow_id))["status"] == "completed"
    assert await world.tokens() == ["oauth_access", "oauth_refresh"]
    assert await world.tokens(BOB) == []

    path = f"/mcp/{world.server['id']}/oauth/token"
    revoked = await world.rest.ask(ALICE, "DELETE", path)

    assert revoked.json()["revokedAtProvider"] is True
    assert await world.tokens() == []
    assert all(token.is_revoked for token in world.oauth.provider.tokens)
    assert (await world.rest.ask(ALICE, "DELETE", path)).status_code == 404


async def test_what_is_sent_to_the_authorization_server(world: World) -> None:
    _, link = await world.initiate()

    sent = parse_qs(urlsplit(await world.browser.press(link)).query)

    assert sent["code_challenge_method"] == ["S256"]
    assert len(sent["code_challenge"][0]) == 43
    assert sent["redirect_uri"] == [f"{BASE_URL}/api/v1/mcp/oauth/callback"]
    assert sent["resource"] == [world.oauth.url]
    assert sent["scope"] == ["read offline_access"]


async def test_looking_at_the_page_of_a_link_changes_nothing(world: World) -> None:
    flow_id, link = await world.initiate()

    shown = [await world.browser.show(link) for _ in range(2)]

    assert {page.status for page in shown} == {200}
    assert "alice" in shown[0].text
    assert urlsplit(world.oauth.url).netloc in shown[0].text
    assert (await world.status(flow_id))["status"] == "pending"
    assert world.oauth.provider.counts["register"] == 0


async def test_a_response_counts_once(world: World) -> None:
    _, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))

    first, second = [await world.browser.show(callback) for _ in range(2)]

    assert (first.status, second.status) == (200, 409)
    assert world.oauth.provider.counts["token"] == 1


async def test_a_response_in_another_browser_changes_nothing(world: World) -> None:
    flow_id, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))

    async with browser_at(world.rest) as other:
        page = await other.show(callback)

    assert page.status == 403
    assert (await world.status(flow_id))["status"] == "pending"
    assert (await world.browser.show(callback)).status == 200


async def test_a_code_of_another_flow_is_refused(world: World) -> None:
    """An attacker's code in the victim's response: PKCE and the resource bind it to its flow."""
    _, of_bob = await world.initiate(BOB)
    async with browser_at(world.rest) as other:
        stolen = await other.sign_in(await other.press(of_bob))
    code = parse_qs(urlsplit(stolen).query)["code"][0]
    flow_id, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))

    page = await world.browser.show(changed(callback, code=code))

    assert page.status == 502
    assert (await world.status(flow_id))["status"] == "failed"
    assert await world.tokens() == []


@pytest.mark.parametrize("state", [None, "", "x", "A" * 100, "A" * 9000])
async def test_a_response_without_our_state_is_refused(world: World, state: str | None) -> None:
    _, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))

    page = await world.browser.show(changed(callback, state=state))

    assert page.status == 404
    assert world.oauth.provider.counts["token"] == 0


async def test_the_state_of_another_user_is_refused(world: World) -> None:
    _, of_bob = await world.initiate(BOB)
    async with browser_at(world.rest) as other:
        theirs = parse_qs(urlsplit(await other.press(of_bob)).query)["state"][0]
    _, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))

    page = await world.browser.show(changed(callback, state=theirs))

    assert page.status == 403
    assert await world.tokens(BOB) == []


async def test_a_code_that_is_too_long_fails_on_a_page_and_is_sent_nowhere(world: World) -> None:
    flow_id, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))

    page = await world.browser.show(changed(callback, code="A" * 9000))

    assert (page.status, page.title) == (502, "Not connected")
    assert (await world.status(flow_id))["error"] == "The authorization code is malformed."
    assert world.oauth.provider.counts["token"] == 0


async def test_a_method_that_a_page_has_not_is_refused_with_those_that_it_has(rest: Rest) -> None:
    answer = await rest.client.delete("/api/v1/mcp/oauth/start")

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


@pytest.mark.parametrize("issuer", ["wrong", "missing"])
async def test_a_response_of_another_issuer_is_refused(world: World, issuer: str) -> None:
    world.oauth.provider.switches.iss = issuer
    flow_id, link = await world.initiate()

    page = await world.browser.authorise(link)

    assert page.status == 502
    assert world.oauth.provider.counts["token"] == 0
    assert (await world.status(flow_id))["status"] == "pending"


async def test_a_response_without_issuer_is_taken_where_none_is_promised(world: World) -> None:
    world.oauth.provider.switches.iss = "missing"
    world.oauth.provider.switches.tells_iss = False
    _, link = await world.initiate()

    assert (await world.browser.authorise(link)).status == 200


async def test_without_pkce_nothing_begins(world: World) -> None:
    world.oauth.provider.switches.pkce = False
    flow_id, link = await world.initiate()

    page = await world.browser.post(link)

    assert page.status == 502
    assert "PKCE" in page.text
    assert (await world.status(flow_id))["status"] == "pending"


async def test_a_denied_authorization_says_so(world: World) -> None:
    flow_id, link = await world.initiate()
    authorize = await world.browser.press(link)
    state = parse_qs(urlsplit(authorize).query)["state"][0]
    said = {
        "error": "access_denied",
        "error_description": "<script>alert(1)</script>",
        "state": state,
        "iss": world.oauth.issuer,
    }

    page = await world.browser.show(f"{BASE_URL}/api/v1/mcp/oauth/callback?{urlencode(said)}")

    assert page.status == 502
    assert "denied" in page.text
    assert (await world.status(flow_id))["error"] == "The authorization was denied."


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            {"error": "<b>", "error_description": "not today"},
            "refused the authorization: not today",
        ),
        ({"error": "<b>"}, "refused the authorization."),
        ({}, "answered neither a code nor an error."),
    ],
)
async def test_an_answer_without_a_code_is_told_as_what_it_is(
    world: World, said: dict[str, str], shown: str
) -> None:
    _, link = await world.initiate()
    state = parse_qs(urlsplit(await world.browser.press(link)).query)["state"][0]
    query = urlencode({**said, "state": state, "iss": world.oauth.issuer})

    page = await world.browser.show(f"{BASE_URL}/api/v1/mcp/oauth/callback?{query}")

    assert shown in page.text


async def test_nothing_of_others_is_markup_on_a_page(world: World) -> None:
    _, link = await world.initiate()
    state = parse_qs(urlsplit(await world.browser.press(link)).query)["state"][0]
    said = {
        "error": "server_error",
        "error_description": "<script>alert(1)</script>",
        "state": state,
        "iss": world.oauth.issuer,
    }

    page = await world.browser.show(f"{BASE_URL}/api/v1/mcp/oauth/callback?{urlencode(said)}")

    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text


async def test_a_server_that_is_changed_on_the_way_is_refused(world: World) -> None:
    flow_id, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))
    change = {"oauth": {"scope": "admin"}}
    patched = await world.rest.call(ROOT, "PATCH", f"/{world.server['id']}", json=change)
    assert patched.status_code == 200, patched.text

    page = await world.browser.show(callback)

    assert page.status == 502
    assert "changed" in page.text
    assert (await world.status(flow_id))["status"] == "failed"
    assert world.oauth.provider.counts["token"] == 0


async def test_an_authorization_server_that_changes_on_the_way_is_refused(world: World) -> None:
    _, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))
    async with serving_oauth() as another:
        world.oauth.protected.issuers = (another.issuer,)

        page = await world.browser.show(callback)

        assert page.status == 502
        assert another.provider.counts["token"] == 0
    assert world.oauth.provider.counts["token"] == 0


@pytest.mark.parametrize("lacks", ["registers", "pkce"])
async def test_of_several_authorization_servers_one_is_used_that_can_be(
    world: World, lacks: str
) -> None:
    _, link = await world.initiate()
    setattr(world.oauth.provider.switches, lacks, False)
    async with serving_oauth() as another:
        world.oauth.protected.issuers = (world.oauth.issuer, another.issuer)

        page = await world.browser.authorise(link)

        assert (page.status, page.title) == (200, "protected is connected")
        assert another.provider.counts["token"] == 1
    assert world.oauth.provider.counts["authorize"] == 0


async def test_a_cancelled_flow_cannot_be_finished(world: World) -> None:
    flow_id, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))

    cancelled = await world.rest.ask(ALICE, "POST", f"/mcp/oauth/cancel/{flow_id}")

    assert cancelled.json()["status"] == "cancelled"
    assert (await world.browser.show(callback)).status == 409
    assert (await world.browser.post(link)).status == 409


async def test_flows_are_their_users_own(world: World) -> None:
    flow_id, _ = await world.initiate()

    seen = await world.rest.ask(BOB, "GET", f"/mcp/oauth/status/{flow_id}")
    cancelled = await world.rest.ask(BOB, "POST", f"/mcp/oauth/cancel/{flow_id}")

    assert (seen.status_code, cancelled.status_code) == (404, 404)
    assert (await world.status(flow_id))["status"] == "pending"


@pytest.mark.parametrize("ticket", ["", "x", "%00", quote("<script>"), "A" * 5000])
async def test_links_that_were_not_made_here_are_refused(world: World, ticket: str) -> None:
    url = f"{BASE_URL}/api/v1/mcp/oauth/start?ticket={ticket}"

    shown, posted = await world.browser.show(url), await world.browser.post(url)

    assert {shown.status, posted.status} == {422}
    assert "<script>" not in shown.text


async def test_nothing_redirects_to_where_a_parameter_says(world: World) -> None:
    _, link = await world.initiate()
    more = f"&redirect_uri={quote(UNWANTED)}&next={quote(UNWANTED)}"

    leads_to = await world.browser.press(link + more)
    callback = await world.browser.sign_in(leads_to)
    answer = await world.browser.registry.get(callback + more)

    assert urlsplit(leads_to).netloc == urlsplit(world.oauth.issuer).netloc
    assert answer.status_code == 200
    assert "location" not in answer.headers


async def test_repeated_parameters_are_refused(world: World) -> None:
    _, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))

    page = await world.browser.show(f"{callback}&code=another")

    assert page.status == 404
    assert world.oauth.provider.counts["token"] == 0


async def test_a_registration_that_was_lost_is_made_again(world: World) -> None:
    _, link = await world.initiate()
    callback = await world.browser.sign_in(await world.browser.press(link))
    world.oauth.provider.forget_clients()
    assert (await world.browser.show(callback)).status == 502

    _, again = await world.initiate()
    page = await world.browser.authorise(again)

    assert page.status == 200
    assert world.oauth.provider.counts["register"] == 2


async def test_who_did_not_come_back_gets_another_registration(world: World) -> None:
    """An authorization server that lost a registration shows that, and sends nobody back."""
    _, link = await world.initiate()
    await world.browser.press(link)
    world.oauth.provider.forget_clients()
    _, soon = await world.initiate()
    await world.browser.press(soon)
    assert world.oauth.provider.counts["register"] == 1

    flows = world.rest.parts.database.collection("oauth_flows")
    long_ago = world.rest.parts.clock.now() - timedelta(minutes=5)
    await flows.update_many({}, {"$set": {"updated_at": long_ago}})
    _, again = await world.initiate()
    page = await world.browser.authorise(again)

    assert page.status == 200
    assert world.oauth.provider.counts["register"] == 2


async def test_two_users_share_one_registration(world: World) -> None:
    for user in (ALICE, BOB):
        _, link = await world.initiate(user)
        async with browser_at(world.rest) as browser:
            assert (await browser.authorise(link)).status == 200

    assert world.oauth.provider.counts["register"] == 1
    assert await world.tokens(BOB) == ["oauth_access", "oauth_refresh"]


async def test_the_first_authorization_makes_the_tools_known_and_nothing_else(
    world: World,
) -> None:
    _, link = await world.initiate()
    await world.browser.authorise(link)

    async def shown_to(user: UserContext) -> dict[str, Any]:
        server = await world.rest.call(user, "GET", f"/{world.server['id']}")
        return dict(server.json())

    async def known() -> bool:
        return bool((await shown_to(BOB))["numTools"] == 3)

    await until_async(known)
    own, others = await shown_to(ALICE), await shown_to(BOB)

    assert (own["connection_state"], own["is_recently_active"]) == ("connected", True)
    assert own["lastConnected"] is not None
    members = ("connection_state", "is_recently_active", "lastConnected")
    assert [others[name] for name in members] == ["disconnected", False, None]


async def test_a_registration_is_deleted_with_the_last_server_that_uses_it(world: World) -> None:
    second = await world.rest.register(
        ROOT, "second", world.oauth.url, requiresOAuth=True, scope="shared_app"
    )
    both = [world, replace(world, server=second)]
    for each in both:
        await world.browser.authorise((await each.initiate())[1])
    provider = world.oauth.provider

    await world.rest.call(ROOT, "DELETE", f"/{world.server['id']}")
    provider.expire()
    renewed = await world.rest.call_tool(ALICE, "second", "whoami")
    kept = len(provider.clients)
    await world.rest.call(ROOT, "DELETE", f"/{second['id']}")
    await until(lambda: provider.counts["unregister"] == 1)

    assert "ada" in renewed
    assert (kept, provider.counts["register"], provider.clients) == (1, 1, {})
    # Those for the first server would have ended the others with them, had they been revoked.
    assert provider.counts["revoke"] == 2
    stored = world.rest.parts.database.db["oauth_clients"]
    assert await stored.count_documents({}) == 0


@pytest.mark.parametrize("is_configured", [False, True], ids=["registered", "configured"])
async def test_a_client_authenticates_by_its_key_where_it_must(
    world: World, *, is_configured: bool
) -> None:
    provider = world.oauth.provider
    provider.switches.methods = ["private_key_jwt"]
    server = world.server
    if is_configured:
        keys = (await world.rest.client.get("/.well-known/jwks.json")).json()
        callback = f"{BASE_URL}/api/v1/mcp/oauth/callback"
        app = Client("app", "unknown", "private_key_jwt", (callback,), jwks=keys)
        provider.clients["app"] = app
        server = await world.rest.register(
            ROOT,
            "configured",
            world.oauth.url,
            requiresOAuth=True,
            scope="shared_app",
            oauth={"client_id": "app"},
        )
    own = replace(world, server=server)
    path = f"/mcp/{server['id']}/oauth/token"

    page = await own.browser.authorise((await own.initiate())[1])
    provider.expire()
    renewed = await own.rest.call_tool(ALICE, server["path"].removeprefix("/mcp/"), "whoami")
    revoked = await own.rest.ask(ALICE, "DELETE", path)

    assert page.title.endswith("is connected")
    assert "ada" in renewed
    assert revoked.json()["revokedAtProvider"] is True
    # Each with an assertion of its own: the code, the refresh, and two revocations.
    assert len(provider.assertions) == 4
    assert [one.method for one in provider.clients.values()] == ["private_key_jwt"]


async def test_a_client_whose_key_is_another_is_refused(world: World) -> None:
    provider = world.oauth.provider
    provider.switches.methods = ["private_key_jwt"]
    callback = await world.browser.sign_in(await world.browser.press((await world.initiate())[1]))
    [client] = provider.clients.values()
    client.jwks = {"keys": [RSAKey.generate_key(2048, {"kid": "other"}).as_dict(private=False)]}

    page = await world.browser.show(callback)

    assert page.status == 502
    assert "invalid_client" in page.text
    assert await world.tokens() == []


async def test_what_was_obtained_for_a_server_that_jarvis_deletes_is_given_back_once(
    world: World,
) -> None:
    for user in (ALICE, BOB):
        _, link = await world.initiate(user)
        async with browser_at(world.rest) as browser:
            await browser.authorise(link)
    provider, database = world.oauth.provider, world.rest.parts.database
    settings, clock = world.rest.parts.settings, world.rest.parts.clock
    server_id = world.server["id"]

    await database.collection("mcpservers").delete_one({"_id": ObjectId(server_id)})
    async with command_services(settings, changes=False, lists=None) as services:
        storage = services.storage
        replicas = [NotedRemovals() for _ in range(2)]
        for removals in replicas:
            await OrphanedServerData(
                services.database, storage.repositories, clock=clock, removals=removals
            ).remove(server_id)
        await asyncio.gather(
            *(one.give_back(settings, storage, clock, Metrics()) for one in replicas)
        )

    # The deletion of the client ends its tokens, too: who comes first is not settled.
    assert provider.counts["revoke"] <= 4
    assert provider.counts["unregister"] == 1
    assert all(token.is_revoked for token in provider.tokens)
    for name in ("tokens", "oauth_clients", "oauth_flows"):
        assert await database.collection(name).count_documents({}) == 0


@pytest.mark.parametrize("changes", ["url", "issuer"])
async def test_what_does_not_fit_a_server_that_moves_is_revoked(
    world: World, changes: str
) -> None:
    await world.browser.authorise((await world.initiate())[1])
    former, path = world.oauth.provider, f"/{world.server['id']}"
    async with serving_oauth() as another:
        if changes == "url":
            moved = await world.rest.call(ROOT, "PATCH", path, json={"url": another.url})
            assert moved.status_code == 200, moved.text
        else:
            world.oauth.protected.issuers = (another.issuer,)
            await world.rest.call(ROOT, "POST", f"{path}/refresh")
            assert former.counts["revoke"] == 0
            page = await world.browser.authorise((await world.initiate())[1])
            assert page.title == "protected is connected"
        await until(lambda: former.counts["unregister"] == 1)

        assert former.counts["revoke"] == 2
        assert all(token.is_revoked for token in former.tokens)
        assert another.provider.counts["revoke"] == 0


async def test_what_was_obtained_for_a_server_that_a_command_removes_is_given_back(
    world: World,
) -> None:
    await world.browser.authorise((await world.initiate())[1])
    provider = world.oauth.provider

    settings = world.rest.parts.settings
    async with command_services(settings, changes=True, lists=None) as services:
        await services.servers.delete(world.server["id"], OPERATOR)

    assert (provider.counts["revoke"], provider.counts["unregister"]) == (2, 1)
    assert provider.find(provider.tokens[0].access_token) is None


async def test_after_a_restart_a_users_own_connection_is_tried_without_a_call(
    world: World,
) -> None:
    await world.browser.authorise((await world.initiate())[1])
    before = len(world.oauth.protected.seen)

    async with running(world.rest.parts.settings) as restarted:
        path = f"/mcp/connection/status/{world.server['id']}"
        await until(lambda: len(world.oauth.protected.seen) > before)

        async def shown() -> bool:
            answer = await restarted.ask(ALICE, "GET", path)
            return bool(answer.json()["connectionStatus"] == "connected")

        await until_async(shown)


async def test_who_fails_when_a_token_cannot_be_renewed_is_named(world: World) -> None:
    _, link = await world.initiate()
    await world.browser.authorise(link)
    assert "ada" in await world.rest.call_tool(ALICE, "protected", "whoami")
    world.oauth.provider.expire()
    world.oauth.provider.switches.status = 500

    answer = await world.rest.call_tool(ALICE, "protected", "whoami")
    state = await world.connection()

    why = "could not be renewed now: The authorization server answered HTTP 500"
    assert why in answer
    assert why in state["error"]
    assert (state["connectionStatus"], state["authorized"]) == ("error", True)


async def test_connecting_again_asks_for_what_was_granted_before(world: World) -> None:
    _, link = await world.initiate()
    await world.browser.authorise(link)
    refused = await world.rest.call_tool(ALICE, "protected", "change", value="x")
    [more] = re.findall(r"http://[^\s\"]+ticket=[\w%.-]+", refused)
    await world.browser.authorise(more)
    changed = await world.rest.call_tool(ALICE, "protected", "change", value="x")

    _, link = await world.initiate()
    sent = parse_qs(urlsplit(await world.browser.press(link)).query)

    assert "ada wrote x" in changed
    assert set(sent["scope"][0].split()) == {"read", "write", "offline_access"}


async def test_a_server_without_oauth_has_nothing_to_authorise(world: World) -> None:
    plain = await world.rest.register(ROOT, "plain", "http://127.0.0.1:9/mcp")

    answer = await world.rest.ask(ROOT, "GET", f"/mcp/{plain['id']}/oauth/initiate")

    assert answer.status_code == 409


async def test_others_private_servers_cannot_be_authorised(world: World) -> None:
    private = await world.rest.register(
        ALICE, "mine", world.oauth.url, requiresOAuth=True, scope="private_user"
    )

    answer = await world.rest.ask(BOB, "GET", f"/mcp/{private['id']}/oauth/initiate")

    assert answer.status_code == 404
