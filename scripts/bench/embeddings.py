"""How fast texts are embedded, what a change of a name or link takes, and what calls notice.

The changes are those of 100 tools of one server, from the index's notice to its new vectors, on
the registry's own database. CPU of calls is that of the serving process, with and without texts
that its model embeds meanwhile.
"""

import asyncio
import json
import re
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

from packages.database.client import Database
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.search.embedding.composition import digest_of
from registry.search.embedding.feeding import VectorFeeder
from registry.search.embedding.model_client import ModelClient
from registry.search.embedding.repository import EmbeddingRepository
from registry.search.embedding.worker import BATCH_TEXTS, EmbeddingWorker
from registry.search.index import SearchIndex
from registry.search.ports import CatalogLink, DocumentKey, Kind, SearchDocument, Traits
from scripts.bench.load import requests_of, run
from scripts.bench.plan import Plan
from scripts.bench.process import cpu_seconds, resident_mib
from scripts.bench.report import Bar, Report
from scripts.bench.stage import Stage

MODELS = ("minilm-int8", "wordllama")
TOOLS = 100
INDEXED = 3_000
SMALL = 300
WAITING = 10_000
BUSY = 16
START_SECONDS = 120.0
WORDS = Path(__file__).parents[2] / "docs" / "operations.md"
ENTRY = "e" * 24
LINK = CatalogLink(ENTRY, "Mail")


def section(report: Report, stage: Stage, plan: Plan) -> None:
    """Embed in this process's model first, then in the registry's."""
    texts = _texts(INDEXED if plan.is_long else SMALL)
    for name in MODELS:
        report.section(f"{name}: {len(texts):,} tools of about 40 words")
        asyncio.run(_model(report, stage, plan, name, texts))
    report.section(f"calls while {WAITING:,} texts are embedded")
    asyncio.run(_calls(report, stage, plan))


def _texts(count: int) -> list[str]:
    """Return texts of the length of tools' descriptions, all different."""
    words = re.findall(r"[A-Za-z]+", WORDS.read_text())
    return [
        " ".join([f"tool {number}", *words[number * 7 % 5_000 :][: 20 + number * 13 % 40]])
        for number in range(count)
    ]


class _Process:
    """What one process has, with an index of its own."""

    def __init__(self, client: ModelClient, database: Database) -> None:
        clock = SystemClock()
        self.index = SearchIndex(lambda: clock.sleep(0))
        self.repository = EmbeddingRepository(database, clock)
        self.worker = EmbeddingWorker(self.repository, client, clock)
        self.feeder = VectorFeeder(
            self.index,
            self.repository,
            self.worker,
            model=client.model,
            dimensions=client.dimensions,
            clock=clock,
            pending=Metrics().embeddings_pending,
        )
        self._seen = 0

    async def index_all(
        self, documents: list[SearchDocument], gone: tuple[DocumentKey, ...] = ()
    ) -> float:
        """Return the seconds from a change to its vectors."""
        await self.index.apply(documents, gone)
        began_at = time.perf_counter()
        changed = await self.index.changed(self._seen)
        self._seen = changed.version
        self.feeder.note(changed.put, changed.gone)
        await self.feeder.refresh()
        while await self.worker.embed_some():
            await self.feeder.refresh()
        return time.perf_counter() - began_at


async def _model(report: Report, stage: Stage, plan: Plan, name: str, texts: list[str]) -> None:
    database = Database(stage.mongo_uri, timeout_ms=20_000)
    with tempfile.TemporaryDirectory() as folder:
        client = ModelClient(name, Path(folder), clock=SystemClock(), metrics=Metrics())
        await client.embed(["load"])
        pid = client.pid or 0
        rates: list[float] = []
        for _ in range(plan.rounds):
            before = cpu_seconds(pid)
            for start in range(0, len(texts), BATCH_TEXTS):
                await client.embed(texts[start : start + BATCH_TEXTS])
            rates.append(len(texts) / (cpu_seconds(pid) - before))
        bar = Bar(66, is_least=True)
        report.row(f"{name}: texts for each second of CPU time", rates, "texts/s", bar)
        report.row(f"{name}: resident memory of its process", [resident_mib(pid)], "MiB")
        process = _Process(client, database)
        documents = _server(texts[:TOOLS], LINK, f"{name} ")
        seconds = await process.index_all(
            [document for document in _many(texts, name) if document.server_id is not None]
        )
        report.row(f"{name}: first index of {len(texts):,} tools", [seconds], "s")
        await process.index_all([*documents, _entry(LINK.name)])
        renamed: list[float] = []
        unlinked: list[float] = []
        deleted: list[float] = []
        for number in range(plan.rounds):
            other = replace_link(documents, CatalogLink(ENTRY, f"Post {name} {number}"))
            renamed.append(await process.index_all([*other, _entry(f"Post {name} {number}")]))
            own = replace_link(documents, None, f"own {name} {number}")
            unlinked.append(await process.index_all(own))
            await process.index_all(documents)
            gone = tuple(document.key for document in documents)
            deleted.append(await process.index_all([], gone))
            await process.index_all([*documents, _entry(LINK.name)])
        label = f"{name}: {TOOLS} tools embedded again after a rename"
        report.row(label, [one * 1000 for one in renamed], "ms", Bar(500))
        label = f"{name}: own vectors of {TOOLS} tools after an unlink"
        report.row(label, [one * 1000 for one in unlinked], "ms", Bar(200))
        report.row(
            f"{name}: vectors of {TOOLS} tools dropped",
            [one * 1000 for one in deleted],
            "ms",
            Bar(100),
        )
        await client.close()
    await database.close()


def _many(texts: list[str], prefix: str) -> list[SearchDocument]:
    found: list[SearchDocument] = []
    for start in range(0, len(texts), 20):
        name = f"{prefix} server {start // 20}"
        found += _server(texts[start : start + 20], None, name)
    return found


def _server(texts: list[str], link: CatalogLink | None, name: str) -> list[SearchDocument]:
    server_id = digest_of("server", name)[:24]
    traits = Traits(catalog=link)
    server = SearchDocument(
        DocumentKey(Kind.SERVER, server_id), name, server_id=server_id, traits=traits
    )
    tools = [
        SearchDocument(
            DocumentKey(Kind.TOOL, digest_of(name, text)[:24]),
            f"tool_{number}",
            None,
            text,
            name if link is None else link.name,
            server_id,
            traits=traits,
        )
        for number, text in enumerate(texts)
    ]
    return [server, *tools]


def replace_link(
    documents: list[SearchDocument], link: CatalogLink | None, name: str = ""
) -> list[SearchDocument]:
    """Return a server's documents with another link, or none and another name."""
    context = name if link is None else link.name
    return [
        replace(
            one,
            context=context if one.key.kind is Kind.TOOL else "",
            traits=Traits(catalog=link),
        )
        for one in documents
    ]


def _entry(name: str) -> SearchDocument:
    return SearchDocument(DocumentKey(Kind.CATALOG, ENTRY), name, None, "Sends and reads mail.")


async def _calls(report: Report, stage: Stage, plan: Plan) -> None:
    alone = [await _cpu_of_a_call(stage, plan.seconds) for _ in range(plan.rounds)]
    model = json.loads(_health(stage))["embedding"]["model"]
    if model is None:
        report.fact("no model is installed")
        return
    database = Database(stage.mongo_uri, timeout_ms=20_000)
    repository = EmbeddingRepository(database, SystemClock())
    texts = _texts(WAITING)
    await repository.request(model, {digest_of(model, text): text for text in texts})
    rows = database.collection("embeddings")
    waiting = {"model": model, "state": "pending"}
    async with asyncio.timeout(START_SECONDS):
        while await rows.count_documents(waiting) >= WAITING:
            await SystemClock().sleep(0.2)
    meanwhile = [await _cpu_of_a_call(stage, plan.seconds) for _ in range(plan.rounds)]
    left = await rows.count_documents(waiting)
    report.fact(f"{left:,} of {WAITING:,} texts were left")
    report.errors(not left)
    ratios = [after / before for before, after in zip(alone, meanwhile, strict=True)]
    report.row("CPU of a call while texts are embedded, to that without", ratios, "", Bar(1.3))
    report.row("resident memory of the serving process", [resident_mib(stage.pid)], "MiB")
    await database.close()


def _health(stage: Stage) -> bytes:
    url = f"http://127.0.0.1:{stage.port}/health"
    with urllib.request.urlopen(url, timeout=20) as answer:
        found: bytes = answer.read()
    return found


async def _cpu_of_a_call(stage: Stage, seconds: float) -> float:
    before = stage.cpu_seconds()
    result = await run(stage.one(), BUSY, seconds)
    return (stage.cpu_seconds() - before) / requests_of(result, BUSY)
