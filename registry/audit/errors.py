"""Errors of the audit trail."""

from registry.core.errors import ErrorKind, RegistryError


class AuditUnwritableError(RegistryError):
    """The database is available but refuses the record, so nothing was changed."""

    kind = ErrorKind.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("The audit trail cannot be written, so nothing was changed.")
