"""Three processes, killed one after another under load.

What may happen, and nothing else:

* A call whose client holds a connection to the killed process may be lost: that connection
  breaks. This is so for the request itself, for the answer to a question that is on its way
  through that process, and for a call that waits there for its client (a modern client of a
  legacy server), whose repetition is then refused by its `requestState`. Each lost call is known
  by its connection: it was open when the process was stopped to be killed.
* A standing stream ends with the process that has it, and can be opened again at any other.
* A connection that the killed process had not taken yet is served by another worker.
* The answer to a question can be sent again when its connection broke: the call that asked is
  elsewhere and goes on.

Everything else is answered, and rightly: with the caller's own nonce and name, with the
credential that this caller has at this server, under the request's own id, and carried out by the
server at most once, whatever broke meanwhile. Sessions outlive every process that they were begun
at. What belongs to another person (session, question, state) is refused by every process at all
times. Nothing ends in a timeout, and no process that lives logs an exception.

Workers of one registry find each other's calls; replicas do not. There, where client and server
are of different eras, a client that is asked answers at the address of its call; everything else
goes to the next address in turn.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson import ObjectId

from packages.database.client import Database
from registry.auth.identity import UserContext
from registry.auth.jwt import TokenIssuer
from registry.auth.keys import load_signing_keys
from registry.core.clock import SystemClock
from registry.servers.values import Era
from tests.chaos.crowd import Crowd, Person, Target
from tests.chaos.registries import PROCESSES, Registries, replicas, workers
from tests.chaos.upstream import Telling, telling
from tests.fakes.loopback import NO_CERTIFICATES

pytestmark = [pytest.mark.wire, pytest.mark.timeout(180)]

CALLS_BETWEEN = 60
"""Calls answered rightly before each kill and after the last, so that all kinds are under way."""

KINDS = {
    (client, server, path, asks)
    for client in Era
    for server in Era
    for path in ("/mcp", "/mcp/<server>")
    for asks in (False, True)
}


@pytest.fixture
def environment(database_uri: str, key_files: tuple[Path, Path]) -> Iterator[dict[str, str]]:
    # Short, for the addresses of the sockets on which workers meet.
    with tempfile.TemporaryDirectory(prefix="c", dir="/tmp") as folder:
        yield {
            "MONGO_URI": database_uri,
            "CREDS_KEY": "0f" * 32,
            "CREDS_IV": "1e" * 16,
            "JWT_PRIVATE_KEY_FILE": str(key_files[0]),
            "JWT_PUBLIC_KEY_FILE": str(key_files[1]),
            "UPSTREAM_ALLOWED_NETWORKS": "127.0.0.0/8",
            "TMPDIR": folder,
        }


@pytest.fixture
def tokens(
    key_files: tuple[Path, Path], alice: UserContext, bob: UserContext, root: UserContext
) -> dict[str, str]:
    issuer = TokenIssuer(
        load_signing_keys(*key_files),
        issuer="mcp-gateway-registry",
        audience="mcp-gateway",
        clock=SystemClock(),
    )
    return {
        user.username: issuer.issue(
            user_id=user.user_id,
            username=user.username,
            role=user.role,
            scopes=user.scopes,
            lifetime=timedelta(minutes=10),
            is_service_account=True,
        )
        for user in (alice, bob, root)
    }


@pytest.fixture
async def upstreams() -> AsyncIterator[dict[Era, Telling]]:
    async with telling(is_modern=False) as old, telling(is_modern=True) as new:
        yield {Era.LEGACY: old, Era.MODERN: new}


@pytest.fixture
async def people(
    database: Database, alice: UserContext, bob: UserContext, root: UserContext
) -> None:
    for user in (alice, bob, root):
        await database.collection("users").insert_one(
            {"_id": ObjectId(user.user_id), "username": user.username, "role": user.role.upper()}
        )


async def test_replicas_lose_what_the_killed_one_had_in_flight_and_nothing_else(
    tmp_path: Path,
    environment: dict[str, str],
    tokens: dict[str, str],
    upstreams: dict[Era, Telling],
    people: None,
) -> None:
    async with replicas(tmp_path, environment) as registries:
        crowd = await killed_in_turn(registries, tokens, upstreams)

    judge(crowd, registries, upstreams)


async def test_workers_lose_what_the_killed_one_had_in_flight_and_nothing_else(
    tmp_path: Path,
    environment: dict[str, str],
    tokens: dict[str, str],
    upstreams: dict[Era, Telling],
    people: None,
) -> None:
    async with workers(tmp_path, environment) as registries:
        crowd = await killed_in_turn(registries, tokens, upstreams)

    judge(crowd, registries, upstreams)


async def killed_in_turn(
    registries: Registries, tokens: dict[str, str], upstreams: dict[Era, Telling]
) -> Crowd:
    """Kill each process once, while the others serve."""
    crowd = Crowd(registries, await registered(registries, tokens, upstreams))
    await crowd.arrive()
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(crowd.stay(over))
        # The second dies while the first is not back yet.
        for victims in ((0, 1), (2,)):
            for victim in victims:
                await more_calls(crowd)
                while not any_struck(registries, crowd, victim):
                    await SystemClock().sleep(0.01)
                await registries.kill(victim)
            await more_calls(crowd)
            for victim in victims:
                await registries.restore(victim)
        await more_calls(crowd)
        await crowd.until(lambda: crowd.done.keys() >= KINDS)
        over.set()
    return crowd


def any_struck(registries: Registries, crowd: Crowd, victim: int) -> bool:
    """Stop a process; let it go on, and return False, if no call is in flight there."""
    registries.hold(victim, crowd.connections)
    if any(call.is_struck for call in crowd.under_way):
        return True
    registries.release(victim, crowd.connections)
    return False


async def more_calls(crowd: Crowd) -> None:
    aim = crowd.done.total() + CALLS_BETWEEN
    await crowd.until(lambda: crowd.done.total() >= aim)


def judge(crowd: Crowd, registries: Registries, upstreams: dict[Era, Telling]) -> None:
    """Check what was not checked with each answer."""
    carried_out = [count for each in upstreams.values() for count in each.carried_out.values()]
    seen = f"{crowd.done} lost {crowd.lost} {crowd.refused} {crowd.standing}"
    print(seen)  # noqa: T201 - shown when it fails, and with -s
    assert crowd.done.keys() == KINDS
    assert set(carried_out) == {1}
    assert 1 <= crowd.lost <= PROCESSES * 12, seen
    assert min(crowd.refused[what] for what in ("session", "question", "state")) > PROCESSES, seen
    assert crowd.standing.total() > len(crowd.standing) == 4, seen
    assert "Traceback" not in registries.output()


async def registered(
    registries: Registries, tokens: dict[str, str], upstreams: dict[Era, Telling]
) -> tuple[Person, ...]:
    """Register servers of each era for each person alone and for all, and wait until seen."""
    shared = {Era.LEGACY: "shared-old", Era.MODERN: "shared-new"}
    targets = {name: [Target(shared[era], era) for era in Era] for name in ("alice", "bob")}
    async with api(registries) as ask:
        for era, name in shared.items():
            server = await ask(
                tokens["root"],
                "POST",
                "/servers",
                serverName=name,
                url=upstreams[era].url(name),
                scope="shared_app",
                apiKey={"source": "user", "authorization_type": "bearer"},
            )
            for user in ("root", "alice", "bob"):
                values = {"MCP_API_KEY": f"{user}@{name}"}
                keys = f"/servers/{server['id']}/user-keys"
                await ask(tokens[user], "PUT", keys, values=values)
            await ask(tokens["root"], "POST", f"/servers/{server['id']}/refresh")
        for user, owned in targets.items():
            for era in Era:
                name = f"{user}s-{'old' if era is Era.LEGACY else 'new'}"
                key = {"source": "admin", "authorization_type": "bearer", "key": f"{user}@{name}"}
                url = upstreams[era].url(name)
                await ask(tokens[user], "POST", "/servers", serverName=name, url=url, apiKey=key)
                owned.append(Target(name, era))
    people = tuple(Person(user, tokens[user], tuple(owned)) for user, owned in targets.items())
    for person in people:
        await seen_everywhere(registries, person)
    return people


@asynccontextmanager
async def api(registries: Registries) -> AsyncIterator[Any]:
    async with httpx.AsyncClient(timeout=30) as http:

        async def ask(token: str, method: str, path: str, **body: Any) -> Any:
            answer = await http.request(
                method,
                f"{registries.any_address()}/api/v1{path}",
                headers={"Authorization": f"Bearer {token}"},
                json=body or None,
            )
            assert answer.is_success, answer.text
            return answer.json()

        yield ask


async def seen_everywhere(registries: Registries, person: Person) -> None:
    """Wait until the person's tools are listed many times in a row, each time anew."""
    listing = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {
        "Authorization": f"Bearer {person.token}",
        "Accept": "application/json, text/event-stream",
    }
    in_a_row = 0
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        while in_a_row < 10 * PROCESSES:
            client = httpx.AsyncClient(verify=NO_CERTIFICATES, timeout=10)
            http = await stack.enter_async_context(client)
            url = f"{registries.any_address()}/mcp"
            answer = (await http.post(url, json=listing, headers=headers)).json()
            listed = len(answer.get("result", {}).get("tools", []))
            in_a_row = in_a_row + 1 if listed == len(person.targets) else 0
