"""Records wait in bounded memory until the database has them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from typing_extensions import override

from packages.database.client import Database, Doc
from packages.database.errors import DatabaseUnavailable
from packages.database.schema import prepare
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.tasks import end
from registry.usage import writer as writer_module
from registry.usage.documents import DocumentMaker
from registry.usage.repository import UsageRepository
from registry.usage.values import UsageFilter
from registry.usage.writer import UsageWriter
from tests.fakes.mongo_daemon import start_daemon
from tests.usage.conftest import call


class Shelf(UsageRepository):
    """Takes records as the test says."""

    def __init__(self) -> None:
        self.documents: dict[object, Doc] = {}
        self.sizes: list[int] = []
        self.is_away = False
        self.loses_answers = False
        self.refuses = 0
        self.breaks = 0
        self.blocks: asyncio.Event | None = None

    @override
    async def insert(self, documents: Sequence[Doc]) -> int:
        """Keep the records, or fail."""
        if self.blocks is not None:
            await self.blocks.wait()
        if self.is_away:
            raise DatabaseUnavailable
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("nobody foresaw it")
        self.sizes.append(len(documents))
        self.documents.update({document["_id"]: document for document in documents})
        if self.loses_answers:
            raise DatabaseUnavailable
        return self.refuses

    @property
    def tools(self) -> list[str]:
        """The names of the tools, in the order they were written."""
        return [document["tool"] for document in self.documents.values()]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def make(
    repository: UsageRepository, metrics: Metrics, *, most_records: int = 10_000
) -> UsageWriter:
    maker = DocumentMaker(worker="host:1", retention=timedelta(days=30))
    return UsageWriter(
        repository, maker, most_records=most_records, clock=SystemClock(), metrics=metrics
    )


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0


@asynccontextmanager
async def following(writer: UsageWriter) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(writer.follow())
        yield
        await end(task)


async def emptied(writer: UsageWriter) -> None:
    async with asyncio.timeout(10):
        while writer.waiting:
            await SystemClock().sleep(0.01)


async def test_records_are_written_in_batches_in_their_order(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics)
    for number in range(1_200):
        writer.note(call(target=f"t{number}"))

    await writer.flush()

    assert shelf.sizes == [500, 500, 200]
    assert shelf.tools == [f"t{number}" for number in range(1_200)]
    assert value(metrics, "usage_records_written_total") == 1_200
    assert value(metrics, "usage_records_waiting") == 0


async def test_a_record_is_written_without_being_asked_for(
    shelf: Shelf, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "GATHER_SECONDS", 0.05)
    writer = make(shelf, metrics)

    async with following(writer):
        writer.note(call(target="one"))
        await emptied(writer)
        writer.note(call(target="two"))
        await emptied(writer)

    assert shelf.tools == ["one", "two"]


async def test_many_records_are_not_kept_waiting_for_others(
    shelf: Shelf, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "GATHER_SECONDS", 3600)
    writer = make(shelf, metrics)

    async with following(writer):
        for _ in range(1_000):
            writer.note(call())
        await emptied(writer)

    assert len(shelf.documents) == 1_000


async def test_while_the_database_is_away_the_newest_are_kept(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics, most_records=100)
    shelf.is_away = True
    for number in range(150):
        writer.note(call(target=f"t{number}"))

    with pytest.raises(DatabaseUnavailable):
        await writer.flush()
    for number in range(150, 160):
        writer.note(call(target=f"t{number}"))
    waiting = writer.waiting
    shelf.is_away = False
    await writer.flush()

    assert waiting == 100
    assert value(metrics, "usage_records_dropped_total", reason="full") == 60
    assert len(shelf.documents) == 100


async def test_it_is_tried_again_until_the_database_is_back(
    shelf: Shelf, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "GATHER_SECONDS", 0.01)
    monkeypatch.setattr(writer_module, "AWAY_SECONDS", 0.01)
    writer = make(shelf, metrics)
    shelf.is_away = True

    with structlog.testing.capture_logs() as lines:
        async with following(writer):
            writer.note(call())
            await SystemClock().sleep(0.1)
            shelf.is_away = False
            await emptied(writer)

    assert len(shelf.documents) == 1
    assert [line["event"] for line in lines] == ["usage_records_postponed"]


async def test_a_batch_whose_fate_is_unknown_is_written_once(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics)
    shelf.loses_answers = True
    writer.note(call())

    with pytest.raises(DatabaseUnavailable):
        await writer.flush()
    shelf.loses_answers = False
    await writer.flush()

    assert shelf.sizes == [1, 1]
    assert len(shelf.documents) == 1


async def test_what_nobody_foresaw_costs_one_batch_and_not_the_writer(
    shelf: Shelf, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "GATHER_SECONDS", 0.01)
    writer = make(shelf, metrics)
    shelf.breaks = 1

    async with following(writer):
        writer.note(call(target="lost"))
        await emptied(writer)
        writer.note(call(target="kept"))
        await emptied(writer)

    assert shelf.tools == ["kept"]
    assert value(metrics, "usage_records_dropped_total", reason="failed") == 1


async def test_the_end_of_the_process_writes_what_waits(shelf: Shelf, metrics: Metrics) -> None:
    writer = make(shelf, metrics)
    async with following(writer):
        writer.note(call())

    await writer.close()

    assert len(shelf.documents) == 1


async def test_the_end_of_the_process_does_not_wait_for_ever(
    shelf: Shelf, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "CLOSE_SECONDS", 0.05)
    writer = make(shelf, metrics)
    shelf.blocks = asyncio.Event()
    writer.note(call())

    async with asyncio.timeout(2):
        await writer.close()

    assert value(metrics, "usage_records_dropped_total", reason="shutdown") == 1


@pytest.mark.wire
async def test_records_the_database_refuses_do_not_hold_up_others(
    usage_repository: UsageRepository, metrics: Metrics
) -> None:
    writer = make(usage_repository, metrics)
    for method in ("tools/call", "", "prompts/get"):
        writer.note(call(method=method))

    await writer.flush()

    kept = await usage_repository.page(UsageFilter(), None, 10)
    assert {record.method for record in kept} == {"tools/call", "prompts/get"}
    assert value(metrics, "usage_records_dropped_total", reason="refused") == 1
    assert value(metrics, "usage_records_written_total") == 2


@pytest.mark.wire
async def test_the_same_documents_written_twice_are_there_once(
    usage_repository: UsageRepository,
) -> None:
    maker = DocumentMaker(worker="host:1", retention=timedelta(days=30))
    clock = SystemClock()
    documents = maker.documents([call(), call()], clock.now(), clock.monotonic())

    refused = [await usage_repository.insert(documents) for _ in range(2)]

    assert refused == [0, 0]
    assert len(await usage_repository.page(UsageFilter(), None, 10)) == 2


@pytest.mark.wire
async def test_records_outlive_a_restart_of_the_database(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "GATHER_SECONDS", 0.01)
    with start_daemon(tmp_path) as daemon:
        database = Database(f"{daemon.uri}test", timeout_ms=300)
        await prepare(database, {})
        repository = UsageRepository(database)
        writer = UsageWriter(
            repository,
            DocumentMaker(worker="host:1", retention=timedelta(days=30)),
            most_records=1_000,
            clock=SystemClock(),
            metrics=metrics,
        )
        monkeypatch.setattr(writer_module, "AWAY_SECONDS", 0.1)
        async with asyncio.timeout(30), following(writer):
            daemon.stop()
            for _ in range(300):
                writer.note(call())
            await SystemClock().sleep(1)
            daemon.restart()
            await emptied(writer)
        batches = await database.collection("usage_records").find({}).to_list()
        count = sum(len(batch["records"]) for batch in batches)
        await database.close()

    assert count == 300


@pytest.mark.wire
async def test_records_of_several_processes_are_one_list_newest_first(
    usage_repository: UsageRepository,
) -> None:
    maker = DocumentMaker(worker="host:1", retention=timedelta(days=30))
    clock = SystemClock()
    now, monotonic = clock.now(), clock.monotonic()
    ages = [[9, 1, 30], [8, 2], [20, 3, 7], [40], [5, 4, 600]]
    for batch in ages:
        notes = [call(target=f"t{age}", began_at=monotonic - age) for age in batch]
        await usage_repository.insert(maker.documents(notes, now, monotonic))
    expected = [f"t{age}" for age in sorted(age for batch in ages for age in batch)]

    whole = await usage_repository.page(UsageFilter(), None, 100)
    pages: list[str | None] = []
    before = None
    while page := await usage_repository.page(UsageFilter(), before, 2):
        pages += [record.tool for record in page]
        before = (page[-1].started_at, page[-1].id)
    since = await usage_repository.page(UsageFilter(since=whole[4].started_at), None, 100)

    assert [record.tool for record in whole] == expected
    assert pages == expected
    assert [record.tool for record in since] == expected[:5]
