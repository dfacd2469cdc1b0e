"""Child processes of local mode: the embedded database and the demo server."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import structlog

from registry.core.clock import Clock
from registry.processes.local.children import (
    HOST,
    ChildSpec,
    SupervisedChild,
    available_port,
    supervised,
)
from registry.processes.local.daemon import EmbeddedDatabase, embedded_database
from registry.processes.local.errors import ChildFailedError
from registry.processes.local.home import LocalHome, settings_overrides
from registry.processes.local.orphans import end_orphan

log = structlog.get_logger(__name__)


class LocalInstance:
    """The one instance of a home folder, as an asynchronous context manager.

    Entering it locks the folder, creates or reads the keys, starts both children at once and waits
    until they answer. Leaving it stops them. If the database fails permanently, the body is
    cancelled and leaving raises its ChildFailedError alone, so that `asyncio.run` ends with it.
    The demo server is restarted forever instead.

        async with LocalInstance(home, clock) as instance:
            settings = load_settings(**instance.settings_overrides())
            ...

    Enter and leave it in the same task.

    Attributes:
        home: The home folder.
    """

    home: LocalHome

    def __init__(self, home: Path, clock: Clock) -> None:
        self.home = LocalHome(home)
        self._clock = clock
        self._stack = AsyncExitStack()
        self._database: EmbeddedDatabase | None = None
        self._demo: SupervisedChild | None = None
        self._demo_url = ""

    @property
    def mongo_uri(self) -> str:
        """Return the database's connection string, with its password."""
        return self._require_database().uri

    @property
    def demo_url(self) -> str:
        """Return the address of the demo server's MCP endpoint."""
        self._require_database()
        return self._demo_url

    @property
    def database_pid(self) -> int | None:
        """Return the database's process id, or None while it is down."""
        return self._require_database().pid

    @property
    def demo_pid(self) -> int | None:
        """Return the demo server's process id, or None while it is down."""
        return None if self._demo is None else self._demo.pid

    def settings_overrides(self) -> dict[str, object]:
        """Return the settings that the registry of this folder runs with."""
        return settings_overrides(self.home.path)

    async def __aenter__(self) -> Self:
        """Start everything.

        Raises:
            HomeInUseError: Another process runs in the folder.
            LocalHomeError: The folder is damaged.
            MissingExtraError: The database is not installed.
            ChildFailedError: The database does not start.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(self.home.locked())
            self.home.prepare()
            url, demo = await stack.enter_async_context(_demo_server(self.home, self._clock))
            database = await stack.enter_async_context(embedded_database(self.home, self._clock))
            await database.ready()
            await _demo_ready(demo)
            self._database, self._demo, self._demo_url = database, demo, url
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Stop everything.

        Raises:
            ChildFailedError: The database failed for good while the body ran.
        """
        self._database = self._demo = None
        return await self._stack.__aexit__(kind, error, traceback)

    def _require_database(self) -> EmbeddedDatabase:
        if self._database is None:
            raise RuntimeError("the local instance is not running")
        return self._database


async def _demo_ready(demo: SupervisedChild) -> None:
    try:
        await demo.ready()
    except ChildFailedError as exc:
        log.warning("demo_server_unavailable", error=str(exc))


@asynccontextmanager
async def _demo_server(
    home: LocalHome, clock: Clock
) -> AsyncIterator[tuple[str, SupervisedChild]]:
    marker, pid_file = f"--home={home.path}", home.path / "demo-server.pid"
    await end_orphan(pid_file, marker, clock)
    stored = home.read_demo_url()
    port = available_port(None if stored is None else urlsplit(stored).port)
    url = f"http://{HOST}:{port}/mcp"
    if url != stored:
        home.write_demo_url(url)
    async with supervised(_demo_spec(home, port, marker, pid_file), clock) as child:
        yield url, child


def _demo_spec(home: LocalHome, port: int, marker: str, pid_file: Path) -> ChildSpec:
    # By its file and not by its module's name: that would need our folder on the import path.
    script = Path(__file__).with_name("demo_server.py")
    return ChildSpec(
        name="demo_server",
        command=(
            *(sys.executable, "-P", str(script)),
            *("--port", str(port), marker),
        ),
        folder=home.path,
        port=port,
        log_file=home.logs / "demo-server.log",
        pid_file=pid_file,
        answers=_answers_at_once,
        quick_crashes=None,
    )


async def _answers_at_once() -> bool:
    # It listens only once it is able to answer.
    return True
