"""Run the application: in one process or several, with or without what local mode brings."""

import asyncio
import gc
import resource
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from starlette.types import ASGIApp

import registry
from packages.models import check_generated, check_schema_version
from registry.auth.keys import KeyPairError, load_signing_keys
from registry.core.clock import SystemClock
from registry.core.logs import configure_logging
from registry.core.settings import Settings, SettingsError, load_settings
from registry.local.home import KeyFiles, LocalHome, settings_overrides, write_private
from registry.web.connection import ConnectionLimits
from registry.web.server import Server
from registry.workers.listeners import listening
from registry.workers.parent_channel import DRAINING, READY, WorkerEnd
from registry.workers.runtime_directory import runtime_directory
from registry.workers.supervisor import Supervisor
from registry.workers.worker_config import WorkerConfig

if TYPE_CHECKING:
    from registry.wiring.components import Components

log = structlog.get_logger()

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)

COLLECT_AFTER = (20_000, 20, 20)
"""Objects that are more than at the last collection, and how many collections of the younger make
one of the older; the interpreter's own are 700, 10 and 10."""

COMMAND = shlex.quote(sys.argv[0]) if Path(sys.argv[0]).name != "__main__.py" else "registry"
"""How this program was called, for lines to copy."""

PLACEHOLDERS: dict[str, object] = {
    "mongo_uri": "mongodb://127.0.0.1/",
    "creds_key": "0" * 64,
    "creds_iv": "0" * 32,
    "jwt_private_key_file": Path("unused"),
    "jwt_public_key_file": Path("unused"),
    "registry_local": True,
}
"""Lets the other settings be checked before local mode starts anything."""


def checked_settings() -> Settings:
    """Return the environment's settings, whose key files can be used.

    Raises:
        SettingsError: Something is missing, malformed or does not belong together; all problems at
            once.
    """
    problems: list[str] = []
    settings = None
    try:
        settings = load_settings()
    except SettingsError as exc:
        problems += exc.problems
    keys = KeyFiles()
    if keys.jwt_private_key_file is not None and keys.jwt_public_key_file is not None:
        try:
            load_signing_keys(keys.jwt_private_key_file, keys.jwt_public_key_file)
        except KeyPairError as exc:
            problems += exc.problems
    if settings is None or problems:
        raise SettingsError(problems)
    return settings


async def serve_settings(workers: int | None = None) -> None:
    """Serve with the environment's settings until a signal ends it.

    Args:
        workers: How many processes; None for what the settings say.

    Raises:
        SchemasNotGeneratedError: There are no generated models.
        StartFailedError: Of several processes the first did not start; it has said why.
    """
    check_generated()
    settings = checked_settings()
    count = workers or settings.registry_workers
    configure_logging(settings.log_level, settings.log_format)
    with _bound(settings, count) as listeners:
        # Port 0 asks for a free one, which clients must be told.
        port = listeners[0].getsockname()[1]
        settings = load_settings(registry_port=port, registry_workers=count)

        def announce() -> None:
            log.info(
                "registry_ready",
                address=settings.base_url,
                version=registry.__version__,
                workers=count,
            )

        if count == 1:
            await _serve_alone(settings, listeners[0], announce)
        else:
            await _supervise(settings, listeners, announce)


async def serve_local(workers: int | None = None) -> None:
    """Serve with a database, keys and a demo server of the home folder's own.

    Args:
        workers: As for `serve_settings`.

    Raises:
        StartFailedError: Likewise.
    """
    from registry.local.bootstrap import bootstrap  # noqa: PLC0415 - see _serve_alone
    from registry.local.instance import LocalInstance  # noqa: PLC0415
    from registry.main import application  # noqa: PLC0415
    from registry.wiring.application import components  # noqa: PLC0415

    # Before the database is started, which a release that does not fit would leave running.
    check_schema_version()
    checked = load_settings(**PLACEHOLDERS)
    count = workers or checked.registry_workers
    configure_logging(checked.log_level, checked.log_format, is_local=True)
    with _bound(checked, count) as listeners:
        port = listeners[0].getsockname()[1]
        async with LocalInstance(checked.registry_home, SystemClock()) as instance:
            write_private(instance.home.port_file, f"{port}\n")
            settings = load_settings(
                **instance.settings_overrides(),
                **local_defaults(checked),
                registry_port=port,
                registry_workers=count,
            )

            def announce() -> None:
                print(announcement(settings, instance.home), flush=True)  # noqa: T201 - for people

            if count == 1:
                async with application(settings) as (app, parts):
                    await bootstrap(parts, instance.home, instance.demo_url)
                    await _serve(app, parts, listeners[0], announce)
                return
            async with components(settings) as parts:
                await bootstrap(parts, instance.home, instance.demo_url)
            await _supervise(settings, listeners, announce)


async def serve_worker(told: str) -> None:
    """Serve as one of several processes, until a signal or the parent's death ends it.

    Args:
        told: Its orders, as the parent wrote them.
    """
    from registry.main import application  # noqa: PLC0415 - see _serve_alone
    from registry.workers.peers import WorkerPeers  # noqa: PLC0415

    orders = WorkerConfig.read(told)
    overrides: dict[str, object] = {}
    if orders.local_home is not None:
        overrides = {
            **settings_overrides(Path(orders.local_home)),
            **local_defaults(load_settings(**PLACEHOLDERS)),
        }
    settings = load_settings(
        **overrides, registry_port=orders.port, registry_workers=orders.workers
    )
    configure_logging(
        settings.log_level, settings.log_format, is_local=orders.local_home is not None
    )
    structlog.contextvars.bind_contextvars(worker=orders.worker)
    siblings = WorkerPeers(orders.place)
    listener = socket.socket(fileno=orders.listener)
    async with application(settings, siblings) as (app, parts):
        totals = parts.totals
        if totals is None:
            raise RuntimeError("a worker among others counts with them")
        server = _server(app, parts)
        tie = WorkerEnd(socket.socket(fileno=orders.channel), server.take_over, server.orphaned)
        server.on_listening = lambda: tie.say(READY)
        server.on_draining = lambda: tie.say(DRAINING)
        await server.listen_privately(
            orders.place.socket_of(orders.worker),
            siblings.entrance(app, totals.told, parts.connections.told),
        )
        await _until_signalled(server, listener)
        # What was counted outlives us.
        await totals.told()
        if server.is_orphaned:
            orders.place.give_up()


async def _serve_alone(
    settings: Settings, listener: socket.socket, announce: Callable[[], None]
) -> None:
    # Here and not above: a process that only supervises others needs a third less memory without.
    from registry.main import application  # noqa: PLC0415

    async with application(settings) as (app, parts):
        await _serve(app, parts, listener, announce)


async def _serve(
    app: ASGIApp, parts: "Components", listener: socket.socket, announce: Callable[[], None]
) -> None:
    server = _server(app, parts)
    server.on_listening = announce
    await _until_signalled(server, listener)


async def _supervise(
    settings: Settings, listeners: list[socket.socket], announce: Callable[[], None]
) -> None:
    with runtime_directory() as folder:

        def orders(worker: str, slot: int, listener: int, tie: int) -> WorkerConfig:
            return WorkerConfig(
                worker=worker,
                slot=slot,
                folder=str(folder),
                listener=listener,
                channel=tie,
                port=settings.registry_port,
                workers=settings.registry_workers,
                local_home=str(settings.registry_home) if settings.registry_local else None,
            )

        await Supervisor(
            listeners,
            folder,
            orders,
            SystemClock(),
            drain_seconds=settings.drain_delay_seconds + settings.drain_timeout_seconds,
            ready=announce,
        ).run()


def _allow_open_files() -> None:
    """Raise the limit of open files as far as we may: each stream takes one, or two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _server(app: ASGIApp, parts: "Components") -> Server:
    _allow_open_files()
    return Server(
        app,
        parts.drain,
        parts.clock,
        connection_limits(parts.settings),
        delay_seconds=parts.settings.drain_delay_seconds,
        drain_seconds=parts.settings.drain_timeout_seconds,
    )


async def _until_signalled(server: Server, listener: socket.socket) -> None:
    _settle_garbage()
    loop = asyncio.get_running_loop()
    for number in ENDING_SIGNALS:
        loop.add_signal_handler(number, server.stop)
    try:
        await server.serve(sockets=[listener])
    finally:
        # From here on a signal ends the process as it stands.
        for number in ENDING_SIGNALS:
            loop.remove_signal_handler(number)


def _settle_garbage() -> None:
    """Spare the garbage collector what is here to stay, and looks at each call's objects.

    A call makes hundreds of objects and no cycle of them, but with many calls under way each
    collection finds thousands that it cannot free: it took a seventh of the time of calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def local_defaults(settings: Settings) -> dict[str, object]:
    """Return the settings that local mode has otherwise, where nobody set them."""
    wanted: dict[str, object] = {"call_log": "calls"}
    return {name: value for name, value in wanted.items() if name not in settings.model_fields_set}


def announcement(settings: Settings, home: LocalHome) -> str:
    """Return what local mode prints when it is ready. The token is in a file, not here."""
    base = settings.base_url
    return "\n".join(
        [
            "",
            f"Registry ready at {base}",
            f"  API description  {base}/docs",
            f"  All servers      {base}/mcp",
            f"  Demo server      {base}/mcp/demo",
            f"  Admin token      {home.admin_token_file}",
            "",
            "Try it, or connect Claude Code:",
            f"  TOKEN=$(cat {shlex.quote(str(home.admin_token_file))})",
            f'  curl -s -H "Authorization: Bearer $TOKEN" {base}/api/v1/servers',
            (
                f"  claude mcp add --transport http registry {base}/mcp "
                '--header "Authorization: Bearer $TOKEN"'
            ),
            "",
            "The configuration of another client (claude, cursor, vscode, codex, mcp-json):",
            f"  {COMMAND} client-config --client cursor",
            "",
            "Ctrl-C ends it. Tool calls are shown below.",
            "",
        ]
    )


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return what clients may take up of a process."""
    return ConnectionLimits(
        settings.max_client_connections,
        settings.request_head_timeout_seconds,
        settings.gateway_write_timeout_seconds,
        settings.gateway_max_body_bytes,
    )


@contextmanager
def _bound(settings: Settings, count: int) -> Iterator[list[socket.socket]]:
    """Bind the port before anything is started, so that a taken one is a clear error."""
    host, port = settings.registry_host, settings.registry_port
    with ExitStack() as stack:
        try:
            listeners = stack.enter_context(listening(host, port, count))
        except OSError as exc:
            problem = (
                f"REGISTRY_HOST, REGISTRY_PORT: cannot listen on {host}:{port} ({exc.strerror})"
            )
            raise SettingsError([problem]) from None
        yield listeners
