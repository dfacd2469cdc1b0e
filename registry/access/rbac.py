"""The two checks that guard operations. Both raise; neither returns a verdict to forget."""

from registry.access.errors import AccessDeniedError
from registry.access.policy import AccessRule, Permission
from registry.auth.errors import AdminRequiredError
from registry.auth.identity import UserContext


def validate_admin(user: UserContext, asked: str) -> None:
    """Let only administrators through.

    Args:
        user: Who asks.
        asked: What for, as the subject of a sentence.

    Raises:
        AdminRequiredError: The caller is none.
    """
    if not user.is_admin:
        raise AdminRequiredError(asked)


def validate_owner(bits: int, needed: Permission = Permission.EDIT) -> None:
    """Let through who may change a server: its owners, its editors and administrators.

    Args:
        bits: What the policy says the caller may do with it.
        needed: What it takes.

    Raises:
        AccessDeniedError: The caller may not; carries the rule that refused.
    """
    if needed.value & bits != needed.value:
        raise AccessDeniedError(AccessRule.NO_GRANT)
