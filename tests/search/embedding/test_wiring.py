"""A process's own parts: texts that wait in the database are embedded, and health tells of it."""

from contextlib import AsyncExitStack

import pytest

from packages.database.client import Database
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.search.embedding.composition import digest_of
from registry.search.index import SearchIndex
from registry.search.ports import DocumentKey, Kind, SearchDocument
from registry.wiring.vectors import build_vectors
from registry.workers.peers import SingleWorker
from tests.kit.waiting import in_background, until

pytestmark = pytest.mark.integration


async def _no_pause() -> None:
    """Give no other task a turn."""


async def test_documents_of_an_index_get_vectors_of_the_chosen_model(
    settings: Settings, database: Database
) -> None:
    chosen = settings.model_copy(update={"search_model": "wordllama"})
    index, clock, metrics = SearchIndex(_no_pause), SystemClock(), Metrics()
    async with AsyncExitStack() as stack:
        vectors = build_vectors(
            stack, chosen, SingleWorker("aaaaaaaa"), clock=clock, metrics=metrics
        )
        before = vectors.facts()
        key = DocumentKey(Kind.TOOL, "a" * 24)
        tool = SearchDocument(key, "send_mail", context="Mail", server_id="b" * 24)
        async with in_background(*vectors.feed(index, database, clock=clock, metrics=metrics)):
            await index.apply([tool])
            await until(lambda: not index.missing_vectors())
        model = index.version.vectors.model or ""
        stored = await database.collection("embeddings").find({}).to_list()
        after = vectors.facts()

    assert before["state"] == "idle"
    assert after == {"state": "ready", "model": model, "problem": None, "pending": 0}
    assert {row["_id"] for row in stored} == {
        digest_of(model, text) for text in ("send mail", "Mail")
    }


async def test_without_a_model_there_is_nothing_to_run(
    settings: Settings, database: Database
) -> None:
    words = settings.model_copy(update={"search_model": "none"})
    clock, metrics = SystemClock(), Metrics()
    async with AsyncExitStack() as stack:
        vectors = build_vectors(
            stack, words, SingleWorker("aaaaaaaa"), clock=clock, metrics=metrics
        )

        assert vectors.feed(SearchIndex(_no_pause), database, clock=clock, metrics=metrics) == []
        assert vectors.facts()["state"] == "off"
        assert await vectors.queries.embed_query("send mail") is None
