"""Entry points that run the application: one process or several workers, local mode or not."""

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
from registry.http.server.connection import ConnectionLimits
from registry.http.server.server import Server
from registry.processes.local.home import KeyFiles, LocalHome, settings_overrides, write_private
from registry.processes.parent_channel import DRAINING, READY, WorkerEnd
from registry.processes.supervisor import Supervisor, WorkerConfig, listening
from registry.workers.runtime_directory import runtime_directory

if TYPE_CHECKING:
    from registry.wiring.components import Components

log = structlog.get_logger()

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)

COLLECT_AFTER = (20_000, 20, 20)
"""Thresholds of `gc.set_threshold`; the interpreter's defaults are 700, 10 and 10."""

COMMAND = shlex.quote(sys.argv[0]) if Path(sys.argv[0]).name != "__main__.py" else "registry"
"""How this program was called, for commands that users copy."""

PLACEHOLDERS: dict[str, object] = {
    "mongo_uri": "mongodb://127.0.0.1/",
    "creds_key": "0" * 64,
    "creds_iv": "0" * 32,
    "jwt_private_key_file": Path("unused"),
    "jwt_public_key_file": Path("unused"),
    "registry_local": True,
}
"""Stand in for the settings that local mode provides, so that the others can be checked first."""


def checked_settings() -> Settings:
    """Return the environment's settings, after checking that the key files can be used.

    Raises:
        SettingsError: A setting is missing, malformed or contradicts another. Lists all problems.
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
    """Serve with the environment's settings until a signal.

    Args:
        workers: The number of processes; None for the setting's value.

    Raises:
        SchemasNotGeneratedError: There are no generated models.
        StartFailedError: The first of several processes did not start; it has logged the reason.
    """
    check_generated()
    settings = checked_settings()
    count = workers or settings.registry_workers
    configure_logging(settings.log_level, settings.log_format)
    with _bound(settings, count) as listeners:
        # Port 0 asks for a free one; settings must hold the actual port.
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
    """Serve with the database, keys and demo server of the home folder.

    Args:
        workers: As for `serve_settings`.

    Raises:
        StartFailedError: As for `serve_settings`.
    """
    from registry.main import application  # noqa: PLC0415
    from registry.processes.local.bootstrap import bootstrap  # noqa: PLC0415 - see _serve_alone
    from registry.processes.local.instance import LocalInstance  # noqa: PLC0415
    from registry.wiring.application import components  # noqa: PLC0415

    # Checked before the database is started: an incompatible release would leave it running.
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


async def serve_worker(argument: str) -> None:
    """Serve as one of several workers, until a signal or the parent's exit.

    Args:
        argument: Its `WorkerConfig`, serialized by the parent.
    """
    from registry.main import application  # noqa: PLC0415 - see _serve_alone
    from registry.workers.peers import WorkerPeers  # noqa: PLC0415

    config = WorkerConfig.read(argument)
    overrides: dict[str, object] = {}
    if config.local_home is not None:
        overrides = {
            **settings_overrides(Path(config.local_home)),
            **local_defaults(load_settings(**PLACEHOLDERS)),
        }
    settings = load_settings(
        **overrides, registry_port=config.port, registry_workers=config.workers
    )
    configure_logging(
        settings.log_level, settings.log_format, is_local=config.local_home is not None
    )
    structlog.contextvars.bind_contextvars(worker=config.worker)
    peers = WorkerPeers(config.directory)
    listener = socket.socket(fileno=config.listener)
    async with application(settings, peers) as (app, parts):
        totals = parts.totals
        if totals is None:
            raise RuntimeError("Metric totals are missing: a worker needs them.")
        server = _server(app, parts)
        channel = WorkerEnd(
            socket.socket(fileno=config.channel), server.take_over, server.orphaned
        )
        server.on_listening = lambda: channel.send(READY)
        server.on_draining = lambda: channel.send(DRAINING)
        await server.listen_privately(
            config.directory.socket_of(config.worker),
            peers.server(app, totals.own_counts, parts.connections.reply),
        )
        await _until_signalled(server, listener)
        # The counts must outlive this process.
        await totals.own_counts()
        if server.is_orphaned:
            config.directory.remove()


async def _serve_alone(
    settings: Settings, listener: socket.socket, announce: Callable[[], None]
) -> None:
    # Imported here: a process that only supervises workers needs a third less memory without it.
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

        def config(worker: str, slot: int, listener: int, channel: int) -> WorkerConfig:
            return WorkerConfig(
                worker=worker,
                slot=slot,
                folder=str(folder),
                listener=listener,
                channel=channel,
                port=settings.registry_port,
                workers=settings.registry_workers,
                local_home=str(settings.registry_home) if settings.registry_local else None,
            )

        await Supervisor(
            listeners,
            folder,
            config,
            SystemClock(),
            drain_seconds=settings.drain_delay_seconds + settings.drain_timeout_seconds,
            ready=announce,
        ).run()


def _allow_open_files() -> None:
    """Raise the limit of open files as far as allowed: each stream takes one or two."""
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
        # From here on a signal terminates the process immediately.
        for number in ENDING_SIGNALS:
            loop.remove_signal_handler(number)


def _settle_garbage() -> None:
    """Freeze the objects that stay, and make garbage collections rarer.

    A call makes hundreds of objects without reference cycles, but with many calls under way each
    collection traverses thousands that it cannot free: it took a seventh of the time of calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


def local_defaults(settings: Settings) -> dict[str, object]:
    """Return local mode's own defaults, for settings that are not set."""
    wanted: dict[str, object] = {"call_log": "calls"}
    return {name: value for name, value in wanted.items() if name not in settings.model_fields_set}


def announcement(settings: Settings, home: LocalHome) -> str:
    """Return the text that local mode prints when ready. The token is in a file, not in it."""
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
    """Return the limits of client connections of a process."""
    return ConnectionLimits(
        settings.max_client_connections,
        settings.request_head_timeout_seconds,
        settings.gateway_write_timeout_seconds,
        settings.gateway_max_body_bytes,
    )


@contextmanager
def _bound(settings: Settings, count: int) -> Iterator[list[socket.socket]]:
    """Bind the port before anything is started, so that a port in use is a clear error."""
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
