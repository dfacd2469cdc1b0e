"""Vectors of linked and unlinked servers, through every change; and how little is embedded.

Each replica follows the database through its index; what is stored of a vector is that of a text.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from packages.database.client import Database
from registry.search.embedding.composition import pooled, texts_of
from registry.search.embedding.feeding import EmbeddingState
from registry.search.embedding.model_client import QueryEmbedder
from registry.search.embedding.repository import EmbeddingRepository
from registry.search.ports import DocumentKey, Kind, SearchDocument
from registry.wiring.vectors import Vectors
from tests.fakes.clock import FakeClock
from tests.kit.waiting import in_background, until
from tests.search.embedding.world import (
    HashModel,
    Replica,
    entry_vector,
    id_of,
    mean_vector,
    same,
    tool_vector,
)


@pytest.fixture
def model() -> HashModel:
    return HashModel()


@pytest.fixture
def replica(database: Database, model: HashModel) -> Replica:
    return Replica(database, model)


@pytest.mark.requirement("R-191")
@pytest.mark.requirement("R-194")
async def test_a_linked_server_has_the_vector_of_its_entry(replica: Replica) -> None:
    """User story 2, scenarios 1, 2 and 4, the part about vectors."""
    replica.add_entry("Mail")
    replica.add_server("one", "send", entry="Mail")
    replica.add_server("two", "read", entry="Mail")

    await replica.settle()

    assert same(replica.vector(Kind.SERVER, "one"), entry_vector("Mail"))
    assert same(replica.vector(Kind.SERVER, "two"), entry_vector("Mail"))
    assert same(replica.vector(Kind.TOOL, "one/send"), tool_vector("send", "Mail"))


@pytest.mark.requirement("R-192")
async def test_an_unlinked_server_has_the_mean_of_its_tools(replica: Replica) -> None:
    """User story 2, scenario 3."""
    replica.add_server("post", "send", "read")

    await replica.settle()

    assert same(replica.vector(Kind.TOOL, "post/send"), tool_vector("send", "post"))
    assert same(replica.vector(Kind.SERVER, "post"), mean_vector("post", "send", "read"))


@pytest.mark.requirement("R-192")
async def test_the_mean_follows_the_tools_of_an_unlinked_server(replica: Replica) -> None:
    server = replica.add_server("post", "send", "read")
    await replica.settle()

    server.tools["forward"] = "Does forward for you."
    await replica.settle()
    with_three = replica.vector(Kind.SERVER, "post")
    del server.tools["send"]
    await replica.settle()

    assert same(with_three, mean_vector("post", "send", "read", "forward"))
    assert same(replica.vector(Kind.SERVER, "post"), mean_vector("post", "read", "forward"))


@pytest.mark.requirement("R-193")
async def test_story_3_1_added_tools_keep_what_is_inherited(
    replica: Replica, model: HashModel
) -> None:
    replica.add_entry("Mail")
    server = replica.add_server("one", "send", entry="Mail")
    await replica.settle()
    model.calls.clear()

    server.tools["read"] = "Does read for you."
    await replica.settle()

    assert same(replica.vector(Kind.SERVER, "one"), entry_vector("Mail"))
    assert model.calls == [["read | Does read for you."]]


@pytest.mark.requirement("R-193")
async def test_story_3_2_removed_tools_keep_what_is_inherited(
    replica: Replica, model: HashModel
) -> None:
    replica.add_entry("Mail")
    server = replica.add_server("one", "send", "read", entry="Mail")
    await replica.settle()
    model.calls.clear()

    server.tools.clear()
    await replica.settle()

    assert same(replica.vector(Kind.SERVER, "one"), entry_vector("Mail"))
    assert model.calls == []


@pytest.mark.requirement("R-197")
async def test_story_3_3_a_deleted_entry_leaves_each_server_its_own_vectors(
    replica: Replica, model: HashModel
) -> None:
    replica.add_entry("Mail")
    replica.add_server("one", "send", "read", entry="Mail")
    replica.add_server("two", "send", entry="Mail")
    await replica.settle()
    model.calls.clear()

    replica.remove_entry("Mail")
    await replica.settle()

    assert same(replica.vector(Kind.SERVER, "one"), mean_vector("one", "send", "read"))
    assert same(replica.vector(Kind.SERVER, "two"), mean_vector("two", "send"))
    assert same(replica.vector(Kind.TOOL, "two/send"), tool_vector("send", "two"))
    assert model.calls == [["one", "two"]]


async def test_story_3_4_a_later_entry_changes_nothing_until_there_is_a_link(
    replica: Replica, model: HashModel
) -> None:
    server = replica.add_server("one", "send")
    await replica.settle()

    replica.add_entry("Mail")
    await replica.settle()
    before = replica.vector(Kind.SERVER, "one")
    server.entry = "Mail"
    await replica.settle()

    assert same(before, mean_vector("one", "send"))
    assert same(replica.vector(Kind.SERVER, "one"), entry_vector("Mail"))


@pytest.mark.requirement("R-195")
async def test_story_3_5_changed_tools_of_an_entry_embed_nothing(
    replica: Replica, model: HashModel
) -> None:
    replica.add_entry("Mail")
    replica.add_server("one", "send", entry="Mail")
    await replica.settle()
    model.calls.clear()

    await replica.index.apply(
        [
            SearchDocument(
                DocumentKey(Kind.CATALOG, one.key.id),
                one.name,
                one.title,
                one.description,
                tools=("send", "receive"),
            )
            for one in replica.documents().values()
            if one.key.kind is Kind.CATALOG
        ]
    )
    changed = await replica.index.changed(replica.feeder._seen)
    replica.feeder.note(changed.put, changed.gone)
    await replica.feeder.refresh()

    assert not await replica.worker.embed_some()
    assert model.calls == []
    assert same(replica.vector(Kind.SERVER, "one"), entry_vector("Mail"))


@pytest.mark.requirement("R-196")
@pytest.mark.requirement("R-025")
async def test_story_3_6_a_renamed_entry_costs_one_batch_for_all_of_its_servers(
    replica: Replica, model: HashModel
) -> None:
    replica.add_entry("Mail")
    for name in ("one", "two", "three"):
        replica.add_server(name, *(f"tool{n}" for n in range(30)), entry="Mail")
    await replica.settle()
    model.calls.clear()

    replica.names["Mail"] = "Post"
    await replica.settle()

    assert model.calls == [["Post", "Post | An entry."]]
    for name in ("one", "two", "three"):
        assert same(replica.vector(Kind.TOOL, f"{name}/tool7"), tool_vector("tool7", "Post"))
        assert same(replica.vector(Kind.SERVER, name), entry_vector("Post"))


async def test_story_3_7_another_link_is_followed(replica: Replica, model: HashModel) -> None:
    replica.add_entry("Mail")
    replica.add_entry("Files")
    server = replica.add_server("one", "send", entry="Mail")
    await replica.settle()

    server.entry = "Files"
    await replica.settle()
    relinked = replica.vector(Kind.SERVER, "one"), replica.vector(Kind.TOOL, "one/send")
    server.entry = None
    await replica.settle()

    assert same(relinked[0], entry_vector("Files"))
    assert same(relinked[1], tool_vector("send", "Files"))
    assert same(replica.vector(Kind.SERVER, "one"), mean_vector("one", "send"))


async def test_a_link_to_an_entry_of_the_same_name_is_noticed(replica: Replica) -> None:
    # No text of the server or of its tools changes.
    replica.add_entry("one")
    server = replica.add_server("one", "send")
    await replica.settle()

    server.entry = "one"
    await replica.settle()
    linked = replica.vector(Kind.SERVER, "one")
    server.entry = None
    await replica.settle()

    assert same(linked, entry_vector("one"))
    assert same(replica.vector(Kind.SERVER, "one"), mean_vector("one", "send"))


@pytest.mark.requirement("R-204")
async def test_a_server_without_tools_has_no_vector_and_says_so(replica: Replica) -> None:
    server = replica.add_server("empty")
    await replica.settle()
    empty = replica.state(Kind.SERVER, "empty"), replica.vector(Kind.SERVER, "empty")

    server.tools["send"] = "Does send for you."
    await replica.settle()
    filled = replica.vector(Kind.SERVER, "empty")
    server.tools.clear()
    await replica.settle()

    assert empty == (EmbeddingState.EMPTY, None)
    assert same(filled, mean_vector("empty", "send"))
    assert replica.vector(Kind.SERVER, "empty") is None
    assert replica.state(Kind.SERVER, "empty") is EmbeddingState.EMPTY


def test_vectors_that_cancel_each_other_have_no_mean() -> None:
    one = np.array([1, 0], np.float32)

    assert pooled([one, -one]) is None
    assert pooled([]) is None


@pytest.mark.requirement("R-025")
async def test_unchanged_texts_are_embedded_once_in_the_whole_installation(
    database: Database, model: HashModel
) -> None:
    first, second = Replica(database, model), Replica(database, model)
    for replica in (first, second):
        replica.add_server("one", *(f"tool{n}" for n in range(10)))
        replica.add_server("two", *(f"tool{n}" for n in range(10)))

    await first.settle()
    await second.settle()
    restarted = Replica(database, model)
    restarted.servers = first.servers
    await restarted.settle()

    # Ten texts of tools, which both servers have, and two names.
    assert len(model.texts) == len(set(model.texts)) == 12
    assert len(model.calls) == 1
    for replica in (first, second, restarted):
        assert same(replica.vector(Kind.TOOL, "two/tool3"), tool_vector("tool3", "two"))


async def test_a_replica_learns_what_another_embeds(database: Database, model: HashModel) -> None:
    idle, busy = Replica(database, model, FakeClock()), Replica(database, model)
    for replica in (idle, busy):
        replica.add_server("one", "send")
    await idle.notice()
    await idle.feeder.refresh()
    before = idle.state(Kind.TOOL, "one/send")

    await busy.settle()
    idle.feeder._mark([one for owners in idle.feeder._waiting.values() for one in owners])
    await idle.feeder.refresh()

    assert before is EmbeddingState.PENDING
    assert same(idle.vector(Kind.TOOL, "one/send"), tool_vector("send", "one"))
    assert idle.feeder.pending == 0


@pytest.mark.requirement("R-200")
@pytest.mark.requirement("R-202")
@pytest.mark.requirement("R-203")
async def test_a_failed_text_is_an_error_that_is_tried_again_until_it_succeeds(
    database: Database, model: HashModel
) -> None:
    """User story 2, scenario 6."""
    replica = Replica(database, model)
    replica.add_entry("Mail")
    replica.add_server("free", "broken", "send")
    replica.add_server("linked", "broken", "read", entry="Mail")
    model.failing.add("broken")

    await replica.settle()
    await make_due(database)
    await replica.settle()
    failed = {
        name: replica.state(kind, name)
        for kind, name in (
            (Kind.TOOL, "free/broken"),
            (Kind.TOOL, "free/send"),
            (Kind.SERVER, "free"),
            (Kind.TOOL, "linked/broken"),
            (Kind.SERVER, "linked"),
        )
    }
    problem = replica.status(Kind.TOOL, "free/broken").problem
    # As answers about the server have it.
    shown = Vectors(None, QueryEmbedder(None), replica.feeder).state_of("server", id_of("free"))
    model.failing.clear()
    await make_due(database)
    replica.feeder._mark(replica.feeder._servers)
    await replica.settle()

    assert failed == {
        "free/broken": EmbeddingState.ERROR,
        "free/send": EmbeddingState.READY,
        "free": EmbeddingState.ERROR,
        "linked/broken": EmbeddingState.ERROR,
        "linked": EmbeddingState.READY,
    }
    assert problem == "it cannot be embedded"
    assert shown == {"state": "error", "problem": "it cannot be embedded"}
    assert same(replica.vector(Kind.SERVER, "free"), mean_vector("free", "broken", "send"))
    assert same(replica.vector(Kind.TOOL, "linked/broken"), tool_vector("broken", "Mail"))
    assert replica.feeder.pending == 0


async def make_due(database: Database) -> None:
    """Let the pauses of everything that failed pass."""
    rows = database.collection("embeddings")
    past = datetime.now(UTC) - timedelta(seconds=1)  # noqa: TID251 - the database's time
    for _ in range(2):
        await rows.update_many({"due_at": {"$exists": True}}, {"$set": {"due_at": past}})


async def test_without_a_model_texts_wait_and_nothing_counts_as_tried(
    database: Database, replica: Replica, model: HashModel
) -> None:
    model.is_up = False
    replica.add_server("one", "send")

    await replica.settle()
    rows = await database.collection("embeddings").find({}).to_list()
    model.is_up = True
    await replica.settle()

    assert [row["attempts"] for row in rows] == [0, 0]
    assert same(replica.vector(Kind.SERVER, "one"), mean_vector("one", "send"))


class DeathError(Exception):
    """The process ends here."""


class DyingRepository(EmbeddingRepository):
    """Ends its process at the nth write, before or after it reached the database."""

    def __init__(self, database: Database, number: int, *, is_written: bool) -> None:
        super().__init__(database, FakeClock())
        self.left = number
        self._rows = DyingCollection(self._rows, self, is_written=is_written)  # type: ignore[assignment]  # passes everything on


class DyingCollection:
    """A collection whose nth write is the last."""

    def __init__(self, rows: Any, counter: DyingRepository, *, is_written: bool) -> None:
        self._rows, self._counter, self._is_written = rows, counter, is_written

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._rows, name)
        if name not in {"insert_many", "update_many", "bulk_write"}:
            return method

        async def write(*arguments: Any, **more: Any) -> Any:
            self._counter.left -= 1
            if self._counter.left == 0 and not self._is_written:
                raise DeathError
            result = await method(*arguments, **more)
            if self._counter.left == 0:
                raise DeathError
            return result

        return write


@pytest.mark.requirement("E-17")
@pytest.mark.requirement("E-18")
@pytest.mark.requirement("R-207")
@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_cascade_that_is_killed_at_any_write_is_completed(
    database: Database, model: HashModel, number: int, *, is_written: bool
) -> None:
    survivor = Replica(database, model)
    survivor.add_entry("Mail")
    survivor.add_entry("Gone")
    for n in range(20):
        survivor.add_server(f"mail{n}", "send", "read", entry="Mail")
        survivor.add_server(f"gone{n}", "send", entry="Gone")
    await survivor.settle()
    model.calls.clear()

    # One entry is renamed and the other deleted, while a server is read again.
    survivor.names["Mail"] = "Post"
    survivor.remove_entry("Gone")
    survivor.servers["mail3"].tools["forward"] = "Does forward for you."
    dying = Replica(
        database,
        model,
        repository=DyingRepository(database, number, is_written=is_written),
    )
    dying.entries, dying.names, dying.servers = survivor.entries, survivor.names, survivor.servers
    with pytest.raises(DeathError):
        await dying.settle()
    await make_due(database)
    await survivor.settle()

    for n in range(20):
        assert same(survivor.vector(Kind.TOOL, f"mail{n}/read"), tool_vector("read", "Post"))
        assert same(survivor.vector(Kind.SERVER, f"mail{n}"), entry_vector("Post"))
        assert same(survivor.vector(Kind.SERVER, f"gone{n}"), mean_vector(f"gone{n}", "send"))
    left = await database.collection("embeddings").count_documents({"state": {"$ne": "ready"}})
    assert left == 0
    # What was lost with the process is embedded once more, and nothing else.
    assert len(model.texts) <= 2 * len(set(model.texts))


@pytest.mark.requirement("E-18")
async def test_five_hundred_servers_are_unlinked_in_bounded_batches(
    replica: Replica, model: HashModel
) -> None:
    replica.add_entry("Mail")
    for n in range(500):
        replica.add_server(f"s{n}", "send", entry="Mail")
    await replica.settle()
    model.calls.clear()

    replica.remove_entry("Mail")
    await replica.settle()

    assert max(len(call) for call in model.calls) <= 64
    assert sorted(model.texts) == sorted(f"s{n}" for n in range(500))
    assert same(replica.vector(Kind.SERVER, "s499"), mean_vector("s499", "send"))


@pytest.mark.requirement("R-088")
async def test_vectors_follow_every_change_of_the_documents(
    database: Database, replica: Replica
) -> None:
    replica.add_entry("Mail")
    server = replica.add_server("one", "send", "read", entry="Mail")
    replica.add_server("two", "send")
    await replica.settle()

    server.tools["send"] = "Does something else."
    del replica.servers["two"]
    replica.entries["Mail"] = "Another description."
    replica.add_server("three", "read")
    await replica.settle()

    fresh = Replica(database, replica.model)
    fresh.entries, fresh.names, fresh.servers = replica.entries, replica.names, replica.servers
    await fresh.settle()
    for found in fresh.documents():
        one = fresh.index.version.vectors.blocks[0][fresh.index._rows[found]]
        other = replica.index.version.vectors.blocks[0][replica.index._rows[found]]
        assert np.allclose(one, other)
    assert list(replica.index.missing_vectors()) == []


async def test_a_row_that_another_program_spoiled_is_made_again(
    database: Database, replica: Replica, model: HashModel
) -> None:
    replica.add_server("one", "send")
    await replica.settle()
    rows = database.collection("embeddings")
    await rows.update_many({}, {"$set": {"vector": b"odd"}})

    again = Replica(database, model)
    again.servers = replica.servers
    with capture_logs():
        await again.settle()

    assert same(again.vector(Kind.SERVER, "one"), mean_vector("one", "send"))


async def test_texts_are_not_kept_once_they_are_embedded(
    database: Database, replica: Replica
) -> None:
    replica.add_server("one", "send")

    await replica.settle()

    rows = await database.collection("embeddings").find({}).to_list()
    assert [row for row in rows if "text" in row or "due_at" in row or "lease_id" in row] == []


async def test_the_tasks_of_a_process_do_all_of_it_by_themselves(replica: Replica) -> None:
    replica.add_server("one", "send")

    async with in_background(replica.feeder.follow(), replica.worker.follow()):
        await replica.index.apply(replica.documents().values())
        await until(
            lambda: (
                replica.index.version.vectors.known.all() and not replica.index.missing_vectors()
            )
        )

    assert same(replica.vector(Kind.SERVER, "one"), mean_vector("one", "send"))


def test_what_is_embedded_of_a_tool_is_its_name_as_words_and_its_description() -> None:
    key = DocumentKey(Kind.TOOL, "a" * 24)
    long = SearchDocument(key, "getHTTPStatus_of-page", None, "word " * 500, "My Server")

    texts = texts_of(long)

    assert texts.own == "get HTTP Status of page | " + " ".join(["word"] * 90)
    assert texts.context == "My Server"


def test_half_a_character_is_embedded_as_another() -> None:
    key = DocumentKey(Kind.TOOL, "a" * 24)

    assert texts_of(SearchDocument(key, "a", None, "b\ud83d c")).own == "a | b? c"
