"""Runs commands: provides settings and services, and reports failures with exit codes.

A user who can run commands with the registry's settings acts as an administrator.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from registry.core.settings import Settings
    from registry.wiring.commands import CommandServices, Lists

FAILED = 1
NOT_FOUND = 3
CONFLICT = 4
"""Exit codes; 2 is a command line that cannot be read."""

NOT_STARTED = (
    "nothing was started here yet; `registry serve --local` starts a registry with all that it "
    "needs, and with MONGO_URI, CREDS_KEY, CREDS_IV and a JWT key pair set `registry serve` does"
)


def _expected() -> tuple[type[Exception], ...]:
    """Return the failures that are reported in one line; imported when one occurs."""
    from packages.database.client import MongoAddressError, UnsupportedServerError  # noqa: PLC0415
    from packages.database.errors import DatabaseUnavailable  # noqa: PLC0415
    from packages.models.errors import (  # noqa: PLC0415
        SchemaMembersError,
        SchemasNotGeneratedError,
        SchemaVersionError,
    )
    from registry.auth.keys import KeyPairError  # noqa: PLC0415
    from registry.core.errors import RegistryError  # noqa: PLC0415
    from registry.core.settings import SettingsError  # noqa: PLC0415
    from registry.processes.local.errors import LocalError  # noqa: PLC0415

    return (
        SettingsError,
        KeyPairError,
        LocalError,
        MongoAddressError,
        UnsupportedServerError,
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
            by another request, 1 after any other failure, 130 after Ctrl-C, 143 after SIGTERM.
    """
    import uvloop  # noqa: PLC0415 - not for `registry --help`

    from registry.core.logs import configure_logging  # noqa: PLC0415 - heavy imports

    configure_logging(level, "console")

    async def until_terminated() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def terminate() -> None:
            # The second one ends the process at once.
            loop.remove_signal_handler(signal.SIGTERM)
            if task is not None:
                task.cancel()

        # What is in progress is released and reported, as on Ctrl-C. Not in threads of tests.
        with suppress(ValueError, RuntimeError):
            loop.add_signal_handler(signal.SIGTERM, terminate)
        await work()

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(until_terminated())
    except asyncio.CancelledError:
        raise typer.Exit(128 + signal.SIGTERM) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except typer.Exit:
        raise
    except (Exception, BaseExceptionGroup) as exc:
        _print_error(exc)
        raise


def _print_error(error: BaseException) -> None:
    """End the command if *error*, or all in that group, is expected; else do nothing."""
    if isinstance(error, BaseExceptionGroup):
        from registry.core.errors import leaves  # noqa: PLC0415 - heavy imports

        expected, rest = error.split(_expected())
        if expected is not None and rest is None:
            problems = [_sentence(exc) for exc in leaves(expected)]
            fail(*problems, code=max(_code(exc) for exc in leaves(expected)))
    elif isinstance(error, _expected()):
        problems = getattr(error, "problems", None) or [_sentence(error)]
        fail(*problems, code=_code(error))


def _sentence(error: BaseException) -> str:
    from packages.database.errors import DatabaseUnavailable, MongoLoginError  # noqa: PLC0415

    if isinstance(error, DatabaseUnavailable) and not isinstance(error, MongoLoginError):
        from registry.processes.local.errors import LOCAL_DATABASE_STOPPED  # noqa: PLC0415
        from registry.processes.local.home import Location  # noqa: PLC0415

        location = Location()
        if location.mongo_uri is None:
            return f"{LOCAL_DATABASE_STOPPED} (REGISTRY_HOME is {location.registry_home})"
        return "MONGO_URI: the database cannot be reached"
    return str(error)


def _code(error: BaseException) -> int:
    from registry.core.errors import ErrorKind  # noqa: PLC0415

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


def read_settings() -> "Settings":
    """Return the settings of the environment, or of the local instance in REGISTRY_HOME.

    Where there is nothing of either, the command ends and says how to start.
    """
    from registry.processes.local.home import found_settings, is_untouched  # noqa: PLC0415 - heavy imports

    if is_untouched():
        fail(NOT_STARTED)
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
