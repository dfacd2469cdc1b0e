"""Failures of access checks."""

from registry.core.errors import ErrorKind, RegistryError


class AccessDeniedError(RegistryError):
    """The caller may not do this. *rule* is the rule of the policy that refused."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, rule: str) -> None:
        super().__init__(f"You may not do this: {rule}.")
        self.rule = rule
