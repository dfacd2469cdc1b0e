"""Record what the REST API refused to a caller it knows.

Strangers are only counted (`auth_token_verifications`): anybody could fill the trail.
"""

from collections.abc import Mapping

from starlette.requests import Request

from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, AuditOutcome, EntityType
from registry.auth.identity import UserContext
from registry.core.errors import ErrorKind

ACTIONS = {
    "GET": AuditAction.READ,
    "POST": AuditAction.CREATE,
    "PUT": AuditAction.UPDATE,
    "PATCH": AuditAction.UPDATE,
    "DELETE": AuditAction.DELETE,
}
ENTITY_TYPES = {
    "servers": EntityType.SERVER,
    "tokens": EntityType.TOKEN,
    "permissions": EntityType.PERMISSION,
    "audit": EntityType.AUDIT,
}
"""By the tag of the route."""

ID_PARAMETERS = ("server_id", "resource_id", "token_id")
DENIALS = frozenset({ErrorKind.FORBIDDEN, ErrorKind.INSUFFICIENT_SCOPE})
REASON_CHARACTERS = 500


class RefusalRecorder:
    """Turns refused requests into records."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    async def note(self, request: Request, kind: ErrorKind, message: str) -> None:
        """Record every denial, and refused input where it would have changed something."""
        caller = getattr(request.state, "caller", None)
        if not isinstance(caller, UserContext):
            return
        denied = kind in DENIALS
        if not denied and (kind is not ErrorKind.INVALID or request.method == "GET"):
            return
        event = AuditEvent(
            ACTIONS.get(request.method, AuditAction.READ),
            _entity_type(request),
            _entity_id(request.path_params),
            outcome=AuditOutcome.DENIED if denied else AuditOutcome.FAILED,
            reason=message[:REASON_CHARACTERS],
        )
        await self._trail.note(caller, event)


def _entity_type(request: Request) -> EntityType:
    tags = getattr(request.scope.get("route"), "tags", None) or [""]
    return ENTITY_TYPES.get(str(tags[0]), EntityType.SERVER)


def _entity_id(parameters: Mapping[str, object]) -> str | None:
    found = [str(parameters[name]) for name in ID_PARAMETERS if name in parameters]
    return found[0][:128] if found else None
