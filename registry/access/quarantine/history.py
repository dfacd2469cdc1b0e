"""What a quarantined subject reached, or who reached it, from the records of calls."""

from datetime import datetime

from packages.models.states import QuarantineKind
from registry.access.quarantine.values import BlastRadius, NewQuarantine, ReachedGroup
from registry.core.clock import Clock
from registry.tools.naming import public_name
from registry.usage.repository import UsageRepository
from registry.usage.values import UsageFilter, UsageRecord

MAX_RECORDS = 20_000
PAGE = 2_000
MAX_GROUPS = 200

Key = tuple[str, str, str | None, str, str | None]


class RecordedCalls:
    """Reads the records of calls."""

    def __init__(self, usage: UsageRepository, clock: Clock) -> None:
        self._usage = usage
        self._clock = clock

    async def reached(self, asked: NewQuarantine, since: datetime) -> BlastRadius:
        """Return what a subject reached, or who reached it, since then.

        The newest calls are looked at, up to a bound.
        """
        if asked.kind is QuarantineKind.CLIENT:
            # Records do not say which application made a call.
            return BlastRadius(asked.hours, is_known=False)
        wanted = UsageFilter(
            server_id=asked.subject if asked.kind in OF_SERVERS else None,
            user_id=asked.subject if asked.kind is QuarantineKind.USER else None,
            since=since,
        )
        groups: dict[Key, list[UsageRecord]] = {}
        seen, before = 0, None
        while seen < MAX_RECORDS:
            page = await self._usage.page(wanted, before, PAGE)
            for record in page:
                if _is_of(record, asked):
                    key = (
                        *(record.user_id, record.username, record.server),
                        *(record.method, _name(record, asked)),
                    )
                    groups.setdefault(key, []).append(record)
            seen += len(page)
            if len(page) < PAGE:
                break
            before = (page[-1].started_at, page[-1].id)
            await self._clock.sleep(0)
        reached = sorted(
            (
                ReachedGroup(
                    *key,
                    len(records),
                    min(record.started_at for record in records),
                    max(record.started_at for record in records),
                )
                for key, records in groups.items()
            ),
            key=lambda group: (-group.calls, group.user_id),
        )
        return BlastRadius(
            asked.hours,
            sum(group.calls for group in reached),
            tuple(reached[:MAX_GROUPS]),
            is_complete=seen < MAX_RECORDS and len(reached) <= MAX_GROUPS,
        )


OF_SERVERS = frozenset({QuarantineKind.SERVER, QuarantineKind.TOOL})


def _name(record: UsageRecord, asked: NewQuarantine) -> str | None:
    """Return the tool under one name, also that of a record of an earlier release."""
    return asked.tool if asked.kind is QuarantineKind.TOOL else record.name


def _is_of(record: UsageRecord, asked: NewQuarantine) -> bool:
    if asked.kind is QuarantineKind.TOOL:
        if record.own_tool is not None:
            return record.own_tool == asked.tool
        # Records of earlier releases have no other name than the client's.
        names = {asked.tool, public_name(record.server or "", asked.tool or "")}
        return record.tool in names
    return asked.kind is not QuarantineKind.TOKEN or record.token_id == asked.subject
