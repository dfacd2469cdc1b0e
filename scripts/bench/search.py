"""What a search takes: CPU of ranking, of a whole search, and memory of the index.

In this process and on real tools, without a registry: `python -m scripts.bench.search` measures
it alone, and with `--quality` how well real queries are answered, which embeds 3,184 tools.
"""

import argparse
import asyncio
import gc
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from registry.auth.identity import USER_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.search.embedding.model_process import embed_all
from registry.search.embedding.model_process import load as load_model
from registry.search.index import SearchIndex
from registry.search.ports import Candidates, DocumentKey, Kind, SearchDocument, Vector
from registry.search.ranking import bm25, fused, looked_up, query_words
from registry.search.retrieval import mask_of, retrieve
from registry.search.service import SearchService
from registry.search.values import SearchQuestion
from scripts.bench.evaluation import documents, indexed, quality, queries
from scripts.bench.plan import Plan
from scripts.bench.report import Bar, Report
from scripts.bench.stage import Stage

SIZES = ((3_184, 5, 20), (100_000, 40, 60))
"""Tools, and the bars of ranking and of a whole search, in milliseconds."""

DIMENSIONS = 384
P95 = 19
"""Which of 20 quantiles."""

CALLER = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
MODEL = "measured"


class Everything:
    """Lets a caller see all tools. Implements `Audience`."""

    def __init__(self, index: SearchIndex) -> None:
        tools = {key: tuple(one.rows) for key, one in index.version.tools.items()}
        self._candidates = Candidates(tools)

    def candidates(self, user: UserContext) -> Candidates:  # noqa: ARG002 - as of others
        """Return all tools."""
        return self._candidates

    async def caught_up(self) -> None:
        """It always is."""


class Prepared:
    """Has the vector of any query at once. Implements `QueryVectors`."""

    model: str | None = MODEL

    def __init__(self, vector: Vector) -> None:
        self._vector = vector

    async def embed_query(self, text: str) -> Vector | None:  # noqa: ARG002 - as of others
        """Return the same vector for all."""
        return self._vector


def section(report: Report, stage: Stage, plan: Plan) -> None:  # noqa: ARG001 - as of others
    """Measure rankings and searches at both sizes."""
    asyncio.run(_measure(report))


async def _measure(report: Report) -> None:
    for size, ranking_bar, search_bar in SIZES:
        await _one_size(report, size, Bar(ranking_bar), Bar(search_bar))


async def _one_size(report: Report, size: int, ranking_bar: Bar, search_bar: Bar) -> None:
    report.section(f"search of {size:,} tools with vectors, in one process")
    before = _resident()
    began_at = time.process_time()
    index = SearchIndex(partial(asyncio.sleep, 0))  # noqa: TID251 - lets nobody wait here
    await index.apply(_many(size))
    spent = time.process_time() - began_at
    chance = np.random.default_rng(1)
    vectors = chance.standard_normal((size + 1, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    keys = [one.key for one in index.documents()]
    index.put_vectors(dict(zip(keys, vectors, strict=False)), model=MODEL)
    query_vector = vectors[-1].copy()
    del vectors
    gc.collect()
    report.row(f"indexing of {size:,} tools, CPU", [spent], "s")
    report.row(f"memory of {size:,} tools", [(_resident() - before) / 2**20], "MiB")
    asked = [query.text for query in queries()]
    version = index.version
    mask = mask_of(version, Everything(index).candidates(CALLER))

    def rank(query: str) -> object:
        terms = looked_up(query_words(query), version.lexicon, mask)
        cosines = version.vectors.cosines(query_vector, len(mask))
        return fused(bm25(terms, version.lexicon, mask), cosines, mask, mask)

    def find(query: str) -> object:
        return retrieve(version, query, mask, query_vector, 10)

    for label, work, bar in (
        ("ranking", rank, ranking_bar),
        ("ranking, with the hits' explanations", find, None),
    ):
        report.row(f"{label} of {size:,}, CPU, p95", _percentiles(work, asked), "ms", bar)
    service = SearchService(
        index,
        Prepared(query_vector),
        Everything(index),
        clock=SystemClock(),
        metrics=Metrics(),
    )
    spans = []
    for _ in range(3):
        times = []
        for query in asked:
            began_at = time.process_time()
            await service.search(CALLER, SearchQuestion(query))
            times.append((time.process_time() - began_at) * 1e3)
        spans.append(statistics.quantiles(times, n=20)[P95 - 1])
    report.row(f"whole search of {size:,}, CPU, p95", spans, "ms", search_bar)
    changed = [replace(one, description="Another text.") for one in list(index.documents())[:100]]
    began_at = time.process_time()
    await index.apply(changed)
    spent = (time.process_time() - began_at) * 1e3
    report.row(f"100 changed tools of {size:,}, CPU", [spent], "ms")


def _many(size: int) -> list[SearchDocument]:
    tools = documents("tools", "distractors")
    return [
        replace(
            tool,
            key=DocumentKey(Kind.TOOL, f"{tool.key.id}-{number}"),
            server_id=f"{tool.server_id}-{number // len(tools)}",
        )
        for number in range(size)
        for tool in [tools[number % len(tools)]]
    ]


def _percentiles(work: Callable[[str], object], asked: Sequence[str]) -> list[float]:
    found = []
    for _ in range(3):
        times = []
        for query in asked:
            began_at = time.process_time()
            work(query)
            times.append((time.process_time() - began_at) * 1e3)
        found.append(statistics.quantiles(times, n=20)[P95 - 1])
    return found


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as pages:  # noqa: PTH123 - no file of ours
        return int(pages.read().split()[1]) * resource.getpagesize()


async def _quality(report: Report) -> None:
    model = load_model("minilm-int8")

    def embed(texts: Sequence[str]) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        return embed_all(model, texts)

    asked = queries()
    vectors = dict(zip([one.id for one in asked], embed([one.text for one in asked]), strict=True))
    for names, bar in ((("tools",), 0.61), (("tools", "distractors"), 0.53)):
        tools = documents(*names)
        index = await indexed(tools, embed)
        words, hybrid = quality(index, asked), quality(index, asked, vectors)
        report.section(f"{len(asked)} real queries for {len(tools):,} tools")
        report.row(f"MRR of {len(tools):,}, words", [words.mrr])
        least = Bar(max(bar, words.mrr), is_least=True)
        report.row(f"MRR of {len(tools):,}, hybrid", [hybrid.mrr], "", least)
        report.row(f"R@5 of {len(tools):,}, words", [words.recall_at_5])
        report.row(f"R@5 of {len(tools):,}, hybrid", [hybrid.recall_at_5])


def main() -> None:
    """Measure the search alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quality", action="store_true", help="real queries, in three minutes")
    given = parser.parse_args()
    report = Report()
    asyncio.run(_measure(report))
    if given.quality:
        asyncio.run(_quality(report))
    report.table()


if __name__ == "__main__":
    main()
