"""Errors of operations on policies."""

from collections.abc import Sequence

from registry.access.policies.values import Policy
from registry.core.errors import ErrorKind, RegistryError


class PolicyNotFoundError(RegistryError):
    """The policy does not exist, or the caller may not know of it."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Policy not found")


class OwnerNotFoundError(RegistryError):
    """The server does not exist, or the caller may not see it."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Server not found")


class UnknownOwnerError(RegistryError):
    """The target server of a policy does not exist, or not for the caller."""

    kind = ErrorKind.INVALID

    def __init__(self, owner_id: str) -> None:
        super().__init__(
            f"target.owner_id: unknown server {owner_id}",
            {"details": [{"field": "target.owner_id", "message": "unknown server"}]},
        )


class UnknownSubjectsError(RegistryError):
    """A policy, or an explain request, names users or groups that do not exist."""

    kind = ErrorKind.INVALID

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"Unknown subject: {', '.join(names)}", {"unknown_subjects": list(names)})


class PolicyForbiddenError(RegistryError):
    """The caller may not write policies with this target."""

    kind = ErrorKind.FORBIDDEN


class PolicyExistsError(RegistryError):
    """Another policy for the same server, or for all, has the name."""

    kind = ErrorKind.CONFLICT

    def __init__(self, policy: Policy) -> None:
        where = "all servers" if policy.target.owner_id is None else "this server"
        super().__init__(
            f"A policy about {where} with name {policy.name!r} already exists", {"field": "name"}
        )


class PolicyModifiedError(RegistryError):
    """The policy was changed since it was read."""

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
            f"The stored policy has a form that cannot be changed here ({problem}); "
            "remove it and create it again."
        )


class TooManyPoliciesError(RegistryError):
    """A server has the maximum number of policies."""

    kind = ErrorKind.CONFLICT

    def __init__(self, max_policies: int) -> None:
        super().__init__(f"The limit of {max_policies} policies for this target is reached.")
