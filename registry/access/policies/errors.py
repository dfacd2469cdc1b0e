"""Failures of operations on policies."""

from collections.abc import Sequence

from registry.access.policies.values import Policy
from registry.core.errors import ErrorKind, RegistryError


class PolicyNotFoundError(RegistryError):
    """There is no such policy that the caller may know of."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Policy not found")


class OwnerNotFoundError(RegistryError):
    """There is no such server that the caller may see."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Server not found")


class UnknownOwnerError(RegistryError):
    """A policy is to be about a server that does not exist, or not for the caller."""

    kind = ErrorKind.INVALID

    def __init__(self, owner_id: str) -> None:
        super().__init__(
            f"target.owner_id: there is no server {owner_id}",
            {"details": [{"field": "target.owner_id", "message": "there is no such server"}]},
        )


class UnknownSubjectsError(RegistryError):
    """A policy, or a question, names users or groups that do not exist."""

    kind = ErrorKind.INVALID

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(
            f"There is no such subject: {', '.join(names)}", {"unknown_subjects": list(names)}
        )


class PolicyForbiddenError(RegistryError):
    """The caller may not write policies about this."""

    kind = ErrorKind.FORBIDDEN


class PolicyExistsError(RegistryError):
    """Another policy about the same server, or about all, has the name."""

    kind = ErrorKind.CONFLICT

    def __init__(self, policy: Policy) -> None:
        where = "all servers" if policy.target.owner_id is None else "this server"
        super().__init__(
            f"A policy about {where} with name {policy.name!r} already exists", {"field": "name"}
        )


class PolicyModifiedError(RegistryError):
    """The policy changed since the caller read it."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current_etag: str, provided_etag: str | None) -> None:
        super().__init__(
            "The policy was modified by another process",
            {"current_etag": current_etag, "provided_etag": provided_etag},
        )


class PolicyUnreadableError(RegistryError):
    """Another program stored the policy in a form that cannot be changed here."""

    kind = ErrorKind.CONFLICT

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The policy is stored in a form that cannot be changed here ({problem}); "
            "remove it and make it again."
        )


class TooManyPoliciesError(RegistryError):
    """A server has as many policies as it may."""

    kind = ErrorKind.CONFLICT

    def __init__(self, most: int) -> None:
        super().__init__(f"There are {most} policies about this already; no more can be made.")
