"""Governance of tools: who sees which tools, and the decisions about them.

A decision is one transaction: the tool, its versions, what the other application reads of its
server, and the audit record. The gateway follows by the change stream, as for any change.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from packages.database.client import Database, Transaction
from packages.database.stored import EARLIEST
from packages.models.states import VersionOrigin, VersionState
from registry.audit.refusals import refusal
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.cursor import CursorPage as EventPage
from registry.core.errors import RegistryError
from registry.core.paging import Page, PageRequest
from registry.tools.exposure import is_served
from registry.tools.governance.decisions import (
    ToolDecisionEffects,
    accepted,
    audit_changes,
    patched,
    rejected,
    rolled_back,
)
from registry.tools.governance.errors import (
    HiddenToolsForbiddenError,
    ToolForbiddenError,
    ToolModifiedError,
    ToolNotFoundError,
    VersionNotFoundError,
)
from registry.tools.governance.history import ToolHistoryReader
from registry.tools.governance.listing import listed
from registry.tools.governance.repository import GovernedTools, decided_change
from registry.tools.governance.values import (
    ToolFilter,
    ToolPatch,
    ToolVersionRecord,
)
from registry.tools.ports import OwnerRights, ToolOwners
from registry.tools.repository import ToolRepository
from registry.tools.tool_events import ToolEvent
from registry.tools.values import StoredTool, ToolEditor

log = structlog.get_logger()

MAX_AT_ONCE = 5_000
"""Tools that are filtered before other tasks get a turn: one or two milliseconds."""

Decide = Callable[[StoredTool, Transaction], Awaitable[ToolDecisionEffects]]
DecideAtOnce = Callable[[StoredTool], ToolDecisionEffects]
Decided = tuple[StoredTool, ToolDecisionEffects]


@dataclass(frozen=True, slots=True)
class BulkResult:
    """Result of a change of many tools.

    Attributes:
        changed: Ids of the changed tools.
        unchanged: Ids of tools that already were as requested.
        failed: Ids with the reason of the failure.
    """

    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    failed: tuple[tuple[str, RegistryError], ...]


@dataclass(frozen=True, slots=True)
class ToolHistoryPage:
    """History of a tool, newest first.

    Attributes:
        versions: The definitions that it had or was offered with.
        events: Its events.
    """

    tool: StoredTool
    versions: Page[ToolVersionRecord]
    events: EventPage[ToolEvent]


class ToolService:
    """Reads tools and decides about them, each on behalf of a caller."""

    def __init__(
        self,
        database: Database,
        tools: ToolRepository,
        governed: GovernedTools,
        histories: ToolHistoryReader,
        audit: AuditTrail,
        owners: ToolOwners,
        *,
        clock: Clock,
    ) -> None:
        self._database = database
        self._tools = tools
        self._governed = governed
        self._histories = histories
        self._audit = audit
        self._owners = owners
        self._clock = clock

    async def page(
        self, user: UserContext, narrowed: ToolFilter, page: PageRequest
    ) -> Page[StoredTool]:
        """Return one page of the tools that *user* sees.

        All tools of servers that they may change, and the served tools of others.

        Raises:
            HiddenToolsForbiddenError: Stale or disabled tools were asked for without the right.
            ListsOutdatedError: The database has been unavailable for too long.
        """
        seen = self._owners.seen(user)
        governed = seen.editable
        wants_hidden = narrowed.with_stale or narrowed.with_disabled
        if wants_hidden and not (seen.is_everything or narrowed.owner_id in governed):
            raise HiddenToolsForbiddenError
        owners = seen.visible
        if narrowed.owner_id is not None:
            owners = {narrowed.owner_id}.intersection(owners)
        elif narrowed.reviews:
            owners = governed
        tools = self._owners.tools(owners)
        if len(tools) <= MAX_AT_ONCE:
            found = listed(tools, governed, narrowed)
        else:
            # Lets calls at the gateway continue.
            found = await asyncio.to_thread(listed, tools, governed, narrowed)
        chosen = found[page.offset : page.offset + page.per_page]
        rows = await self._governed.some([tool.row_id.hex() for tool in chosen])
        items = tuple(
            tool if tool.owner_id in governed else tool.as_viewed()
            for tool in rows
            # Read again: it may have been decided about since.
            if tool.owner_id in governed or is_served(*tool.state)
        )
        return Page(items, len(found), page)

    async def get(self, tool_id: str, user: UserContext) -> StoredTool:
        """Return one tool; what waits for review is shown to callers who may change its server.

        Raises:
            ToolNotFoundError: The tool does not exist, or *user* may not see it.
        """
        tool, rights = await self._seen(tool_id, user)
        return tool if rights.may_edit else tool.as_viewed()

    async def _seen(self, tool_id: str, user: UserContext) -> tuple[StoredTool, OwnerRights]:
        tool = await self._governed.get(tool_id)
        if tool is None:
            raise ToolNotFoundError
        rights = await self._owners.rights(tool.owner_id, user)
        if not rights.may_edit and not (rights.may_view and is_served(*tool.state)):
            raise ToolNotFoundError
        return tool, rights

    async def history(
        self, tool_id: str, user: UserContext, page: PageRequest, events_cursor: str | None
    ) -> ToolHistoryPage:
        """Return a tool, one page of its versions and one of its events, newest first.

        Raises:
            BadCursorError: *events_cursor* was not issued here.
            ToolNotFoundError: The tool does not exist, or *user* may not see it.
            ToolForbiddenError: They may not change it, and so may not see what was never approved.
        """
        tool = _editable(*await self._seen(tool_id, user))
        versions = await self._governed.versions(tool_id, page)
        if not versions.total:
            only = (_only_version(tool),) if page.page == 1 else ()
            versions = Page(only, 1, page)
        events = await self._histories.page(tool, events_cursor, page.per_page)
        return ToolHistoryPage(tool, versions, events)

    async def patch(
        self,
        tool_id: str,
        patch: ToolPatch,
        user: UserContext,
        *,
        expected_etag: str | None = None,
    ) -> StoredTool:
        """Change the overrides of a tool, or its states.

        Raises:
            ToolModifiedError: *expected_etag* is not the tool's any more.
            ToolNotFoundError: The tool does not exist, or *user* may not see it.
            ToolForbiddenError: They may not change it.
            ToolStateError: The tool's states do not allow it.
        """

        async def decide(tool: StoredTool, _tx: Transaction) -> ToolDecisionEffects:
            if expected_etag not in {None, tool.etag}:
                raise ToolModifiedError(tool.etag, str(expected_etag))
            return patched(tool, patch)

        return await self._decide(tool_id, user, decide, AuditAction.UPDATE)

    async def accept(self, tool_id: str, seen: str, user: UserContext) -> StoredTool:
        """Serve what waits for review.

        Args:
            tool_id: The tool's id.
            seen: Hash of the definition that was reviewed.
            user: The caller.

        Raises:
            ToolNotFoundError: The tool does not exist, or *user* may not see it.
            ToolForbiddenError: They may not change it.
            ToolSupersededError: Another definition is pending now.
            ToolStateError: Nothing waits.
        """

        async def decide(tool: StoredTool, _tx: Transaction) -> ToolDecisionEffects:
            return accepted(tool, seen)

        return await self._decide(tool_id, user, decide, AuditAction.ACCEPT)

    async def reject(self, tool_id: str, seen: str, user: UserContext) -> StoredTool:
        """Reject what waits for review; arguments and errors as for `accept`."""

        async def decide(tool: StoredTool, _tx: Transaction) -> ToolDecisionEffects:
            return rejected(tool, seen)

        return await self._decide(tool_id, user, decide, AuditAction.REJECT)

    async def roll_back(self, tool_id: str, version: int, user: UserContext) -> StoredTool:
        """Serve another version of a tool.

        Raises:
            ToolNotFoundError: The tool does not exist, or *user* may not see it.
            ToolForbiddenError: They may not change it.
            VersionNotFoundError: It has no such version.
            ToolStateError: It is already served, or cannot be.
        """

        async def decide(tool: StoredTool, tx: Transaction) -> ToolDecisionEffects:
            found = await self._governed.version(tool_id, version, tx)
            if found is None and version != tool.served_version:
                raise VersionNotFoundError
            return rolled_back(tool, found or _only_version(tool))

        return await self._decide(tool_id, user, decide, AuditAction.ROLLBACK)

    async def patch_many(
        self, tool_ids: Sequence[str], patch: ToolPatch, user: UserContext
    ) -> BulkResult:
        """Change many tools, all of one server in one transaction.

        A failure of one tool does not affect the others.
        """
        return await self._decide_many(
            tool_ids, user, lambda tool: patched(tool, patch), AuditAction.UPDATE
        )

    async def accept_many(self, seen: Mapping[str, str], user: UserContext) -> BulkResult:
        """Accept what waits for many tools, each by the reviewed hash; as `patch_many`."""
        return await self._decide_many(
            list(seen), user, lambda tool: accepted(tool, seen[tool.id]), AuditAction.ACCEPT
        )

    async def reject_many(self, seen: Mapping[str, str], user: UserContext) -> BulkResult:
        """Reject what waits for many tools; as `accept_many`."""
        return await self._decide_many(
            list(seen), user, lambda tool: rejected(tool, seen[tool.id]), AuditAction.REJECT
        )

    async def _decide_many(
        self, tool_ids: Sequence[str], user: UserContext, decide: DecideAtOnce, action: AuditAction
    ) -> BulkResult:
        owners = await self._governed.owners_of(tool_ids)
        changed: list[str] = []
        unchanged: list[str] = []
        failed: list[tuple[str, RegistryError]] = [
            (tool_id, ToolNotFoundError()) for tool_id in tool_ids if tool_id not in owners
        ]
        by_owner: dict[str, list[str]] = {}
        for tool_id in tool_ids:
            if tool_id in owners:
                by_owner.setdefault(owners[tool_id], []).append(tool_id)
        for owner_id, ids in by_owner.items():
            result = await self._decide_for_owner(owner_id, ids, user, decide, action)
            changed += result.changed
            unchanged += result.unchanged
            failed += result.failed
        log.info("tools_updated", count=len(changed), action=action.value, user_id=user.user_id)
        await self._audit.note_all(
            user,
            (
                refusal(action, EntityType.TOOL, tool_id, error.kind, error.message)
                for tool_id, error in failed
            ),
        )
        return BulkResult(tuple(changed), tuple(unchanged), tuple(failed))

    async def _decide_for_owner(
        self,
        owner_id: str,
        tool_ids: Sequence[str],
        user: UserContext,
        decide: DecideAtOnce,
        action: AuditAction,
    ) -> BulkResult:
        async def write(tx: Transaction) -> BulkResult:
            decided: list[Decided] = []
            unchanged: list[str] = []
            failed: list[tuple[str, RegistryError]] = []
            rights = await self._owners.rights(owner_id, user, tx)
            found = await self._governed.several(tool_ids, tx)
            for tool_id in tool_ids:
                try:
                    tool = _editable(found.get(tool_id), rights)
                    decision = decide(tool)
                except RegistryError as exc:
                    failed.append((tool_id, exc))
                    continue
                if _changes_nothing(tool, decision):
                    unchanged.append(tool_id)
                else:
                    decided.append((tool, decision))
            await self._write(owner_id, decided, action, user, tx)
            changed = tuple(tool.id for tool, _ in decided)
            return BulkResult(changed, tuple(unchanged), tuple(failed))

        result = await self._database.transaction(write)
        if result.changed:
            await self._owners.changed(owner_id)
        return result

    async def _decide(
        self, tool_id: str, user: UserContext, decide: Decide, action: AuditAction
    ) -> StoredTool:
        # A caller who may not see it learns nothing of it, not even that it may not be changed.
        owner_id = (await self.get(tool_id, user)).owner_id

        async def write(tx: Transaction) -> StoredTool:
            found = await self._governed.get(tool_id, tx)
            tool = _editable(found, await self._owners.rights(owner_id, user, tx))
            decision = await decide(tool, tx)
            if not _changes_nothing(tool, decision):
                await self._write(owner_id, [(tool, decision)], action, user, tx)
            decided = await self._governed.get(tool_id, tx)
            if decided is None:
                raise ToolNotFoundError
            return decided

        tool = await self._database.transaction(write)
        log.info("tool_updated", tool_id=tool_id, action=action.value, user_id=user.user_id)
        await self._owners.changed(owner_id)
        return tool

    async def _write(
        self,
        owner_id: str,
        decided: Sequence[Decided],
        action: AuditAction,
        user: UserContext,
        tx: Transaction,
    ) -> None:
        """Write decisions about tools of one server, and an audit record of each."""
        now = self._clock.now()
        await self._tools.change(
            {tool.id: decided_change(tool, decision, now) for tool, decision in decided}, tx
        )
        moves = [move for _, decision in decided for move in decision.versions]
        person = ToolEditor(user.user_id, user.username)
        await self._tools.write_versions(owner_id, moves, now, tx, person=person)
        events = [
            AuditEvent(
                action, EntityType.TOOL, tool.id, audit_changes(tool, decision), server_id=owner_id
            )
            for tool, decision in decided
        ]
        await self._audit.record_all(user, events, tx)
        batch = self._database.batch(tx)
        if decided:
            is_seen = any(_is_seen(*each) for each in decided)
            served = await self._tools.served(owner_id, tx) if is_seen else None
            await self._owners.write(owner_id, served, now, batch)
        await batch.send()


def _editable(tool: StoredTool | None, rights: OwnerRights) -> StoredTool:
    """Return the tool for a caller who may change its server.

    Raises:
        ToolNotFoundError: The tool does not exist, or they may not see it.
        ToolForbiddenError: They may see it but not change it.
    """
    if tool is not None and rights.may_edit:
        return tool
    if tool is not None and rights.may_view and is_served(*tool.state):
        raise ToolForbiddenError
    raise ToolNotFoundError


def _is_seen(tool: StoredTool, decision: ToolDecisionEffects) -> bool:
    """Whether a decision changes the tools that clients get."""
    before, later = is_served(*tool.state), is_served(*decision.state)
    said = decision.overrides or tool.overrides
    is_changed = decision.serve is not None or said.for_clients != tool.overrides.for_clients
    return before is not later or (later and is_changed)


def _changes_nothing(tool: StoredTool, decision: ToolDecisionEffects) -> bool:
    return decision == ToolDecisionEffects(tool.state) or (
        decision == ToolDecisionEffects(tool.state, overrides=decision.overrides)
        and decision.overrides == tool.overrides
    )


def _only_version(tool: StoredTool) -> ToolVersionRecord:
    """Return the one version of a tool that never changed, which is its row."""
    return ToolVersionRecord(
        version=tool.served_version,
        state=VersionState.SERVED.value,
        origin=VersionOrigin.DISCOVERY.value,
        discovery_hash=tool.discovery_hash,
        definition=tool.definition or "{}",
        created_at=tool.created_at or tool.last_discovered_at or EARLIEST,
    )
