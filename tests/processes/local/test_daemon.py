import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError
from typing_extensions import override

from registry.core.clock import SystemClock
from registry.processes.local import daemon
from registry.processes.local.children import accepts
from registry.processes.local.daemon import EmbeddedDatabase, embedded_database
from registry.processes.local.errors import LocalHomeError, MissingExtraError
from registry.processes.local.home import LocalHome
from tests.kit.waiting import PROCESS_SECONDS, until, until_async

Rows = AsyncCollection[dict[str, Any]]


# One daemon serves the module: a first start takes a second.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedDatabase]:
    home = LocalHome(tmp_path_factory.mktemp("shared") / "home")
    with home.locked():
        home.prepare()
        async with embedded_database(home, SystemClock()) as database:
            await database.ready()
            yield database


@pytest_asyncio.fixture(loop_scope="module")
async def rows(database: EmbeddedDatabase) -> AsyncIterator[Rows]:
    """Yield an empty collection."""
    await database.ready()
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(database.uri)
    async with client:
        rows = client.get_default_database()["rows"]
        await rows.drop()
        yield rows


@pytest.mark.wire
async def test_what_was_acknowledged_survives_kill_9_of_the_daemon(
    database: EmbeddedDatabase, rows: Rows
) -> None:
    first, acknowledged = database.pid, []
    assert first is not None

    async def write() -> None:
        for number in range(10_000):
            with suppress(AutoReconnect):
                await rows.insert_one({"_id": number})
                acknowledged.append(number)
            if number == 100:
                os.kill(first, signal.SIGKILL)
            if number > 100 and database.pid not in {None, first}:
                return

    await asyncio.wait_for(write(), 30)

    stored = {row["_id"] async for row in rows.find()}
    assert stored >= set(acknowledged)
    # The write under way may be there without its answer.
    assert len(stored) <= len(acknowledged) + 1


@pytest.mark.wire
async def test_connected_drivers_find_the_restarted_daemon(
    database: EmbeddedDatabase, rows: Rows
) -> None:
    first = database.pid
    assert first is not None
    await rows.insert_one({"_id": 1})

    os.kill(first, signal.SIGKILL)
    await until(lambda: database.pid not in {None, first}, PROCESS_SECONDS)

    assert await rows.find_one({"_id": 1}) == {"_id": 1}


@pytest.mark.wire
async def test_a_later_start_keeps_the_data_and_the_connection_string(
    home: LocalHome, clock: SystemClock
) -> None:
    uris, counts = [], []
    for number in range(2):
        with home.locked():
            home.prepare()
            async with embedded_database(home, clock) as database:
                await database.ready()
                uris.append(database.uri)
                client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(database.uri)
                async with client:
                    rows = client.get_default_database()["rows"]
                    await rows.insert_one({"_id": number})
                    counts.append(await rows.count_documents({}))
            # As a former release wrote it.
            home.write_mongo_uri(database.uri.replace("&retryWrites=false", ""))

    assert counts == [1, 2]
    assert all(uri.endswith("&retryWrites=false") for uri in uris)
    assert uris[0] == uris[1]


class AttackedClock(SystemClock):
    """A clock whose every wait is somebody else's chance to make a user of their own.

    Attributes:
        made: Whether they could, once for each try.
    """

    def __init__(self, home: LocalHome) -> None:
        self._home = home
        self.made: list[bool] = []

    @override
    async def sleep(self, seconds: float) -> None:
        """Attack the daemon while it asks nobody for a password, then wait."""
        port = _open_port(self._home)
        if port is not None and not self.made:
            await until_async(lambda: accepts(port))
            self.made.append(await _made_a_user(port, ""))
            self.made.append(await _made_a_user(port, "?tls=true&tlsInsecure=true"))
        await super().sleep(seconds)


@pytest.mark.wire
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_nobody_else_makes_a_user_during_the_first_start(home: LocalHome) -> None:
    clock = AttackedClock(home)

    with home.locked():
        home.prepare()
        async with embedded_database(home, clock) as database:
            await database.ready()
            client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(database.uri)
            async with client:
                known = await client.admin.command("usersInfo", 1)
    gc.collect()

    assert clock.made == [False, False]
    assert [user["user"] for user in known["users"]] == ["registry"]
    assert not (home.path / "database.pem").exists()


def _open_port(home: LocalHome) -> int | None:
    """Return the port of a daemon without passwords, which its command line tells everybody."""
    try:
        pid = (home.path / "database.pid").read_text().split()[0]
        words = (Path("/proc") / pid / "cmdline").read_bytes().split(b"\0")
    except (OSError, IndexError):
        return None
    # Before it is executed, the new process has the command line of this one.
    is_open = b"--port" in words and b"--auth" not in words
    return int(words[words.index(b"--port") + 1]) if is_open else None


async def _made_a_user(port: int, options: str) -> bool:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
        f"mongodb://127.0.0.1:{port}/{options}",
        serverSelectionTimeoutMS=1500,
        connectTimeoutMS=300,
        socketTimeoutMS=1000,
    )
    async with client:
        try:
            await client.admin.command("createUser", "mallory", pwd="x", roles=["root"])
        except PyMongoError:
            return False
    return True


@pytest.mark.wire
@pytest.mark.parametrize("user", ["", "registry:wrong@"])
async def test_the_port_alone_does_not_open_the_database(
    database: EmbeddedDatabase, user: str
) -> None:
    address = database.uri.partition("@")[2]
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(f"mongodb://{user}{address}")
    async with client:
        with pytest.raises(OperationFailure):
            await client.get_default_database()["rows"].find_one()


@pytest.mark.wire
async def test_a_lost_connection_string_is_replaced_and_a_taken_port_left(
    home: LocalHome, clock: SystemClock
) -> None:
    with home.locked():
        home.prepare()
        async with embedded_database(home, clock) as database:
            await database.ready()
            first = database.uri
        home.mongo_uri_file.unlink()
        async with embedded_database(home, clock) as database:
            await database.ready()
            second = database.uri
        port = int(second.partition("@")[2].partition("/")[0].partition(":")[2])
        async with (
            await asyncio.start_server(_hang_up, "127.0.0.1", port),
            embedded_database(home, clock) as database,
        ):
            await database.ready()
            third = database.uri

    assert first.partition("@")[0] != second.partition("@")[0] == third.partition("@")[0]
    assert f":{port}/" not in third
    assert home.read_mongo_uri() == third


@pytest.mark.wire
async def test_a_daemon_left_behind_is_ended_and_its_port_kept(
    home: LocalHome, clock: SystemClock
) -> None:
    with home.locked():
        home.prepare()
        async with embedded_database(home, clock) as database:
            await database.ready()
            first = database.uri
        left_behind = daemon._spec(home, first, "--auth")
        orphan = await asyncio.create_subprocess_exec(*left_behind.command)
        left_behind.pid_file.write_text(str(orphan.pid))
        await until_async(left_behind.answers)
        async with embedded_database(home, clock) as database:
            await database.ready()

            assert database.uri == first
            assert database.pid != orphan.pid
    assert await orphan.wait() in {0, -signal.SIGKILL}


@pytest.mark.wire
async def test_a_password_that_does_not_fit_the_data_is_reported(
    home: LocalHome, clock: SystemClock
) -> None:
    with home.locked():
        home.prepare()
        async with embedded_database(home, clock) as database:
            await database.ready()
            home.write_mongo_uri(database.uri.replace("registry:", "registry:x", 1))
        with pytest.raises(
            LocalHomeError, match=r"mongo\.uri: has another password than the data"
        ):
            async with embedded_database(home, clock) as database:
                await database.ready()


@pytest.mark.parametrize(
    "uri",
    ["nonsense", "mongodb://db.example.com:27017/jarvis", "mongodb://a:b@127.0.0.1:99999999/x"],
)
async def test_a_foreign_connection_string_is_refused(
    home: LocalHome, clock: SystemClock, uri: str
) -> None:
    with home.locked():
        home.prepare()
        home.write_mongo_uri(uri)

        with pytest.raises(LocalHomeError, match=r"mongo\.uri: must be mongodb://<user>"):
            async with embedded_database(home, clock):
                pass


async def test_a_missing_package_names_the_extra(
    home: LocalHome, clock: SystemClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "PACKAGE", "no_such_package")

    with pytest.raises(MissingExtraError, match="SecantusDB, which is not installed"):
        async with embedded_database(home, clock):
            pass


async def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()
