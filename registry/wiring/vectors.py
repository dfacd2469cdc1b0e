"""Builds what embeds texts: loaded only where a model is chosen, as numpy takes some 25 MB."""

import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packages.database.client import Database
from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.ports import Peers
from registry.search.embedding.model_client import (
    ModelClient,
    ModelState,
    QueryEmbedder,
    chosen,
)
from registry.search.ports import DocumentKey, Kind, VectorIndex
from registry.workers.peers import WorkerPeers

if TYPE_CHECKING:
    from registry.search.embedding.feeding import VectorFeeder


@dataclass(slots=True)
class Vectors:
    """What embeds queries and documents.

    Attributes:
        client: The process of the model; None for words alone.
        queries: Embeds queries.
        feeder: Gives the index its vectors, once `feed` was called.
    """

    client: ModelClient | None
    queries: QueryEmbedder
    feeder: "VectorFeeder | None" = None

    def feed(
        self, index: VectorIndex, database: Database, *, clock: Clock, metrics: Metrics
    ) -> list[Coroutine[Any, Any, None]]:
        """Return the background tasks that give an index its vectors; none without a model."""
        if self.client is None:
            return []
        # These load numpy, which a process without search does not need.
        from registry.search.embedding.feeding import VectorFeeder  # noqa: PLC0415
        from registry.search.embedding.repository import EmbeddingRepository  # noqa: PLC0415
        from registry.search.embedding.worker import EmbeddingWorker  # noqa: PLC0415

        repository = EmbeddingRepository(database, clock)
        worker = EmbeddingWorker(repository, self.client, clock)
        self.feeder = VectorFeeder(
            index,
            repository,
            worker,
            model=self.client.model,
            dimensions=self.client.dimensions,
            clock=clock,
            pending=metrics.embeddings_pending,
        )
        return [self.feeder.follow(), worker.follow()]

    def state_of(self, kind: str, document_id: str) -> JsonObject | None:
        """Return how far the embedding of a document is. Implements `EmbeddingStates`."""
        if self.feeder is None:
            return {"state": "off", "problem": None}
        found = self.feeder.status(DocumentKey(Kind(kind), document_id))
        return None if found is None else {"state": found.state.value, "problem": found.problem}

    def facts(self) -> JsonObject:
        """Return the state of the model, for people."""
        pending = 0 if self.feeder is None else self.feeder.pending
        if self.client is None:
            return {"state": ModelState.OFF, "model": None, "problem": None, "pending": pending}
        return {**self.client.status()._asdict(), "pending": pending}


def build_vectors(
    stack: AsyncExitStack, settings: Settings, peers: Peers, *, clock: Clock, metrics: Metrics
) -> Vectors:
    """Return what embeds texts; starts no process before the first text."""
    name = chosen(settings.search_model) if settings.search_enabled else None
    if name is None:
        return Vectors(None, QueryEmbedder(None))
    if isinstance(peers, WorkerPeers):
        folder = peers.directory.folder
    else:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="registry-model-")))
    client = ModelClient(name, folder, clock=clock, metrics=metrics)
    stack.push_async_callback(client.close)
    return Vectors(client, QueryEmbedder(client))
