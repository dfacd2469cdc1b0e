"""Verification of the audit trail: finds removed, altered and inserted records."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from bson import ObjectId

from packages.database.stored import text_of
from registry.audit.chain import (
    FIRST,
    LATE,
    AuditKeys,
    Seal,
    digest,
    is_genuine_record,
    read_seal,
    seal_number,
)
from registry.audit.repository import AuditRepository

PROBLEMS_LISTED = 1_000


class AuditFinding(StrEnum):
    """Kinds of problems."""

    REMOVED = "removed"
    ALTERED = "altered"
    INSERTED = "inserted"
    UNSEALED = "unsealed"
    SEAL_MISSING = "seal_missing"
    SEAL_ALTERED = "seal_altered"
    SEAL_UNVERIFIED = "seal_unverified"
    HEAD_MISMATCH = "head_mismatch"


@dataclass(frozen=True, slots=True)
class AuditProblem:
    """A deviation from what was written.

    Attributes:
        subject: Id of a record, or number of a seal.
    """

    finding: AuditFinding
    subject: str


@dataclass(slots=True)
class AuditReport:
    """Result of a verification.

    Attributes:
        waiting: Genuine records that are too young to be sealed.
        head: Number and hash of the last seal.
        problems: At most `PROBLEMS_LISTED` of them.
        problem_count: How many there are.
    """

    records: int = 0
    seals: int = 0
    waiting: int = 0
    head: tuple[int, str] | None = None
    problems: list[AuditProblem] = field(default_factory=list)
    problem_count: int = 0

    def add(self, finding: AuditFinding, subject: object) -> None:
        """Add a problem."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_LISTED:
            self.problems.append(AuditProblem(finding, str(subject)))

    @property
    def is_good(self) -> bool:
        """Whether no problem was found."""
        return not self.problem_count


class AuditVerifier:
    """Compares records with seals, and seals with each other. Writes nothing."""

    def __init__(self, repository: AuditRepository, keys: AuditKeys) -> None:
        self._repository = repository
        self._keys = keys

    async def verify(self, expected: tuple[int, str] | None = None) -> AuditReport:
        """Return all problems.

        Args:
            expected: Number and hash of a seal as noted elsewhere; it must still be there.

        Raises:
            DatabaseUnavailable: The records cannot be read.
        """
        report = AuditReport()
        sealed, sealed_at = await self._verify_seals(report, expected)
        await self._verify_records(report, sealed, sealed_at)
        return report

    async def _verify_seals(
        self, report: AuditReport, expected: tuple[int, str] | None
    ) -> tuple[dict[ObjectId, str], datetime | None]:
        sealed: dict[ObjectId, str] = {}
        seq, followed, before = 0, FIRST, FIRST
        last: Seal | None = None
        expected_is_there = expected is None
        async for stored in self._repository.all_seals():
            report.seals += 1
            number, seal = seal_number(stored), read_seal(stored, self._keys)
            if number is None:
                report.add(AuditFinding.SEAL_ALTERED, stored["_id"])
                continue
            if number != seq + 1:
                report.add(AuditFinding.SEAL_MISSING, seq + 1)
            # What cannot be followed is reported by itself, and the next one passes it over.
            is_next = seal is not None and seal.previous in {followed, before}
            _verify_seal(report, number, seal, is_next=is_next or number != seq + 1)
            seq, before = number, text_of(stored.get("hash")) or ""
            expected_is_there = expected_is_there or (number, before) == expected
            if seal is not None:
                sealed.update(seal.records)
                followed, last = (seal.hash, seal) if seal.is_usable else (followed, last)
        if last is not None:
            report.head = (last.number, last.hash)
            if last.is_genuine is None:
                # The end of the chain is not signed with a known key.
                report.add(AuditFinding.SEAL_UNVERIFIED, last.number)
        if not expected_is_there and expected is not None:
            report.add(AuditFinding.HEAD_MISMATCH, expected[0])
        return sealed, None if last is None else last.sealed_at

    async def _verify_records(
        self, report: AuditReport, sealed: dict[ObjectId, str], sealed_at: datetime | None
    ) -> None:
        missing = dict(sealed)
        async for record in self._repository.all_records():
            report.records += 1
            key = record["_id"]
            known = missing.pop(key, None) if isinstance(key, ObjectId) else None
            if known is not None:
                if digest(record) != known:
                    report.add(AuditFinding.ALTERED, record["_id"])
            elif not is_genuine_record(record, self._keys):
                report.add(AuditFinding.INSERTED, record["_id"])
            elif sealed_at is not None and record["timestamp"] < sealed_at - LATE:
                # Genuine, but its seal is missing, or it was inserted again after a removal.
                report.add(AuditFinding.UNSEALED, record["_id"])
            else:
                report.waiting += 1
        for record_id in missing:
            report.add(AuditFinding.REMOVED, record_id)


def _verify_seal(report: AuditReport, number: int, seal: Seal | None, *, is_next: bool) -> None:
    if seal is None or not seal.is_intact:
        report.add(AuditFinding.SEAL_ALTERED, number)
    elif seal.is_genuine is False:
        report.add(AuditFinding.SEAL_UNVERIFIED, number)
    elif not is_next:
        report.add(AuditFinding.SEAL_ALTERED, number)
