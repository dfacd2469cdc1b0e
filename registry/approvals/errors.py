"""Errors of the approvals domain."""

from registry.core.errors import ErrorKind, RegistryError


class ApprovalNotFoundError(RegistryError):
    """There is no such request, or not for this caller."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("There is no such request for approval.")


class ApprovalOverError(RegistryError):
    """The request is in another state than it would have to be."""

    kind = ErrorKind.CONFLICT

    def __init__(self, state: str, reason: str | None = None) -> None:
        why = f" ({reason})" if reason else ""
        super().__init__(f"The request is {state}{why}.", {"state": state})


class ApprovalChangedError(RegistryError):
    """Another person changed the request meanwhile."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("The request has changed since it was read; read it again.")


class OwnApprovalError(RegistryError):
    """Requesters do not approve their own calls."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("Somebody else must approve this call: it is your own.")


class DecidedAlreadyError(RegistryError):
    """The same person decided already."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__("You have decided about this request already.")


class NotPermittedToApproveError(RegistryError):
    """Only those approve calls of a tool who may use it themselves."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("You may not use this tool yourself, so you may not approve its calls.")
