"""Flows and registered clients at rest, against a real server."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from packages.database.client import Database
from packages.database.encryption import Cipher, FieldRef
from packages.models.states import FlowStatus
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.oauth.repository import OPEN, OAuthClientRepository, OAuthFlowRepository
from registry.oauth.values import OAuthFlow
from registry.operations.rotation import rotate
from registry.upstream.oauth.values import ClientAuthentication, ClientKind, OAuthClientIdentity
from tests.conftest import CREDS_IV, CREDS_KEY
from tests.oauth.conftest import OAuthStore, authorize, server_named

pytestmark = pytest.mark.wire

NOW = SystemClock().now()
SOON = NOW + timedelta(minutes=10)
SERVER_ID, OTHER_ID = "c" * 24, "d" * 24
ISSUER, URI = "https://as.example.com", "https://registry.example.com/callback"
VERIFIER = "v3rifier-v3rifier"
CLIENT = OAuthClientIdentity(
    "client",
    ClientKind.REGISTERED,
    ClientAuthentication.CLIENT_SECRET_POST,
    "s3cret-s3cret",
    document={"client_id": "client", "client_secret": "s3cret-s3cret"},
)


@pytest.fixture
def flows(database: Database, cipher: Cipher) -> OAuthFlowRepository:
    return OAuthFlowRepository(database, cipher)


@pytest.fixture
def clients(database: Database, cipher: Cipher) -> OAuthClientRepository:
    return OAuthClientRepository(database, cipher, SystemClock())


def flow_of(user: UserContext, flow_id: str = "one", **changed: Any) -> OAuthFlow:
    """Return a flow whose browser was sent to the authorization server."""
    members = {
        "id": flow_id,
        "user_id": user.user_id,
        "username": user.username,
        "server_id": SERVER_ID,
        "server_name": "github",
        "server_url": "https://example.com/mcp",
        "configuration": "digest",
        "status": FlowStatus.PENDING,
        "browser": "0" * 64,
        "nonce": "nonce",
        "issuer": ISSUER,
        "authorization_server": {"token_endpoint": "https://as.example.com/token"},
        "resource_issuers": [ISSUER],
        "client_id": "client",
        "redirect_uri": URI,
        "scopes": ["read", "write"],
        "resource": "https://example.com/mcp",
        "code_verifier": VERIFIER,
        "created_at": NOW,
        "updated_at": NOW,
        "expires_at": SOON,
        **changed,
    }
    return OAuthFlow.model_validate(members)


async def test_a_claimed_flow_is_as_it_was_stored(
    flows: OAuthFlowRepository, alice: UserContext
) -> None:
    await flows.insert(flow_of(alice))

    claimed = await flows.claim("one", "nonce", NOW)

    assert claimed == flow_of(alice, status=FlowStatus.EXCHANGING)


async def test_of_callbacks_at_once_one_gets_the_flow(
    flows: OAuthFlowRepository, alice: UserContext
) -> None:
    await flows.insert(flow_of(alice))

    claimed = await asyncio.gather(*(flows.claim("one", "nonce", NOW) for _ in range(8)))

    assert [flow.code_verifier for flow in claimed if flow is not None] == [VERIFIER]


async def test_a_flow_that_is_begun_again_is_claimed_with_its_new_nonce_alone(
    flows: OAuthFlowRepository, alice: UserContext
) -> None:
    first = await flows.begin(flow_of(alice))
    second = await flows.begin(flow_of(alice, nonce="another", code_verifier="another"))

    former = await flows.claim("one", "nonce", NOW)
    current = await flows.claim("one", "another", NOW)

    assert (first, second, former) == (True, True, None)
    assert current is not None
    assert current.code_verifier == "another"


async def test_a_flow_is_not_begun_for_another_user_or_after_it_ended(
    flows: OAuthFlowRepository, alice: UserContext, bob: UserContext
) -> None:
    await flows.insert(flow_of(alice))
    await flows.insert(flow_of(alice, "over", status=FlowStatus.FAILED))

    by_another = await flows.begin(flow_of(bob))
    after_its_end = await flows.begin(flow_of(alice, "over"))

    stored = await flows.find("one")
    assert (by_another, after_its_end) == (False, False)
    assert stored is not None
    assert stored.user_id == alice.user_id


@pytest.mark.parametrize("moment", [SOON, SOON + timedelta(days=1)])
async def test_an_expired_flow_is_not_claimed_and_counts_as_failed(
    flows: OAuthFlowRepository, alice: UserContext, moment: datetime
) -> None:
    flow = flow_of(alice)
    await flows.insert(flow)

    assert await flows.claim("one", "nonce", moment) is None
    assert flow.status_at(moment) is FlowStatus.FAILED


@pytest.mark.parametrize(
    ("status", "was", "is_ended"),
    [
        (FlowStatus.PENDING, OPEN, True),
        (FlowStatus.EXCHANGING, OPEN, True),
        (FlowStatus.EXCHANGING, [FlowStatus.PENDING], False),
        (FlowStatus.COMPLETED, OPEN, False),
        (FlowStatus.CANCELLED, OPEN, False),
    ],
)
async def test_a_flow_is_ended_only_where_it_has_the_former_status(
    flows: OAuthFlowRepository,
    alice: UserContext,
    status: FlowStatus,
    was: Sequence[FlowStatus],
    *,
    is_ended: bool,
) -> None:
    await flows.insert(flow_of(alice, status=status))
    ended = await flows.end("one", FlowStatus.FAILED, "access_denied", NOW, was=was)

    flow = await flows.find("one")
    assert flow is not None
    assert ended is is_ended
    assert (flow.code_verifier is None) is is_ended
    assert (flow.status, flow.reason) == (
        (FlowStatus.FAILED, "access_denied") if is_ended else (status, None)
    )


async def test_the_latest_flow_of_each_server_is_found(
    flows: OAuthFlowRepository, alice: UserContext, bob: UserContext
) -> None:
    later = NOW + timedelta(seconds=1)
    await flows.insert(flow_of(alice, "new", created_at=later))
    await flows.insert(flow_of(alice, "old"))
    await flows.insert(flow_of(alice, "else", server_id=OTHER_ID))
    await flows.insert(flow_of(alice, "unasked", server_id="e" * 24))
    await flows.insert(flow_of(bob, "anothers", created_at=later))

    found = await flows.latest_of(alice.user_id, [SERVER_ID, OTHER_ID], NOW)

    assert {key: flow.id for key, flow in found.items()} == {SERVER_ID: "new", OTHER_ID: "else"}


async def test_an_unknown_status_counts_as_failed(
    database: Database, flows: OAuthFlowRepository, alice: UserContext
) -> None:
    await flows.insert(flow_of(alice))
    rows = database.collection("oauth_flows")
    row = await rows.find_one({"_id": "one"}) or {}
    await rows.delete_one({"_id": "one"})
    await rows.insert_one({**row, "status": "paused"}, bypass_document_validation=True)

    flow = await flows.find("one")

    assert flow is not None
    assert flow.status is FlowStatus.FAILED


async def test_flows_are_removed_with_their_server(
    database: Database, flows: OAuthFlowRepository, alice: UserContext
) -> None:
    await flows.insert(flow_of(alice))
    await flows.insert(flow_of(alice, "else", server_id=OTHER_ID))

    await database.transaction(lambda tx: flows.delete_of(SERVER_ID, NOW, tx))

    assert await flows.find("one") is None
    assert await flows.find("else") is not None


async def test_a_registered_client_is_found_by_issuer_redirect_uri_and_tenant(
    clients: OAuthClientRepository,
) -> None:
    await clients.store(ISSUER, URI, None, CLIENT)

    assert await clients.find(ISSUER, URI, None) == CLIENT
    assert await clients.find(ISSUER, URI, "tenant") is None
    assert await clients.find(ISSUER, f"{URI}/", None) is None
    assert await clients.find(f"{ISSUER}/", URI, None) is None


async def test_of_clients_that_are_registered_at_once_the_first_is_kept(
    clients: OAuthClientRepository,
) -> None:
    stored = await asyncio.gather(
        *(clients.store(ISSUER, URI, None, replace(CLIENT, client_id=str(n))) for n in range(5))
    )

    assert {client.client_id for client in stored} == {stored[0].client_id}


@pytest.mark.parametrize("damage", ["expired", "damaged"])
async def test_a_client_that_cannot_be_used_is_replaced(
    database: Database, clients: OAuthClientRepository, damage: str
) -> None:
    ends_at = int(NOW.timestamp()) if damage == "expired" else None
    await clients.store(ISSUER, URI, None, replace(CLIENT, expires_at=ends_at))
    rows = database.collection("oauth_clients")
    await rows.update_one({"expires_at": None}, {"$set": {"client": "no ciphertext"}})

    found = await clients.find(ISSUER, URI, None)
    stored = await clients.store(ISSUER, URI, None, replace(CLIENT, client_id="new"))

    assert (found, stored.client_id) == (None, "new")


async def test_a_lost_client_is_removed_but_not_its_replacement(
    clients: OAuthClientRepository,
) -> None:
    await clients.store(ISSUER, URI, None, replace(CLIENT, client_id="new"))

    await clients.remove(ISSUER, URI, None, "client")
    kept = await clients.find(ISSUER, URI, None)
    await clients.remove(ISSUER, URI, None, "new")

    assert kept is not None
    assert await clients.find(ISSUER, URI, None) is None


async def test_no_secret_is_stored_in_clear(
    database: Database,
    flows: OAuthFlowRepository,
    clients: OAuthClientRepository,
    alice: UserContext,
) -> None:
    await flows.insert(flow_of(alice))
    await clients.store(ISSUER, URI, None, CLIENT)

    rows = [
        row
        for name in ("oauth_flows", "oauth_clients")
        for row in await database.collection(name).find({}).to_list()
    ]

    assert len(rows) == 2
    assert VERIFIER not in str(rows)
    assert "s3cret" not in str(rows)


@pytest.mark.requirement("R-305")
async def test_what_is_stored_is_readable_after_the_keys_were_changed(
    store: OAuthStore, database: Database, cipher: Cipher, alice: UserContext
) -> None:
    server, replica = server_named(), store.replica()
    new_key = "c4" * 32
    await authorize(replica, alice, server)
    await replica.flows.insert(flow_of(alice))
    await OAuthClientRepository(database, cipher, SystemClock()).store(ISSUER, URI, None, CLIENT)

    both = Cipher(new_key, CREDS_IV, previous_keys=[CREDS_KEY])
    done = await rotate(database, both)

    new = Cipher(new_key, CREDS_IV)
    clients = OAuthClientRepository(database, new, SystemClock())
    claimed = await OAuthFlowRepository(database, new).claim("one", "nonce", NOW)
    rows = await store.rows()
    values = {
        row["type"]: new.decrypt(row["token"], FieldRef("tokens", str(row["_id"]), "token"))
        for row in rows
    }
    assert done.is_complete
    assert done.rewritten == {"tokens": 3, "oauth_flows": 1, "oauth_clients": 1}
    assert claimed is not None
    assert claimed.code_verifier == VERIFIER
    assert await clients.find(ISSUER, URI, None) == CLIENT
    assert (values["mcp_oauth"], values["mcp_oauth_refresh"]) == ("a0", "r0")
