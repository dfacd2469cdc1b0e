"""Requests for approval: opened and cancelled for their requesters, decided by other people.

What is approved is executed by `registry.gateway.approved_calls`; this part sends nothing.
"""

from collections.abc import Callable

from packages.models.states import ApprovalState, Verdict
from registry.approvals.errors import (
    ApprovalChangedError,
    ApprovalNotFoundError,
    ApprovalOverError,
    DecidedAlreadyError,
    NotPermittedToApproveError,
    OwnApprovalError,
)
from registry.approvals.ports import ToolUse
from registry.approvals.reading import may_read, may_see
from registry.approvals.repository import ApprovalRepository
from registry.approvals.values import Approval, Decision, RequestedCall, Requester
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.errors import InsufficientScopeError
from registry.auth.identity import Scope, UserContext
from registry.auth.ports import SeenServers

ATTEMPTS = 5
"""How often a decision is tried while others decide about the same request."""


class ApprovalService:
    """Opens, cancels and decides requests.

    Args:
        approvals: Stores them.
        servers: Knows which servers people see: of others they decide nothing.
        use: Knows which tools people may use: calls of others they do not approve.
        audit: Records each step.
        changed: Called with the id of a request that changed, for what waits in this process.
        allows_own: Whether requesters may approve their own calls.
    """

    def __init__(
        self,
        approvals: ApprovalRepository,
        servers: SeenServers,
        audit: AuditTrail,
        changed: Callable[[str], None],
        *,
        use: ToolUse,
        allows_own: bool,
    ) -> None:
        self._approvals = approvals
        self._servers = servers
        self._use = use
        self._audit = audit
        self._changed = changed
        self._allows_own = allows_own

    async def request(self, call: RequestedCall, user: UserContext) -> Approval:
        """Return the live request for a call of *user*; a new one if there is none."""
        approval, is_new = await self._approvals.open(call, requester_of(user))
        if is_new:
            await self._note(user, AuditAction.CREATE, approval)
        return approval

    async def get(self, approval_id: str, user: UserContext) -> Approval:
        """Return a request that *user* made, or may decide about.

        Raises:
            ApprovalNotFoundError: There is none, or *user* does not see its server.
        """
        found = await self._approvals.get(approval_id)
        if found is None or not may_read(self._servers, user, found):
            raise ApprovalNotFoundError
        return found

    async def cancel(
        self, approval_id: str, user: UserContext, *, expected_etag: str | None = None
    ) -> Approval:
        """End a request of *user* that is not being executed.

        Raises:
            ApprovalNotFoundError: *user* made no such request.
            ApprovalOverError: It has ended, or is being executed.
            ApprovalChangedError: It changed meanwhile, or is not as *expected_etag* says.
        """
        found = await self._approvals.get(approval_id)
        if found is None or found.requester.user_id != user.user_id:
            raise ApprovalNotFoundError
        _require_etag(found, expected_etag)
        state = found.state_at(await self._approvals.now())
        if state not in {ApprovalState.PENDING, ApprovalState.APPROVED}:
            raise ApprovalOverError(state.value, found.reason)
        ended = await self._approvals.end(found, ApprovalState.CANCELLED, "by its requester")
        if ended is None:
            raise ApprovalChangedError
        self._changed(ended.id)
        await self._note(user, AuditAction.DELETE, ended)
        return ended

    async def decide(
        self,
        approval_id: str,
        user: UserContext,
        verdict: Verdict,
        comment: str | None = None,
        *,
        expected_etag: str | None = None,
    ) -> Approval:
        """Approve or deny a request.

        Raises:
            ApprovalNotFoundError: There is none, or *user* does not see its server.
            InsufficientScopeError: *user* has no scope `approve:tools`.
            OwnApprovalError: It is their own.
            NotPermittedToApproveError: They approve, and may not use the tool themselves.
            ApprovalOverError: It is not pending any more.
            DecidedAlreadyError: *user* has decided about it.
            ApprovalChangedError: Others keep changing it, or it is not as *expected_etag* says.
        """
        if user.lacks(Scope.APPROVE_TOOLS):
            raise InsufficientScopeError((Scope.APPROVE_TOOLS,))
        for _ in range(ATTEMPTS):
            found = await self.get(approval_id, user)
            _require_etag(found, expected_etag)
            if verdict is Verdict.APPROVE:
                await self._require_may_approve(user, found)
            elif not may_see(self._servers, user, found):
                raise ApprovalNotFoundError
            now = await self._approvals.now()
            state = found.state_at(now)
            if state is not ApprovalState.PENDING:
                raise ApprovalOverError(state.value, found.reason)
            if any(one.user_id == user.user_id for one in found.decisions):
                raise DecidedAlreadyError
            decision = Decision(
                *(user.user_id, user.username, verdict, now, comment),
                # The operator is no stored user either.
                is_service_account=user.is_service_account or user.is_of_all_tenants,
            )
            decided = await self._approvals.decide(found, decision)
            if decided is not None:
                self._changed(decided.id)
                is_yes = verdict is Verdict.APPROVE
                action = AuditAction.ACCEPT if is_yes else AuditAction.REJECT
                await self._note(user, action, decided, comment)
                return decided
        raise ApprovalChangedError

    async def _require_may_approve(self, user: UserContext, approval: Approval) -> None:
        if approval.requester.user_id == user.user_id and not self._allows_own:
            raise OwnApprovalError
        if user.is_of_all_tenants:
            return
        if not may_see(self._servers, user, approval):
            raise ApprovalNotFoundError
        if not await self._use.may_use(approval.server_id, approval.tool, user):
            raise NotPermittedToApproveError

    async def _note(
        self,
        user: UserContext,
        action: AuditAction,
        approval: Approval,
        reason: str | None = None,
    ) -> None:
        await self._audit.note(
            user,
            AuditEvent(
                action,
                EntityType.APPROVAL,
                approval.id,
                {"tool": approval.tool, "state": approval.state.value},
                reason=reason,
                server_id=approval.server_id,
            ),
        )


def requester_of(user: UserContext) -> Requester:
    """Return a caller as the requester of a call."""
    return Requester(
        user.user_id,
        user.username,
        user.role,
        tuple(sorted(user.held_scopes)),
        user.token_id,
        user.session_id,
        user.ancestors,
        user.is_service_account,
        user.toolset,
    )


def _require_etag(approval: Approval, expected_etag: str | None) -> None:
    if expected_etag is not None and expected_etag != approval.etag:
        raise ApprovalChangedError
