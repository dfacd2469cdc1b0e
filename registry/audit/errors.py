"""Failures of questions to the audit trail."""

from registry.core.errors import ErrorKind, RegistryError


class AuditUnwritableError(RegistryError):
    """The database is there but does not take the record, so nothing was changed."""

    kind = ErrorKind.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("The audit trail cannot be written, so nothing was changed.")
