"""Reads requests for approval for those who made them and those who may decide about them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from packages.database.encryption import DecryptionError
from registry.access.policies.ports import WaitingCall
from registry.approvals.errors import ApprovalNotFoundError
from registry.approvals.repository import ApprovalRepository
from registry.approvals.values import LIVE, Approval, ApprovalFilter
from registry.auth.identity import Scope, UserContext
from registry.auth.ports import SeenServers
from registry.core.cursor import CursorPage, newest_page
from registry.core.json import JsonObject, load_text, members
from registry.tools.governance.repository import GovernedTools
from registry.tools.repository import ToolRepository
from registry.tools.shown_arguments import masked
from registry.tools.values import StoredTool

MAX_EXPLAINED = 100
"""Of how many requests of a user and a tool, the newest, an explanation knows."""


@dataclass(frozen=True, slots=True)
class ApprovalDetail:
    """A request with what people decide by.

    Attributes:
        arguments: Secrets are masked by the input schema. None if they cannot be read, or the
            definition that says which are secret is not served any more.
        tool: As it is now; None if there is no such tool any more.
        is_current: Whether its definition is the one that the request is bound to.
    """

    approval: Approval
    arguments: JsonObject | None
    tool: StoredTool | None
    is_current: bool


class ApprovalReader:
    """Lists and shows requests.

    Callers see their own, and with the scope `approve:tools` those for tools of servers that they
    see.
    """

    def __init__(
        self,
        approvals: ApprovalRepository,
        servers: SeenServers,
        tools: ToolRepository,
        governed: GovernedTools,
    ) -> None:
        self._approvals = approvals
        self._servers = servers
        self._tools = tools
        self._governed = governed

    async def page(
        self,
        user: UserContext,
        wanted: ApprovalFilter,
        server_id: str | None,
        cursor: str | None,
        limit: int,
    ) -> CursorPage[Approval]:
        """Return up to *limit* requests that *user* may see and that are older than *cursor*.

        Raises:
            BadCursorError: *cursor* was not issued by this API.
            ListsOutdatedError: The database has been unreachable for a while, so it is unknown
                what *user* may see.
        """
        narrowed = self._narrowed(user, wanted, server_id)
        if narrowed is None:
            return CursorPage((), None)
        now = await self._approvals.now()

        async def read(before: tuple[datetime, str] | None, count: int) -> list[Approval]:
            return await self._approvals.page(narrowed, before, count)

        page = await newest_page(read, lambda one: (one.created_at, one.id), cursor, limit)
        records = tuple(replace_state(one, now) for one in page.records)
        return CursorPage(records, page.next_cursor)

    async def detail(self, approval_id: str, user: UserContext) -> ApprovalDetail:
        """Return a request with what people decide by.

        Raises:
            ApprovalNotFoundError: There is none, or *user* neither made it nor may decide.
        """
        found = await self._approvals.get(approval_id)
        if found is None or not may_read(self._servers, user, found):
            raise ApprovalNotFoundError
        approval = replace_state(found, await self._approvals.now())
        named = await self._tools.get(approval.server_id, approval.tool)
        tool = None if named is None else await self._governed.get(named.id)
        text = None if tool is None else tool.presented or tool.definition
        digest = None if text is None else hashlib.sha256(text.encode()).hexdigest()
        is_current = digest is not None and digest == approval.definition_hash
        arguments = None
        if is_current and text is not None:
            arguments = self._shown(approval, members(members(load_text(text)).get("inputSchema")))
        return ApprovalDetail(
            approval, arguments, None if tool is None else tool.as_viewed(), is_current
        )

    def _shown(self, approval: Approval, schema: JsonObject) -> JsonObject | None:
        try:
            # Numbers as exact as they will be sent.
            arguments = json.loads(self._approvals.arguments_of(approval))
        except (DecryptionError, ValueError, RecursionError):
            return None
        return masked(members(arguments), schema)

    def _narrowed(
        self, user: UserContext, wanted: ApprovalFilter, server_id: str | None
    ) -> ApprovalFilter | None:
        """Return the filter for what *user* may see; None if that is nothing."""
        servers = None if server_id is None else (server_id,)
        if wanted.requester_id == user.user_id:
            return replace(wanted, server_ids=servers)
        if user.lacks(Scope.APPROVE_TOOLS):
            if wanted.requester_id is not None:
                return None
            return replace(wanted, requester_id=user.user_id, server_ids=servers)
        if user.is_of_all_tenants or self._servers.sees_everything(user):
            return replace(wanted, server_ids=servers)
        seen = frozenset(self._servers.rights(user))
        chosen = seen if servers is None else seen.intersection(servers)
        return replace(wanted, server_ids=tuple(sorted(chosen))) if chosen else None


def may_read(servers: SeenServers, user: UserContext, approval: Approval) -> bool:
    """Return whether *user* made a request, or is among those who decide about it."""
    return approval.requester.user_id == user.user_id or may_see(servers, user, approval)


def may_see(servers: SeenServers, user: UserContext, approval: Approval) -> bool:
    """Return whether *user* holds `approve:tools` and sees the server of a request."""
    if user.lacks(Scope.APPROVE_TOOLS) or not user.sees_tenant(approval.tenant_id):
        return False
    if user.is_of_all_tenants or servers.sees_everything(user):
        return True
    return approval.server_id in servers.rights(user)


def replace_state(approval: Approval, now: datetime) -> Approval:
    """Return a request in the state that it has at a time."""
    return approval.model_copy(update={"state": approval.state_at(now)})


class WaitingRequests:
    """The requests that wait. Implements `access.policies.ports.WaitingCalls`."""

    def __init__(self, approvals: ApprovalRepository) -> None:
        self._approvals = approvals

    async def waiting(self, user_id: str, server_id: str, tool: str) -> Sequence[WaitingCall]:
        """Return those of a user and a tool, newest first. No access check."""
        wanted = ApprovalFilter(requester_id=user_id, server_ids=(server_id,), tool=tool)
        now = await self._approvals.now()
        found = await self._approvals.page(wanted, None, MAX_EXPLAINED)
        return [
            WaitingCall(one.id, one.state.value, one.approvals, one.needed, one.expires_at)
            for one in found
            if one.state_at(now) in LIVE
        ]
