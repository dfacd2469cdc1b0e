"""From an Authorization header to a caller, and what is remembered of it."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from jose import jwt
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)
from typing_extensions import override

from packages.database.client import Database
from packages.database.errors import DatabaseUnavailable
from packages.models.sessions import RevocationKind
from registry.auth.bearer import BearerAuthenticator
from registry.auth.errors import UnauthorizedError
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, Scope, UserContext
from registry.auth.jwt import TokenIssuer, TokenVerifier, VerifiedToken
from registry.auth.repository import DirectoryRepository
from registry.auth.revocation import Revocation, RevocationList
from registry.auth.values import DirectoryEntry
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from tests.fakes.clock import FakeClock

ALICE = "a" * 24
SHARED_SECRET = "a secret that jarvis-api shares"
CACHE_SECONDS = 15.0
OUTAGE_SECONDS = 60.0
LEEWAY_SECONDS = 10.0
HOUR = timedelta(hours=1)


@dataclass(slots=True)
class FakeDirectory:
    """Implements registry.auth.bearer.Directory."""

    entries: dict[str, DirectoryEntry] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def get(self, user_id: str) -> DirectoryEntry | None:
        """Answer from the entries."""
        self.asked.append(user_id)
        return self.entries.get(user_id)


@dataclass(slots=True)
class FakeRevocations:
    """Implements registry.auth.revocation.RevocationSource."""

    stored: list[Revocation] = field(default_factory=list)

    async def unexpired(self, now: datetime) -> list[Revocation]:
        """Return what is stored."""
        return [item for item in self.stored if item.expires_at > now]


class FindCounter(CommandListener):
    """Counts the commands that are sent."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    @override
    def started(self, event: CommandStartedEvent) -> None:
        self.commands.append(event.command_name)

    @override
    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    @override
    def failed(self, event: CommandFailedEvent) -> None:
        pass


@pytest.fixture
def clock() -> FakeClock:
    # The JWT library tells the time by the machine's clock, so both start together.
    return FakeClock(SystemClock().now())


@pytest.fixture
def directory() -> FakeDirectory:
    return FakeDirectory({ALICE: DirectoryEntry("USER", "alice", frozenset({"9" * 24}))})


@pytest.fixture
def authenticator(
    verifier: TokenVerifier, directory: FakeDirectory, clock: FakeClock
) -> BearerAuthenticator:
    return authenticator_with(verifier, directory, clock)


def authenticator_with(
    verifier: TokenVerifier,
    directory: Any,
    clock: FakeClock,
    revocations: RevocationList | None = None,
) -> BearerAuthenticator:
    return BearerAuthenticator(
        verifier,
        directory,
        revocations or RevocationList(FakeRevocations(), clock),
        clock=clock,
        metrics=Metrics(),
        user_cache_seconds=CACHE_SECONDS,
        outage_seconds=OUTAGE_SECONDS,
        leeway_seconds=LEEWAY_SECONDS,
    )


def own(
    issuer: TokenIssuer,
    role: Role = Role.USER,
    lifetime: timedelta = HOUR,
    user_id: str = ALICE,
    *,
    scopes: Iterable[str] = (Scope.READ_SERVERS,),
    is_service_account: bool = False,
) -> str:
    token = issuer.issue(
        user_id=user_id,
        username="alice",
        role=role,
        scopes=frozenset(scopes),
        lifetime=lifetime,
        is_service_account=is_service_account,
    )
    return f"Bearer {token}"


def shared(clock: FakeClock, user_id: str = ALICE) -> str:
    claims = {"id": user_id, "exp": int(clock.now().timestamp()) + 3600}
    return f"Bearer {jwt.encode(claims, SHARED_SECRET, algorithm='HS256')}"


@pytest.mark.requirement("R-240")
async def test_a_token_of_ours_says_who_calls_and_what_they_may(
    authenticator: BearerAuthenticator, issuer: TokenIssuer
) -> None:
    caller = await authenticator.authenticate(own(issuer))

    assert caller.token_id is not None
    assert caller == UserContext(
        user_id=ALICE,
        username="alice",
        role=Role.USER,
        scopes=frozenset({Scope.READ_SERVERS}),
        groups=frozenset({"9" * 24}),
        token_id=caller.token_id,
        role_name="USER",
    )


@pytest.mark.requirement("R-240")
@pytest.mark.parametrize(
    ("stored", "role", "scopes"),
    [
        ("ADMIN", Role.ADMIN, ALL_SCOPES),
        ("admin", Role.ADMIN, ALL_SCOPES),
        ("USER", Role.USER, USER_SCOPES),
        ("CUSTOM", Role.USER, USER_SCOPES),
        (None, Role.USER, USER_SCOPES),
    ],
)
async def test_a_jarvis_token_gets_the_stored_role(
    authenticator: BearerAuthenticator,
    directory: FakeDirectory,
    clock: FakeClock,
    stored: str | None,
    role: Role,
    scopes: frozenset[Scope],
) -> None:
    directory.entries[ALICE] = DirectoryEntry(stored, "alice", frozenset())

    caller = await authenticator.authenticate(shared(clock))

    assert (caller.username, caller.role, caller.scopes) == ("alice", role, scopes)


async def test_a_jarvis_token_of_an_unknown_user_is_refused(
    authenticator: BearerAuthenticator, clock: FakeClock
) -> None:
    with pytest.raises(UnauthorizedError, match="user does not exist"):
        await authenticator.authenticate(shared(clock, "b" * 24))


@pytest.mark.parametrize("role", Role)
async def test_our_own_token_of_a_user_who_is_gone_is_refused(
    authenticator: BearerAuthenticator, issuer: TokenIssuer, role: Role
) -> None:
    with pytest.raises(UnauthorizedError, match="user does not exist"):
        await authenticator.authenticate(own(issuer, role, user_id="b" * 24))


@pytest.mark.parametrize("role", Role)
async def test_a_service_account_exists_in_its_token_alone(
    authenticator: BearerAuthenticator, issuer: TokenIssuer, role: Role
) -> None:
    header = own(issuer, role, user_id="b" * 24, is_service_account=True)

    caller = await authenticator.authenticate(header)

    assert (caller.role, caller.groups, caller.is_service_account) == (role, frozenset(), True)


async def test_a_service_account_that_is_stored_by_now_is_a_user_like_others(
    authenticator: BearerAuthenticator, issuer: TokenIssuer
) -> None:
    caller = await authenticator.authenticate(own(issuer, Role.ADMIN, is_service_account=True))

    assert (caller.role, caller.is_service_account) == (Role.USER, False)


@pytest.mark.requirement("R-249")
@pytest.mark.parametrize("kind", ["ours", "of an administrator", "the other application's"])
async def test_a_disabled_user_is_refused_at_once(
    authenticator: BearerAuthenticator,
    directory: FakeDirectory,
    issuer: TokenIssuer,
    clock: FakeClock,
    kind: str,
) -> None:
    tokens = {
        "ours": own(issuer),
        "of an administrator": own(issuer, Role.ADMIN),
        "the other application's": shared(clock),
    }
    directory.entries[ALICE] = DirectoryEntry("ADMIN", "alice", frozenset())
    await authenticator.authenticate(tokens[kind])
    directory.entries[ALICE] = DirectoryEntry("ADMIN", "alice", frozenset(), is_disabled=True)

    authenticator.forget_users()

    with pytest.raises(UnauthorizedError, match="user is disabled"):
        await authenticator.authenticate(tokens[kind])


@pytest.mark.requirement("R-249")
async def test_a_demoted_administrator_keeps_no_right_of_one(
    authenticator: BearerAuthenticator, directory: FakeDirectory, issuer: TokenIssuer
) -> None:
    directory.entries[ALICE] = DirectoryEntry("ADMIN", "alice", frozenset())
    header = own(issuer, Role.ADMIN, scopes={Scope.READ_SERVERS, Scope.READ_AUDIT, "custom"})
    before = await authenticator.authenticate(header)
    directory.entries[ALICE] = DirectoryEntry("MANAGER", "alice", frozenset())

    authenticator.forget_users()
    after = await authenticator.authenticate(header)

    assert before.held_scopes == {Scope.READ_SERVERS, Scope.READ_AUDIT, "custom"}
    assert (before.role, before.role_principal) == (Role.ADMIN, "ADMIN")
    assert after.held_scopes == {Scope.READ_SERVERS}
    assert (after.role, after.role_principal) == (Role.USER, "MANAGER")


async def test_an_administrators_token_for_a_user_is_a_users(
    authenticator: BearerAuthenticator, directory: FakeDirectory, issuer: TokenIssuer
) -> None:
    directory.entries[ALICE] = DirectoryEntry("ADMIN", "alice", frozenset())

    caller = await authenticator.authenticate(own(issuer, Role.USER))

    assert (caller.role, caller.role_principal) == (Role.USER, "USER")


@pytest.mark.parametrize("header", [None, ""])
async def test_no_token_is_told_from_a_bad_one(
    authenticator: BearerAuthenticator, header: str | None
) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        await authenticator.authenticate(header)

    assert not caught.value.token_was_sent


@pytest.mark.requirement("R-110")
@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Basic YTpi", "token", "Bearer a b", "Bearer x.y.z", "\udcff"]
)
async def test_a_bad_header_is_refused(authenticator: BearerAuthenticator, header: str) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        await authenticator.authenticate(header)

    assert caught.value.token_was_sent


async def test_the_schemes_case_does_not_matter(
    authenticator: BearerAuthenticator, issuer: TokenIssuer
) -> None:
    header = own(issuer).replace("Bearer ", "bEARER   ")

    assert (await authenticator.authenticate(header)).user_id == ALICE


async def test_a_caller_is_remembered(
    authenticator: BearerAuthenticator, directory: FakeDirectory, issuer: TokenIssuer
) -> None:
    header = own(issuer)

    first = await authenticator.authenticate(header)
    second = await authenticator.authenticate(header)

    assert first is second is authenticator.cached(header)
    assert directory.asked == [ALICE]


@pytest.mark.requirement("R-240")
async def test_a_token_that_differs_in_its_last_character_is_not_remembered(
    authenticator: BearerAuthenticator, issuer: TokenIssuer
) -> None:
    header = own(issuer)
    await authenticator.authenticate(header)
    middle = len(header) - 20
    changed = header[:middle] + ("A" if header[middle] != "A" else "B") + header[middle + 1 :]

    assert authenticator.cached(changed) is None
    assert authenticator.cached(header + "x") is None
    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(changed)


@pytest.mark.requirement("R-249")
async def test_a_changed_role_counts_after_the_cache_time(
    authenticator: BearerAuthenticator, directory: FakeDirectory, clock: FakeClock
) -> None:
    directory.entries[ALICE] = DirectoryEntry("ADMIN", "alice", frozenset())
    header = shared(clock)
    before = await authenticator.authenticate(header)
    directory.entries[ALICE] = DirectoryEntry("USER", "alice", frozenset())

    clock.move(CACHE_SECONDS - 1)
    meanwhile = await authenticator.authenticate(header)
    clock.move(1)
    after = await authenticator.authenticate(header)

    assert [before.role, meanwhile.role, after.role] == [Role.ADMIN, Role.ADMIN, Role.USER]


@pytest.mark.requirement("R-249")
async def test_a_deleted_user_is_out_after_the_cache_time(
    authenticator: BearerAuthenticator, directory: FakeDirectory, clock: FakeClock
) -> None:
    header = shared(clock)
    await authenticator.authenticate(header)
    directory.entries.clear()

    clock.move(CACHE_SECONDS)

    with pytest.raises(UnauthorizedError):
        await authenticator.authenticate(header)


async def test_forgetting_users_asks_for_them_again(
    authenticator: BearerAuthenticator, directory: FakeDirectory, issuer: TokenIssuer
) -> None:
    header = own(issuer)
    await authenticator.authenticate(header)

    authenticator.forget_users()

    assert authenticator.holds(header)
    assert authenticator.cached(header) is None
    await authenticator.authenticate(header)
    assert directory.asked == [ALICE, ALICE]


@pytest.mark.requirement("R-240")
async def test_nothing_is_remembered_beyond_a_tokens_end(
    authenticator: BearerAuthenticator, issuer: TokenIssuer, clock: FakeClock
) -> None:
    header = own(issuer, lifetime=timedelta(seconds=2))
    await authenticator.authenticate(header)

    clock.move(2 + LEEWAY_SECONDS - 2)
    still = authenticator.cached(header)
    clock.move(3)

    assert still is not None
    assert authenticator.cached(header) is None
    assert not authenticator.holds(header)


@pytest.mark.wire
@pytest.mark.parametrize(
    ("user", "members"),
    [
        ({"idOnTheSource": "entra-1"}, ["someone", "entra-1"]),
        ({}, [ALICE]),
        ({"idOnTheSource": ""}, [ALICE]),
        ({"idOnTheSource": None}, [ALICE]),
    ],
)
async def test_groups_list_their_members_by_the_id_of_their_source_or_else_their_own(
    database: Database, user: dict[str, Any], members: list[str]
) -> None:
    await database.collection("users").insert_one(
        {"_id": ObjectId(ALICE), "role": "USER", "username": "alice", **user}
    )
    group = await database.collection("groups").insert_one({"name": "a", "memberIds": members})
    await database.collection("groups").insert_one({"name": "b", "memberIds": ["x"]})

    entry = await DirectoryRepository(database).get(ALICE)

    assert entry == DirectoryEntry("USER", "alice", frozenset({str(group.inserted_id)}))


@pytest.mark.wire
async def test_a_user_with_an_id_of_their_source_is_no_member_by_their_own(
    database: Database,
) -> None:
    await database.collection("users").insert_one(
        {"_id": ObjectId(ALICE), "role": "USER", "username": "alice", "idOnTheSource": "entra-1"}
    )
    await database.collection("groups").insert_one({"name": "left", "memberIds": [ALICE]})

    entry = await DirectoryRepository(database).get(ALICE)

    assert entry == DirectoryEntry("USER", "alice", frozenset())


@pytest.mark.wire
@pytest.mark.parametrize(
    ("stored", "is_disabled"),
    [
        ({}, False),
        ({"disabled": False}, False),
        ({"disabled": None}, False),
        ({"disabled": True}, True),
        ({"disabled": "no"}, True),
        ({"disabled": 0}, True),
        ({"disabled": {}}, True),
    ],
)
async def test_whatever_is_stored_as_disabled_but_false_disables(
    database: Database,
    stored: dict[str, Any],
    is_disabled: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    await database.collection("users").insert_one({"_id": ObjectId(ALICE), **stored})

    entry = await DirectoryRepository(database).get(ALICE)

    assert entry is not None
    assert entry.is_disabled is is_disabled


@pytest.mark.wire
async def test_a_user_who_is_not_there_is_none(database: Database) -> None:
    assert await DirectoryRepository(database).get(ALICE) is None


@pytest.mark.wire
async def test_the_database_is_read_once_for_a_user_whoever_issued_the_token(
    database: Database,
    database_uri: str,
    verifier: TokenVerifier,
    issuer: TokenIssuer,
    clock: FakeClock,
) -> None:
    await database.collection("users").insert_one({"_id": ObjectId(ALICE), "role": "USER"})
    counter = FindCounter()
    watched = Database(database_uri, timeout_ms=5000, listeners=[counter])
    authenticator = authenticator_with(verifier, DirectoryRepository(watched), clock)
    theirs, ours = shared(clock), own(issuer)

    for header in (ours, theirs, theirs, ours, theirs):
        await authenticator.authenticate(header)

    assert counter.commands == ["find", "find"] * 2
    await watched.close()


def revocation(
    kind: RevocationKind, subject: str, clock: FakeClock, lifetime: timedelta = HOUR
) -> Revocation:
    return Revocation(kind, subject, clock.now(), clock.now() + lifetime)


def vended(issuer: TokenIssuer) -> str:
    token = issuer.issue(
        user_id=ALICE,
        username="alice",
        role=Role.USER,
        scopes=USER_SCOPES,
        lifetime=HOUR,
        token_id="t1",
        session_id="s2",
        ancestors=("s1", "t0"),
    )
    return f"Bearer {token}"


@pytest.mark.requirement("R-267")
@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        (RevocationKind.TOKEN, "t1"),
        (RevocationKind.SESSION, "s2"),
        (RevocationKind.SESSION, "s1"),
        (RevocationKind.TOKEN, "t0"),
        (RevocationKind.USER, ALICE),
    ],
    ids=str,
)
async def test_a_remembered_token_is_refused_once_it_or_what_it_came_from_is_revoked(
    verifier: TokenVerifier,
    directory: FakeDirectory,
    clock: FakeClock,
    issuer: TokenIssuer,
    kind: RevocationKind,
    subject: str,
) -> None:
    revocations = RevocationList(FakeRevocations(), clock)
    authenticator = authenticator_with(verifier, directory, clock, revocations)
    header = vended(issuer)
    await authenticator.authenticate(header)

    revocations.add(revocation(kind, subject, clock))

    assert authenticator.cached(header) is None
    with pytest.raises(UnauthorizedError, match="was revoked"):
        await authenticator.authenticate(header)


@pytest.mark.requirement("R-267")
async def test_other_tokens_are_not_concerned(
    verifier: TokenVerifier, directory: FakeDirectory, clock: FakeClock, issuer: TokenIssuer
) -> None:
    source = FakeRevocations(
        [
            revocation(RevocationKind.SESSION, "s3", clock),
            revocation(RevocationKind.USER, "b" * 24, clock),
            revocation(RevocationKind.SESSION, "s2", clock, timedelta(0)),
        ]
    )
    revocations = RevocationList(source, clock)
    await revocations.load()
    authenticator = authenticator_with(verifier, directory, clock, revocations)

    assert (await authenticator.authenticate(vended(issuer))).session_id == "s2"


@pytest.mark.requirement("R-249")
async def test_all_tokens_of_a_user_up_to_a_moment_are_refused_and_later_ones_are_not(
    verifier: TokenVerifier, directory: FakeDirectory, clock: FakeClock, issuer: TokenIssuer
) -> None:
    revocations = RevocationList(FakeRevocations(), clock)
    authenticator = authenticator_with(verifier, directory, clock, revocations)
    now = int(clock.now().timestamp())
    undated = {"id": ALICE, "exp": now + 60}
    dated = {**undated, "iat": now - 5}
    revocations.add(revocation(RevocationKind.USER, ALICE, clock))

    refused = [own(issuer)] + [
        f"Bearer {jwt.encode(claims, SHARED_SECRET, algorithm='HS256')}"
        for claims in (undated, dated)
    ]
    for header in refused:
        with pytest.raises(UnauthorizedError, match="was revoked"):
            await authenticator.authenticate(header)

    clock.move(1)
    assert (await authenticator.authenticate(own(issuer))).user_id == ALICE


async def test_what_was_revoked_here_is_not_forgotten_by_reading_too_early(
    clock: FakeClock,
) -> None:
    revocations = RevocationList(FakeRevocations(), clock)
    revocations.add(revocation(RevocationKind.TOKEN, "t1", clock))
    token = VerifiedToken(ALICE, "alice", Role.USER, USER_SCOPES, "t1", 0)

    await revocations.load()
    before = revocations.refuses(token)
    clock.move(3601)
    await revocations.load()

    assert (before, revocations.refuses(token)) == (True, False)


async def test_a_token_that_is_revoked_while_its_user_is_looked_up_is_refused(
    verifier: TokenVerifier, clock: FakeClock, issuer: TokenIssuer
) -> None:
    revocations = RevocationList(FakeRevocations(), clock)

    class Revoking(FakeDirectory):
        @override
        async def get(self, user_id: str) -> DirectoryEntry | None:
            self.asked.append(user_id)
            revocations.add(revocation(RevocationKind.SESSION, "s2", clock))
            return DirectoryEntry("USER", "alice", frozenset())

    authenticator = authenticator_with(verifier, Revoking(), clock, revocations)

    with pytest.raises(UnauthorizedError, match="was revoked"):
        await authenticator.authenticate(vended(issuer))


class AwayDirectory(FakeDirectory):
    """Can be taken away."""

    is_away = False

    @override
    async def get(self, user_id: str) -> DirectoryEntry | None:
        found = await super().get(user_id)
        if self.is_away:
            raise DatabaseUnavailable
        return found


@pytest.mark.requirement("E-08")
async def test_without_the_database_callers_are_known_for_a_while(
    verifier: TokenVerifier, issuer: TokenIssuer, clock: FakeClock
) -> None:
    directory = AwayDirectory({ALICE: DirectoryEntry("USER", "alice", frozenset())})
    authenticator = authenticator_with(verifier, directory, clock)
    header, stranger = own(issuer), own(issuer, user_id="b" * 24)
    known = await authenticator.authenticate(header)
    directory.is_away = True

    clock.move(CACHE_SECONDS + 1)
    during = await authenticator.authenticate(header)
    asked = len(directory.asked)
    again = await authenticator.authenticate(header)
    with pytest.raises(DatabaseUnavailable):
        await authenticator.authenticate(stranger)
    asked_in_all = len(directory.asked)
    clock.move(OUTAGE_SECONDS)
    with pytest.raises(DatabaseUnavailable):
        await authenticator.authenticate(header)

    assert during == again == known
    assert asked_in_all == asked


async def test_who_is_known_does_not_wait_long_for_a_database_that_hangs(
    verifier: TokenVerifier, issuer: TokenIssuer, clock: FakeClock
) -> None:
    class Hanging(FakeDirectory):
        hangs = False

        @override
        async def get(self, user_id: str) -> DirectoryEntry | None:
            found = await super().get(user_id)
            if self.hangs:
                await asyncio.Event().wait()
            return found

    directory = Hanging({ALICE: DirectoryEntry("USER", "alice", frozenset())})
    authenticator = authenticator_with(verifier, directory, clock)
    header = own(issuer)
    known = await authenticator.authenticate(header)
    directory.hangs = True
    clock.move(CACHE_SECONDS + 1)

    async with asyncio.timeout(5):
        during = await authenticator.authenticate(header)
        asked = len(directory.asked)
        again = await authenticator.authenticate(header)

    assert during == again == known
    assert len(directory.asked) == asked


async def test_what_changed_before_the_database_went_away_counts(
    verifier: TokenVerifier, issuer: TokenIssuer, clock: FakeClock
) -> None:
    directory = AwayDirectory({ALICE: DirectoryEntry("USER", "alice", frozenset())})
    authenticator = authenticator_with(verifier, directory, clock)
    header = own(issuer)
    await authenticator.authenticate(header)

    authenticator.forget_users()
    directory.is_away = True

    with pytest.raises(DatabaseUnavailable):
        await authenticator.authenticate(header)


async def test_an_administrators_narrow_token_is_narrow(
    authenticator: BearerAuthenticator, directory: FakeDirectory, issuer: TokenIssuer
) -> None:
    directory.entries[ALICE] = DirectoryEntry("ADMIN", "alice", frozenset())

    caller = await authenticator.authenticate(own(issuer, Role.ADMIN))

    assert caller.is_admin
    assert caller.lacks(Scope.READ_SERVERS, Scope.WRITE_SERVERS) == (Scope.WRITE_SERVERS,)
