"""Sealed session ids: who can open them, and for how long."""

import string
from datetime import UTC, datetime, timedelta

import pytest

from registry.gateway.edge.session_seal import SessionSeal
from registry.gateway.errors import SessionUnknown

ALICE = "user:alice"
SERVER = "server-1"


class SetClock:
    """A clock that stands where a test puts it."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def now(self) -> datetime:
        """Return the set time."""
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        """Return the set time."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Move on."""
        self.seconds += seconds


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


def make_seal(clock: SetClock, key: bytes = b"k" * 32) -> SessionSeal:
    return SessionSeal([key], lifetime=timedelta(hours=1), clock=clock)


@pytest.mark.parametrize("upstream_id", ["1", "a" * 500, "~!@#$%^&*()"])
def test_its_owner_opens_it(clock: SetClock, upstream_id: str) -> None:
    sealed = make_seal(clock).seal(upstream_id, principal=ALICE, server_id=SERVER)

    opened = make_seal(clock).open(sealed, principal=ALICE, server_id=SERVER)

    assert opened == upstream_id
    assert upstream_id not in sealed or len(upstream_id) == 1


def test_it_fits_into_a_header(clock: SetClock) -> None:
    sealed = make_seal(clock).seal("0" * 32, principal=ALICE, server_id=SERVER)

    assert len(sealed) == 86
    assert sealed.replace("-", "").replace("_", "").isalnum()


@pytest.mark.parametrize(
    ("principal", "server_id"),
    [("user:bob", SERVER), (ALICE, "server-2"), (f"{SERVER}\0{ALICE}", ""), ("", "")],
)
@pytest.mark.parametrize("was_opened", [False, True])
def test_nobody_else_opens_it(
    clock: SetClock, principal: str, server_id: str, *, was_opened: bool
) -> None:
    seal = make_seal(clock)
    sealed = seal.seal("id", principal=ALICE, server_id=SERVER)
    opened = [seal.open(sealed, principal=ALICE, server_id=SERVER) for _ in range(was_opened)]

    with pytest.raises(SessionUnknown):
        seal.open(sealed, principal=principal, server_id=server_id)

    assert len(opened) == was_opened


@pytest.mark.parametrize("was_opened", [False, True])
def test_it_expires(clock: SetClock, *, was_opened: bool) -> None:
    seal = make_seal(clock)
    sealed = seal.seal("id", principal=ALICE, server_id=SERVER)
    opened = [seal.open(sealed, principal=ALICE, server_id=SERVER) for _ in range(was_opened)]
    clock.seconds += 3600

    with pytest.raises(SessionUnknown):
        seal.open(sealed, principal=ALICE, server_id=SERVER)

    assert len(opened) == was_opened


def test_every_changed_character_is_noticed(clock: SetClock) -> None:
    seal = make_seal(clock)
    sealed = seal.seal("id", principal=ALICE, server_id=SERVER)
    swapped = [
        sealed[:at] + other + sealed[at + 1 :]
        for at in range(len(sealed))
        for other in string.ascii_letters + string.digits + "-_=+"
        if other != sealed[at]
    ]

    refused = [text for text in swapped if not opens(seal, text)]

    assert refused == swapped


def opens(seal: SessionSeal, text: str) -> bool:
    try:
        seal.open(text, principal=ALICE, server_id=SERVER)
    except SessionUnknown:
        return False
    return True


@pytest.mark.parametrize("text", ["", "x", "====", "é", "A" * 10_000, "\0" * 20])
def test_text_that_was_never_sealed_is_refused(clock: SetClock, text: str) -> None:
    with pytest.raises(SessionUnknown):
        make_seal(clock).open(text, principal=ALICE, server_id=SERVER)


def test_another_key_does_not_open_it(clock: SetClock) -> None:
    sealed = make_seal(clock).seal("id", principal=ALICE, server_id=SERVER)

    with pytest.raises(SessionUnknown):
        make_seal(clock, b"z" * 32).open(sealed, principal=ALICE, server_id=SERVER)


@pytest.mark.requirement("R-305")
@pytest.mark.parametrize(("sealing", "opening"), [("on", "no"), ("no", "on")])
def test_replicas_that_read_each_others_key_open_each_others_seals(
    clock: SetClock, sealing: str, opening: str
) -> None:
    one, other = ([letter.encode() * 32 for letter in keys] for keys in (sealing, opening))
    first = SessionSeal(one, lifetime=timedelta(hours=1), clock=clock)
    second = SessionSeal(other, lifetime=timedelta(hours=1), clock=clock)

    sealed = first.seal("id", principal=ALICE, server_id=SERVER)

    assert opens(second, sealed)
    assert opens(make_seal(clock, one[0]), sealed)
    assert not opens(make_seal(clock, other[0]), sealed)


def test_what_is_remembered_is_bounded(clock: SetClock) -> None:
    seal = make_seal(clock)
    sealed = [seal.seal(str(n), principal=ALICE, server_id=SERVER) for n in range(10_001)]

    opened = [seal.open(text, principal=ALICE, server_id=SERVER) for text in sealed]

    assert opened == [str(n) for n in range(10_001)]
    assert len(seal._opened) == 1
