"""Errors of synchronisation."""

from typing import ClassVar

from registry.core.errors import ErrorKind, RegistryError
from registry.sync.values import SyncJobRecord


class JobNotFoundError(RegistryError):
    """The job does not exist, or the caller may not see its server."""

    kind: ClassVar[ErrorKind] = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("There is no such job.")


class JobNotFailedError(RegistryError):
    """Only a job that is dead or cancelled can be retried."""

    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT

    def __init__(self, job: SyncJobRecord) -> None:
        super().__init__(
            f"The job is {job.state.value}; only one that is dead or cancelled can be retried.",
            {"state": job.state.value},
        )


class NotSynchronisableError(RegistryError):
    """The server is turned off, or of a kind that is not read."""

    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT


class WebhookRefusedError(RegistryError):
    """A webhook call without a valid signature. Does not reveal whether the server exists."""

    kind: ClassVar[ErrorKind] = ErrorKind.UNAUTHORIZED

    def __init__(self, problem: str = "The signature does not match.") -> None:
        super().__init__(problem)


class WebhookOffError(RegistryError):
    """The signature is valid, but the server's `syncMode` is not `webhook`."""

    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT

    def __init__(self, mode: str) -> None:
        super().__init__(
            f"syncMode of this server is {mode}; calls are honoured when it is webhook.",
            {"sync_mode": mode},
        )


class WebhookUnreadableError(RegistryError):
    """The stored secret cannot be decrypted; a new one must be created."""

    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("The secret of this webhook cannot be decrypted; create a new one.")


class JobsContendedError(RegistryError):
    """Other processes keep opening and finishing jobs of the same server."""

    kind: ClassVar[ErrorKind] = ErrorKind.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__(
            "Too many concurrent synchronisations of this server; try again in a moment."
        )


class LeaseLostError(Exception):
    """Another attempt at the job has begun; the result of this one is not stored."""
