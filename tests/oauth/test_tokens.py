"""Users' tokens in memory, and how they are renewed, against a real database."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from packages.models.states import FlowStatus
from registry.auth.identity import UserContext
from registry.oauth.errors import (
    AuthorizationRequiredError,
    AuthorizationUnavailableError,
    TokenRefusedError,
)
from registry.oauth.values import AccessToken, AuthorizationState
from registry.upstream.oauth.errors import (
    AuthorizationServerUnavailableError,
    InvalidClientError,
    OAuthError,
)
from registry.upstream.oauth.values import Tokens
from tests.fakes.clock import NOON
from tests.fakes.oauth.token_endpoint import RotatingTokenEndpoint
from tests.kit.waiting import in_background, others_ran, until
from tests.oauth.conftest import OAuthStore, Replica, authorize, flow_of, server_named

pytestmark = pytest.mark.wire


async def expire(store: OAuthStore, *replicas: Replica) -> None:
    """Let all stored access tokens expire."""
    await store.settled()
    past = replicas[0].clock.now() - timedelta(seconds=1)
    rows = store.database.collection("tokens")
    await rows.update_many(
        {"type": "mcp_oauth"},
        {"$set": {"expiresAt": past, "createdAt": past - timedelta(hours=1)}},
    )
    for replica in replicas:
        replica.tokens.clear()


async def nearly_expire(store: OAuthStore, replica: Replica) -> None:
    """Let all stored access tokens be used for two more minutes of an hour."""
    now = replica.clock.now()
    times = {"createdAt": now - timedelta(minutes=58), "expiresAt": now + timedelta(minutes=2)}
    await store.database.collection("tokens").update_many({"type": "mcp_oauth"}, {"$set": times})


async def test_an_authorised_user_gets_the_stored_token(
    store: OAuthStore, alice: UserContext, bob: UserContext
) -> None:
    server, replica, other = server_named(), store.replica(), store.replica()
    await authorize(replica, alice, server)

    here = await replica.tokens.get(alice, server)
    there = await other.tokens.get(alice, server)

    assert (here.value, there.value) == ("a0", "a0")
    assert here.scopes == frozenset({"read", "write"})
    with pytest.raises(AuthorizationRequiredError):
        await replica.tokens.get(bob, server)


async def test_a_token_in_memory_is_the_same_object_and_needs_no_database(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    before = replica.tokens.cached(alice.user_id, server.id)
    token = await replica.tokens.get(alice, server)
    await store.database.collection("tokens").delete_many({})

    assert before is None
    assert replica.tokens.cached(alice.user_id, server.id) is token
    assert await replica.tokens.get(alice, server) is token


async def test_a_token_that_is_read_again_unchanged_stays_the_same_object(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    token = await replica.tokens.get(alice, server)

    replica.tokens.changed([alice.user_id], [])

    assert replica.tokens.cached(alice.user_id, server.id) is None
    assert await replica.tokens.get(alice, server) is token


@pytest.mark.requirement("E-10")
async def test_calls_on_three_replicas_with_one_expired_token_make_one_refresh(
    store: OAuthStore, alice: UserContext
) -> None:
    server, endpoint = server_named(), RotatingTokenEndpoint()
    replicas = [store.replica(endpoint) for _ in range(3)]
    await authorize(replicas[0], alice, server)
    await expire(store, *replicas)

    calls = [replicas[number % 3].tokens.get(alice, server) for number in range(100)]
    found = await asyncio.gather(*calls)

    assert {token.value for token in found} == {"a1"}
    assert endpoint.asked == ["r0"]


async def test_calls_whose_token_was_refused_make_one_refresh(
    store: OAuthStore, alice: UserContext
) -> None:
    server, endpoint = server_named(), RotatingTokenEndpoint()
    replicas = [store.replica(endpoint) for _ in range(3)]
    await authorize(replicas[0], alice, server)
    refused = [await replica.tokens.get(alice, server) for replica in replicas]

    calls = [
        replicas[number % 3].tokens.renewed(alice, server, refused[number % 3])
        for number in range(100)
    ]
    found = await asyncio.gather(*calls)

    assert {token.value for token in found} == {"a1"}
    assert endpoint.asked == ["r0"]


async def test_a_new_token_that_is_refused_too_is_not_renewed_again(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    first = await replica.tokens.get(alice, server)
    second = await replica.tokens.renewed(alice, server, first)

    with pytest.raises(AuthorizationRequiredError):
        await replica.tokens.renewed(alice, server, second)

    assert replica.endpoint.asked == ["r0"]


async def test_a_refused_token_without_a_refresh_token_is_not_used_anywhere(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica, other = server_named(), store.replica(), store.replica()
    await authorize(replica, alice, server, Tokens("a0", None, expires_in=3600))
    token = await replica.tokens.get(alice, server)

    with pytest.raises(AuthorizationRequiredError):
        await replica.tokens.renewed(alice, server, token)
    with pytest.raises(AuthorizationRequiredError):
        await other.tokens.get(alice, server)

    states = await other.tokens.states(alice, [server])
    assert states[server.id] == AuthorizationState(needs_reauth=True)


@pytest.mark.requirement("E-11")
async def test_a_refused_refresh_token_needs_the_user_until_they_authorise_again(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica, other = server_named(), store.replica(), store.replica()
    await authorize(replica, alice, server, Tokens("a0", "unknown", expires_in=3600))
    await expire(store, replica)

    with pytest.raises(AuthorizationRequiredError) as required:
        await replica.tokens.get(alice, server)
    with pytest.raises(AuthorizationRequiredError):
        await other.tokens.get(alice, server)
    states = await other.tokens.states(alice, [server])
    await authorize(other, alice, server)

    assert required.value.link.url.startswith("https://registry.example.com/")
    assert states[server.id] == AuthorizationState(needs_reauth=True)
    assert (await other.tokens.get(alice, server)).value == "a0"
    assert (replica.endpoint.asked, other.endpoint.asked) == (["unknown"], [])
    assert replica.refreshes("refused") == 1


@pytest.mark.requirement("E-12")
async def test_an_answer_without_a_refresh_token_keeps_the_old_one(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    replica.endpoint.is_rotating = False
    await authorize(replica, alice, server)

    for number in (1, 2):
        await expire(store, replica)
        assert (await replica.tokens.get(alice, server)).value == f"a{number}"

    assert replica.endpoint.asked == ["r0", "r0"]


@pytest.mark.requirement("E-12")
async def test_an_answer_without_an_expiry_is_renewed_within_an_hour_and_used_after_it(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server, Tokens("a0", "r0"))

    token = await replica.tokens.get(alice, server)

    [row] = await store.rows(type="mcp_oauth")
    now = replica.clock.now()
    assert now + timedelta(days=360) < token.expires_at
    assert now + timedelta(minutes=50) < token.refresh_at < now + timedelta(hours=1)
    assert now + timedelta(days=364) < row["expiresAt"] <= now + timedelta(days=365)


@pytest.mark.parametrize(
    "failure",
    [
        AuthorizationServerUnavailableError("away"),
        # Of the client that a person configured: they correct it, and the tokens work again.
        InvalidClientError("unknown", "invalid_client"),
    ],
    ids=["unavailable", "invalid_client"],
)
async def test_tokens_are_kept_when_the_authorization_server_fails(
    store: OAuthStore, alice: UserContext, failure: OAuthError
) -> None:
    server, replica, other = server_named(), store.replica(), store.replica()
    await authorize(replica, alice, server)
    await expire(store, replica)
    replica.endpoint.failure = failure

    for _ in range(3):
        with pytest.raises(AuthorizationUnavailableError):
            await replica.tokens.get(alice, server)

    assert replica.endpoint.asked == ["r0"]
    assert replica.refreshes("unavailable") == 1
    assert (await other.tokens.get(alice, server)).value == "a1"


async def test_a_failure_is_known_until_other_tokens_are_stored_whatever_else_changes(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    await expire(store, replica)
    replica.endpoint.failure = AuthorizationServerUnavailableError("It is away.")
    with pytest.raises(AuthorizationUnavailableError):
        await replica.tokens.get(alice, server)

    async def is_of_what_is_stored() -> bool:
        problem = replica.tokens.problem(alice.user_id, server.id)
        states = await replica.tokens.states(alice, [server])
        assert problem is not None
        return problem.authorization == states[server.id].identity

    # What comes late, or is about another server: the event does not say which.
    replica.tokens.changed([alice.user_id], [])
    still = await is_of_what_is_stored()
    replica.endpoint.failure = None
    await authorize(store.replica(), alice, server)
    replica.tokens.changed([alice.user_id], [])

    assert still
    assert not await is_of_what_is_stored()


async def test_the_old_token_is_used_while_it_cannot_be_renewed_ahead_of_its_expiry(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    await nearly_expire(store, replica)
    replica.endpoint.failure = AuthorizationServerUnavailableError("away")
    token = await replica.tokens.get(alice, server)

    again = replica.tokens.cached(alice.user_id, server.id)
    await until(lambda: replica.refreshes("unavailable") == 1)

    assert again is token
    assert replica.tokens.cached(alice.user_id, server.id) is token
    assert replica.endpoint.asked == ["r0"]


async def test_a_token_is_renewed_in_the_background_ahead_of_its_expiry(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    await nearly_expire(store, replica)
    await replica.tokens.get(alice, server)

    def current() -> str | None:
        token = replica.tokens.cached(alice.user_id, server.id)
        return None if token is None else token.value

    assert current() == "a0"
    await until(lambda: current() == "a1")
    assert replica.endpoint.asked == ["r0"]


async def test_a_wait_for_a_token_ends_when_another_replica_stored_it(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica, other = server_named(), store.replica(), store.replica()
    with pytest.raises(AuthorizationRequiredError) as required:
        await replica.tokens.get(alice, server)

    flow_id = required.value.link.flow_id

    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(replica.tokens.arrived(alice.user_id, server.id, flow_id, 30))
        await authorize(other, alice, server)
        replica.tokens.changed([alice.user_id], [])

    assert waiting.result()
    assert (await replica.tokens.get(alice, server)).value == "a0"


@pytest.mark.parametrize(("how", "arrives"), [("failed", False), ("completed", True)])
async def test_a_wait_for_a_token_ends_with_its_flow(
    store: OAuthStore, alice: UserContext, how: str, *, arrives: bool
) -> None:

    server, replica = server_named(), store.replica()
    await replica.flows.insert(flow_of(alice, server, "one", FlowStatus(how)))

    assert await replica.tokens.arrived(alice.user_id, server.id, "one", 30) is arrives


async def test_removed_tokens_are_returned_for_their_revocation_and_used_no_more(
    store: OAuthStore, alice: UserContext, bob: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    await authorize(replica, bob, server)
    await replica.tokens.get(alice, server)

    removed = await replica.tokens.remove(alice, server)

    assert removed is not None
    assert (removed.access_token, removed.refresh_token) == ("a0", "r0")
    assert removed.request is not None
    assert removed.request.client.client_id == "client"
    assert await replica.tokens.remove(alice, server) is None
    with pytest.raises(AuthorizationRequiredError):
        await replica.tokens.get(alice, server)
    assert (await replica.tokens.get(bob, server)).value == "a0"


async def test_tokens_that_were_removed_during_a_renewal_stay_removed(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica, other = server_named(), store.replica(), store.replica()
    await authorize(replica, alice, server)
    await expire(store, replica)
    replica.endpoint.open.clear()

    async def remove() -> None:
        await until(lambda: replica.endpoint.asked)
        await other.tokens.remove(alice, server)
        replica.endpoint.open.set()

    async with in_background(remove()):
        with pytest.raises(AuthorizationRequiredError):
            await replica.tokens.get(alice, server)

    assert await store.rows(type={"$in": ["mcp_oauth", "mcp_oauth_refresh"]}) == []


async def test_a_deleted_row_is_used_no_more(store: OAuthStore, alice: UserContext) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    await replica.tokens.get(alice, server)
    [row] = await store.rows(type="mcp_oauth")
    await store.database.collection("tokens").delete_many({})

    replica.tokens.changed([], [str(row["_id"])])

    assert replica.tokens.cached(alice.user_id, server.id) is None
    with pytest.raises(AuthorizationRequiredError):
        await replica.tokens.get(alice, server)


async def test_a_change_during_a_read_is_not_missed(store: OAuthStore, alice: UserContext) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(replica.tokens.get(alice, server))
        await others_ran()
        replica.tokens.changed([alice.user_id], [])

    assert reading.result().value == "a0"
    assert replica.tokens.cached(alice.user_id, server.id) is None


async def test_a_change_after_a_read_leaves_those_who_waited_with_what_was_read(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(replica.tokens.get(alice, server))
        while replica.tokens.cached(alice.user_id, server.id) is None:
            await others_ran()

        replica.tokens.changed([alice.user_id], [])

        assert not waiting.done()
        assert replica.tokens.cached(alice.user_id, server.id) is None

    assert waiting.result().value == "a0"


async def test_who_asks_after_a_change_gets_nothing_that_was_read_before(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica, other = server_named(), store.replica(), store.replica()
    replica.stored.may_answer.clear()
    before = asyncio.ensure_future(replica.tokens.get(alice, server))
    await replica.stored.was_read.wait()
    await authorize(other, alice, server)
    replica.tokens.changed([alice.user_id], [])

    after = asyncio.ensure_future(replica.tokens.get(alice, server))
    await others_ran()
    replica.stored.may_answer.set()

    assert (await after).value == "a0"
    with pytest.raises(AuthorizationRequiredError):
        await before


async def test_tokens_of_a_changed_server_are_looked_at_again(
    store: OAuthStore, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    await authorize(replica, alice, server)
    await replica.tokens.get(alice, server)

    replica.tokens.forget([server.id])

    assert replica.tokens.cached(alice.user_id, server.id) is None


async def test_the_least_recently_used_tokens_are_dropped_first(
    store: OAuthStore, alice: UserContext
) -> None:
    servers = [server_named(name) for name in ("one", "two", "three")]
    replica = store.replica(max_entries=2)
    for server in servers:
        await authorize(replica, alice, server)
    await replica.tokens.get(alice, servers[0])
    await replica.tokens.get(alice, servers[1])
    replica.tokens.cached(alice.user_id, servers[0].id)

    await replica.tokens.get(alice, servers[2])

    kept = [replica.tokens.cached(alice.user_id, server.id) is not None for server in servers]
    assert kept == [True, False, True]


async def test_the_own_token_of_the_registry_is_shared_by_all_users_and_stored_nowhere(
    store: OAuthStore, alice: UserContext, bob: UserContext
) -> None:
    server = server_named(grant_types_supported=["client_credentials"], scope="read")
    replica = store.replica()

    tokens = await asyncio.gather(
        *(replica.tokens.get(user, server) for user in (alice, bob) for _ in range(5))
    )

    assert {token.value for token in tokens} == {"own1"}
    assert replica.tokens.cached(bob.user_id, server.id) is tokens[0]
    assert replica.endpoint.requests[0].scopes == ("read",)
    assert (await replica.tokens.states(alice, [server]))[server.id].is_authorized
    assert await store.rows() == []


async def test_a_refused_own_token_is_obtained_again(
    store: OAuthStore, alice: UserContext
) -> None:
    server = server_named(grant_types_supported=["client_credentials"])
    replica = store.replica()
    token = await replica.tokens.get(alice, server)

    again = await replica.tokens.renewed(alice, server, token)

    assert (token.value, again.value) == ("own1", "own2")


async def test_without_an_answer_for_its_own_token_no_user_is_asked(
    store: OAuthStore, alice: UserContext
) -> None:
    server = server_named(grant_types_supported=["client_credentials"])
    replica = store.replica()
    replica.endpoint.failure = InvalidClientError("The client is unknown.", "invalid_client")

    with pytest.raises(TokenRefusedError, match="could be obtained: The client is unknown") as no:
        await replica.tokens.get(alice, server)

    problem = replica.tokens.problem(alice.user_id, server.id)
    assert no.value.facts == {}
    assert problem is not None
    assert problem.message == no.value.message


async def test_an_assertion_about_the_caller_is_exchanged(
    store: OAuthStore, alice: UserContext, bob: UserContext
) -> None:
    grant = "urn:ietf:params:oauth:grant-type:token-exchange"
    server = server_named(grant_types_supported=[grant])
    signed: list[dict[str, Any]] = []

    def sign(claims: Any) -> str:
        signed.append(dict(claims))
        return f"signed-{len(signed)}"

    replica = store.replica(sign=sign)

    tokens = [await replica.tokens.get(user, server) for user in (alice, bob, alice)]

    assert [token.value for token in tokens] == ["own1", "own2", "own1"]
    assert replica.endpoint.assertions == ["signed-1", "signed-2"]
    assert [claims["sub"] for claims in signed] == [alice.user_id, bob.user_id]
    assert {claims["aud"] for claims in signed} == {"https://as.example.com/token"}
    assert all(0 < claims["exp"] - claims["iat"] <= 300 for claims in signed)


async def test_states_of_many_servers_say_what_is_known_of_each(
    store: OAuthStore, alice: UserContext
) -> None:

    names = ("fresh", "renewable", "failing", "pending", "none")
    servers = {name: server_named(name) for name in names}
    replica = store.replica()
    await authorize(replica, alice, servers["renewable"])
    await expire(store, replica)
    await authorize(replica, alice, servers["fresh"], Tokens("a0", None, expires_in=3600))
    for name, status in (("failing", FlowStatus.FAILED), ("pending", FlowStatus.PENDING)):
        await replica.flows.insert(flow_of(alice, servers[name], name, status))

    found = await replica.tokens.states(alice, servers.values())
    identity = found[servers["renewable"].id].identity

    assert identity is not None
    assert {name: found[server.id] for name, server in servers.items()} == {
        "fresh": AuthorizationState(is_authorized=True),
        "renewable": AuthorizationState(is_authorized=True, identity=identity),
        "failing": AuthorizationState(has_failed=True),
        "pending": AuthorizationState(is_under_way=True),
        "none": AuthorizationState(),
    }


def test_a_token_is_not_shown_by_its_representation() -> None:

    assert "s3cret" not in repr(AccessToken("s3cret", None, NOON, NOON))
