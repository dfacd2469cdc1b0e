"""The embedded database: a pinned MongoDB-compatible daemon in a process of its own.

It is used over the wire and never imported, because of its licence; see
docs/decisions/0003-embedded-database.md.
"""

import importlib.util
import ipaddress
import re
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure, PyMongoError

from packages.database.client import DEFAULT_DATABASE
from registry.core.clock import Clock
from registry.processes.local.children import (
    HOST,
    ChildSpec,
    SupervisedChild,
    available_port,
    supervised,
)
from registry.processes.local.errors import LocalHomeError, MissingExtraError
from registry.processes.local.home import LocalHome
from registry.processes.local.orphans import end_orphan

PACKAGE = "secantus"
DISTRIBUTION = "SecantusDB"
CACHE_SIZE = "4G"
"""At most; it takes what the data need. Must hold many times what one transaction writes: above a
fifth the daemon stops answering anyone, for good. Ten thousand new tools of one server do that to
512 MB, ten thousand changed ones to 1 GB, twenty thousand new ones too."""
QUICK_CRASHES = 5
ANSWER_MS = 2000
USER = "registry"
PASSWORD_BYTES = 24
AUTHENTICATION_FAILED = 18
WITHOUT_RETRIES = "retryWrites=false"
"""The daemon looks through what it keeps of the last half hour's retryable writes at each of them:
after some thousands a write takes tens of milliseconds. Transactions need no such records."""

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
    # Our own empty file: without one the daemon reads configuration from the user's folders.
    (home.path / "database.toml").touch(mode=0o600)
    await end_orphan(_pid_file(home), _marker(home), clock)
    stored = home.read_mongo_uri()
    if stored is None:
        uri = await _create_user(home, clock)
    else:
        uri = _without_retries(_with_port(home, stored))
    if uri != stored:
        home.write_mongo_uri(uri)
    async with supervised(_spec(home, uri, "--auth"), clock) as child:
        yield EmbeddedDatabase(uri, child)


async def _create_user(home: LocalHome, clock: Clock) -> str:
    """Run the daemon once without authentication, to create its only user.

    Loopback is shared with all users of the machine, and any of them could create a user first.
    So the daemon then accepts only connections with one certificate, whose key is in the private
    home folder and is removed at the end.
    """
    port = available_port(None)
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    certificate = home.path / "database.pem"
    try:
        _write_certificate(certificate, clock.now())
        uri = f"mongodb://{HOST}:{port}/?" + urlencode(
            {"tls": "true", "tlsCAFile": certificate, "tlsCertificateKeyFile": certificate}
        )
        async with supervised(_spec(home, uri, *_only_with(certificate)), clock) as child:
            await child.ready()
            client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(uri)
            async with client:
                known = await client.admin.command("usersInfo", 1)
                names = {user["user"] for user in known["users"]}
                if names - {USER}:
                    problem = f"holds users that are not ours: {', '.join(sorted(names - {USER}))}"
                    raise LocalHomeError(home.data, problem)
                command = "updateUser" if names else "createUser"
                await client.admin.command(command, USER, pwd=password, roles=["root"])
    finally:
        certificate.unlink(missing_ok=True)
    uri = f"mongodb://{USER}:{password}@{HOST}:{port}/{DEFAULT_DATABASE}?authSource=admin"
    return _without_retries(uri)


def _without_retries(uri: str) -> str:
    """Return *uri* with the option that says so, unless it speaks of it already."""
    if "retryWrites=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{WITHOUT_RETRIES}"


def _only_with(certificate: Path) -> tuple[str, ...]:
    """Return the options with which the daemon accepts only clients with *certificate*."""
    return (
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(certificate)),
        *("--tls-ca-file", str(certificate), "--tls-require-client-cert"),
    )


def _write_certificate(path: Path, now: datetime) -> None:
    """Write a self-signed certificate and its key, valid for an hour."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "embedded database")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )


def _with_port(home: LocalHome, uri: str) -> str:
    """Return *uri* with a port that is free now, its own if possible."""
    match = _URI.fullmatch(uri)
    if match is None:
        problem = f"must be mongodb://<user>:<password>@{HOST}:<port>/<database>"
        raise LocalHomeError(home.mongo_uri_file, problem)
    port = int(match[1])
    free = available_port(port)
    if free == port:
        return uri
    log.warning("database_port_changed", former_port=port, port=free)
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
        problem = "has another password than the data; remove this file to set a new password"
        raise LocalHomeError(uri_file, problem)

    return answers
