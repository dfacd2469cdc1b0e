"""Bring a database that earlier releases wrote up to date, while others use it.

There is no mark that says it was done: each run looks at what there is, so that what a replica of
an earlier release writes afterwards is found too. At start that is what indexes tell; the command
looks at everything. A kill loses nothing, and the next run goes on.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import structlog

from packages.database.client import Database, Transaction
from packages.database.errors import WRITE_REFUSED, DatabaseUnavailable
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import OPERATOR, UserContext
from registry.core.clock import Clock
from registry.core.errors import RegistryError
from registry.migration.steps import CompleteTools, FirstVersions, RestoreTools, Step
from registry.migration.values import Left, Plan, Report, StepPlan, StepReport, Written
from registry.servers.errors import ServerUnusableError
from registry.servers.store import ServerRepositories
from registry.servers.versions import VersionTakenError

log = structlog.get_logger()

TOLD_AT_START = 20
"""Most documents named in one line of the log."""

PROGRESS_SECONDS = 10.0
"""How often a long run at start says how far it is."""

CONFLICT_SECONDS = 90.0
"""How long to wait for documents that others are writing. Those of a process that was killed in a
transaction are free again after a minute."""

Advanced = Callable[[int], None]
"""Told of how many documents a batch has dealt with."""


class Migration:
    """Plans and runs the steps, in their order."""

    def __init__(
        self,
        database: Database,
        repositories: ServerRepositories,
        audit: AuditTrail,
        *,
        clock: Clock,
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        # Rows are restored before there are versions, which say that a server was looked at.
        self._steps: tuple[Step, ...] = (
            RestoreTools(repositories),
            CompleteTools(repositories.tools),
            FirstVersions(repositories),
        )

    async def plan(self, *, every: bool) -> Plan:
        """Say what there is to do. Writes nothing.

        Args:
            every: Look at everything; otherwise at what indexes tell, which takes no time.

        Raises:
            DatabaseUnavailable: It is away.
        """
        return Plan(tuple([await step.plan(every=every) for step in self._steps]))

    async def run(
        self, plan: Plan, actor: UserContext, *, advanced: Advanced = lambda _: None
    ) -> Report:
        """Do what a plan says, as far as it still is to be done.

        The first batch that changes something records the run.

        Raises:
            DatabaseUnavailable: It went away; run it again to go on.
            AuditUnwritableError: It cannot be recorded, so nothing is written.
        """
        event = AuditEvent(
            AuditAction.MIGRATE, EntityType.DATABASE, changes={"after": plan.counts}
        )
        recording = _Recording(self._audit, actor, event)
        reports = []
        for step, planned in zip(self._steps, plan.steps, strict=True):
            done: list[str] = []
            left: dict[tuple[str, str], Left] = {
                (item.place, item.reason): item for item in planned.left
            }
            for batch in _batches(planned, step.batch):
                written = await self._write(step, planned, batch, recording)
                done += written.done
                left |= {(item.place, item.reason): item for item in written.left}
                advanced(len(batch))
            reports.append(
                StepReport(
                    step.name,
                    len(planned.wanted),
                    len(done),
                    planned.count_of(done),
                    tuple(left.values()),
                    planned.examples,
                )
            )
        return Report(tuple(reports))

    async def at_start(self) -> None:
        """Do what indexes tell is to be done, and log it if anything is.

        What stands in the way of it does not keep the registry from starting.

        Raises:
            DatabaseUnavailable: It is away.
        """
        if await self._database.is_standalone():
            # Nothing can be changed there.
            return
        plan = await self.plan(every=False)
        left: Sequence[Left] = plan.left
        if plan.total:
            log.info("migration_began", **plan.counts)
            progress = _Progress(self._clock, plan.total)
            try:
                report = await self.run(plan, OPERATOR, advanced=progress.advanced)
            except RegistryError as exc:
                log.warning("migration_postponed", problem=exc.message)
                return
            except DatabaseUnavailable:
                # If it answers, others were writing the same documents all the time.
                await self._database.ping()
                log.warning("migration_postponed", problem="others are writing what it would")
                return
            left = report.left
            if report.done:
                log.info(
                    "migration_ended",
                    done=report.done,
                    servers=len(report.count.servers),
                    tools=report.count.tools,
                    left=len(left),
                )
        if left:
            told = [f"{item.place}: {item.reason}" for item in left[:TOLD_AT_START]]
            log.warning("migration_left_documents", count=len(left), documents=told)

    async def _write(
        self, step: Step, planned: StepPlan, batch: Sequence[str], recording: "_Recording"
    ) -> Written:
        written = Written(rest=tuple(batch))
        if recording.is_done:
            # What changes something first is recorded with it, in its transaction.
            written = await step.write_singly(batch, self._clock.now())
        if written.rest:
            rest = await self._write_rest(step, planned, written.rest, recording)
            written = written.and_then(rest)
        return written

    async def _write_rest(
        self, step: Step, planned: StepPlan, batch: Sequence[str], recording: "_Recording"
    ) -> Written:
        """Write a batch; if the database refuses one of its documents, each by itself."""
        try:
            return await self._write_together(step, batch, recording)
        except (ServerUnusableError, VersionTakenError, *WRITE_REFUSED) as exc:
            if len(batch) == 1:
                return _refused(step, planned, batch[0], exc)
        written = Written()
        for each in batch:
            one = await self._write_rest(step, planned, [each], recording)
            written = written.and_then(one)
        return written

    async def _write_together(
        self, step: Step, batch: Sequence[str], recording: "_Recording"
    ) -> Written:
        async def work(tx: Transaction) -> Written:
            written = await step.write(batch, self._clock.now(), tx)
            if written.done:
                await recording.record(tx)
            return written

        written = await self._database.transaction(work, seconds=CONFLICT_SECONDS)
        recording.is_done = recording.is_done or bool(written.done)
        return written


def _refused(step: Step, planned: StepPlan, document: str, error: Exception) -> Written:
    if isinstance(error, VersionTakenError):
        # Another process did it.
        return Written()
    place = f"{step.collection}/{document}"
    reason = "the database refuses what would be written"
    if isinstance(error, ServerUnusableError):
        reason = "is stored in a form that cannot be changed here"
    return Written(left=(Left(place, planned.wanted[document], reason),))


class _Recording:
    """The one record of a run.

    Attributes:
        is_done: Whether a transaction with it was committed.
    """

    def __init__(self, audit: AuditTrail, actor: UserContext, event: AuditEvent) -> None:
        self.is_done = False
        self._audit = audit
        self._actor = actor
        self._event = event

    async def record(self, tx: Transaction) -> None:
        if not self.is_done:
            await self._audit.record(self._actor, self._event, tx)


class _Progress:
    """Logs how far a run is, now and then."""

    def __init__(self, clock: Clock, total: int) -> None:
        self._clock = clock
        self._total = total
        self._done = 0
        self._told_at = clock.monotonic()

    def advanced(self, count: int) -> None:
        self._done += count
        if self._clock.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = self._clock.monotonic()
            log.info("migration_progressed", done=self._done, of=self._total)


def _batches(planned: StepPlan, size: int) -> Iterator[list[str]]:
    ids = iter(planned.wanted)
    while batch := list(islice(ids, size)):
        yield batch
