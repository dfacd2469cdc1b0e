"""Takes over what a dump of the two-table layout holds: row by row, each in one transaction.

A row whose server is there already is compared with it and left alone, so that the migration can
be repeated, and continues after it was interrupted at any write. Nothing is contacted.
"""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol

from pydantic import ValidationError

from registry.auth.identity import UserContext
from registry.core.errors import RegistryError, problems_of
from registry.core.json import members
from registry.migration.values import (
    SERVERS,
    Dump,
    Kind,
    OldServer,
    Outcome,
    Report,
    content_digest,
    names_of,
)
from registry.servers.credentials import masked_url
from registry.servers.reconciliation.discovery_changes import Recorded
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService
from registry.servers.values import Discovered, ServerRecord

NOTICE = (
    "Taken over from another program, and never read here: check its address and credentials, "
    "turn it on, and refresh it."
)
NO_ADDRESS = "has no URL under which its workload could be called, and no package"
MAX_PROBLEMS = 3
"""How many tools that cannot be stored a report names."""


class CatalogEntries(Protocol):
    """Takes over the rows that came from a registry."""

    async def take(self, server: OldServer, *, dry_run: bool) -> Report:
        """Store a catalog entry with its tools, or compare it with the one that is there."""


class Migration:
    """Migrates a dump.

    Args:
        servers: Stores servers.
        catalog: Stores catalog entries.
    """

    def __init__(self, servers: ServerService, catalog: CatalogEntries) -> None:
        self._servers = servers
        self._catalog = catalog

    async def run(
        self, dump: Dump, user: UserContext, *, scope: str | None, dry_run: bool
    ) -> AsyncIterator[Report]:
        """Take over each row; yield what became of it, twice for one that becomes two things.

        Catalog entries come first, so that servers are linked to theirs.

        Args:
            dump: The rows.
            user: Whose the servers are.
            scope: Of the servers; None for private ones.
            dry_run: Only report what would be done.
        """
        for report in dump.unusable:
            yield report
        names = names_of(dump.servers)
        for server in dump.servers:
            if Kind.CATALOG in server.kinds:
                yield _with_problems(server, await self._catalog.take(server, dry_run=dry_run))
        for server in dump.servers:
            if Kind.SERVER in server.kinds:
                report = await self._server(
                    server, names[server.id], user, scope=scope, dry_run=dry_run
                )
                yield _with_problems(server, report)

    async def _server(
        self, server: OldServer, name: str, user: UserContext, *, scope: str | None, dry_run: bool
    ) -> Report:
        digest = digest_of(server, server.address)
        report = Report(
            f"{SERVERS} {server.id}",
            Kind.SERVER,
            Outcome.WOULD_IMPORT if dry_run else Outcome.IMPORTED,
            name,
            f"from {masked_url(server.address or server.package or '')}",
            len(server.tools.tools),
            digest,
        )
        try:
            found = await self._servers.find_by_name(name, user)
            if found is None and not dry_run:
                await self._record(server, name, user, scope)
                found = await self._servers.find_by_name(name, user)
            elif found is not None:
                report = replace(report, outcome=Outcome.EXISTS, message="is stored already")
            elif server.address is None and server.package is None:
                return replace(report, outcome=Outcome.FAILED, message=NO_ADDRESS)
            if found is None:
                return report
            stored = await self._stored_digest(found, user)
        except RegistryError as exc:
            return replace(report, outcome=Outcome.FAILED, message=exc.message)
        except ValidationError as exc:
            return replace(report, outcome=Outcome.FAILED, message="; ".join(problems_of(exc)))
        if stored != digest:
            message = "a server of this name is stored with other content; it is left alone"
            return replace(report, outcome=Outcome.DIFFERS, message=message)
        return report

    async def _record(
        self, server: OldServer, name: str, user: UserContext, scope: str | None
    ) -> None:
        body: dict[str, object] = {
            "serverName": name,
            "url": server.address,
            "type": None if server.address is None else server.transport,
            "package": None
            if server.package is None
            else {"registryType": "oci", "identifier": server.package},
            "title": server.name if server.name != name else None,
            "description": server.description,
            "tags": list(server.tags) or None,
            "scope": scope,
        }
        request = ServerCreate.model_validate({k: v for k, v in body.items() if v is not None})
        found = Discovered(
            snapshot=server.tools,
            capabilities={"tools": {}},
            protocol_version="",
            eras=frozenset(),
            instructions=None,
            init_duration_ms=0,
        )
        await self._servers.record(request, user, found, Recorded(NOTICE))

    async def _stored_digest(self, server: ServerRecord, user: UserContext) -> str:
        _, tools = await self._servers.tools(server.id, user)
        package = members(server.registry.get("package")).get("identifier")
        url, description = server.config.get("url"), server.config.get("description")
        return content_digest(
            url if isinstance(url, str) else None,
            package if isinstance(package, str) else None,
            description if isinstance(description, str) else None,
            [tool.definition for tool in tools],
        )


def digest_of(server: OldServer, address: str | None) -> str:
    """Return the digest of what is taken over of a row."""
    definitions = [tool.definition for tool in server.tools.tools]
    return content_digest(address, server.package, server.description, definitions)


def _with_problems(server: OldServer, report: Report) -> Report:
    """Return the report with the tools that cannot be stored: they are the loss of a migration."""
    if not server.problems:
        return report
    named = "; ".join(server.problems[:MAX_PROBLEMS])
    more = len(server.problems) - MAX_PROBLEMS
    rest = f"; and {more} more" if more > 0 else ""
    message = f"{report.message}; tools that cannot be stored: {named}{rest}"
    return replace(report, outcome=Outcome.FAILED, message=message)
