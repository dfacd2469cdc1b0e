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

import structlog
from prometheus_client import Counter

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
    served_name,
)
from registry.catalog.values import (
    LATEST,
    CatalogRemovalRow,
    CatalogRow,
    CatalogVersionRow,
    json_text,
)
from registry.core.cursor import BadCursorError
from registry.core.json import JsonObject
from registry.servers.storage.inventory import FormerServer, ListedServer
from registry.servers.values import ServerStatus
from registry.tools.naming import slug_of

log = structlog.get_logger()

MAX_REPORTED = 10_000
"""Versions that are remembered as reported."""


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

    def former(self, user: UserContext) -> list[FormerServer]:
        """Return what *user* could see, as it was before a change or removal."""

    def moved_at(self) -> Mapping[str, datetime]:
        """Return when it changed who may see a server, by its id, as far as it is known."""


@dataclass(frozen=True, slots=True)
class _Item:
    """A server: of the catalog with its instances, or one that is registered here alone.

    Attributes:
        removal: What is left of a server of the catalog.
        gone_at: When the caller could see the registered server last.
        moved: When it changed who may see its instances.
    """

    name: str
    entry: CatalogRow | None
    instances: tuple[ListedServer, ...] = ()
    removal: CatalogRemovalRow | None = None
    gone_at: datetime | None = None
    moved: datetime | None = None

    @property
    def moved_at(self) -> datetime | None:
        """Return when its instances changed last, or who may see them."""
        moments = [one.seen.version for one in self.instances]
        moments += [self.moved, self.gone_at]
        moments.append(None if self.removal is None else self.removal.removed_at)
        return max((moment for moment in moments if isinstance(moment, datetime)), default=None)

    def passes(self, narrowed: ListFilter) -> bool:
        """Whether the list has versions of it."""
        status = CatalogStatus.ACTIVE if self.entry is None else self.entry.status
        if self.removal is not None or self.gone_at is not None:
            status = CatalogStatus.DELETED
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
        left_out: Counts what does not fit the schema and is not served.
    """

    def __init__(
        self,
        catalog: CatalogRepository,
        entries: CatalogEntries,
        servers: SeenServers,
        *,
        base_url: str,
        left_out: Counter,
    ) -> None:
        self._catalog = catalog
        self._entries = entries
        self._servers = servers
        self._base_url = base_url.rstrip("/")
        self._namespace = namespace_of(base_url)
        self._left_out = left_out
        self._reported: set[tuple[str, str, tuple[str, ...]]] = set()

    async def page(
        self, user: UserContext, narrowed: ListFilter, cursor: str | None, limit: int
    ) -> tuple[list[JsonObject], str | None]:
        """Return up to *limit* versions of servers, by name, and the cursor of the next page.

        Raises:
            BadCursorError: *cursor* is none of ours.
            ListsOutdatedError: The database has been unavailable for too long.
        """
        after = None if cursor is None else _read_cursor(cursor)
        items = await self._items(user, narrowed)
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
        narrowed = ListFilter(with_deleted=with_deleted)
        items = await self._items(user, narrowed)
        at = bisect.bisect_left(items, name, key=_name_of)
        if at == len(items) or items[at].name != name:
            raise CatalogServerNotFoundError
        (versions,) = await self._versions_of([items[at]])
        kept = [one for one in versions if _takes(one, narrowed)]
        if not kept:
            raise CatalogServerNotFoundError
        return kept

    async def _items(self, user: UserContext, narrowed: ListFilter) -> list[_Item]:
        """Return all that *user* may see, by name."""
        moved = self._servers.moved_at() if narrowed.since is not None else {}
        instances: dict[str, list[ListedServer]] = {}
        own: dict[str, ListedServer] = {}
        for server in self._servers.listed(user):
            if server.status is ServerStatus.INACTIVE:
                continue
            if server.words.catalog_id is None:
                slug = slug_of(server.effective_path) or server.seen.name
                own.setdefault(served_name(slug, self._namespace), server)
            else:
                instances.setdefault(server.words.catalog_id, []).append(server)
        entry_moves = self._entry_moves(user, instances, moved)
        items = [
            _Item(row.name, row, tuple(instances.get(row.id, ())), moved=entry_moves.get(row.id))
            for row in self._entries.rows()
            if "/" in row.name
        ]
        taken = {item.name for item in items}
        others = [_Item(name, None, (one,), moved=moved.get(one.id)) for name, one in own.items()]
        # Lists of Docker and ToolHive have plain names.
        others += [
            _Item(served_name(row.name, self._namespace), row, tuple(instances.get(row.id, ())))
            for row in self._entries.rows()
            if "/" not in row.name
        ]
        others += await self._gone(user, narrowed)
        for item in others:
            if item.name not in taken:
                taken.add(item.name)
                items.append(item)
        if others:
            items.sort(key=_name_of)
        return items

    def _entry_moves(
        self,
        user: UserContext,
        instances: Mapping[str, Sequence[ListedServer]],
        moved: Mapping[str, datetime],
    ) -> Mapping[str, datetime]:
        """Return when it changed which instances of an entry *user* sees, by its id."""
        if not moved:
            return {}
        moments = [
            (entry_id, moved[one.id])
            for entry_id, some in instances.items()
            for one in some
            if one.id in moved
        ]
        moments += [
            (former.server.words.catalog_id, former.until)
            for former in self._servers.former(user)
            if former.server.words.catalog_id is not None
        ]
        found: dict[str, datetime] = {}
        for entry_id, moment in moments:
            found[entry_id] = max(moment, found.get(entry_id, moment))
        return found

    async def _gone(self, user: UserContext, narrowed: ListFilter) -> list[_Item]:
        """Return what was removed, and what *user* may not see any more, as far as it is known."""
        if not narrowed.with_deleted:
            return []
        found = [_Item(row.name, None, removal=row) for row in await self._removed(narrowed)]
        for former in self._servers.former(user):
            server = former.server
            if server.words.catalog_id is None and server.status is not ServerStatus.INACTIVE:
                slug = slug_of(server.effective_path) or server.seen.name
                name = served_name(slug, self._namespace)
                found.append(_Item(name, None, (server,), gone_at=former.until))
        return found

    async def _removed(self, narrowed: ListFilter) -> list[CatalogRemovalRow]:
        return await self._catalog.removals(narrowed.since)

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
        if item.removal is not None:
            removal = item.removal
            document = {**json_text(removal.document), "name": item.name}
            gone = Facts(CatalogStatus.DELETED, True, removal.published_at, removal.removed_at)
            yield from self._shown(item.name, removal.version, document, gone, ())
            return
        if item.entry is None:
            words = item.instances[0].words
            document = own_document(item.name, words.title, words.description)
            status = CatalogStatus.ACTIVE if item.gone_at is None else CatalogStatus.DELETED
            facts = Facts(status, True, item.moved_at, item.moved_at)
            urls = urls if item.gone_at is None else []
            yield from self._shown(item.name, OWN_VERSION, document, facts, urls)
            return
        for row in stored.get(item.entry.id, ()):
            moments = [row.updated_at, item.moved_at if row.is_latest else None]
            changed = max((one for one in moments if one is not None), default=None)
            status = item.entry.status if row.is_latest else row.status
            facts = Facts(status, row.is_latest, row.published_at, changed)
            # People may have renamed it; a server has one name in all its versions.
            document = {**json_text(row.document), "name": item.name}
            gateway = sorted(urls) if row.is_latest else ()
            yield from self._shown(item.name, row.version, document, facts, gateway)

    def _shown(
        self,
        name: str,
        version: str,
        document: JsonObject,
        facts: Facts,
        gateway: Sequence[str],
    ) -> Iterator[_Version]:
        """Yield a version, unless it cannot be served."""
        shown, problems = present_server(document, facts, gateway)
        if problems:
            self._report(name, version, problems, is_served=shown is not None)
        if shown is not None:
            yield _Version(name, version, facts, shown)

    def _report(
        self, name: str, version: str, problems: Sequence[str], *, is_served: bool
    ) -> None:
        """Log what is left out, once for each version and process."""
        key = (name, version, tuple(problems))
        if key in self._reported:
            return
        if len(self._reported) >= MAX_REPORTED:
            self._reported.clear()
        self._reported.add(key)
        self._left_out.labels("part" if is_served else "version").inc()
        log.info(
            "catalog_version_left_out",
            name=name,
            version=version,
            is_served=is_served,
            problems=list(problems),
        )


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
