"""The embedded database: a pinned MongoDB-compatible daemon in a process of its own.

It is talked to over the wire and never imported, because its licence is another than ours; see
docs/decisions/0003-embedded-database.md.
"""

import importlib.util
import re
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from packages.database.client import DEFAULT_DATABASE
from registry.core.clock import Clock
from registry.local.children import (
    HOST,
    ChildSpec,
    SupervisedChild,
    available_port,
    supervised,
)
from registry.local.errors import LocalHomeError, MissingExtraError
from registry.local.home import LocalHome
from registry.local.orphans import end_orphan

PACKAGE = "secantus"
DISTRIBUTION = "SecantusDB"
CACHE_SIZE = "2G"
"""What one transaction writes must fit many times over: with half of this, ten thousand tools that
all changed made the daemon retry the commit for minutes, answering nothing else."""
QUICK_CRASHES = 5
ANSWER_MS = 2000
USER = "registry"
PASSWORD_BYTES = 24
AUTHENTICATION_FAILED = 18

_URI = re.compile(rf"mongodb://[^:@/\s]+:[^:@/\s]+@{re.escape(HOST)}:(\d{{1,5}})/[^/\s]+")

log = structlog.get_logger(__name__)


class EmbeddedDatabase:
    """A running daemon. Get it from `embedded_database`.

    Attributes:
        uri: Connection string with user, password and the database's name.
    """

    def __init__(self, uri: str, child: SupervisedChild) -> None:
        self.uri = uri
        self._child = child

    @property
    def pid(self) -> int | None:
        """Return the daemon's process id, or None while it is down."""
        return self._child.pid

    async def ready(self) -> None:
        """Wait until it answers.

        Raises:
            ChildFailedError: It did not in time.
        """
        await self._child.ready()


@asynccontextmanager
async def embedded_database(home: LocalHome, clock: Clock) -> AsyncIterator[EmbeddedDatabase]:
    """Keep the daemon of *home* running while the body runs. Call it under `LocalHome.locked`.

    What it acknowledged is on disk: it survives a `kill -9` of the daemon and of this process.

    Raises:
        MissingExtraError: The daemon's package is not installed.
        LocalHomeError: `mongo.uri` is malformed, or the data have another password.
        ChildFailedError: The daemon crashed too often; the body was cancelled.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingExtraError(DISTRIBUTION)
    # An empty file of ours: without one the daemon reads whatever the user's folders hold.
    (home.path / "database.toml").touch(mode=0o600)
    await end_orphan(_pid_file(home), _marker(home), clock)
    stored = home.read_mongo_uri()
    if stored is None:
        uri = await _create_user(home, clock)
    else:
        uri = _with_port(home, stored)
    if uri != stored:
        home.write_mongo_uri(uri)
    async with supervised(_spec(home, uri, "--auth"), clock) as child:
        yield EmbeddedDatabase(uri, child)


async def _create_user(home: LocalHome, clock: Clock) -> str:
    """Run the daemon without authentication once, to give it the one user it has.

    Loopback is shared with every other user of the machine, so the port alone must not open it.
    """
    port = available_port(None)
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    async with supervised(_spec(home, f"mongodb://{HOST}:{port}/"), clock) as child:
        await child.ready()
        client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(HOST, port)
        async with client:
            known = await client.admin.command("usersInfo", USER)
            command = "updateUser" if known["users"] else "createUser"
            await client.admin.command(command, USER, pwd=password, roles=["root"])
    return f"mongodb://{USER}:{password}@{HOST}:{port}/{DEFAULT_DATABASE}?authSource=admin"


def _with_port(home: LocalHome, uri: str) -> str:
    """Return *uri* with a port that is free now: its own whenever possible."""
    match = _URI.fullmatch(uri)
    if match is None:
        problem = f"must be mongodb://<user>:<password>@{HOST}:<port>/<database>"
        raise LocalHomeError(home.mongo_uri_file, problem)
    port = int(match[1])
    free = available_port(port)
    if free == port:
        return uri
    log.warning("database_port_changed", taken=port, port=free)
    return uri.replace(f"@{HOST}:{port}", f"@{HOST}:{free}", 1)


def _spec(home: LocalHome, uri: str, *options: str) -> ChildSpec:
    port = urlsplit(uri).port
    assert port is not None  # noqa: S101 - written by us or checked by _with_port
    return ChildSpec(
        name="database",
        command=(
            *(sys.executable, "-P", "-m", PACKAGE),
            *("--config", str(home.path / "database.toml")),
            *("--host", HOST, "--port", str(port)),
            *(_marker(home), "--cache-size", CACHE_SIZE, "--sync-on-commit", *options),
        ),
        folder=home.path,
        port=port,
        log_file=home.logs / "database.log",
        pid_file=_pid_file(home),
        answers=_asks(uri, home.mongo_uri_file),
        quick_crashes=QUICK_CRASHES,
    )


def _marker(home: LocalHome) -> str:
    return f"--storage-path={home.data}"


def _pid_file(home: LocalHome) -> Path:
    return home.path / "database.pid"


def _asks(uri: str, uri_file: Path) -> Callable[[], Awaitable[bool]]:
    async def answers() -> bool:
        client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(
            uri, serverSelectionTimeoutMS=ANSWER_MS, socketTimeoutMS=ANSWER_MS
        )
        async with client:
            try:
                await client.admin.command("ping")
            except OperationFailure as exc:
                if exc.code != AUTHENTICATION_FAILED:
                    return False
            except PyMongoError:
                return False
            else:
                return True
        problem = "does not fit the data; remove this file to have a new password set"
        raise LocalHomeError(uri_file, problem)

    return answers
