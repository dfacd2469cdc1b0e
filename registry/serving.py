"""Run the application under uvicorn, on its own or with everything that local mode brings."""

import asyncio
import json
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import structlog
import uvicorn
from pydantic import SecretStr
from pydantic_settings import BaseSettings
from starlette.types import ASGIApp
from typing_extensions import override

import registry
from registry.auth.keys import KeyPairError, load_signing_keys
from registry.core.clock import Clock, SystemClock
from registry.core.logs import configure_logging
from registry.core.settings import Settings, SettingsError, load_settings
from registry.local.bootstrap import bootstrap
from registry.local.home import LocalHome, settings_overrides
from registry.local.instance import LocalInstance
from registry.main import application
from registry.web.connection import JoiningProtocol
from registry.wiring import Components

log = structlog.get_logger()

GRACEFUL_SECONDS = 10
"""How long requests in flight may take to end after SIGTERM."""

KEEP_ALIVE_SECONDS = 75
"""Longer than the usual 60 s of load balancers, which must be the ones to close."""

BACKLOG = 2048
"""Connections that may wait to be accepted; those made before we serve are answered then."""

PLACEHOLDERS: dict[str, object] = {
    "mongo_uri": "mongodb://127.0.0.1/",
    "creds_key": "0" * 64,
    "creds_iv": "0" * 32,
    "jwt_private_key_file": Path("unused"),
    "jwt_public_key_file": Path("unused"),
    "registry_local": True,
}
"""Lets the other settings be checked before local mode starts anything."""


class Location(BaseSettings):
    """Where a local instance may be, read before there are any settings."""

    mongo_uri: SecretStr | None = None
    registry_home: Path = Path(".registry")


class KeyFiles(BaseSettings):
    """The key files, read whatever else is wrong with the settings."""

    jwt_private_key_file: Path | None = None
    jwt_public_key_file: Path | None = None


def found_settings() -> Settings:
    """Return the environment's settings, or those of the local instance in REGISTRY_HOME.

    Raises:
        SettingsError: Neither is there, or something is malformed.
        LocalHomeError: The home folder is damaged.
    """
    location = Location()
    home = LocalHome(location.registry_home)
    if location.mongo_uri is None and home.mongo_uri_file.exists():
        return load_settings(**settings_overrides(home.path))
    return load_settings()


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


async def serve_settings() -> None:
    """Serve with the environment's settings until a signal ends it."""
    settings = checked_settings()
    configure_logging(settings.log_level, settings.log_format)
    with _bound(settings) as listener:
        # Port 0 asks for a free one, which clients must be told.
        settings = load_settings(registry_port=listener.getsockname()[1])
        async with application(settings) as (app, _parts):
            await _serve(app, listener, lambda: _log_ready(settings))


async def serve_local() -> None:
    """Serve with a database, keys and a demo server of the home folder's own."""
    checked = load_settings(**PLACEHOLDERS)
    configure_logging(checked.log_level, checked.log_format)
    clock = SystemClock()
    with _bound(checked) as listener:
        port = listener.getsockname()[1]
        async with _local_application(checked, port, clock) as (app, announce):
            await _serve(app, listener, announce)


@asynccontextmanager
async def _local_application(
    checked: Settings, port: int, clock: Clock
) -> AsyncIterator[tuple[ASGIApp, Callable[[], None]]]:
    async with LocalInstance(checked.registry_home, clock) as instance:
        settings = load_settings(**instance.settings_overrides(), registry_port=port)
        async with application(settings) as (app, parts):
            token = await bootstrap(parts, instance.home, instance.demo_url)
            yield app, lambda: print(announcement(parts, instance.home, token), flush=True)  # noqa: T201 - for people


def announcement(parts: Components, home: LocalHome, token: str) -> str:
    """Return what local mode prints when it is ready."""
    base = parts.settings.base_url
    configuration = {
        "mcpServers": {
            "demo": {
                "type": "http",
                "url": f"{base}/mcp/demo",
                "headers": {"Authorization": f"Bearer {token}"},
            }
        }
    }
    return "\n".join(
        [
            "",
            f"Registry ready at {base}",
            f"  API description  {base}/api/v1/openapi.json",
            f"  Admin token      {home.admin_token_file}",
            f"  Demo server      {base}/mcp/demo",
            "",
            "Client configuration (Claude, Cursor; VS Code wants servers for mcpServers):",
            json.dumps(configuration, indent=2),
            "",
            "Try it:",
            f"  TOKEN=$(cat {shlex.quote(str(home.admin_token_file))})",
            f'  curl -s -H "Authorization: Bearer $TOKEN" {base}/api/v1/servers',
            "",
        ]
    )


class _Server(uvicorn.Server):
    """uvicorn, leaving signals to us: it would end the process before our contexts close."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    @contextmanager
    @override
    def capture_signals(self) -> Iterator[None]:
        yield

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


async def _serve(app: ASGIApp, listener: socket.socket, announce: Callable[[], None]) -> None:
    config = uvicorn.Config(
        app,
        http=JoiningProtocol,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    server = _Server(config, announce)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await server.serve(sockets=[listener])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextmanager
def _bound(settings: Settings) -> Iterator[socket.socket]:
    """Bind the port before anything is started, so that a taken one is a clear error."""
    host, port = settings.registry_host, settings.registry_port
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Binding alone leaves the port to whoever listens first.
        listener.listen(BACKLOG)
    except OSError as exc:
        problem = f"REGISTRY_HOST, REGISTRY_PORT: cannot listen on {host}:{port} ({exc.strerror})"
        raise SettingsError([problem]) from None
    with listener:
        yield listener


def _log_ready(settings: Settings) -> None:
    log.info("registry_ready", address=settings.base_url, version=registry.__version__)
