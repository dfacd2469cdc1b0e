"""How every command runs: what it is given, and how its failure is told.

Whoever may run commands on this machine with the settings at hand acts as an administrator.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import typer
import uvloop

from packages.database.client import MongoAddressError, TopologyError
from packages.database.errors import DatabaseUnavailable, MongoLoginError
from packages.models.errors import SchemaMembersError, SchemasNotGeneratedError, SchemaVersionError
from registry.auth.keys import KeyPairError
from registry.core.errors import ErrorKind, RegistryError, leaves
from registry.core.logs import configure_logging
from registry.core.settings import Settings, SettingsError
from registry.local.errors import LOCAL_DATABASE_STOPPED, LocalError

if TYPE_CHECKING:
    from registry.wiring.commands import CommandServices, Lists

FAILED = 1
NOT_FOUND = 3
CONFLICT = 4
"""Exit codes; 2 is a command line that cannot be read."""

EXPECTED = (
    SettingsError,
    KeyPairError,
    LocalError,
    MongoAddressError,
    TopologyError,
    DatabaseUnavailable,
    SchemaMembersError,
    SchemasNotGeneratedError,
    SchemaVersionError,
    RegistryError,
)


def run(work: Callable[[], Coroutine[Any, Any, None]], *, level: str = "error") -> None:
    """Run a command's *work*, and end with one line for each failure that is expected.

    Logs from *level* on go to the console. SIGTERM cancels the work, as Ctrl-C does.

    Raises:
        typer.Exit: 3 when something is not there, 4 when it is there already or was modified
            meanwhile, 1 after any other failure, 130 after Ctrl-C, 143 after SIGTERM.
    """
    configure_logging(level, "console")

    async def until_told() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def told() -> None:
            # The second one ends the process at once.
            loop.remove_signal_handler(signal.SIGTERM)
            if task is not None:
                task.cancel()

        # What is under way is given back and told about, as on Ctrl-C. Not in threads of tests.
        with suppress(ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGTERM, told)
        await work()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(until_told())
    except asyncio.CancelledError:
        raise typer.Exit(128 + signal.SIGTERM) from None
    except EXPECTED as exc:
        problems = getattr(exc, "problems", None) or [_sentence(exc)]
        fail(*problems, code=_code(exc))
    except BaseExceptionGroup as group:
        expected, rest = group.split(EXPECTED)
        if expected is None or rest is not None:
            raise
        problems = [_sentence(exc) for exc in leaves(expected)]
        fail(*problems, code=max(_code(exc) for exc in leaves(expected)))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _sentence(error: BaseException) -> str:
    if isinstance(error, DatabaseUnavailable) and not isinstance(error, MongoLoginError):
        from registry.serving import Location  # noqa: PLC0415 - heavy imports

        location = Location()
        if location.mongo_uri is None:
            return f"{LOCAL_DATABASE_STOPPED} (REGISTRY_HOME is {location.registry_home})"
        return "MONGO_URI: the database cannot be reached"
    return str(error)


def _code(error: BaseException) -> int:
    match getattr(error, "kind", None):
        case ErrorKind.NOT_FOUND:
            return NOT_FOUND
        case ErrorKind.CONFLICT:
            return CONFLICT
        case _:
            return FAILED


def fail(*problems: str, code: int = FAILED) -> NoReturn:
    """Write the problems to standard error, each in a line, and end with *code*."""
    for problem in problems:
        sys.stderr.write(f"registry: {' '.join(problem.split())}\n")
    raise typer.Exit(code)


def read_settings() -> Settings:
    """Return the settings of the environment, or of the local instance in REGISTRY_HOME."""
    from registry.serving import found_settings  # noqa: PLC0415 - heavy imports

    return found_settings()


@asynccontextmanager
async def services(
    *, changes: bool = False, lists: "Lists | None" = None
) -> "AsyncIterator[CommandServices]":
    """Return the services by the settings at hand: to read, or to change something too.

    Lists of servers or tools have to be asked for: what they are answered from is read first.
    They are used in this process, on the database: no gateway need run, and none is started.
    """
    from registry.wiring.commands import command_services  # noqa: PLC0415 - heavy imports

    async with command_services(read_settings(), changes=changes, lists=lists) as built:
        yield built


@contextmanager
def progress(total: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show a bar that what is yielded advances, or nothing where none can be drawn."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with typer.progressbar(length=total, label=label, file=sys.stderr) as bar:
        yield bar.update


def is_hex(text: str) -> bool:
    """Say whether all characters are hexadecimal digits."""
    return all(character in "0123456789abcdefABCDEF" for character in text)
