"""Takes over entries of the older two-table layout into the catalog.

Implements `migration.service.CatalogEntries`: each entry is stored with its tools in one
transaction, and one that is there is compared with its row and left alone.
"""

from dataclasses import replace
from typing import Annotated

from pydantic import StringConstraints, TypeAdapter, ValidationError

from registry.auth.identity import UserContext
from registry.catalog.repository import CatalogRepository
from registry.catalog.schemas import CatalogServerBody
from registry.catalog.service import CatalogService
from registry.catalog.values import CatalogContent, CatalogEntry, CatalogToolInput
from registry.core.errors import RegistryError, problems_of
from registry.core.json import load_text
from registry.core.text import ONE_LINE
from registry.migration.values import SERVERS, Kind, OldServer, Outcome, Report, content_digest
from registry.servers.credentials import masked_url

PACKAGE_KIND = "oci"
"""Of its containers: all were images."""


ANY_NAME = "any"
OldName: TypeAdapter[str] = TypeAdapter(
    Annotated[
        str,
        StringConstraints(strip_whitespace=True, pattern=ONE_LINE, min_length=1, max_length=200),
    ]
)


class LegacyEntries:
    """Stores entries.

    Args:
        catalog: The collections, to compare with.
        service: Stores them.
        user: In whose name.
    """

    def __init__(
        self, catalog: CatalogRepository, service: CatalogService, user: UserContext
    ) -> None:
        self._catalog = catalog
        self._service = service
        self._user = user

    async def take(self, server: OldServer, *, dry_run: bool) -> Report:
        """Store an entry with its tools, or compare it with the one that is there."""
        url = server.identifier if server.is_remote else None
        report = Report(
            f"{SERVERS} {server.id}",
            Kind.CATALOG,
            Outcome.WOULD_IMPORT if dry_run else Outcome.IMPORTED,
            server.name,
            f"of {masked_url(server.identifier or '')}",
            len(server.tools.tools),
            content_digest(
                url,
                server.package,
                server.description,
                [tool.definition for tool in server.tools.tools],
            ),
        )
        try:
            content = _content(server)
            found = await self._catalog.by_name(content.name)
            other = None if found is not None else await self._holder(content)
            if other is not None:
                message = f"the catalog has it under the name {other}; it is left alone"
                return replace(report, outcome=Outcome.DIFFERS, message=message)
            if found is not None:
                report = replace(report, outcome=Outcome.EXISTS, message="is stored already")
            elif not dry_run:
                await self._service.create(content, self._user)
                found = await self._catalog.by_name(content.name)
            if found is not None and await self._digest(found) != report.digest:
                message = "the catalog has this name with other content; it is left alone"
                return replace(report, outcome=Outcome.DIFFERS, message=message)
        except RegistryError as exc:
            return replace(report, outcome=Outcome.FAILED, message=exc.message)
        except ValidationError as exc:
            message = "; ".join(problems_of(exc, whole=None))
            return replace(report, outcome=Outcome.FAILED, message=message)
        return report

    async def _holder(self, content: CatalogContent) -> str | None:
        found = await self._catalog.known_by_keys(content.keys)
        return next((one.name for one in found), None)

    async def _digest(self, entry: CatalogEntry) -> str:
        tools = await self._catalog.tools(entry.id)
        package = None if entry.package is None else entry.package.identifier
        return content_digest(
            entry.url, package, entry.description, [tool.definition or "{}" for tool in tools]
        )


def _content(server: OldServer) -> CatalogContent:
    """Return what is stored of a row.

    Raises:
        ValidationError: It cannot be stored.
    """
    body: dict[str, object] = {
        "name": ANY_NAME,
        "description": server.description,
        "tags": list(server.tags),
    }
    if server.is_remote:
        body["url"] = server.identifier
    elif server.identifier is not None:
        body["package"] = {"registryType": PACKAGE_KIND, "identifier": server.identifier}
    content = CatalogServerBody.model_validate(body).content()
    # That layout took names of any form; they are kept, and served at /v0.1 under another.
    name = OldName.validate_python(server.name)
    content = replace(content, name=name, document={**content.document, "name": name})
    tools = [
        CatalogToolInput(tool.name, tool.title, tool.description, whole=load_text(tool.definition))
        for tool in server.tools.tools
    ]
    return replace(content, tools=tuple(tools))
