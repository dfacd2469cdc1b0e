"""Audit records of requests that the REST API refused to an authenticated caller.

Unauthenticated requests are only counted (`auth_token_verifications`), because anyone could fill
the trail with them.
"""

from collections.abc import Mapping

from starlette.requests import Request

from packages.models.states import AuditOutcome
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import UserContext
from registry.core.errors import ErrorKind

ACTIONS = {
    "GET": AuditAction.READ,
    "POST": AuditAction.CREATE,
    "PUT": AuditAction.UPDATE,
    "PATCH": AuditAction.UPDATE,
    "DELETE": AuditAction.DELETE,
}
OPERATIONS = {
    "refresh_server": AuditAction.REFRESH,
    "toggle_server": AuditAction.UPDATE,
    "roll_back_server": AuditAction.ROLLBACK,
    "sync_owner": AuditAction.REFRESH,
    "retry_sync_job": AuditAction.REFRESH,
    "update_tools": AuditAction.UPDATE,
    "accept_tool": AuditAction.ACCEPT,
    "accept_tools": AuditAction.ACCEPT,
    "reject_tools": AuditAction.REJECT,
    "reject_tool": AuditAction.REJECT,
    "roll_back_tool": AuditAction.ROLLBACK,
    "explain_access": AuditAction.READ,
    "simulate_access": AuditAction.READ,
    "generate_token": AuditAction.ISSUE,
    "issue_user_token": AuditAction.ISSUE,
    "revoke_token": AuditAction.REVOKE,
}
"""Actions of routes whose HTTP method does not determine it, by operation id."""

ENTITY_TYPES = {
    "servers": EntityType.SERVER,
    "tokens": EntityType.TOKEN,
    "permissions": EntityType.PERMISSION,
    "audit": EntityType.AUDIT,
    "usage": EntityType.USAGE,
    "access": EntityType.POLICY,
    "tools": EntityType.TOOL,
    "users": EntityType.USER,
    "groups": EntityType.GROUP,
}
"""Entity types by the tag of the route."""

ID_PARAMETERS = (
    "server_id",
    "resource_id",
    "token_id",
    "policy_id",
    "tool_id",
    "owner_id",
    "user_id",
    "group_id",
)
DENIALS = frozenset({ErrorKind.FORBIDDEN, ErrorKind.INSUFFICIENT_SCOPE})
FAILURES = frozenset({ErrorKind.INVALID, ErrorKind.NOT_FOUND, ErrorKind.CONFLICT})
SECRET_READS = frozenset({EntityType.TOKEN, EntityType.PERMISSION})
REASON_CHARACTERS = 500


class RefusalRecorder:
    """Records refused requests."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    async def note(self, request: Request, kind: ErrorKind, message: str) -> None:
        """Record every denial, and failures of requests that change data or read secrets.

        Hidden things are answered like missing ones, so both are recorded.
        """
        caller = getattr(request.state, "caller", None)
        if not isinstance(caller, UserContext):
            return
        denied = is_denial(kind)
        entity_type = _entity_type(request)
        harmless = request.method == "GET" and entity_type not in SECRET_READS
        if not denied and (kind not in FAILURES or harmless):
            return
        about = entity_type, _entity_id(request.path_params)
        await self._trail.note(caller, refusal(_action(request), *about, kind, message))


def is_denial(kind: ErrorKind) -> bool:
    """Whether an error means that the caller lacks a right."""
    return kind in DENIALS


def refusal(
    action: AuditAction,
    entity_type: EntityType,
    entity_id: str | None,
    kind: ErrorKind,
    message: str,
) -> AuditEvent:
    """Return the event of a refusal."""
    return AuditEvent(
        action,
        entity_type,
        entity_id,
        outcome=AuditOutcome.DENIED if is_denial(kind) else AuditOutcome.FAILED,
        reason=message[:REASON_CHARACTERS],
    )


def _action(request: Request) -> AuditAction:
    operation = getattr(request.scope.get("route"), "operation_id", None)
    return OPERATIONS.get(str(operation), ACTIONS.get(request.method, AuditAction.READ))


def _entity_type(request: Request) -> EntityType:
    tags = getattr(request.scope.get("route"), "tags", None) or [""]
    return ENTITY_TYPES.get(str(tags[0]), EntityType.SERVER)


def _entity_id(parameters: Mapping[str, object]) -> str | None:
    found = [str(parameters[name]) for name in ID_PARAMETERS if name in parameters]
    return found[0][:128] if found else None
