"""Errors of quarantine."""

from registry.core.errors import ErrorKind, RegistryError


class QuarantineNotFoundError(RegistryError):
    """There is no such quarantine, or not for the caller."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Quarantine not found")


class QuarantineForbiddenError(RegistryError):
    """The caller may not put this in quarantine."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, who: str) -> None:
        super().__init__(f"This is for {who}.")


class UnknownQuarantineSubjectError(RegistryError):
    """What shall be put in quarantine does not exist."""

    kind = ErrorKind.INVALID

    def __init__(self, what: str) -> None:
        super().__init__(f"There is no such {what}.", {"field": "subject"})


class InQuarantineError(RegistryError):
    """The caller, or their token, is in quarantine."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} is in quarantine; ask an administrator.", {"quarantined": True})
