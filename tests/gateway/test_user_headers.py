"""Headers made of users' own keys: what is remembered of them, and for which address."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

import pytest
from bson import ObjectId

from packages.database.encryption import Cipher
from registry.gateway.values import Credentials, Route
from registry.gateway.view.user_headers import UserHeaders
from registry.oauth.errors import AuthorizationRequiredError
from registry.oauth.values import AccessToken
from registry.servers.credentials import CredentialVault
from registry.servers.errors import ServerMovedError, UserKeyMissingError
from registry.servers.values import ServerRecord
from tests.conftest import ALICE, BOB, CREDS_IV, CREDS_KEY
from tests.fakes.clock import NOON, FakeClock
from tests.fakes.oauth.access_tokens import FakeAccessTokens, make_oauth_server, token_of
from tests.gateway.fakes import make_route

OLD_URL, NEW_URL = "https://old.example/mcp", "https://new.example/mcp"
OLD = make_route(OLD_URL, per_user=True, modified_at=NOON)
NEW = make_route(NEW_URL, per_user=True, modified_at=NOON + timedelta(seconds=1))


class Stored:
    """A user's key and a server's address, each read as slowly as a test likes."""

    def __init__(self, key: str | None, url: str) -> None:
        self.key = key
        self.url = url
        self.reads = 0
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def values(
        self,
        user_id: str,
        server_name: str,  # noqa: ARG002 - there is one
        since: datetime | None,  # noqa: ARG002 - it is as old as its server
    ) -> dict[str, str]:
        """Return Alice's key as it is when the read begins."""
        self.reads += 1
        self.began.set()
        found = {"MCP_API_KEY": self.key} if self.key and user_id == ALICE.user_id else {}
        await self.may_end.wait()
        return found

    async def url_unchecked(self, server_id: str) -> object:  # noqa: ARG002 - there is one
        """Return the address as it is now."""
        return self.url


def made(stored: Stored, clock: FakeClock | None = None) -> UserHeaders:
    vault = CredentialVault(Cipher(CREDS_KEY, CREDS_IV))
    return UserHeaders(stored, stored, vault, FakeAccessTokens(), clock or FakeClock())


def server_of(route: Route) -> ServerRecord:
    """Return the configuration that *route* was made of."""
    return ServerRecord.model_validate(
        {
            "_id": ObjectId("5" * 24),
            "serverName": route.server_name,
            "config": {"apiKey": {"source": "user", "authorization_type": "bearer"}},
            "updatedAt": route.modified_at,
        }
    )


FIXED_HEADERS = {"Accept-Encoding", "User-Agent", "Via"}


async def sent(headers: UserHeaders, route: Route) -> Mapping[str, str]:
    """Return what a call of Alice over *route* sends."""
    found = headers.cached(ALICE, route) or await headers.read(ALICE, route, server_of(route))
    return {name: value for name, value in found.headers.items() if name not in FIXED_HEADERS}


async def test_a_key_is_read_once() -> None:
    stored = Stored("sk-old", OLD_URL)
    headers = made(stored)

    first, second = await sent(headers, OLD), await sent(headers, OLD)

    assert first == second == {"Authorization": "Bearer sk-old"}
    assert stored.reads == 1


async def test_what_changes_of_one_server_costs_others_nothing() -> None:
    stored = Stored("sk-old", OLD_URL)
    headers = made(stored)
    other = make_route(OLD_URL, slug="other", per_user=True, modified_at=NOON)
    await sent(headers, OLD)
    await sent(headers, other)

    headers.forget([OLD.server_id])

    assert headers.cached(ALICE, OLD) is None
    assert headers.cached(ALICE, other) is not None


@pytest.mark.parametrize("is_one", [True, False])
async def test_a_key_that_was_removed_while_it_was_read_is_not_remembered(*, is_one: bool) -> None:
    stored = Stored("sk-old", OLD_URL)
    headers = made(stored)
    stored.may_end.clear()
    in_flight = asyncio.ensure_future(sent(headers, OLD))
    await stored.began.wait()

    stored.key = None
    forget = partial(headers.forget, [OLD.server_id]) if is_one else headers.clear
    forget()
    stored.may_end.set()
    await in_flight

    with pytest.raises(UserKeyMissingError):
        await sent(headers, OLD)


async def test_a_key_read_while_its_server_moves_goes_to_neither_address() -> None:
    stored = Stored("sk-old", OLD_URL)
    headers = made(stored)
    stored.may_end.clear()
    in_flight = asyncio.ensure_future(sent(headers, OLD))
    await stored.began.wait()

    stored.key, stored.url = None, NEW_URL
    headers.clear()
    stored.may_end.set()

    with pytest.raises(ServerMovedError):
        await in_flight
    with pytest.raises(UserKeyMissingError):
        await sent(headers, NEW)


async def test_a_key_for_the_new_address_is_not_sent_to_the_old_one() -> None:
    stored = Stored("sk-new", NEW_URL)
    headers = made(stored)

    with pytest.raises(ServerMovedError):
        await sent(headers, OLD)

    assert await sent(headers, NEW) == {"Authorization": "Bearer sk-new"}


async def test_what_is_remembered_for_one_version_of_a_server_is_not_used_for_another() -> None:
    stored = Stored("sk-old", OLD_URL)
    headers = made(stored)
    await sent(headers, OLD)

    later = replace(OLD, modified_at=NOON + timedelta(seconds=1))

    assert headers.cached(ALICE, OLD) is not None
    assert headers.cached(ALICE, later) is None
    assert headers.cached(ALICE, NEW) is None
    assert headers.cached(BOB, OLD) is None


async def test_a_key_is_read_again_after_a_while() -> None:
    stored, clock = Stored("sk-old", OLD_URL), FakeClock()
    headers = made(stored, clock)
    await sent(headers, OLD)

    clock.move(301)
    await sent(headers, OLD)

    assert stored.reads == 2


class Authorised:
    """A server that takes Alice's access token, and the cache of what is sent to it."""

    def __init__(self, config: dict[str, object] | None = None) -> None:
        self.stored = Stored("sk-alice", OLD_URL)
        self.tokens = FakeAccessTokens()
        self.config = {"requiresOAuth": True, **(config or {})}
        oauth = make_oauth_server(OLD.server_id, OLD_URL)
        self.route = make_route(OLD_URL, oauth=oauth, headers={}, modified_at=NOON)
        vault = CredentialVault(Cipher(CREDS_KEY, CREDS_IV))
        self.headers = UserHeaders(self.stored, self.stored, vault, self.tokens, FakeClock())

    async def sent(self) -> Credentials:
        """Return what a call of Alice sends."""
        cached = self.headers.cached(ALICE, self.route)
        return cached or await self.headers.read(ALICE, self.route, self._record())

    async def renewed(self, rejected: AccessToken) -> Credentials:
        """Return what a call of Alice sends after a token was rejected."""
        return await self.headers.renewed(ALICE, self.route, self._record(), rejected)

    def _record(self) -> ServerRecord:
        record = {"_id": ObjectId("5" * 24), "serverName": "demo", "config": self.config}
        return ServerRecord.model_validate({**record, "updatedAt": NOON})


async def test_headers_with_an_access_token_are_made_once() -> None:
    authorised = Authorised()
    authorised.tokens.give(ALICE.user_id, OLD.server_id, "t-1")

    first, second = await authorised.sent(), await authorised.sent()

    assert first is second
    assert first.headers["Authorization"] == "Bearer t-1"
    assert "Authorization: Bearer t-1\r\n" in first.lines.text
    assert authorised.tokens.asked == 1


async def test_headers_with_a_token_that_was_replaced_are_not_used() -> None:
    authorised = Authorised()
    for value in ("t-1", "t-2"):
        authorised.tokens.give(ALICE.user_id, OLD.server_id, value)
        assert (await authorised.sent()).headers["Authorization"] == f"Bearer {value}"


async def test_headers_with_a_token_that_was_revoked_are_not_used() -> None:
    authorised = Authorised()
    authorised.tokens.give(ALICE.user_id, OLD.server_id, "t-1")
    await authorised.sent()

    authorised.tokens.held.clear()

    with pytest.raises(AuthorizationRequiredError):
        await authorised.sent()


async def test_a_renewed_token_is_sent_from_then_on() -> None:
    authorised = Authorised()
    rejected = authorised.tokens.give(ALICE.user_id, OLD.server_id, "t-1")
    await authorised.sent()
    authorised.tokens.next[ALICE.user_id, OLD.server_id] = token_of("t-2")

    renewed = await authorised.renewed(rejected)

    assert await authorised.sent() is renewed
    assert renewed.headers["Authorization"] == "Bearer t-2"


async def test_a_token_takes_the_place_of_a_stored_authorization_and_of_nothing_else() -> None:
    authorised = Authorised(
        {
            "headers": {"authorization": "{{LIBRECHAT_USER_ID}}", "X-Team": "red"},
            "apiKey": {"source": "user", "authorization_type": "custom", "custom_header": "X-Key"},
        }
    )
    authorised.tokens.give(ALICE.user_id, OLD.server_id, "t-1")

    sent = (await authorised.sent()).headers

    assert sent.getall("Authorization") == ["Bearer t-1"]
    assert (sent["X-Team"], sent["X-Key"]) == ("red", "sk-alice")


async def test_a_token_is_not_sent_to_a_server_that_has_moved() -> None:
    authorised = Authorised()
    authorised.tokens.give(ALICE.user_id, OLD.server_id, "t-1")
    authorised.stored.url = NEW_URL

    with pytest.raises(ServerMovedError):
        await authorised.sent()
