"""The two checks that guard operations. Both raise, so that no result can be ignored."""

from registry.access.errors import AccessDeniedError
from registry.access.policy import AccessRule, Permission
from registry.auth.errors import AdminRequiredError
from registry.auth.identity import UserContext


def validate_admin(user: UserContext, asked: str) -> None:
    """Check that the caller is an administrator.

    Args:
        user: The caller.
        asked: The operation, as the subject of a sentence.

    Raises:
        AdminRequiredError: The caller is not.
    """
    if not user.is_admin:
        raise AdminRequiredError(asked)


def validate_owner(bits: int, needed: Permission = Permission.EDIT) -> None:
    """Check that the caller may change a server: its owners, its editors and administrators.

    Args:
        bits: The caller's rights on it, from the policy.
        needed: The required right.

    Raises:
        AccessDeniedError: The caller lacks it; carries the rule that refused.
    """
    if needed.value & bits != needed.value:
        raise AccessDeniedError(AccessRule.NO_GRANT)
