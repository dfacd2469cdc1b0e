"""Real queries for tools that others wrote, and how well a search finds what they want.

The data is in tests/data/tool_search; its NOTICE says where it is from.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from registry.search.embedding.composition import composed, texts_of
from registry.search.index import SearchIndex
from registry.search.ports import Candidates, DocumentKey, Kind, SearchDocument, Vector
from registry.search.retrieval import mask_of, retrieve

DATA = Path(__file__).parents[2] / "tests" / "data" / "tool_search"

RANKED = 100
"""Results that are looked at; what comes later counts as not found."""

Embed = Callable[[Sequence[str]], np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Query:
    """One query.

    Attributes:
        gold: Groups of tools that are wanted; any of a group will do.
    """

    id: str
    text: str
    gold: tuple[frozenset[str], ...]


class Quality(NamedTuple):
    """How well queries are answered, on average.

    Attributes:
        mrr: One by the rank of the first tool that is wanted.
        recall_at_5: Share of the wanted groups among the first five.
    """

    mrr: float
    recall_at_5: float


def load(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file."""
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def queries() -> list[Query]:
    """Return all queries."""
    return [
        Query(row["id"], row["query"], tuple(frozenset(group) for group in row["gold"]))
        for row in load("queries")
    ]


def documents(*names: str) -> list[SearchDocument]:
    """Return the tools of some files as the index holds them."""
    return [
        SearchDocument(
            DocumentKey(Kind.TOOL, row["id"]),
            row["name"],
            None,
            row["description"],
            row["server_title"] or row["server"],
            row["server"],
            row["server"],
        )
        for name in names
        for row in load(name)
    ]


async def indexed(tools: Sequence[SearchDocument], embed: Embed | None = None) -> SearchIndex:
    """Return an index of tools, with vectors if there is a model."""

    async def resting() -> None:
        """Nothing else is to be done."""

    # Names are not unique within a server here, as they are in a registry.
    index = SearchIndex(resting)
    await index.apply(tools)
    if embed is not None:
        index.put_vectors(vectors_of(tools, embed), model="evaluated")
    return index


def vectors_of(tools: Sequence[SearchDocument], embed: Embed) -> Mapping[DocumentKey, Vector]:
    """Return the vectors of tools, composed as the product does."""
    texts = [texts_of(tool) for tool in tools]
    contexts = sorted({text.context for text in texts})
    by_context = dict(zip(contexts, embed(contexts), strict=True))
    own = embed([text.own for text in texts])
    return {
        tool.key: composed(vector, by_context[text.context])
        for tool, text, vector in zip(tools, texts, own, strict=True)
    }


def halves(asked: Iterable[Query]) -> tuple[list[Query], list[Query]]:
    """Return two halves of queries, always the same."""
    parts: tuple[list[Query], list[Query]] = ([], [])
    for query in asked:
        parts[crc32(query.id.encode()) % 2].append(query)
    return parts


def quality(
    index: SearchIndex, asked: Iterable[Query], vectors: Mapping[str, Vector] | None = None
) -> Quality:
    """Return how well an index answers queries; by words alone without their vectors."""
    version = index.version
    tools = {server: tuple(served.rows) for server, served in version.tools.items()}
    mask = mask_of(version, Candidates(tools))
    reciprocal, recall, number = 0.0, 0.0, 0
    for query in asked:
        vector = None if vectors is None else vectors[query.id]
        found = retrieve(version, query.text, mask, vector, RANKED)
        ranks = {hit.document.key.id: rank for rank, hit in enumerate(found, 1)}
        firsts = [min(ranks.get(one, 10**9) for one in group) for group in query.gold]
        reciprocal += 1 / min(firsts)
        recall += sum(first <= 5 for first in firsts) / len(firsts)  # noqa: PLR2004 - its name
        number += 1
    return Quality(reciprocal / number, recall / number)
