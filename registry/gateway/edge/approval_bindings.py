"""What requests for approval are bound to, and whether it still is so.

A request is for one call of one person: it is void as soon as anything of it changed. All of it is
checked once more, with its people as they are then, before an approved call is sent.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.types import Message as ASGIMessage

from packages.database.encryption import DecryptionError
from packages.models.states import ApprovalState, Verdict
from registry.approvals.repository import ApprovalRepository
from registry.approvals.values import Approval
from registry.auth.errors import UnauthorizedError
from registry.auth.identity import Role, Scope, UserContext
from registry.auth.jwt import VerifiedToken
from registry.core.json import JsonObject, choice_of, load_text
from registry.gateway.edge.admission import Admission
from registry.gateway.edge.approvals import definition_hash
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import Quarantined, ToolsetUnknown
from registry.gateway.protocol.headers import TOOLSET_HEADER
from registry.gateway.values import Route, ToolEntry


class NoLongerHolds(Exception):  # noqa: N818 - a decision that travels as an exception
    """Something that the approval is bound to is not so any more."""


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """An approved call that may be made.

    Attributes:
        user: The requester, as they are now.
        arguments: As they were approved.
    """

    approval: Approval
    user: UserContext
    route: Route
    tool: ToolEntry
    arguments: JsonObject


class ApprovalBindings:
    """Checks requests for approval.

    Args:
        repository: Reads their arguments.
        admission: Decides what their people may do now.
    """

    def __init__(self, repository: ApprovalRepository, admission: Admission) -> None:
        self._repository = repository
        self._admission = admission

    async def prepared(self, approval: Approval) -> PreparedCall:
        """Return the call of a request, after `check`.

        Raises:
            NoLongerHolds: Something is not as it was requested.
            Refusal: That cannot be known now.
            DatabaseUnavailable: Neither.
        """
        user, route, tool = await self.check(approval)
        try:
            arguments = load_text(self._repository.arguments_of(approval))
        except (DecryptionError, ValueError):
            raise NoLongerHolds("its arguments cannot be read any more") from None
        return PreparedCall(approval, user, route, tool, arguments)

    async def check(self, approval: Approval) -> tuple[UserContext, Route, ToolEntry]:
        """Check everything that a request is bound to, with its people as they are now.

        Returns:
            The requester; the server and the tool as they may use them.

        Raises:
            NoLongerHolds: Something is not as it was requested.
            Refusal: That cannot be known now.
            DatabaseUnavailable: Neither.
        """
        user = await self._requester(approval)
        route = self._admission.served_to(user, approval.server_id)
        if route is None:
            raise NoLongerHolds(
                "the server is not active any more, or its requester has no access to it"
            )
        tool = route.tools.get(approval.tool)
        if tool is None:
            raise NoLongerHolds("the tool is not served to its requester any more")
        if definition_hash(tool) != approval.definition_hash:
            raise NoLongerHolds("the definition of the tool has changed")
        version = self._admission.policy_version(approval.server_id, approval.tool)
        if version != approval.policy_version:
            raise NoLongerHolds("the policies for the tool have changed")
        is_pending = approval.state is ApprovalState.PENDING
        if tool.rules.approvals > (approval.needed if is_pending else approval.approvals):
            raise NoLongerHolds("more people have to approve the tool's calls now")
        self._require_in_toolset(approval, user, route)
        await self._require_approvers(approval)
        return user, route, tool

    async def _requester(self, approval: Approval) -> UserContext:
        requester = approval.requester
        known = {scope for one in requester.scopes if (scope := choice_of(Scope, one))}
        token = VerifiedToken(
            user_id=requester.user_id,
            username=requester.username,
            role=requester.role,
            scopes=frozenset(known),
            token_id=requester.token_id,
            expires_at=0.0,
            issued_at=approval.created_at.timestamp(),
            session_id=requester.session_id,
            ancestors=requester.ancestors,
            custom_scopes=frozenset(requester.scopes) - known,
            is_service_account=requester.is_service_account,
            toolset=requester.toolset,
        )
        try:
            user = await self._admission.current(token)
        except UnauthorizedError:
            raise NoLongerHolds(
                "its requester is disabled or does not exist any more, or their token was revoked"
            ) from None
        except Quarantined:
            raise NoLongerHolds("its requester is in quarantine") from None
        try:
            self._admission.require_client(approval.client_name)
        except Quarantined:
            raise NoLongerHolds("its application is in quarantine") from None
        if user.lacks(Scope.INVOKE_TOOLS):
            raise NoLongerHolds("its requester may not call tools any more")
        return user

    def _require_in_toolset(self, approval: Approval, user: UserContext, route: Route) -> None:
        """Check that the toolsets of path, header and token, or by default, still have the tool.

        Raises:
            NoLongerHolds: They do not, or the requester may not use them any more.
        """
        exchange = request_of(approval)
        if not self._admission.narrows(exchange, user):
            return
        only = None if not exchange.slug else route
        try:
            offering = self._admission.narrowed(exchange, user, only, approval.client_name)
        except ToolsetUnknown:
            raise NoLongerHolds("its requester may not use the toolset any more") from None
        owned = None if offering is None else offering.tool(approval.called_as)
        if offering is not None and (
            owned is None or (owned.route.server_id, owned.key) != (route.server_id, approval.tool)
        ):
            raise NoLongerHolds("the tool is not in its requester's toolset any more")

    async def _require_approvers(self, approval: Approval) -> None:
        """Check that those who approved it are still users who see the server.

        Which tools they may use depends on tokens that are not known any more.

        Raises:
            NoLongerHolds: One was removed or is disabled, lost access, or had all tokens revoked.
        """
        for decision in approval.decisions:
            if decision.verdict is not Verdict.APPROVE:
                continue
            name = decision.username
            is_stored = not decision.is_service_account
            token = VerifiedToken(
                user_id=decision.user_id,
                username=name,
                role=None if is_stored else Role.USER,
                scopes=None if is_stored else frozenset(),
                token_id=None,
                expires_at=0.0,
                issued_at=decision.at.timestamp(),
                is_service_account=decision.is_service_account,
            )
            try:
                approver = await self._admission.current(token)
            except UnauthorizedError:
                raise NoLongerHolds(
                    f"its approver {name} is disabled or does not exist any more"
                ) from None
            except Quarantined:
                raise NoLongerHolds(f"its approver {name} is in quarantine") from None
            if is_stored and self._admission.served_to(approver, approval.server_id) is None:
                raise NoLongerHolds(f"its approver {name} has no access to the server any more")


def request_of(approval: Approval) -> GatewayRequest:
    """Return a request like the one that was approved, which no client sent."""
    path = approval.path
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "headers": []}
    exchange = GatewayRequest(scope, _never, _nowhere)
    if approval.toolset is not None:
        exchange.headers = {TOOLSET_HEADER: approval.toolset}
    return exchange


async def _never() -> ASGIMessage:
    await asyncio.Event().wait()
    raise AssertionError


async def _nowhere(message: ASGIMessage) -> None:
    del message
