"""Sealer: seals new audit records shortly after they are written.

Several processes may run it at once: the number of a seal is its `_id`, so that of two concurrent
inserts of the same number one fails, and that process starts again.
"""

import asyncio

import structlog
from bson import ObjectId

from packages.database.errors import DatabaseUnavailable
from registry.audit.chain import (
    FIRST,
    LATE,
    AuditKeys,
    Seal,
    digest,
    is_genuine_record,
    seal_of,
)
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.core.clock import Clock

log = structlog.get_logger()

RECORDS_PER_SEAL = 500
SEALED_KEPT = 20_000
"""Ids of sealed records that are remembered before old ones are dropped."""

REFUSED_IN_A_ROW = 100
"""How often another process may be faster with the next number before sealing is postponed."""

GATHER_SECONDS = 1.0
"""Pause before sealing, so that a burst of records makes one seal."""

POLL_SECONDS = 30.0
"""Poll interval: another process may have died before it sealed its records."""


class Sealer:
    """Extends the chain of seals by new records."""

    def __init__(self, repository: AuditRepository, keys: AuditKeys, *, clock: Clock) -> None:
        self._repository = repository
        self._keys = keys
        self._clock = clock
        self._last_seq = 0
        self._sealed: dict[ObjectId, int] = {}
        self._refused: set[object] = set()
        self._passed: set[str] = set()

    async def follow(self, trail: AuditTrail) -> None:
        """Write waiting records and seal written ones, forever."""
        while True:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await trail.written.wait()
            except TimeoutError:
                pass
            await self._clock.sleep(GATHER_SECONDS)
            trail.written.clear()
            await trail.flush()
            try:
                await self.seal_new()
            except DatabaseUnavailable:
                log.warning("audit_sealing_delayed")
            except Exception:
                # Records are still written, and can be sealed later.
                log.exception("audit_sealing_failed")

    async def seal_new(self, *, vouch: bool = False) -> int:
        """Seal all unsealed records and return their number.

        Args:
            vouch: If the last seal is under a former key, write one over nothing, which vouches
                for the whole chain with the current key.

        Raises:
            DatabaseUnavailable: What was not sealed will be found again.
        """
        sealed = refused = 0
        while refused < REFUSED_IN_A_ROW:
            number, last, passed = await self._repository.last_seal()
            self._name_passed(passed)
            await self._learn(last)
            since = None if last is None else min(last.sealed_at, self._clock.now()) - LATE
            found = await self._repository.ids_since(since)
            batch = await self._next_batch(found)
            is_foreign = last is not None and last.kid != self._keys.current
            if not batch and not (vouch and is_foreign):
                return sealed
            seal = seal_of(
                number + 1,
                FIRST if last is None else last.hash,
                batch,
                self._clock.now(),
                self._keys,
            )
            if not await self._repository.insert_seal(seal):
                refused += 1
                continue
            refused = 0
            sealed += len(batch)
            self._last_seq = number + 1
            self._sealed.update(dict.fromkeys(batch, self._last_seq))
            log.info("audit_sealed", seq=seal["_id"], hash=seal["hash"], records=len(batch))
        log.warning("audit_sealing_delayed")
        return sealed

    def _name_passed(self, passed: list[object]) -> None:
        """Log seals that the next one does not follow, each once."""
        for name in map(repr, passed):
            if name not in self._passed:
                self._passed.add(name)
                log.error("audit_seal_invalid", seal_id=name)

    async def _learn(self, last: Seal | None) -> None:
        """Load the seals that any process has added."""
        seq = 0 if last is None else last.number
        if seq < self._last_seq:
            # The collections were emptied or restored: the remembered ids are of another chain.
            self._last_seq = 0
            self._sealed.clear()
            self._refused.clear()
        if last is None or seq == self._last_seq:
            return
        since = last.sealed_at - 2 * LATE
        for seal in await self._repository.sealed_since(since, self._last_seq):
            self._last_seq = seal.number
            self._sealed.update(dict.fromkeys(seal.records, self._last_seq))
        if len(self._sealed) > SEALED_KEPT:
            recent = await self._repository.ids_since(last.sealed_at - LATE)
            self._sealed = {
                key: self._sealed[key]
                for key in recent
                if isinstance(key, ObjectId) and key in self._sealed
            }

    async def _next_batch(self, found: list[object]) -> dict[ObjectId, str]:
        """Return the digests of the next records to seal, by id."""
        fresh: list[ObjectId] = []
        for key in found:
            if not isinstance(key, ObjectId):
                self._refuse(repr(key))
            elif key not in self._sealed and key not in self._refused:
                fresh.append(key)
        for start in range(0, len(fresh), RECORDS_PER_SEAL):
            batch = await self._genuine(fresh[start : start + RECORDS_PER_SEAL])
            if batch:
                return batch
        return {}

    def _refuse(self, key: ObjectId | str) -> None:
        """Log a record that is not sealed, once."""
        if key not in self._refused:
            self._refused.add(key)
            log.error("audit_record_invalid", record_id=str(key))

    async def _genuine(self, ids: list[ObjectId]) -> dict[ObjectId, str]:
        documents = await self._repository.records(ids)
        batch: dict[ObjectId, str] = {}
        for key in ids:
            document = documents.get(key)
            if document is None:
                continue
            if is_genuine_record(document, self._keys):
                batch[key] = digest(document)
            else:
                self._refuse(key)
        return batch
