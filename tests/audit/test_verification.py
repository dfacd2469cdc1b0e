"""A trail that somebody with the database, but without the key, has meddled with."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId
from structlog.testing import capture_logs

from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.models.states import AuditOutcome
from registry.audit.chain import LATE, PURPOSE, AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.sealing import Sealer
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.audit.verification import AuditFinding, AuditVerifier
from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.origin import PROCESS
from tests.fakes.odd_values import ODD_VALUES, insert_odd

pytestmark = pytest.mark.wire

EVENT = AuditEvent(
    AuditAction.UPDATE,
    EntityType.SERVER,
    "5" * 24,
    {"before": {"title": "a", "a.b": {"$c": 1}}, "after": {"title": "b", "timeout": 2**40}},
)
OTHER_KEY = "77" * 32
IV = "1e" * 16


async def written(database: Database, audit: AuditTrail, user: UserContext, count: int) -> None:
    async def write(tx: Any) -> None:
        await audit.record(user, EVENT, tx)

    for _ in range(count):
        await database.transaction(write)


@pytest.fixture
async def trail(
    database: Database, audit: AuditTrail, sealer: Sealer, alice: UserContext
) -> AuditTrail:
    """Return a trail of two seals over three records each."""
    for _ in range(2):
        await written(database, audit, alice, 3)
        assert await sealer.seal_new() == 3
    return audit


async def findings(verifier: AuditVerifier) -> list[AuditFinding]:
    return [problem.finding for problem in (await verifier.verify()).problems]


async def test_an_untouched_trail_is_good(
    trail: AuditTrail, verifier: AuditVerifier, database: Database, alice: UserContext
) -> None:
    await written(database, trail, alice, 1)

    report = await verifier.verify()

    assert (report.records, report.seals, report.waiting) == (7, 2, 1)
    assert report.is_good


@pytest.mark.parametrize("place", [0, 2, 5])
async def test_a_removed_record_is_found(
    trail: AuditTrail, verifier: AuditVerifier, database: Database, place: int
) -> None:
    logs = database.collection("audit_logs")
    record = (await logs.find({}).sort("_id").to_list())[place]
    await logs.delete_one({"_id": record["_id"]})

    report = await verifier.verify()

    assert [(item.finding, item.subject) for item in report.problems] == [
        (AuditFinding.REMOVED, str(record["_id"]))
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"$set": {"user_id": ObjectId()}},
        {"$set": {"changes.after.title": "c"}},
        {"$set": {"outcome": "denied"}},
        {"$unset": {"changes": ""}},
        {"$set": {"note": "harmless"}},
    ],
)
async def test_an_altered_record_is_found(
    trail: AuditTrail, verifier: AuditVerifier, database: Database, change: dict[str, Any]
) -> None:
    await database.collection("audit_logs").update_one({}, change)

    assert await findings(verifier) == [AuditFinding.ALTERED]


@pytest.mark.parametrize("mac", ["", "0" * 64, None])
async def test_an_inserted_record_is_found_and_never_sealed(
    trail: AuditTrail,
    verifier: AuditVerifier,
    sealer: Sealer,
    database: Database,
    clock: SystemClock,
    mac: str | None,
) -> None:
    logs = database.collection("audit_logs")
    copied = await logs.find_one({})
    assert copied is not None
    forged = {**copied, "_id": ObjectId(), "timestamp": clock.now()}
    await logs.insert_one(forged if mac is None else {**forged, "mac": mac})

    assert await sealer.seal_new() == 0
    assert await findings(verifier) == [AuditFinding.INSERTED]


async def test_a_genuine_record_that_comes_far_too_late_is_found(
    trail: AuditTrail, verifier: AuditVerifier, database: Database
) -> None:
    logs = database.collection("audit_logs")
    seals = database.collection("audit_seals")
    last = await seals.find_one({}, sort=[("_id", -1)])
    assert last is not None
    # Whoever takes a seal away and keeps its records shows by their age.
    await seals.delete_one({"_id": last["_id"]})
    first = await seals.find_one({"_id": 1})
    assert first is not None
    await logs.update_many({}, {"$set": {"timestamp": first["sealed_at"] - 2 * LATE}})

    # Their times were changed for this test, which shows too.
    assert set(await findings(verifier)) == {AuditFinding.ALTERED, AuditFinding.INSERTED}


@pytest.mark.parametrize("number", [1, 2])
async def test_an_altered_seal_is_found(
    trail: AuditTrail, verifier: AuditVerifier, database: Database, number: int
) -> None:
    await database.collection("audit_seals").update_one({"_id": number}, {"$pop": {"records": 1}})

    assert AuditFinding.SEAL_ALTERED in await findings(verifier)


async def test_a_removed_seal_is_found(
    trail: AuditTrail, verifier: AuditVerifier, database: Database
) -> None:
    await database.collection("audit_seals").delete_one({"_id": 1})

    assert AuditFinding.SEAL_MISSING in await findings(verifier)


async def test_a_chain_made_anew_without_the_key_is_found(
    trail: AuditTrail,
    verifier: AuditVerifier,
    database: Database,
    alice: UserContext,
    clock: SystemClock,
) -> None:
    await database.collection("audit_seals").delete_many({})
    await database.collection("audit_logs").delete_many({})
    keys = AuditKeys(Cipher(OTHER_KEY, IV).derive_keys(PURPOSE))
    forger = AuditTrail(AuditRepository(database, keys), clock=clock, metrics=Metrics())
    await written(database, forger, replace(alice, user_id="d" * 24), 2)
    await Sealer(AuditRepository(database, keys), keys, clock=clock).seal_new()

    assert AuditFinding.SEAL_UNVERIFIED in await findings(verifier)


async def test_a_cut_off_end_shows_against_a_noted_head(
    trail: AuditTrail, verifier: AuditVerifier, database: Database
) -> None:
    head = (await verifier.verify()).head
    assert head is not None
    seals = database.collection("audit_seals")
    last = await seals.find_one_and_delete({"_id": head[0]})
    assert last is not None
    ids = [entry["id"] for entry in last["records"]]
    await database.collection("audit_logs").delete_many({"_id": {"$in": ids}})

    assert (await verifier.verify()).is_good
    assert [item.finding for item in (await verifier.verify(head)).problems] == [
        AuditFinding.HEAD_MISMATCH
    ]


async def test_the_chain_goes_on_under_a_changed_key(
    trail: AuditTrail, database: Database, alice: UserContext, clock: SystemClock
) -> None:
    both = Cipher(OTHER_KEY, IV, previous_keys=["0f" * 32]).derive_keys(PURPOSE)
    repository = AuditRepository(database, AuditKeys(both))
    await Sealer(repository, AuditKeys(both), clock=clock).seal_new(vouch=True)
    new_alone = AuditKeys(Cipher(OTHER_KEY, IV).derive_keys(PURPOSE))

    report = await AuditVerifier(AuditRepository(database, new_alone), new_alone).verify()

    assert (report.records, report.seals) == (6, 3)
    assert report.is_good


async def test_two_that_seal_at_once_seal_each_record_once(
    database: Database,
    audit: AuditTrail,
    audit_repository: AuditRepository,
    audit_keys: AuditKeys,
    verifier: AuditVerifier,
    alice: UserContext,
    clock: SystemClock,
) -> None:
    await written(database, audit, alice, 20)
    sealers = [Sealer(audit_repository, audit_keys, clock=clock) for _ in range(4)]

    await asyncio.gather(*(sealer.seal_new() for sealer in sealers))

    report = await verifier.verify()
    seals = await database.collection("audit_seals").find({}).to_list()
    assert report.is_good
    assert sum(len(seal["records"]) for seal in seals) == 20


async def test_a_sealer_goes_on_after_the_collections_were_emptied(
    trail: AuditTrail,
    sealer: Sealer,
    verifier: AuditVerifier,
    database: Database,
    alice: UserContext,
) -> None:
    for name in ("audit_logs", "audit_seals"):
        await database.collection(name).delete_many({})
    await written(database, trail, alice, 2)

    assert await sealer.seal_new() == 2
    assert await sealer.seal_new() == 0
    assert (await verifier.verify()).is_good


async def test_a_record_that_commits_late_is_sealed_after_all(
    trail: AuditTrail,
    sealer: Sealer,
    verifier: AuditVerifier,
    audit_repository: AuditRepository,
    alice: UserContext,
    clock: SystemClock,
) -> None:
    late = audit_repository.document(EVENT, alice, PROCESS, clock.now() - timedelta(minutes=1))
    await audit_repository.insert_alone([late])

    assert await sealer.seal_new() == 1
    assert (await verifier.verify()).is_good


async def test_of_what_the_gateway_saw_refusals_are_recorded_once_a_minute_and_uses_each(
    audit: AuditTrail, audit_repository: AuditRepository, alice: UserContext
) -> None:
    use = AuditEvent(AuditAction.CALL, EntityType.SERVER, "5" * 24, reason="administrator")
    refusal = replace(use, outcome=AuditOutcome.DENIED)

    for event in (use, refusal, use, refusal):
        audit.note_later(alice, event, PROCESS)
    await audit.flush()

    found = [row["outcome"] async for row in audit_repository.all_records()]
    assert sorted(found) == ["denied", "success", "success"]


async def emptied_of_validators(database: Database, *names: str) -> None:
    """Take away what keeps other programs from writing anything."""
    for name in names:
        await database.db.command("collMod", name, validator={})


@pytest.mark.requirement("E-22")
async def test_odd_rows_cost_neither_a_record_nor_the_chain_and_are_named(
    trail: AuditTrail,
    verifier: AuditVerifier,
    sealer: Sealer,
    database: Database,
    alice: UserContext,
    clock: SystemClock,
) -> None:
    logs, seals = database.collection("audit_logs"), database.collection("audit_seals")
    await emptied_of_validators(database, "audit_logs", "audit_seals")
    record, seal = await logs.find_one({}), await seals.find_one({"_id": 2})
    assert record is not None
    assert seal is not None
    values = ODD_VALUES.values()
    names = ("true", "a text", "a float", "infinity", "a time", "a uuid")
    odd_ids = [{"a": 1}, *(ODD_VALUES[name] for name in names)]
    forged = {**record, "timestamp": clock.now() - timedelta(seconds=1)}
    members = ("action", "changes", "mac", "kid", "user_id", "extra")
    odd_records = [
        *({**forged, "_id": value} for value in odd_ids),
        *({**forged, "_id": ObjectId(), name: value} for name in members for value in values),
    ]
    places = ("previous", "sealed_at", "records", "hash", "kid", "mac")
    odd_seals = [
        *({**seal, "_id": value} for value in odd_ids),
        *(
            {**seal, "_id": 3 + number, name: value}
            for number, (name, value) in enumerate(
                (name, value) for name in places for value in values
            )
        ),
        {**seal, "_id": 400, "records": [{"id": {"a": 1}, "digest": 5}, 5]},
    ]
    for rows, odd in ((logs, odd_records), (seals, odd_seals)):
        await insert_odd(rows, odd)
    await written(database, trail, alice, 2)

    with capture_logs() as told:
        assert await sealer.seal_new() == 2
        assert await sealer.seal_new() == 0
    report = await verifier.verify()

    assert report.head is not None
    newest = await seals.find_one({"_id": report.head[0]})
    assert newest is not None
    assert (newest["previous"], len(newest["records"])) == (seal["hash"], 2)
    events = [line["event"] for line in told]
    assert events.count("audit_record_invalid") > len(odd_records) - len(odd_ids)
    assert events.count("audit_seal_invalid") > len(odd_seals) - len(odd_ids)
    # Each once for each odd row, and nothing about any other.
    assert set(events) == {"audit_record_invalid", "audit_seal_invalid", "audit_sealed"}
    assert report.waiting == 0
    assert len(report.problems) == len(set(report.problems))
