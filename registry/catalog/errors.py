"""Failures of operations on the catalog."""

from collections.abc import Mapping, Sequence

from registry.core.errors import ErrorKind, RegistryError

SHOWN = 5


class CatalogServerNotFoundError(RegistryError):
    """There is no such server in the catalog."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Server of the catalog not found")


class CatalogVersionNotFoundError(RegistryError):
    """The server of the catalog has no such version."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, name: str, version: str) -> None:
        super().__init__(f"{name} has no version {version!r} in the catalog")


class CatalogSourceNotFoundError(RegistryError):
    """Nothing was imported from this source."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self, name: str) -> None:
        super().__init__(f"Nothing of the catalog was imported from {name!r}")


class CatalogJobNotFoundError(RegistryError):
    """There is no such import."""

    kind = ErrorKind.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("Import not found")


class ImportOpenError(RegistryError):
    """Another import of the source is under way."""

    kind = ErrorKind.CONFLICT

    def __init__(self, source: str, import_id: str) -> None:
        super().__init__(
            f"Another import of {source!r} is under way, with other content: wait until it ends",
            {"import_id": import_id},
        )


class CatalogServerExistsError(RegistryError):
    """Another server of the catalog has the name, the URL or the package."""

    kind = ErrorKind.CONFLICT

    def __init__(self, field: str, value: str, other: str | None = None) -> None:
        named = "" if other is None or other == value else f": {other}"
        super().__init__(
            f"The catalog already has a server with {field} {value!r}{named}", {"field": field}
        )


class CatalogServerModifiedError(RegistryError):
    """The server of the catalog was changed since it was read."""

    kind = ErrorKind.CONFLICT

    def __init__(self, current_etag: str, provided_etag: str | None) -> None:
        super().__init__(
            "The server of the catalog was modified by another process",
            {"current_etag": current_etag, "provided_etag": provided_etag},
        )


class CatalogForbiddenError(RegistryError):
    """The caller may not change the catalog."""

    kind = ErrorKind.FORBIDDEN

    def __init__(self) -> None:
        super().__init__(
            "The catalog is of all tenants: administrators without a tenant change it."
        )


class DuplicateCatalogEntriesError(RegistryError):
    """Several servers of the catalog have the URL or the package of a server."""

    kind = ErrorKind.CONFLICT

    def __init__(self, names: Sequence[str]) -> None:
        listed = sorted(names)
        super().__init__(
            f"Several servers of the catalog match: {', '.join(listed[:SHOWN])}. Remove all but "
            "one of them, then try again.",
            {"duplicates": listed[:SHOWN]},
        )


class NotRegistrableError(RegistryError):
    """A server of the catalog cannot be registered: it has no URL to connect to."""

    kind = ErrorKind.CONFLICT

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} has no URL that the registry can connect to. Start its package, serve it "
            "over HTTP, and register that URL with POST /api/v1/servers and its `package`."
        )


class MissingInputsError(RegistryError):
    """Values that a server of the catalog asks for were not given."""

    kind = ErrorKind.INVALID

    def __init__(
        self, missing: Mapping[str, str | None], problems: Mapping[str, str] | None = None
    ) -> None:
        said = {
            place: "is required" if description is None else f"is required: {description}"
            for place, description in missing.items()
        }
        said.update(problems or {})
        super().__init__(
            "; ".join(f"{place}: {problem}" for place, problem in said.items()),
            {"details": [{"field": place, "message": problem} for place, problem in said.items()]},
        )


class ImportUnreadableError(RegistryError):
    """A registry or a file cannot be read as a list of servers. The message is safe to show."""

    kind = ErrorKind.INVALID


class RegistryUnavailableError(RegistryError):
    """Another registry cannot be read now. The message is safe to show."""

    kind = ErrorKind.UPSTREAM
