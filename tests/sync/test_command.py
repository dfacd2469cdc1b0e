"""`registry sync run` as a process, on a real database with real upstreams."""

import asyncio
import json
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from registry.auth.identity import UserContext
from registry.core.clock import SystemClock
from tests.conftest import CREDS_IV, CREDS_KEY
from tests.fakes.command import Command, run_registry
from tests.fakes.mongo_daemon import start_daemon
from tests.fakes.plain_upstream import ECHO, plain_upstream
from tests.fakes.rest import Rest, rest_settings, running

pytestmark = pytest.mark.wire

PATIENCE_SECONDS = 30.0
ADD = '{"name":"add","description":"Adds.","inputSchema":{"type":"object"}}'


def environment(rest: Rest, key_files: tuple[Path, Path]) -> dict[str, str]:
    """Return what the command needs to find the same database."""
    return {
        "MONGO_URI": rest.parts.settings.mongo_uri.get_secret_value(),
        "CREDS_KEY": CREDS_KEY,
        "CREDS_IV": CREDS_IV,
        "JWT_PRIVATE_KEY_FILE": str(key_files[0]),
        "JWT_PUBLIC_KEY_FILE": str(key_files[1]),
        "UPSTREAM_ALLOWED_NETWORKS": "127.0.0.0/8",
    }


async def test_many_servers_are_read_and_what_came_of_it_is_told(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path, root: UserContext
) -> None:
    settings = rest_settings(mongo_uri, key_files, tmp_path, sync_worker_enabled=False)
    async with running(settings) as rest, plain_upstream() as upstream:
        for name in ("same", "more", "off", "gone"):
            await rest.register(root, name, f"{upstream.url}?{name}")
        servers = rest.parts.database.collection("mcpservers")
        gone = {"$set": {"config.url": "http://127.0.0.1:9/mcp"}}
        await servers.update_one({"serverName": "gone"}, gone)
        await servers.update_one({"serverName": "off"}, {"$set": {"status": "inactive"}})
        variables = environment(rest, key_files)

        def run(*arguments: str) -> Any:
            return run_registry(tmp_path, variables, "sync", "run", *arguments)

        first = await asyncio.to_thread(run, "--all", "--json")
        upstream.tools = f"[{ECHO},{ADD}]"
        table = await asyncio.to_thread(run, "more", "same")
        quiet = await asyncio.to_thread(run, "more", "same")
        unknown = await asyncio.to_thread(run, "more", "nobody")
        unknown_told = await asyncio.to_thread(run, "--json", "nobody", "more")
        unprintable = await asyncio.to_thread(run, "a\x1b[31mb\nc")
        neither = await asyncio.to_thread(run)
        jobs = await rest.parts.database.collection("sync_jobs").find({}).to_list()

        told = json.loads(first.stdout)
        rows = {row["server"]: row for row in told["servers"]}
        assert first.returncode == 1
        assert told["totals"] == {"read": 2, "failed": 1, "not read": 1, "tools offered": 2}
        assert {name: row["result"] for name, row in rows.items()} == {
            "same": "unchanged",
            "more": "unchanged",
            "off": "not read",
            "gone": "failed",
        }
        assert (rows["same"]["state"], rows["same"]["counts"]) == ("succeeded", {"offered": 1})
        assert rows["gone"]["reason"] == "Could not connect to http://127.0.0.1:9."
        assert rows["off"]["reason"] == "The server is turned off."
        assert table.returncode == 0
        assert [line.split()[:3] for line in table.stdout.splitlines()[1:3]] == [
            ["more", "read", "1"],
            ["same", "read", "1"],
        ]
        assert table.stdout.splitlines()[-1] == (
            "2 read, 0 failed, 0 not read, 4 tools offered, 2 tools added"
        )
        assert quiet.stdout == "2 read, 0 failed, 0 not read, 4 tools offered\n"
        assert (unknown.returncode, unknown.stderr) == (1, "")
        assert unknown.stdout.splitlines()[1].split(maxsplit=2) == [
            "nobody",
            "failed",
            "There is no server of that name.",
        ]
        assert unknown.stdout.splitlines()[-1] == "1 read, 1 failed, 0 not read, 2 tools offered"
        assert unprintable.stdout.splitlines()[1].split()[:2] == ["a?[31mb?c", "failed"]
        assert json.loads(unknown_told.stdout)["servers"][1] == {
            "server": "nobody",
            "result": "failed",
            "reason": "There is no server of that name.",
        }
        assert (neither.returncode, neither.stderr) == (
            1,
            "registry: say which servers, or --all\n",
        )
        states = sorted((job["trigger"], job["state"]) for job in jobs)
        assert states == [("command", "retrying"), *[("command", "succeeded")] * 8]


async def test_interrupted_it_tells_what_it_did_and_gives_the_rest_back(
    mongo_uri: str, key_files: tuple[Path, Path], tmp_path: Path, root: UserContext
) -> None:
    settings = rest_settings(mongo_uri, key_files, tmp_path, sync_worker_enabled=False)
    async with (
        running(settings) as rest,
        plain_upstream() as upstream,
        await asyncio.start_server(_never_answers, "127.0.0.1") as hanging,
    ):
        names = ("quick", "slow", "slower", "slowest")
        for name in names:
            await rest.register(root, name, f"{upstream.url}?{name}")
        address = f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}/mcp"
        await rest.parts.database.collection("mcpservers").update_many(
            {"serverName": {"$ne": "quick"}}, {"$set": {"config.url": address}}
        )
        jobs = rest.parts.database.collection("sync_jobs")
        arguments = ("sync", "run", *names, "--json", "--concurrency", "2")
        with Command(tmp_path, environment(rest, key_files), *arguments) as command:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while await jobs.count_documents({}) < len(names):
                    await SystemClock().sleep(0.05)
            command.send_signal(signal.SIGTERM)
            ended = await asyncio.to_thread(command.result, PATIENCE_SECONDS)
        left = sorted([job["state"] async for job in jobs.find({})])

    told = json.loads(ended.stdout)
    assert ended.returncode == 128 + signal.SIGTERM
    assert [row["server"] for row in told["servers"]] == ["quick"]
    assert (told["totals"]["read"], told["totals"]["not reached"]) == (1, 3)
    assert left == ["queued", "queued", "queued", "succeeded"]


async def _never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        await reader.read()
    writer.close()


async def test_it_ends_when_its_database_is_away_for_good(
    key_files: tuple[Path, Path], tmp_path: Path, root: UserContext
) -> None:
    with start_daemon(tmp_path / "mongo") as daemon, ExitStack() as stack:
        settings = rest_settings(daemon.uri, key_files, tmp_path, sync_worker_enabled=False)
        async with (
            running(settings) as rest,
            plain_upstream() as upstream,
            await asyncio.start_server(_never_answers, "127.0.0.1") as hanging,
        ):
            names = [f"server-{number}" for number in range(12)]
            for name in names:
                await rest.register(root, name, f"{upstream.url}?{name}")
            address = f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}/mcp"
            await rest.parts.database.collection("mcpservers").update_many(
                {"serverName": {"$in": names[3:]}}, {"$set": {"config.url": address}}
            )
            variables = {
                **environment(rest, key_files),
                "DISCOVERY_TIMEOUT_SECONDS": "3",
                "MONGO_TIMEOUT_MS": "500",
            }
            command = stack.enter_context(
                Command(tmp_path, variables, "sync", "run", *names, "--json")
            )
            jobs = rest.parts.database.collection("sync_jobs")
            async with asyncio.timeout(PATIENCE_SECONDS):
                # None of them is being stored, which has half a minute of its own.
                while await jobs.count_documents({"state": "succeeded"}) < 3:
                    await SystemClock().sleep(0.05)
        daemon.kill()
        ended = await asyncio.to_thread(command.result, 2 * PATIENCE_SECONDS)

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "registry: MONGO_URI: the database cannot be reached"
