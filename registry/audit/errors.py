"""Failures of questions to the audit trail."""

from registry.core.errors import ErrorKind, RegistryError, ValidationFailedError


class AuditUnwritableError(RegistryError):
    """The database is there but does not take the record, so nothing was changed."""

    kind = ErrorKind.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("The audit trail cannot be written, so nothing was changed.")


class MomentOutOfRangeError(ValidationFailedError):
    """A time cannot be said in UTC."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "is out of range")


class BadCursorError(ValidationFailedError):
    """The cursor is none that this API gave out."""

    def __init__(self) -> None:
        super().__init__("cursor", "is not one that this API gave out")
