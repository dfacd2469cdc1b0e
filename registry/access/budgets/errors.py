"""Errors of operations on budgets."""

from collections.abc import Sequence

from registry.core.errors import ErrorKind, RegistryError


class BudgetNotFoundError(RegistryError):
    """The budget does not exist, or the caller may not know of it."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Budget not found")


class BudgetForbiddenError(RegistryError):
    """The caller may not write budgets."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__("Budgets are for administrators.")


class BudgetExistsError(RegistryError):
    """Another budget of the tenant has the name."""

    kind = ErrorKind.CONFLICT

    def __init__(self, name: str) -> None:
        super().__init__(f"A budget with name {name!r} already exists", {"field": "name"})


class BudgetModifiedError(RegistryError):
    """The budget was changed since it was read."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current_etag: str, provided_etag: str | None) -> None:
        super().__init__(
            "The budget was modified by another process",
            {"current_etag": current_etag, "provided_etag": provided_etag},
        )


class TooManyBudgetsError(RegistryError):
    """There is the maximum number of budgets."""

    kind = ErrorKind.CONFLICT

    def __init__(self, max_budgets: int) -> None:
        super().__init__(f"The limit of {max_budgets} budgets is reached.")


class SpendingNotRecordedError(RegistryError):
    """Calls leave no records, so there is nothing to compare a budget with."""

    kind = ErrorKind.CONFLICT

    def __init__(self) -> None:
        super().__init__(
            "USAGE_RETENTION_DAYS is 0: calls leave no records, so a budget would have no effect."
        )


class UnknownBudgetUsersError(RegistryError):
    """A budget names users who do not exist."""

    kind = ErrorKind.INVALID

    def __init__(self, user_ids: Sequence[str]) -> None:
        super().__init__(
            f"Unknown user: {', '.join(user_ids)}", {"unknown_subjects": list(user_ids)}
        )
