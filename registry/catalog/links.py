"""Links of registered servers to servers of the catalog: how they begin, follow and end.

A link is written in the transaction that registers a server or changes its URL or package, and by
an explicit match. Renames and removals of the linked server reach the registered ones by durable
jobs, in batches. Source: docs/decisions/0071-links-to-the-catalog.md.
"""

from packages.database.client import Transaction
from registry.catalog.errors import DuplicateCatalogEntriesError
from registry.catalog.identity import Package, fits, remote_key
from registry.catalog.repository import CatalogRepository
from registry.catalog.values import CatalogEntry, package_of
from registry.core.json import JsonObject, members
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


def is_instance(entry: CatalogEntry, key: str | None) -> bool:
    """Whether a server with this key is one of a server of the catalog that no key names.

    Its URL is one with variables, whose values the key has, or it is another of its packages.
    """
    if key is None:
        return False
    document = entry.server_json
    remotes, packages = document.get("remotes"), document.get("packages")
    for remote in remotes if isinstance(remotes, list) else []:
        url = members(remote).get("url")
        known = remote_key(url) if isinstance(url, str) else None
        if known is not None and (known == key or fits(key, known)):
            return True
    for package in packages if isinstance(packages, list) else []:
        stored = members(package)
        kind, identifier = stored.get("registryType"), stored.get("identifier")
        is_package = isinstance(kind, str) and isinstance(identifier, str)
        if is_package and Package(str(kind), str(identifier)).key == key:
            return True
    return False


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

    async def kept(
        self, entry_id: str, config: JsonObject, package: object, tx: Transaction
    ) -> CatalogLink | None:
        """Return the link of a server that has one, if it is still an instance of that entry."""
        entry = await self._catalog.get(entry_id, tx)
        if entry is None or not is_instance(entry, key_of(config, package)):
            return None
        return await self.to(entry_id, tx)

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
