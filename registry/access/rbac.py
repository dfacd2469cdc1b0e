"""The two checks that guard operations. Both raise; neither returns a verdict to forget."""

from registry.access.errors import AccessDeniedError
from registry.access.policy import Permission, ServerFacts, decide
from registry.auth.errors import AdminRequiredError
from registry.auth.identity import UserContext


def validate_admin(user: UserContext) -> None:
    """Let only administrators through.

    Raises:
        AdminRequiredError: The caller is none.
    """
    if not user.is_admin:
        raise AdminRequiredError


def validate_owner(
    user: UserContext,
    server: ServerFacts,
    needed: Permission = Permission.EDIT,
    *,
    admin_sees_private: bool = True,
) -> None:
    """Let through who may change *server*: its author if it is private, else administrators.

    Raises:
        AccessDeniedError: Anyone else; carries the rule that refused.
    """
    decision = decide(user, needed, server, admin_sees_private=admin_sees_private)
    if not decision.allowed:
        raise AccessDeniedError(decision.rule)
