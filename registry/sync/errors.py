"""Failures of synchronisation."""

from typing import ClassVar

from registry.core.errors import ErrorKind, RegistryError
from registry.sync.values import SyncJobRecord


class JobNotFoundError(RegistryError):
    """There is no such job, or the caller may not see its owner."""

    kind: ClassVar[ErrorKind] = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("There is no such job.")


class JobNotFailedError(RegistryError):
    """Only what failed or was cancelled can be asked for again."""

    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT

    def __init__(self, job: SyncJobRecord) -> None:
        super().__init__(
            f"The job is {job.state.value}; only one that is dead or cancelled can be retried.",
            {"state": job.state.value},
        )


class NotSynchronisableError(RegistryError):
    """The owner is turned off, or not of a kind that is read."""

    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT


class WebhookRefusedError(RegistryError):
    """A call of a webhook that nobody vouches for. Does not say whether there is such an owner."""

    kind: ClassVar[ErrorKind] = ErrorKind.UNAUTHORIZED

    def __init__(self, problem: str = "The signature does not fit.") -> None:
        super().__init__(problem)


class WebhookOffError(RegistryError):
    """The call is genuine, but the owner is not synchronised by calls."""

    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT

    def __init__(self, mode: str) -> None:
        super().__init__(
            f"syncMode of this server is {mode}; calls are honoured when it is webhook.",
            {"sync_mode": mode},
        )


class WebhookUnreadableError(RegistryError):
    """The stored secret cannot be decrypted; it must be made anew."""

    kind: ClassVar[ErrorKind] = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("The secret of this webhook cannot be decrypted; make a new one.")


class JobsContendedError(RegistryError):
    """Others open and finish jobs of the same owner all the time."""

    kind: ClassVar[ErrorKind] = ErrorKind.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("This server is being synchronised all the time; try again in a moment.")


class LeaseLostError(Exception):
    """Another attempt at the job has begun; what this one found is not stored."""
