"""Find what was removed from the audit trail, altered in it or slipped into it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from bson import ObjectId

from packages.database.client import Doc
from registry.audit.chain import FIRST, AuditKeys, digest, is_genuine_record, seal_hash
from registry.audit.repository import AuditRepository
from registry.audit.sealing import LATE

PROBLEMS_LISTED = 1_000


class AuditFinding(StrEnum):
    """Kinds of problems."""

    REMOVED = "removed"
    ALTERED = "altered"
    INSERTED = "inserted"
    UNSEALED = "not sealed"
    SEAL_MISSING = "seal missing"
    SEAL_ALTERED = "seal altered"
    SEAL_UNPROVEN = "seal unproven"
    HEAD_DIFFERS = "head differs"


@dataclass(frozen=True, slots=True)
class AuditProblem:
    """Something that is not as it was written.

    Attributes:
        subject: Id of a record, or number of a seal.
    """

    finding: AuditFinding
    subject: str


@dataclass(slots=True)
class AuditReport:
    """What came of a verification.

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
        """Note a problem."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_LISTED:
            self.problems.append(AuditProblem(finding, str(subject)))

    @property
    def is_good(self) -> bool:
        """Whether everything is as it was written."""
        return not self.problem_count


class AuditVerifier:
    """Compares records with seals, and seals with each other. Writes nothing."""

    def __init__(self, repository: AuditRepository, keys: AuditKeys) -> None:
        self._repository = repository
        self._keys = keys

    async def verify(self, expected: tuple[int, str] | None = None) -> AuditReport:
        """Return what is wrong.

        Args:
            expected: Number and hash of a seal as noted elsewhere; it must still be there.

        Raises:
            DatabaseUnavailable: Nothing can be said.
        """
        report = AuditReport()
        sealed, sealed_at = await self._verify_seals(report, expected)
        await self._verify_records(report, sealed, sealed_at)
        return report

    async def _verify_seals(
        self, report: AuditReport, expected: tuple[int, str] | None
    ) -> tuple[dict[ObjectId, str], datetime | None]:
        sealed: dict[ObjectId, str] = {}
        previous, seq = FIRST, 0
        last: Doc | None = None
        expected_is_there = expected is None
        async for seal in self._repository.all_seals():
            report.seals += 1
            number = int(seal["_id"])
            if number != seq + 1:
                report.add(AuditFinding.SEAL_MISSING, seq + 1)
            elif seal.get("previous") != previous:
                report.add(AuditFinding.SEAL_ALTERED, number)
            if seal_hash(seal) != seal.get("hash"):
                report.add(AuditFinding.SEAL_ALTERED, number)
            elif self._is_genuine(seal) is False:
                report.add(AuditFinding.SEAL_UNPROVEN, number)
            seq, previous, last = number, str(seal.get("hash")), seal
            expected_is_there = expected_is_there or (number, previous) == expected
            sealed.update({entry["id"]: str(entry["digest"]) for entry in seal["records"]})
        if last is not None:
            report.head = (seq, previous)
            if self._is_genuine(last) is None:
                # Nobody with the key vouches for the chain as it ends.
                report.add(AuditFinding.SEAL_UNPROVEN, seq)
        if not expected_is_there and expected is not None:
            report.add(AuditFinding.HEAD_DIFFERS, expected[0])
        return sealed, None if last is None else last["sealed_at"]

    def _is_genuine(self, seal: Doc) -> bool | None:
        return self._keys.is_genuine(
            seal.get("kid"), str(seal.get("hash")).encode(), seal.get("mac")
        )

    async def _verify_records(
        self, report: AuditReport, sealed: dict[ObjectId, str], sealed_at: datetime | None
    ) -> None:
        missing = dict(sealed)
        async for record in self._repository.all_records():
            report.records += 1
            known = missing.pop(record["_id"], None)
            if known is not None:
                if digest(record) != known:
                    report.add(AuditFinding.ALTERED, record["_id"])
            elif not is_genuine_record(record, self._keys):
                report.add(AuditFinding.INSERTED, record["_id"])
            elif sealed_at is not None and record["timestamp"] < sealed_at - LATE:
                # Genuine, but its seal is gone, or it was put back after it was taken out.
                report.add(AuditFinding.UNSEALED, record["_id"])
            else:
                report.waiting += 1
        for record_id in missing:
            report.add(AuditFinding.REMOVED, record_id)
