"""What the servers domain needs of the catalog. `registry.catalog.links` implements it."""

from dataclasses import dataclass
from typing import Protocol

from packages.database.client import Transaction
from registry.core.json import JsonObject


@dataclass(frozen=True, slots=True)
class CatalogLink:
    """The server of the catalog that a registered server is an instance of."""

    entry_id: str
    name: str
    description: str | None = None


class CatalogMatcher(Protocol):
    """Finds the server of the catalog that a registered server is an instance of."""

    async def match(
        self, config: JsonObject, package: object, tx: Transaction
    ) -> CatalogLink | None:
        """Return the link of a server with this `config` and stored package, if there is one.

        The linked server is neither renamed nor removed before *tx* ends.

        Raises:
            RegistryError: Several servers of the catalog match; it names them.
        """

    async def kept(
        self, entry_id: str, config: JsonObject, package: object, tx: Transaction
    ) -> CatalogLink | None:
        """Return the link of a server that `match` has none for, and that is linked already.

        It stays where the server's URL is one of the entry's with values for its variables, or
        its package another one of the entry's.
        """

    async def to(self, entry_id: str, tx: Transaction) -> CatalogLink | None:
        """Return the link to one server of the catalog; None if it was removed."""
