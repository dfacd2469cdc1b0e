"""The API while the database is away, and after it came back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from registry.auth.identity import UserContext
from tests.fakes.mongo_daemon import RunningDaemon, start_daemon
from tests.fakes.plain_upstream import PlainUpstream
from tests.fakes.rest import SERVERS, Rest, rest_settings, running

pytestmark = [pytest.mark.wire, pytest.mark.asyncio(loop_scope="module")]

MONGO_TIMEOUT_MS = 1000
ANSWER_SECONDS = 30
RECOVERY_SECONDS = 40
URL = "http://127.0.0.1:9/mcp"
AWAY = {
    "error": "service_unavailable",
    "message": "The database is not available; try again in a moment.",
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """Return a database of these tests' own."""
    with start_daemon(tmp_path_factory.mktemp("outage")) as daemon:
        yield daemon


@pytest_asyncio.fixture(loop_scope="module")
async def fragile(
    daemon: RunningDaemon, key_files: tuple[Path, Path], tmp_path: Path
) -> AsyncIterator[Rest]:
    """Return an application on that database, which is up again afterwards."""
    settings = rest_settings(daemon.uri, key_files, tmp_path, mongo_timeout_ms=MONGO_TIMEOUT_MS)
    async with running(settings) as rest:
        yield rest
    if daemon.process.poll() is not None:
        daemon.restart()


async def recovered(rest: Rest, user: UserContext) -> None:
    """Wait until requests are answered and the process calls itself ready."""
    async with asyncio.timeout(RECOVERY_SECONDS):
        while (await rest.call(user, "GET")).status_code != 200:
            pass
        while (await rest.client.get("/health/ready")).status_code != 200:
            pass


@pytest.mark.requirement("E-08")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "/" + "0" * 24, None),
        ("GET", "/stats", None),
        ("POST", "", {"serverName": "s", "url": URL}),
        ("DELETE", "/" + "0" * 24, None),
    ],
)
async def test_without_a_database_requests_are_told_to_come_back(
    fragile: Rest,
    daemon: RunningDaemon,
    root: UserContext,
    method: str,
    path: str,
    body: dict[str, object] | None,
) -> None:
    # A list without any servers needs no database.
    await fragile.register(root, f"listed{fragile.parts.clock.monotonic()}", URL)
    daemon.kill()

    async with asyncio.timeout(ANSWER_SECONDS):
        answer = await fragile.call(root, method, path, json=body)

    assert (answer.status_code, answer.json()) == (503, AWAY)
    assert int(answer.headers["Retry-After"]) > 0


@pytest.mark.requirement("R-332")
async def test_a_process_without_a_database_lives_and_is_not_ready_until_it_is_back(
    fragile: Rest, daemon: RunningDaemon, root: UserContext
) -> None:
    await recovered(fragile, root)
    daemon.kill()
    live = await fragile.client.get("/health/live")
    away = await fragile.client.get("/health/ready")
    gateway = await fragile.client.get("/health/gateway")
    daemon.restart()
    await recovered(fragile, root)
    after = await fragile.client.get("/health/ready")

    assert [live.status_code, away.status_code] == [200, 503]
    assert away.json()["checks"]["mongodb"] is False
    assert gateway.json()["checks"] == {"gateway": True, "accepting_requests": True}
    assert gateway.status_code == 200
    assert int(away.headers["Retry-After"]) > 0
    told = after.json()
    snapshot, embedding = told.pop("snapshot"), told.pop("embedding")
    checks = {"mongodb": True, "gateway": True, "accepting_requests": True}
    assert told == {"status": "ok", "checks": checks}
    assert embedding == {"state": "off", "model": None, "problem": None, "pending": 0}
    assert snapshot["mode"] == "change_stream"
    assert 0 <= snapshot["age_seconds"] < 30


@pytest.mark.requirement("R-022")
async def test_a_database_killed_while_a_server_is_read_leaves_nothing_half_stored(
    fragile: Rest, daemon: RunningDaemon, root: UserContext, upstream: PlainUpstream
) -> None:
    upstream.released.clear()
    body = {"serverName": "s", "url": upstream.url}

    async with asyncio.timeout(ANSWER_SECONDS), asyncio.TaskGroup() as group:
        registering = group.create_task(fragile.call(root, "POST", json=body))
        await upstream.reached.wait()
        daemon.kill()
        upstream.released.set()
    daemon.restart()
    await recovered(fragile, root)

    assert (registering.result().status_code, registering.result().json()) == (503, AWAY)
    database = fragile.parts.database
    for name in ("mcpservers", "mcp_tools", "aclentries"):
        assert await database.collection(name).count_documents({}) == 0
    again = await fragile.call(root, "POST", json=body)
    assert again.status_code == 201


async def test_requests_in_flight_when_the_database_dies_are_all_answered(
    fragile: Rest, daemon: RunningDaemon, root: UserContext
) -> None:
    async with asyncio.timeout(ANSWER_SECONDS), asyncio.TaskGroup() as group:
        asked = [group.create_task(fragile.call(root, "GET")) for _ in range(50)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        daemon.kill()

    statuses = {task.result().status_code for task in asked}
    assert statuses <= {200, 503}
    assert all(task.result().headers["X-Request-ID"] for task in asked)


async def test_a_jarvis_user_who_cannot_be_looked_up_is_not_refused_but_told_to_come_back(
    fragile: Rest, daemon: RunningDaemon, alice: UserContext
) -> None:
    # A plain user's groups are looked up in the database too.
    daemon.kill()

    answer = await fragile.client.get(
        SERVERS, headers={"Authorization": f"Bearer {fragile.token(alice)}"}
    )

    assert (answer.status_code, answer.json()) == (503, AWAY)
