"""What the official registry's API shows a caller: the catalog, and the servers of this gateway.

An entry of the catalog that the caller sees an instance of is reached at this gateway; a server
that is registered here without an entry is listed under the namespace of PUBLIC_URL. Lists are
decided in memory, and the versions of one page are read.
Source: docs/decisions/0072-the-api-of-the-official-registry.md.
"""

import base64
import binascii
import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Protocol

from packages.models.states import CatalogStatus
from registry.auth.identity import UserContext
from registry.catalog.errors import CatalogServerNotFoundError, CatalogVersionNotFoundError
from registry.catalog.repository import CatalogRepository
from registry.catalog.subregistry.presenter import (
    OWN_VERSION,
    Facts,
    namespace_of,
    own_document,
    present_server,
)
from registry.catalog.values import LATEST, CatalogRow, CatalogVersionRow, json_text
from registry.core.cursor import BadCursorError
from registry.core.json import JsonObject
from registry.servers.storage.inventory import ListedServer
from registry.servers.values import ServerStatus
from registry.tools.naming import slug_of


@dataclass(frozen=True, slots=True)
class ListFilter:
    """Filter of the list.

    Attributes:
        search: Part of a name, casefolded.
        since: Only what changed since then.
    """

    search: str | None = None
    since: datetime | None = None
    only_latest: bool = False
    with_deleted: bool = False


class CatalogEntries(Protocol):
    """All servers of the catalog, in memory."""

    def rows(self) -> Sequence[CatalogRow]:
        """Return them by name."""


class SeenServers(Protocol):
    """The registered servers that callers may see, in memory."""

    def listed(self, user: UserContext) -> list[ListedServer]:
        """Return those that *user* may see."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A server: of the catalog with its instances, or one that is registered here alone."""

    name: str
    entry: CatalogRow | None
    instances: tuple[ListedServer, ...] = ()

    @property
    def moved_at(self) -> datetime | None:
        """Return when its instances changed last."""
        moments = [one.seen.version for one in self.instances]
        return max((moment for moment in moments if isinstance(moment, datetime)), default=None)

    def passes(self, narrowed: ListFilter) -> bool:
        """Whether the list has versions of it."""
        status = CatalogStatus.ACTIVE if self.entry is None else self.entry.status
        if status is CatalogStatus.DELETED and not narrowed.with_deleted:
            return False
        if narrowed.search is not None and narrowed.search not in self.name.casefold():
            return False
        changed = None if self.entry is None else self.entry.updated_at
        return narrowed.since is None or any(
            moment is not None and moment >= narrowed.since for moment in (changed, self.moved_at)
        )


@dataclass(frozen=True, slots=True)
class _Version:
    name: str
    version: str
    facts: Facts
    shown: JsonObject


class SubregistryService:
    """Answers the official registry's API.

    Args:
        base_url: Of this registry; paths of the gateway are below it.
    """

    def __init__(
        self,
        catalog: CatalogRepository,
        entries: CatalogEntries,
        servers: SeenServers,
        *,
        base_url: str,
    ) -> None:
        self._catalog = catalog
        self._entries = entries
        self._servers = servers
        self._base_url = base_url.rstrip("/")
        self._namespace = namespace_of(base_url)

    async def page(
        self, user: UserContext, narrowed: ListFilter, cursor: str | None, limit: int
    ) -> tuple[list[JsonObject], str | None]:
        """Return up to *limit* versions of servers, by name, and the cursor of the next page.

        Raises:
            BadCursorError: *cursor* is none of ours.
            ListsOutdatedError: The database has been unavailable for too long.
        """
        after = None if cursor is None else _read_cursor(cursor)
        items = self._items(user)
        start = 0 if after is None else bisect.bisect_left(items, after[0], key=_name_of)
        passing = (item for item in items[start:] if item.passes(narrowed))
        found: list[_Version] = []
        while len(found) <= limit:
            some = list(islice(passing, limit))
            if not some:
                break
            for versions in await self._versions_of(some):
                kept = [one for one in versions if _takes(one, narrowed)]
                if after is not None and kept and kept[0].name == after[0]:
                    kept = _following(kept, after[1])
                found += kept
        shown = found[:limit]
        more = _cursor_of(shown[-1]) if len(found) > limit else None
        return [one.shown for one in shown], more

    async def versions(
        self, user: UserContext, name: str, *, with_deleted: bool
    ) -> list[JsonObject]:
        """Return the versions of a server, the latest first.

        Raises:
            CatalogServerNotFoundError: There is none, or the caller may not see it.
        """
        return [one.shown for one in await self._named(user, name, with_deleted=with_deleted)]

    async def version(
        self, user: UserContext, name: str, version: str, *, with_deleted: bool
    ) -> JsonObject:
        """Return one version of a server; `latest` is the latest one.

        Raises:
            CatalogServerNotFoundError: There is none, or the caller may not see it.
            CatalogVersionNotFoundError: It has no such version.
        """
        for one in await self._named(user, name, with_deleted=with_deleted):
            if one.version == version or (version == LATEST and one.facts.is_latest):
                return one.shown
        raise CatalogVersionNotFoundError(name, version)

    async def _named(
        self, user: UserContext, name: str, *, with_deleted: bool
    ) -> Sequence[_Version]:
        items = self._items(user)
        at = bisect.bisect_left(items, name, key=_name_of)
        if at == len(items) or items[at].name != name:
            raise CatalogServerNotFoundError
        narrowed = ListFilter(with_deleted=with_deleted)
        (versions,) = await self._versions_of([items[at]])
        kept = [one for one in versions if _takes(one, narrowed)]
        if not kept:
            raise CatalogServerNotFoundError
        return kept

    def _items(self, user: UserContext) -> list[_Item]:
        """Return all that *user* may see, by name."""
        instances: dict[str, list[ListedServer]] = {}
        own: dict[str, ListedServer] = {}
        for server in self._servers.listed(user):
            if server.status is ServerStatus.INACTIVE:
                continue
            if server.words.catalog_id is None:
                slug = slug_of(server.effective_path) or server.seen.name
                own.setdefault(f"{self._namespace}/{slug}", server)
            else:
                instances.setdefault(server.words.catalog_id, []).append(server)
        items = [
            _Item(row.name, row, tuple(instances.get(row.id, ()))) for row in self._entries.rows()
        ]
        if own:
            taken = {item.name for item in items}
            items += [_Item(name, None, (one,)) for name, one in own.items() if name not in taken]
            items.sort(key=_name_of)
        return items

    async def _versions_of(self, items: Sequence[_Item]) -> list[list[_Version]]:
        ids = [item.entry.id for item in items if item.entry is not None]
        stored: dict[str, list[CatalogVersionRow]] = {}
        for row in await self._catalog.versions_of(ids):
            stored.setdefault(row.server_id or "", []).append(row)
        return [list(self._of_item(item, stored)) for item in items]

    def _of_item(
        self, item: _Item, stored: Mapping[str, Sequence[CatalogVersionRow]]
    ) -> Iterator[_Version]:
        urls = [f"{self._base_url}{one.effective_path}" for one in item.instances]
        if item.entry is None:
            words = item.instances[0].words
            document = own_document(item.name, words.title, words.description)
            facts = Facts(CatalogStatus.ACTIVE, True, item.moved_at, item.moved_at)
            yield _Version(item.name, OWN_VERSION, facts, present_server(document, facts, urls))
            return
        for row in stored.get(item.entry.id, ()):
            moments = [row.updated_at, item.moved_at if row.is_latest else None]
            changed = max((one for one in moments if one is not None), default=None)
            status = item.entry.status if row.is_latest else row.status
            facts = Facts(status, row.is_latest, row.published_at, changed)
            # People may have renamed it; a server has one name in all its versions.
            document = {**json_text(row.document), "name": item.name}
            shown = present_server(document, facts, sorted(urls) if row.is_latest else ())
            yield _Version(item.name, row.version, facts, shown)


def _name_of(item: _Item) -> str:
    return item.name


def _takes(one: _Version, narrowed: ListFilter) -> bool:
    if narrowed.only_latest and not one.facts.is_latest:
        return False
    if one.facts.status is CatalogStatus.DELETED and not narrowed.with_deleted:
        return False
    changed = one.facts.updated_at
    return narrowed.since is None or (changed is not None and changed >= narrowed.since)


def _following(versions: Sequence[_Version], last: str) -> list[_Version]:
    """Return the versions after *last*; none where that is gone, so that pages always advance."""
    names = [one.version for one in versions]
    return list(versions[names.index(last) + 1 :]) if last in names else []


def _cursor_of(one: _Version) -> str:
    text = f"{one.name}\n{one.version}"
    return base64.urlsafe_b64encode(text.encode(errors="surrogatepass")).rstrip(b"=").decode()


def _read_cursor(cursor: str) -> tuple[str, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode(), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        raise BadCursorError from None
    name, separator, version = text.partition("\n")
    if not (name and separator and version):
        raise BadCursorError
    return name, version
