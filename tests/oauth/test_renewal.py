"""Renewal of tokens under faults: crashes, an absent database, and other programs that write."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId
from typing_extensions import override

from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.oauth.errors import AuthorizationRequiredError, FlowEndedError
from registry.oauth.values import OAuthServer
from registry.upstream.oauth.errors import InvalidClientError
from registry.upstream.oauth.values import ClientAuthentication, Tokens
from tests.fakes.clock import SkewedClock
from tests.fakes.oauth.token_endpoint import RotatingTokenEndpoint
from tests.kit.waiting import in_background, until, until_async
from tests.oauth.conftest import (
    TOKEN_URL,
    OAuthStore,
    Replica,
    authorize,
    request_for,
    server_named,
)

pytestmark = pytest.mark.wire

METADATA = {
    "issuer": "https://as.example.com",
    "authorization_endpoint": "https://as.example.com/authorize",
    "token_endpoint": "https://as.example.com/other-token",
}
HOUR = timedelta(hours=1)


class Hasty(SystemClock):
    """A clock whose seconds pass a hundred times as fast where they are counted."""

    @override
    def monotonic(self) -> float:
        return SystemClock.monotonic() * 100


async def let_expire(store: OAuthStore, *replicas: Replica) -> None:
    """Let the stored access tokens expire, and the database remove them."""
    await store.settled()
    await store.database.collection("tokens").delete_many({"type": "mcp_oauth"})
    for replica in replicas:
        replica.tokens.clear()


def discovered(name: str = "github") -> OAuthServer:
    """Return a server whose client and authorization server are stored with its tokens alone."""
    return replace(server_named(name), config={"requiresOAuth": True})


async def jarvis_pair(
    store: OAuthStore, user: UserContext, refresh: str = "r0", **changed: Any
) -> None:
    """Store what jarvis-api stores after an authorization whose access token has expired."""
    await store.jarvis_row(user, "mcp_oauth_refresh", "mcp:github:refresh", refresh, **changed)
    await store.jarvis_row(
        user,
        "mcp_oauth_client",
        "mcp:github:client",
        '{"client_id": "theirs", "client_secret": "x", "redirect_uris": []}',
        metadata=METADATA,
    )


async def stored_values(store: OAuthStore) -> dict[str, str]:
    """Return the stored access and refresh token."""
    rows = await store.rows(type={"$in": ["mcp_oauth", "mcp_oauth_refresh"]})
    return {row["type"]: store.text(row) for row in rows}


async def test_rows_of_the_other_application_are_used_and_renewed_in_its_form(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = discovered(), store.replica()
    await jarvis_pair(store, alice)

    token = await replica.tokens.get(alice, server)

    [request] = replica.endpoint.requests
    [access] = await store.rows(type="mcp_oauth")
    assert token.value == "a1"
    assert request.server.token_endpoint == "https://as.example.com/other-token"
    assert (request.client.client_id, request.client.client_secret) == ("theirs", "x")
    assert request.client.authentication is ClientAuthentication.CLIENT_SECRET_BASIC
    assert await stored_values(store) == {"mcp_oauth": "a1", "mcp_oauth_refresh": "r1"}
    assert access["userId"] == ObjectId(alice.user_id)
    assert access["identifier"] == "mcp:github"
    assert timedelta(0) < access["expiresAt"] - replica.clock.now() <= HOUR


async def test_what_is_stored_has_the_form_of_the_other_application(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()

    await authorize(replica, alice, server)

    rows = {row["type"]: row for row in await store.rows()}
    client = rows["mcp_oauth_client"]
    shapes = {kind: (row["identifier"], row.get("metadata")) for kind, row in rows.items()}
    assert shapes == {
        "mcp_oauth": ("mcp:github", None),
        "mcp_oauth_refresh": ("mcp:github:refresh", None),
        "mcp_oauth_client": ("mcp:github:client", {"token_endpoint": TOKEN_URL}),
    }
    assert '"client_id": "client"' in store.text(client)
    assert {row["userId"] for row in rows.values()} == {ObjectId(alice.user_id)}
    assert rows["mcp_oauth_refresh"]["expiresAt"] - replica.clock.now() > timedelta(days=364)


async def test_a_refresh_by_the_other_application_at_the_same_time_is_used(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = discovered(), store.replica()
    await jarvis_pair(store, alice)
    replica.endpoint.valid = set()
    replica.endpoint.open.clear()

    async def refresh_elsewhere() -> None:
        await until(lambda: replica.endpoint.asked)
        await store.database.collection("tokens").update_one(
            {"type": "mcp_oauth_refresh"},
            {"$set": {"token": store.cipher.encrypt_shared("theirs-r")}},
        )
        await store.jarvis_row(alice, "mcp_oauth", "mcp:github", "theirs-a")
        replica.endpoint.open.set()

    async with in_background(refresh_elsewhere()):
        token = await replica.tokens.get(alice, server)

    assert token.value == "theirs-a"
    assert await stored_values(store) == {
        "mcp_oauth": "theirs-a",
        "mcp_oauth_refresh": "theirs-r",
    }
    assert (await replica.tokens.states(alice, [server]))[server.id].is_authorized


async def test_tokens_that_the_other_application_obtained_after_a_refusal_are_used(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = discovered(), store.replica()
    await jarvis_pair(store, alice, "used-up")
    with pytest.raises(AuthorizationRequiredError):
        await replica.tokens.get(alice, server)
    # It writes the token and its expiry, and leaves what it does not know.
    await store.database.collection("tokens").update_one(
        {"type": "mcp_oauth_refresh"}, {"$set": {"token": store.cipher.encrypt_shared("anew")}}
    )
    replica.endpoint.valid = {"anew"}

    replica.tokens.changed([alice.user_id], [])

    assert (await replica.tokens.get(alice, server)).value == "a1"


async def test_a_crash_before_the_answer_was_stored_needs_the_user_again(
    store: OAuthStore, alice: UserContext
) -> None:
    server, endpoint = server_named(), RotatingTokenEndpoint()
    crashing, fresh = (store.replica(endpoint, clock=Hasty()) for _ in range(2))
    await authorize(crashing, alice, server)
    await let_expire(store, crashing)
    endpoint.open.clear()

    async with asyncio.TaskGroup() as group:
        call = group.create_task(crashing.tokens.get(alice, server))
        await until(lambda: endpoint.asked)
        # The authorization server has exchanged the token; its answer reaches nobody.
        endpoint.valid = {"lost"}
        await crashing.background.close()
    endpoint.open.set()

    assert call.cancelled()
    with pytest.raises(AuthorizationRequiredError):
        await fresh.tokens.get(alice, server)
    assert endpoint.asked == ["r0", "r0"]


async def test_a_crash_before_the_request_delays_the_renewal_only(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica(clock=Hasty())
    await authorize(replica, alice, server)
    await let_expire(store, replica)
    await store.database.collection("tokens").update_one(
        {"type": "mcp_oauth_refresh"}, {"$set": {"registry.lease": {"holder": "dead"}}}
    )

    token = await replica.tokens.get(alice, server)

    [row] = await store.rows(type="mcp_oauth_refresh")
    assert token.value == "a1"
    assert "lease" not in row["registry"]


async def test_a_holder_that_takes_long_is_not_waited_for_forever(
    store: OAuthStore, alice: UserContext
) -> None:
    server, endpoint = server_named(), RotatingTokenEndpoint()
    slow, other = store.replica(endpoint), store.replica(endpoint)
    await authorize(slow, alice, server)
    await let_expire(store, slow)
    endpoint.open.clear()

    async def answer() -> None:
        await until(lambda: endpoint.asked)
        await until_async(lambda: _has_lease(store))
        endpoint.open.set()

    async with in_background(answer()):
        found = await asyncio.gather(
            slow.tokens.get(alice, server), other.tokens.get(alice, server)
        )

    assert [token.value for token in found] == ["a1", "a1"]
    assert endpoint.asked == ["r0"]


async def _has_lease(store: OAuthStore) -> bool:
    return bool(await store.rows(**{"registry.lease.holder": {"$exists": True}}))


@pytest.mark.parametrize("hours", [-3, 3])
async def test_replicas_whose_clocks_differ_share_a_renewal(
    store: OAuthStore, alice: UserContext, hours: int
) -> None:
    server, endpoint = server_named(), RotatingTokenEndpoint()
    skewed = store.replica(endpoint, clock=SkewedClock(timedelta(hours=hours)))
    right = store.replica(endpoint)
    await authorize(right, alice, server)
    await let_expire(store, right)

    endpoint.open.clear()
    right.stored.was_read.clear()

    async def open_when_both_have_read() -> None:
        # Whoever comes later cannot know that what has expired by its clock is new.
        await skewed.stored.was_read.wait()
        await right.stored.was_read.wait()
        endpoint.open.set()

    calls = [replica.tokens.get(alice, server) for replica in (skewed, right) for _ in range(20)]
    *found, _ = await asyncio.gather(*calls, open_when_both_have_read())

    assert {token.value for token in found if token is not None} == {"a1"}
    assert endpoint.asked == ["r0"]


async def test_renewed_tokens_are_used_from_memory_until_they_can_be_stored(
    store: OAuthStore, alice: UserContext
) -> None:
    server, endpoint = server_named(), RotatingTokenEndpoint()
    replica, other = store.replica(endpoint), store.replica(endpoint)
    await authorize(replica, alice, server)
    await let_expire(store, replica)
    replica.stored.failures = 2

    token = await replica.tokens.get(alice, server)
    before = await stored_values(store)
    replica.tokens.clear()
    again = await replica.tokens.get(alice, server)
    elsewhere = await other.tokens.get(alice, server)

    assert (token.value, again.value, elsewhere.value) == ("a1", "a1", "a1")
    assert before == {"mcp_oauth_refresh": "r0"}
    assert await stored_values(store) == {"mcp_oauth": "a1", "mcp_oauth_refresh": "r1"}
    assert endpoint.asked == ["r0"]


async def test_a_call_does_not_wait_until_renewed_tokens_are_stored(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    await let_expire(store, replica)
    replica.stored.may_return.clear()

    token = await replica.tokens.get(alice, server)
    is_stored = not replica.stored.storing
    replica.stored.may_return.set()

    assert (token.value, is_stored) == ("a1", False)
    assert await stored_values(store) == {"mcp_oauth": "a1", "mcp_oauth_refresh": "r1"}


async def test_a_row_that_was_encrypted_with_another_key_meanwhile_is_replaced(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    await let_expire(store, replica)
    replica.endpoint.open.clear()

    async def rotate() -> None:
        await until(lambda: replica.endpoint.asked)
        await store.database.collection("tokens").update_one(
            {"type": "mcp_oauth_refresh"}, {"$set": {"token": store.cipher.encrypt_shared("r0")}}
        )
        replica.endpoint.open.set()

    async with in_background(rotate()):
        token = await replica.tokens.get(alice, server)

    assert token.value == "a1"
    assert await stored_values(store) == {"mcp_oauth": "a1", "mcp_oauth_refresh": "r1"}


async def test_a_registered_client_that_was_lost_needs_the_user_and_is_forgotten(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = discovered(), store.replica()
    await jarvis_pair(store, alice)
    replica.endpoint.failure = InvalidClientError("unknown", "invalid_client")

    with pytest.raises(AuthorizationRequiredError):
        await replica.tokens.get(alice, server)

    states = await replica.tokens.states(alice, [server])
    assert states[server.id].needs_reauth


@pytest.mark.parametrize(
    "odd",
    [
        {"token": 7},
        {"token": "no ciphertext"},
        {"expiresAt": "tomorrow"},
        {"createdAt": "yesterday"},
        {"registry": "odd"},
        {"registry": None},
        {"metadata": [1]},
        {"_id": "a/text"},
        {"userId": "text"},
    ],
    ids=str,
)
async def test_an_odd_row_costs_only_itself(
    store: OAuthStore, alice: UserContext, odd: dict[str, Any]
) -> None:
    server, replica = discovered(), store.replica()
    await store.jarvis_row(alice, "mcp_oauth", "mcp:github", "good")
    rows = store.database.collection("tokens")
    [row] = await store.rows()
    await rows.insert_one({**row, "_id": ObjectId(), **odd})

    assert (await replica.tokens.get(alice, server)).value == "good"


async def test_of_two_tokens_of_a_kind_the_newer_is_used(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = discovered(), store.replica()
    now = replica.clock.now()
    for value, age in (("older", 2), ("newest", 0), ("old", 1)):
        made = now - timedelta(minutes=age)
        await store.jarvis_row(alice, "mcp_oauth", "mcp:github", value, createdAt=made)

    assert (await replica.tokens.get(alice, server)).value == "newest"


async def test_tokens_of_a_former_server_of_that_name_are_not_used(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = discovered(), store.replica()
    before = replica.clock.now() - 2 * HOUR
    await store.jarvis_row(alice, "mcp_oauth", "mcp:github", "former", createdAt=before)

    with pytest.raises(AuthorizationRequiredError):
        await replica.tokens.get(alice, server)


ELSEWHERE: dict[str, Any] = {
    "origin": {"url": "https://elsewhere.example.com/mcp"},
    "issuer": {
        "config": {
            "requiresOAuth": True,
            "oauthMetadata": {"authorization_servers": ["https://elsewhere.example.com"]},
        }
    },
    "resource": {
        "config": {
            "requiresOAuth": True,
            "oauthMetadata": {"resource": "https://example.com/another"},
        }
    },
    "token endpoint": {
        "config": {
            "requiresOAuth": True,
            "oauth": {"token_url": "https://elsewhere.example.com/token", "client_id": "client"},
        }
    },
    "server": {"id": "0" * 24},
}


@pytest.mark.parametrize("moved", ELSEWHERE)
async def test_a_token_is_not_sent_to_another_place_than_it_was_obtained_for(
    store: OAuthStore, alice: UserContext, moved: str
) -> None:
    server, replica = discovered(), store.replica()
    request = request_for(server)
    issuer = replace(request.server, issuer="https://as.example.com")
    await authorize(replica, alice, server, request=replace(request, server=issuer))
    elsewhere = replace(server, **ELSEWHERE[moved])

    here = await replica.tokens.get(alice, server)

    assert here.value == "a0"
    with pytest.raises(AuthorizationRequiredError):
        await replica.tokens.get(alice, replace(elsewhere, updated_at=replica.clock.now()))


async def test_a_pair_without_a_new_refresh_token_keeps_the_one_of_the_same_client_alone(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    again = Tokens("again", None, expires_in=3600)
    await authorize(replica, alice, server)

    await authorize(replica, alice, server, again)
    kept = await stored_values(store)
    request = request_for(server)
    client = replace(request.client, client_id="another")
    await authorize(replica, alice, server, again, replace(request, client=client))

    assert kept == {"mcp_oauth": "again", "mcp_oauth_refresh": "r0"}
    assert await stored_values(store) == {"mcp_oauth": "again"}


async def test_nothing_is_stored_for_a_flow_that_was_cancelled(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()

    with pytest.raises(FlowEndedError):
        await replica.tokens.store(
            alice, server, request_for(server), Tokens("a0", "r0"), "unknown"
        )

    assert await store.rows() == []


async def test_no_token_is_stored_in_clear(store: OAuthStore, alice: UserContext) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server, Tokens("s3cret-access", "s3cret-refresh"))

    assert "s3cret" not in str(await store.rows())
