"""How well real queries find the tools that others chose for them, with the real model."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray

from registry.search.embedding.model_process import embed_all, load
from registry.search.index import SearchIndex
from registry.search.ports import Vector
from scripts.bench.evaluation import documents, halves, indexed, quality, queries

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERIES = queries()


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    return embed_all(load("minilm-int8"), texts)


@pytest.fixture(scope="module")
def vectors() -> Mapping[str, Vector]:
    """Return the vectors of all queries."""
    embedded = embed([query.text for query in QUERIES])
    return {query.id: vector for query, vector in zip(QUERIES, embedded, strict=True)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def index() -> SearchIndex:
    """Return an index of the 527 tools with their vectors."""
    return await indexed(documents("tools"), embed)


async def test_the_wanted_tool_is_among_the_first(
    index: SearchIndex, vectors: Mapping[str, Vector]
) -> None:
    found = quality(index, QUERIES, vectors)

    assert found.mrr >= 0.61
    assert found.recall_at_5 >= 0.64


async def test_vectors_make_no_half_of_the_queries_worse_than_words_alone(
    index: SearchIndex, vectors: Mapping[str, Vector]
) -> None:
    parts = [(quality(index, half), quality(index, half, vectors)) for half in halves(QUERIES)]

    assert all(hybrid.mrr > words.mrr for words, hybrid in parts)
    assert all(hybrid.recall_at_5 > words.recall_at_5 for words, hybrid in parts)
    assert abs(parts[0][1].mrr - parts[1][1].mrr) <= 0.03


async def test_words_alone_find_most(index: SearchIndex) -> None:
    found = quality(index, QUERIES)

    assert found.mrr >= 0.58
    assert found.recall_at_5 >= 0.63
