"""Links of registered servers to servers of the catalog: how they begin, follow and end.

A link is written in the transaction that registers a server or changes its URL or package, and by
an explicit match. Renames and removals of the linked server reach the registered ones by durable
jobs, in batches. Source: docs/decisions/0071-links-to-the-catalog.md.
"""

from packages.database.client import Transaction
from registry.catalog.errors import DuplicateCatalogEntriesError
from registry.catalog.identity import Package, remote_key
from registry.catalog.repository import CatalogRepository
from registry.catalog.values import package_of
from registry.core.json import JsonObject
from registry.servers.reconciliation.catalog_links import CatalogLink

MAX_DESCRIPTION = 2_000
"""Characters of the inherited description; it is repeated in each linked server."""


def key_of(config: JsonObject, package: object) -> str | None:
    """Return the key that a registered server is matched by; None if it has none.

    A server with a package is a container and is matched by that alone.
    """
    if package is not None:
        found = package if isinstance(package, Package) else package_of(package)
        return None if found is None else found.key
    url = config.get("url")
    return remote_key(url) if isinstance(url, str) and url else None


class CatalogLinks:
    """Implements `servers.reconciliation.catalog_links.CatalogMatcher`."""

    def __init__(self, catalog: CatalogRepository) -> None:
        self._catalog = catalog

    async def match(
        self, config: JsonObject, package: object, tx: Transaction
    ) -> CatalogLink | None:
        """Return the link of a server with this `config` and package.

        Raises:
            DuplicateCatalogEntriesError: Several servers of the catalog match.
        """
        key = key_of(config, package)
        if key is None:
            return None
        found = await self._catalog.with_keys([key], tx)
        if len(found) > 1:
            raise DuplicateCatalogEntriesError([one.name for one in found])
        if not found:
            return None
        return await self.to(found[0].id, tx)

    async def to(self, entry_id: str, tx: Transaction) -> CatalogLink | None:
        """Return the link to one server of the catalog; None if it was removed."""
        linked = await self._catalog.linked_to(entry_id, tx)
        if linked is None:
            return None
        description = linked.description
        return CatalogLink(
            linked.id,
            linked.name,
            None if description is None else description[:MAX_DESCRIPTION],
        )
