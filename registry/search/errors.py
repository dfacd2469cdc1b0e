"""Errors of searches."""

from registry.core.errors import ErrorKind, RegistryError


class SearchDisabledError(RegistryError):
    """This registry is run without search."""

    kind = ErrorKind.UNAVAILABLE

    def __init__(self) -> None:
        super().__init__("Search is off in this registry: SEARCH_ENABLED is false.")
