"""Gives the index its vectors: finds what is stored, asks for what is missing, composes the rest.

What a vector is made of follows from the documents alone, so nothing about it is stored but the
vectors of texts: a link, a rename or a removal that a replica sees, in whatever order, ends in the
same vectors everywhere. Above is the index, below are the cache and the worker.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import structlog
from prometheus_client import Gauge

from packages.database.errors import DatabaseUnavailable
from registry.core.clock import Clock
from registry.search.embedding.composition import (
    Owner,
    digest_of,
    from_stored,
    texts_of,
    to_stored,
    vectors_of,
)
from registry.search.embedding.repository import EmbeddingRepository
from registry.search.embedding.worker import EmbeddingWorker
from registry.search.ports import (
    CatalogLink,
    DocumentKey,
    Kind,
    SearchDocument,
    Vector,
    VectorIndex,
)

log = structlog.get_logger()

OWNERS_AT_ONCE = 50
"""Servers whose vectors are read and composed together."""

ENTRIES_AT_ONCE = 200

POLL_SECONDS = 2.0
"""Between two looks for vectors that other processes make."""

TOUCH_SECONDS = 6 * 3600.0
RETRY_SECONDS = 5.0


class EmbeddingState(StrEnum):
    """Whether a document is found by meaning.

    Attributes:
        READY: It has its vector.
        PENDING: Texts of it are being embedded.
        ERROR: A text failed; it is tried again, and the document is found by words.
        EMPTY: There is nothing to embed: an unlinked server without tools.
        OFF: There is no model.
    """

    READY = "ready"
    PENDING = "pending"
    ERROR = "error"
    EMPTY = "empty"
    OFF = "off"


class EmbeddingStatus(NamedTuple):
    """State of a document, and why it failed."""

    state: EmbeddingState
    problem: str | None = None


@dataclass(slots=True)
class _Server:
    """What is indexed of a server."""

    link: CatalogLink | None
    tools: set[DocumentKey]
    is_indexed: bool


class VectorFeeder:
    """Follows the index and gives it vectors.

    Args:
        index: Whose documents are followed.
        repository: The cache.
        worker: Embeds what is missing.
        clock: Paces what is repeated.
        pending: Shows how many texts wait.
        dimensions: Of the model's vectors.
    """

    def __init__(
        self,
        index: VectorIndex,
        repository: EmbeddingRepository,
        worker: EmbeddingWorker,
        *,
        model: str,
        dimensions: int,
        clock: Clock,
        pending: Gauge,
    ) -> None:
        self._index = index
        self._repository = repository
        self._worker = worker
        self._model, self._dimensions = model, dimensions
        self._clock = clock
        self._gauge = pending
        self._servers: dict[str, _Server] = {}
        self._owners: dict[DocumentKey, str] = {}
        self._linked: dict[str, set[str]] = {}
        self._states: dict[DocumentKey, EmbeddingStatus] = {}
        # Texts that wait, and what they are of.
        self._waiting: dict[str, set[str]] = {}
        self._made: dict[str, Vector] = {}
        self._stale: dict[str, None] = {}
        self._event = asyncio.Event()
        self._seen = 0
        self._touched_at = clock.monotonic()
        worker.listen(self._note_made)

    def status(self, key: DocumentKey) -> EmbeddingStatus | None:
        """Return the state of an indexed document; None of any other."""
        return self._states.get(key)

    @property
    def pending(self) -> int:
        """Return the number of texts that have no vector yet."""
        return len(self._waiting)

    async def follow(self) -> None:
        """Run forever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_index())
            group.create_task(self._follow_vectors())

    async def _follow_index(self) -> None:
        while True:
            changed = await self._index.changed(self._seen)
            self._seen = changed.version
            self.note(changed.put, changed.gone)

    async def _follow_vectors(self) -> None:
        is_unavailable = False
        while True:
            self._event.clear()
            try:
                await self.refresh()
                is_unavailable = False
                pause = POLL_SECONDS if self._waiting else TOUCH_SECONDS
            except DatabaseUnavailable as exc:
                if not is_unavailable:
                    log.warning("vectors_not_read", error=str(exc))
                is_unavailable, pause = True, RETRY_SECONDS
            except Exception:
                # Vectors are missed by searches, and by nothing else.
                log.exception("vectors_not_composed")
                pause = RETRY_SECONDS
            try:
                async with asyncio.timeout(pause):
                    await self._event.wait()
            except TimeoutError:
                # What other processes made meanwhile.
                self._mark(owner for owners in self._waiting.values() for owner in owners)

    def note(self, put: Collection[DocumentKey], gone: Collection[DocumentKey]) -> None:
        """Note changed documents; `refresh` makes their vectors."""
        for key in gone:
            self._forget(key)
        for document in self._index.documents(put):
            self._note_document(document)
        self._note_links()
        self._event.set()

    def _note_document(self, document: SearchDocument) -> None:
        key = document.key
        owner = document.server_id if document.server_id is not None else _entry_owner(key)
        self._owners[key] = owner
        self._mark([owner])
        if document.server_id is None:
            # Linked servers have the entry's vector.
            self._mark(self._linked.get(key.id, ()))
            return
        server = self._servers.setdefault(owner, _Server(None, set(), is_indexed=False))
        if key.kind is Kind.TOOL:
            server.tools.add(key)
        else:
            server.is_indexed = True

    def _note_links(self) -> None:
        """Note links that changed, which changes no text of a server."""
        keys = [DocumentKey(Kind.SERVER, one) for one in self._servers]
        for document in self._index.documents(keys):
            server, link = self._servers[document.key.id], document.traits.catalog
            if server.link == link:
                continue
            if server.link is not None:
                self._linked.get(server.link.id, set()).discard(document.key.id)
            if link is not None:
                self._linked.setdefault(link.id, set()).add(document.key.id)
            server.link = link
            self._mark([document.key.id])

    def _forget(self, key: DocumentKey) -> None:
        self._states.pop(key, None)
        owner = self._owners.pop(key, None)
        if key.kind is Kind.CATALOG:
            self._mark(self._linked.get(key.id, ()))
            return
        server = self._servers.get(owner or "")
        if owner is None or server is None:
            return
        server.tools.discard(key)
        if key.kind is Kind.SERVER:
            server.is_indexed = False
        if not server.tools and not server.is_indexed:
            del self._servers[owner]
            if server.link is not None:
                self._linked.get(server.link.id, set()).discard(owner)
        self._mark([owner])

    def _mark(self, owners: Iterable[str]) -> None:
        for owner in list(owners):
            self._stale[owner] = None

    def _note_made(self, vectors: Mapping[str, Vector]) -> None:
        """Use what was just embedded here, without reading it from the database."""
        for digest, vector in vectors.items():
            owners = self._waiting.get(digest)
            if owners:
                # As every other process reads it: rounded.
                rounded = from_stored(to_stored(vector), self._dimensions)
                if rounded is not None:
                    self._made[digest] = rounded
                self._mark(owners)
        self._event.set()

    async def refresh(self) -> None:
        """Make the vectors of everything that has changed; ask for what is missing."""
        while self._stale:
            owners = list(self._stale)[:OWNERS_AT_ONCE]
            for owner in owners:
                del self._stale[owner]
            try:
                await self._refresh(owners)
            except BaseException:
                self._mark(owners)
                raise
        self._made.clear()
        self._gauge.set(len(self._waiting))
        if self._clock.monotonic() - self._touched_at >= TOUCH_SECONDS:
            await self._touch()

    async def _refresh(self, owner_ids: Collection[str]) -> None:
        owners = [self._owner(owner) for owner in owner_ids]
        entries = {
            one.key.id: one
            for one in self._index.documents(
                DocumentKey(Kind.CATALOG, owner.link.id) for owner in owners if owner.link
            )
        }
        texts: dict[str, set[str]] = {}
        for owner_id, owner in zip(owner_ids, owners, strict=True):
            entry = entries.get(owner.link.id) if owner.link else None
            for document in (*owner.documents, *([] if entry is None else [entry])):
                for text in filter(None, texts_of(document)):
                    texts.setdefault(text, set()).add(owner_id)
        digests = {digest_of(self._model, text): text for text in texts}
        known, problems = await self._known(digests)
        self._note_waiting(
            owner_ids,
            {digest: texts[text] for digest, text in digests.items() if text not in known},
        )
        self._put(owners, entries, known, problems)

    async def _known(self, digests: Mapping[str, str]) -> tuple[dict[str, Vector], dict[str, str]]:
        """Return vectors and problems by text; ask for the vectors that nobody has."""
        known = {text: self._made[one] for one, text in digests.items() if one in self._made}
        left = [digest for digest, text in digests.items() if text not in known]
        stored = await self._repository.find(left, dimensions=self._dimensions)
        problems: dict[str, str] = {}
        for digest, one in stored.items():
            if one.vector is not None:
                known[digests[digest]] = one.vector
            elif one.error is not None:
                problems[digests[digest]] = one.error
        missing = {digest: digests[digest] for digest in left if digest not in stored}
        if missing:
            await self._repository.request(self._model, missing)
            self._worker.wake()
        return known, problems

    def _owner(self, owner: str) -> Owner:
        server = self._servers.get(owner)
        if server is None:
            kind, separator, document_id = owner.partition("/")
            if not separator:
                # A server that is not indexed any more.
                return Owner(None, None, ())
            key = DocumentKey(Kind(kind), document_id)
            return Owner(None, None, list(self._index.documents([key])))
        key = DocumentKey(Kind.SERVER, owner)
        tools = sorted(server.tools)
        return Owner(
            key if server.is_indexed else None, server.link, list(self._index.documents(tools))
        )

    def _note_waiting(self, owners: Collection[str], waiting: Mapping[str, set[str]]) -> None:
        stale = set(owners)
        for digest in list(self._waiting):
            left = self._waiting[digest] - stale
            if left:
                self._waiting[digest] = left
            else:
                del self._waiting[digest]
        for digest, ones in waiting.items():
            self._waiting[digest] = self._waiting.get(digest, set()) | ones

    def _put(
        self,
        owners: Iterable[Owner],
        entries: Mapping[str, SearchDocument],
        known: Mapping[str, Vector],
        problems: Mapping[str, str],
    ) -> None:
        put: dict[DocumentKey, Vector] = {}
        drop: list[DocumentKey] = []
        for owner in owners:
            entry = entries.get(owner.link.id) if owner.link else None
            for key, vector in vectors_of(owner, entry, known).items():
                if vector is None:
                    drop.append(key)
                else:
                    put[key] = vector
            self._note_states(owner, entry, put, problems)
        if drop:
            self._index.drop_vectors(drop)
        if put:
            self._index.put_vectors(put, model=self._model)

    def _note_states(
        self,
        owner: Owner,
        entry: SearchDocument | None,
        put: Collection[DocumentKey],
        problems: Mapping[str, str],
    ) -> None:
        for document in owner.documents:
            self._states[document.key] = _status(document.key, [document], put, problems)
        if owner.server is not None:
            made_of = [entry] if entry is not None else owner.documents
            self._states[owner.server] = _status(owner.server, made_of, put, problems)

    async def _touch(self) -> None:
        self._touched_at = self._clock.monotonic()
        keys = [key for key in self._owners if key.kind is not Kind.SERVER]
        texts = {text for one in self._index.documents(keys) for text in texts_of(one) if text}
        await self._repository.touch([digest_of(self._model, text) for text in texts])


def _entry_owner(key: DocumentKey) -> str:
    """Return the owner of what is of no server: itself."""
    return f"{key.kind.value}/{key.id}"


def _status(
    key: DocumentKey,
    made_of: Collection[SearchDocument],
    put: Collection[DocumentKey],
    problems: Mapping[str, str],
) -> EmbeddingStatus:
    if key in put:
        return EmbeddingStatus(EmbeddingState.READY)
    if not made_of:
        return EmbeddingStatus(EmbeddingState.EMPTY)
    texts = (text for one in made_of for text in texts_of(one))
    problem = next((problems[text] for text in texts if text in problems), None)
    if problem is not None:
        return EmbeddingStatus(EmbeddingState.ERROR, problem)
    return EmbeddingStatus(EmbeddingState.PENDING)
