"""Records wait in bounded memory until the database has them."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from typing_extensions import override

from packages.database.client import Database, Doc
from packages.database.errors import DatabaseUnavailable
from packages.database.schema import prepare
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.usage.batches import BatchPacker, records_of
from registry.usage.repository import UsageRepository
from registry.usage.values import UsageFilter
from registry.usage.writer import UsageWriter
from tests.conftest import ALICE
from tests.fakes.mongo_daemon import start_daemon
from tests.kit.waiting import in_background, until
from tests.usage.conftest import batch_of, call


class Shelf(UsageRepository):
    """Takes batches as the test says."""

    def __init__(self) -> None:
        self.writer = "w1"
        self.batches: dict[object, Doc] = {}
        self.sizes: list[int] = []
        self.is_away = False
        self.loses_answers = False
        self.refuses = False
        self.attempts = 0
        self.breaks = 0
        self.blocks: asyncio.Event | None = None

    @override
    async def insert(self, batch: Doc, totals: Sequence[tuple[str, Doc]] = ()) -> bool:
        """Keep the batch, or fail."""
        self.attempts += 1
        if self.blocks is not None:
            await self.blocks.wait()
        if self.is_away:
            raise DatabaseUnavailable
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("nobody foresaw it")
        if self.refuses:
            return False
        self.sizes.append(sum(facts["count"] for facts in batch["calls"]))
        self.batches[batch["_id"]] = batch
        if self.loses_answers:
            raise DatabaseUnavailable
        return True

    @property
    def tools(self) -> list[str | None]:
        """The names of the tools, in the order they were written."""
        return [
            record.tool
            for batch in self.batches.values()
            for record in records_of(_as_read(batch), UsageFilter())
        ]


def _as_read(batch: Doc) -> Doc:
    return {**batch, "first_at": batch["first_at"].as_datetime()}


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def make(
    repository: UsageRepository, metrics: Metrics, *, max_records: int = 10_000, **times: Any
) -> UsageWriter:
    packer = BatchPacker(worker="host:1", retention=timedelta(days=30))
    return UsageWriter(
        repository,
        packer,
        max_records=max_records,
        clock=SystemClock(),
        metrics=metrics,
        **times,
    )


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0


async def emptied(writer: UsageWriter) -> None:
    await until(lambda: not writer.waiting, 10)


async def test_records_are_written_in_batches_in_their_order(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics)
    for number in range(1_200):
        writer.note(*call(target=f"t{number}"))

    await writer.flush()

    assert shelf.sizes == [500, 500, 200]
    assert shelf.tools == [f"t{number}" for number in range(1_200)]
    assert value(metrics, "usage_records_written_total") == 1_200
    assert value(metrics, "usage_records_pending") == 0


async def test_a_record_is_written_without_being_asked_for(shelf: Shelf, metrics: Metrics) -> None:
    writer = make(shelf, metrics, gather_seconds=0.05)

    async with in_background(writer.follow()):
        writer.note(*call(target="one"))
        await emptied(writer)
        writer.note(*call(target="two"))
        await emptied(writer)

    assert shelf.tools == ["one", "two"]


async def test_many_records_are_not_kept_waiting_for_others(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics, gather_seconds=3600)

    async with in_background(writer.follow()):
        for _ in range(1_000):
            writer.note(*call())
        await emptied(writer)

    assert len(shelf.tools) == 1_000


async def test_while_the_database_is_away_the_newest_are_kept(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics, max_records=100)
    shelf.is_away = True
    for number in range(150):
        writer.note(*call(target=f"t{number}"))

    with pytest.raises(DatabaseUnavailable):
        await writer.flush()
    for number in range(150, 160):
        writer.note(*call(target=f"t{number}"))
    waiting = writer.waiting
    shelf.is_away = False
    await writer.flush()

    dropped = value(metrics, "usage_records_dropped_total", reason="full")
    assert 75 <= waiting <= 100
    assert waiting + dropped == 160
    assert len(shelf.tools) == waiting
    assert shelf.tools[-60:] == [f"t{number}" for number in range(100, 160)]


async def test_it_is_tried_again_until_the_database_is_back(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics, gather_seconds=0.01, retry_seconds=0.01)
    shelf.is_away = True

    with structlog.testing.capture_logs() as lines:
        async with in_background(writer.follow()):
            writer.note(*call())
            await until(lambda: shelf.attempts > 1)
            shelf.is_away = False
            await emptied(writer)

    assert len(shelf.tools) == 1
    assert [line["event"] for line in lines] == ["usage_writes_delayed"]


async def test_a_batch_whose_fate_is_unknown_is_written_once(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics)
    shelf.loses_answers = True
    writer.note(*call())

    with pytest.raises(DatabaseUnavailable):
        await writer.flush()
    shelf.loses_answers = False
    await writer.flush()

    assert shelf.sizes == [1, 1]
    assert len(shelf.tools) == 1


async def test_what_nobody_foresaw_costs_one_batch_and_not_the_writer(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics, gather_seconds=0.01)
    shelf.breaks = 1

    async with in_background(writer.follow()):
        writer.note(*call(target="lost"))
        await emptied(writer)
        writer.note(*call(target="kept"))
        await emptied(writer)

    assert shelf.tools == ["kept"]
    assert value(metrics, "usage_records_dropped_total", reason="failed") == 1


async def test_the_end_of_the_process_writes_what_waits(shelf: Shelf, metrics: Metrics) -> None:
    writer = make(shelf, metrics)
    async with in_background(writer.follow()):
        writer.note(*call())

    await writer.close()

    assert len(shelf.tools) == 1


async def test_the_end_of_the_process_does_not_wait_for_ever(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics, close_seconds=0.05)
    shelf.blocks = asyncio.Event()
    writer.note(*call())

    async with asyncio.timeout(30):
        await writer.close()

    assert value(metrics, "usage_records_dropped_total", reason="shutdown") == 1


@pytest.mark.wire
async def test_a_batch_the_database_refuses_does_not_hold_up_others(
    usage_repository: UsageRepository, metrics: Metrics
) -> None:
    writer = make(usage_repository, metrics)
    for method in ("", "prompts/get"):
        writer.note(*call(method=method))
        await writer.flush()

    kept = await usage_repository.page(UsageFilter(), None, 10)
    assert [record.method for record in kept] == ["prompts/get"]
    assert value(metrics, "usage_records_dropped_total", reason="rejected") == 1
    assert value(metrics, "usage_records_written_total") == 1


@pytest.mark.wire
async def test_the_same_batch_written_twice_is_there_once(
    usage_repository: UsageRepository,
) -> None:
    clock = SystemClock()
    packer = BatchPacker(worker="host:1", retention=timedelta(days=30))
    document = packer.document(batch_of(call(), call()), clock.now(), clock.monotonic())

    taken = [await usage_repository.insert(document) for _ in range(2)]

    assert taken == [True, True]
    assert len(await usage_repository.page(UsageFilter(), None, 10)) == 2


@pytest.mark.wire
async def test_a_batch_that_cannot_be_read_hides_no_other(
    usage_repository: UsageRepository, database: Database, metrics: Metrics
) -> None:
    writer = make(usage_repository, metrics)
    for tool in ("damaged", "whole", "of-another-release"):
        writer.note(*call(target=tool))
        await writer.flush()
    rows = database.collection("usage_records")
    await rows.update_one({"calls.tool": "damaged"}, {"$set": {"rows": b"no zlib"}})
    await rows.update_one({"calls.tool": "of-another-release"}, {"$set": {"packed": 2}})

    with structlog.testing.capture_logs() as lines:
        kept = await usage_repository.page(UsageFilter(), None, 10)

    assert [record.tool for record in kept] == ["whole"]
    assert [line["event"] for line in lines] == ["usage_batch_unreadable"]


@pytest.mark.wire
async def test_filters_are_about_one_call_and_not_about_a_batch(
    usage_repository: UsageRepository, metrics: Metrics
) -> None:
    writer = make(usage_repository, metrics)
    bob, other = "b" * 24, "e" * 24
    writer.note(*call(target="one", trace_id="1" * 32))
    writer.note(*call(target="two", user_id=bob, server_id=other, outcome="timeout"))
    writer.note(*call(target="three", server_id=other))
    await writer.flush()

    async def tools(**narrowed: Any) -> list[str]:
        page = await usage_repository.page(UsageFilter(**narrowed), None, 10)
        return sorted(record.tool or "" for record in page)

    assert await tools(user_id=ALICE.user_id, server_id=other) == ["three"]
    assert await tools(user_id=bob.upper()) == ["two"]
    assert await tools(tool="two", outcome="ok") == []
    assert await tools(trace_id="1" * 32) == ["one"]
    assert await tools(trace_id="2" * 32) == []


@pytest.mark.wire
async def test_records_outlive_a_restart_of_the_database(tmp_path: Path, metrics: Metrics) -> None:
    with start_daemon(tmp_path) as daemon:
        database = Database(f"{daemon.uri}test", timeout_ms=300)
        await prepare(database, {})
        repository = UsageRepository(database)
        writer = make(repository, metrics, gather_seconds=0.01, retry_seconds=0.1)
        async with asyncio.timeout(30), in_background(writer.follow()):
            daemon.stop()
            for _ in range(300):
                writer.note(*call())
            await SystemClock().sleep(1)
            daemon.restart()
            await emptied(writer)
        batches = await database.collection("usage_records").find({}).to_list()
        count = sum(facts["count"] for batch in batches for facts in batch["calls"])
        await database.close()

    assert count == 300


@pytest.mark.wire
async def test_records_of_several_processes_are_one_list_newest_first(
    usage_repository: UsageRepository,
) -> None:
    packer = BatchPacker(worker="host:1", retention=timedelta(days=30))
    clock = SystemClock()
    now, monotonic = clock.now(), clock.monotonic()
    ages = [[9, 1, 30], [8, 2], [20, 3, 7], [40], [5, 4, 600]]
    for ages_of_batch in ages:
        calls = [call(target=f"t{age}", began_at=monotonic - age) for age in ages_of_batch]
        await usage_repository.insert(packer.document(batch_of(*calls), now, monotonic))
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


async def test_a_batch_that_cannot_be_packed_costs_no_other(
    shelf: Shelf, metrics: Metrics
) -> None:
    writer = make(shelf, metrics)
    shelf.is_away = True
    writer.note(*call(target="sent before"))
    with pytest.raises(DatabaseUnavailable):
        await writer.flush()
    shelf.is_away = False

    writer.note(*call(trace_id="\ud800"))
    await writer.flush()
    writer.note(*call(target="after"))
    await writer.flush()

    assert shelf.tools == ["sent before", "after"]
    assert value(metrics, "usage_records_dropped_total", reason="failed") == 1
    assert writer.waiting == 0
