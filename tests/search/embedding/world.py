"""A registry's documents as search sees them, a model that counts, and what joins them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from packages.database.client import Database
from registry.core.clock import Clock, SystemClock
from registry.core.metrics import Metrics
from registry.search.embedding.composition import composed, from_stored, pooled, to_stored
from registry.search.embedding.errors import EmbeddingFailedError, ModelUnavailableError
from registry.search.embedding.feeding import EmbeddingState, EmbeddingStatus, VectorFeeder
from registry.search.embedding.repository import EmbeddingRepository
from registry.search.embedding.worker import EmbeddingWorker
from registry.search.index import SearchIndex
from registry.search.ports import (
    CatalogLink,
    DocumentKey,
    Kind,
    SearchDocument,
    Traits,
    Vector,
)

DIMENSIONS = 32


def vector_of(text: str) -> Vector:
    """Return the vector that `HashModel` makes of a text, as it is stored."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    raw = np.random.default_rng(seed).standard_normal(DIMENSIONS).astype(np.float32)
    found = from_stored(to_stored(raw / np.float32(np.linalg.norm(raw))), DIMENSIONS)
    assert found is not None
    return found


class HashModel:
    """Implements `TextModel` with vectors that depend on nothing but the text."""

    model = "hash"
    dimensions = DIMENSIONS
    seconds_to_retry = 0.0

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.failing: set[str] = set()
        self.is_up = True

    @property
    def texts(self) -> list[str]:
        """Return every text that was embedded, in the order of its batches."""
        return [text for call in self.calls for text in call]

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return vectors, unless told to fail."""
        if not self.is_up:
            raise ModelUnavailableError(self.model, "it is off")
        if any(word in text for word in self.failing for text in texts):
            raise EmbeddingFailedError(self.model, "it cannot be embedded")
        self.calls.append(sorted(texts))
        return np.vstack([vector_of(text) for text in texts])


def id_of(name: str) -> str:
    """Return the id of a server, tool or entry of the tests."""
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def key(kind: Kind, name: str) -> DocumentKey:
    """Return the key of a document of the tests."""
    return DocumentKey(kind, id_of(name))


@dataclass
class StoredServer:
    """A server as the database has it."""

    name: str
    tools: dict[str, str] = field(default_factory=dict)
    entry: str | None = None


class Replica:
    """One process: an index, a feeder and a worker on a database that may be shared."""

    def __init__(
        self,
        database: Database,
        model: HashModel,
        clock: Clock | None = None,
        repository: EmbeddingRepository | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self.model = model
        self.index = SearchIndex(_no_pause)
        self.repository = repository or EmbeddingRepository(database, clock)
        self.worker = EmbeddingWorker(self.repository, model, clock)
        self.feeder = VectorFeeder(
            self.index,
            self.repository,
            self.worker,
            model=model.model,
            dimensions=DIMENSIONS,
            clock=clock,
            pending=Metrics().embeddings_pending,
        )
        self.entries: dict[str, str] = {}
        self.servers: dict[str, StoredServer] = {}
        self.names: dict[str, str] = {}
        self._known: set[DocumentKey] = set()

    def add_entry(self, name: str, description: str = "An entry.") -> None:
        """Have the catalog contain an entry; it keeps its id when it is renamed."""
        self.entries[name], self.names[name] = description, name

    def add_server(self, name: str, *tools: str, entry: str | None = None) -> StoredServer:
        """Have a server registered."""
        server = StoredServer(name, {tool: f"Does {tool} for you." for tool in tools}, entry)
        self.servers[name] = server
        return server

    def remove_entry(self, name: str) -> None:
        """Remove an entry, and the links to it."""
        del self.entries[name]
        for server in self.servers.values():
            server.entry = None if server.entry == name else server.entry

    def documents(self) -> dict[DocumentKey, SearchDocument]:
        """Return everything that is to be indexed."""
        found: list[SearchDocument] = [
            SearchDocument(key(Kind.CATALOG, name), self.names[name], None, description)
            for name, description in self.entries.items()
        ]
        for server in self.servers.values():
            link = None
            if server.entry is not None:
                link = CatalogLink(id_of(server.entry), self.names[server.entry])
            traits = Traits(catalog=link)
            context = server.name if link is None else link.name
            found.append(
                SearchDocument(
                    key(Kind.SERVER, server.name),
                    server.name,
                    server_id=id_of(server.name),
                    traits=traits,
                )
            )
            found += [
                SearchDocument(
                    key(Kind.TOOL, f"{server.name}/{tool}"),
                    tool,
                    None,
                    description,
                    context,
                    id_of(server.name),
                    traits=traits,
                )
                for tool, description in server.tools.items()
            ]
        return {one.key: one for one in found}

    async def notice(self) -> None:
        """Have the index, and the feeder, learn what has changed."""
        wanted = self.documents()
        gone = self._known - wanted.keys()
        await self.index.apply(wanted.values(), gone)
        self._known = set(wanted)
        changed = await self.index.changed(self.feeder._seen) if self._has_news() else None
        if changed is not None:
            self.feeder._seen = changed.version
            self.feeder.note(changed.put, changed.gone)

    def _has_news(self) -> bool:
        return self.index.version.number != self.feeder._seen

    async def settle(self) -> None:
        """Have everything embedded that can be, as the tasks of a process do."""
        await self.notice()
        for _ in range(50):
            await self.feeder.refresh()
            if not await self.worker.embed_some() and not self.feeder._stale:
                return
        raise AssertionError("It does not come to rest.")

    def vector(self, kind: Kind, name: str) -> Vector | None:
        """Return the vector of a document, as searches use it."""
        row = self.index._rows[key(kind, name)]
        vectors = self.index.version.vectors
        if row >= len(vectors.known) or not vectors.known[row]:
            return None
        size = len(vectors.blocks[0])
        found: Vector = vectors.blocks[row // size][row % size]
        return found

    def has_all_vectors(self) -> bool:
        """Whether no document waits for its vector."""
        return self.index.version.size > 0 and not self.index.missing_vectors()

    def state(self, kind: Kind, name: str) -> EmbeddingState:
        """Return the state of a document."""
        return self.status(kind, name).state

    def status(self, kind: Kind, name: str) -> EmbeddingStatus:
        """Return the state of a document, and why."""
        found = self.feeder.status(key(kind, name))
        assert found is not None
        return found


async def _no_pause() -> None:
    """Give no other task a turn."""


def tool_vector(tool: str, context: str) -> Vector:
    """Return what the vector of a tool of the tests is to be."""
    return composed(vector_of(f"{tool} | Does {tool} for you."), vector_of(context))


def mean_vector(context: str, *tools: str) -> Vector:
    """Return what the vector of an unlinked server is to be."""
    found = pooled([tool_vector(tool, context) for tool in tools])
    assert found is not None
    return found


def entry_vector(name: str, description: str = "An entry.") -> Vector:
    """Return what the vector of a catalog entry is to be."""
    return vector_of(f"{name} | {description}")


def same(one: Vector | None, other: Vector) -> bool:
    """Whether two vectors are the same."""
    return one is not None and bool(np.allclose(one, other, atol=1e-5))
