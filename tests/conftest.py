"""Fixtures for all tests: a MongoDB-compatible server on a socket, keys, people, a clock."""

import gc
import ipaddress
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr
from pydantic_settings import BaseSettings
from pymongo import MongoClient

from packages.database.changes import ChangeStream
from packages.database.client import Database
from packages.database.encryption import Cipher
from packages.database.schema import prepare
from registry.audit.chain import PURPOSE, AuditKeys
from registry.audit.repository import AuditRepository
from registry.audit.trail import AuditTrail
from registry.auth.identity import ALL_SCOPES, USER_SCOPES, Role, UserContext
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.gateway.view.loading import SnapshotSources
from registry.gateway.view.pending import WATCHED
from registry.gateway.view.snapshot import Snapshot
from registry.processes.serving import COLLECT_AFTER
from registry.servers.credentials import CredentialVault
from registry.servers.reconciliation.store import ServerRepositories
from registry.wiring.storage import EXTRA_INDEXES, build_repositories
from tests.fakes.databases import NEW_DATABASES, PreparedDatabases
from tests.fakes.keys import write_key_pair
from tests.fakes.mongo_daemon import start_daemon
from tests.fakes.oauth.access_tokens import FakeAccessTokens
from tests.kit import tiers
from tests.kit.reporting import FailuresAtOnce

# How long an example takes, or is looked for, says more about the machine than about the code.
hypothesis_settings.register_profile(
    "patient",
    parent=hypothesis_settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.register_profile(
    "quick", parent=hypothesis_settings.get_profile("patient"), max_examples=10
)


LONGEST = (
    *("workers/test_workers.py", "servers/test_openapi.py"),
    *("conformance/test_suite.py", "rest/real/test_real_descriptions.py"),
    *("clients/test_matrix.py", "sync/test_worker.py"),
    *("test_chaos.py", "access/policies/test_whole_way.py"),
    *("processes/test_serving.py", "servers/test_api_input.py"),
    *("clients/test_hard_cases.py", "crossapp/test_updates.py"),
    *("processes/local/test_daemon.py", "servers/test_odd_documents.py"),
    *("processes/local/test_instance.py", "servers/test_odd_servers.py"),
    *("test_cli_tools.py", "tools/governance/test_tools_api.py"),
    *("test_cli.py", "servers/versions/test_versions_api.py"),
    *("test_cli_setup.py", "test_cli_servers.py"),
    *("oauth/test_replicas.py", "oauth/test_flows.py"),
    *("crossapp/test_directory.py", "access/test_agreement.py"),
    *("test_cli_creds.py", "rest/test_requests.py"),
    *("test_cli_users.py", "servers/test_service.py"),
    *("test_replicas.py", "servers/test_api_servers.py"),
    *("catalog/test_kills.py", "access/test_permissions_api.py"),
    *("servers/test_api_outage.py", "gateway/test_whole_way.py"),
    *("test_cli_catalog.py", "search/test_evaluation.py"),
    *("test_cli_connections.py", "gateway/test_approved_calls.py"),
    *("crossapp/test_reads.py", "access/policies/test_policies_api.py"),
    *("crossapp/test_writes.py", "sync/test_sync_api.py"),
    *("sync/test_command.py", "gateway/test_toolsets.py"),
    *("test_readme.py", "gateway/test_crossing.py"),
)
"""Modules that take ten seconds or more, of a processor or of waiting, the longest first.

By turns those that start processes and those that do not: two workers of pytest-xdist take two
modules at a time, and should not both start many.
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare what `make test-quick` sets."""
    parser.addoption(
        "--quick",
        action="store_true",
        help="Run only the tests that open no socket and start no process.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples are tried, and watch what tests open and which fail."""
    hypothesis_settings.load_profile("quick" if config.option.quick else "patient")
    tiers.watch_sockets()
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(config))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out folders of which the quick tier has nothing."""
    return True if config.option.quick and collection_path in tiers.EXTERNAL else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes longest: at the end one core would wait for another's.

    `--no-loadscope-reorder` keeps pytest-xdist from beginning with what has most tests instead.
    """
    tiers.mark_integration(items)
    if config.option.quick:
        left_out = [item for item in items if item.get_closest_marker("integration")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    places = {config.rootpath / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep a test without the marker `integration` from opening anything."""
    with tiers.watched(item):
        return (yield)


def pytest_collection_finish() -> None:
    """Let the garbage collector look no more at what stays until the end.

    Modules and collected tests are more than a million objects. Each full collection looked
    through them for half a second, and there are hundreds: tests that mind what is left behind
    ask for one. What runs is set up as a registry that serves.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


CREDS_KEY = "0f" * 32
CREDS_IV = "1e" * 16
JWT_SECRET = "a secret that jarvis-api shares"

ALICE = UserContext("a" * 24, "alice", Role.USER, USER_SCOPES)
BOB = UserContext("b" * 24, "bob", Role.USER, USER_SCOPES)
ROOT = UserContext("c" * 24, "root", Role.ADMIN, ALL_SCOPES)


CONNECTED_ELSEWHERE: list[str] = []
"""Where tests tried to connect to beyond this machine."""


def _refuse_connections_elsewhere(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect" or not isinstance(arguments[1], tuple):
        return
    host = str(arguments[1][0]).partition("%")[0]
    with suppress(ValueError):
        if not ipaddress.ip_address(host).is_loopback:
            CONNECTED_ELSEWHERE.append(host)
            raise ConnectionRefusedError(f"A test connects to {host}.")


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Keep the collector of cycles from running by itself."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(autouse=True)
def no_connection_elsewhere() -> Iterator[None]:
    """Fail each test that opens a connection to anywhere but this machine."""
    CONNECTED_ELSEWHERE.clear()
    yield
    assert CONNECTED_ELSEWHERE == []
    assert tiers.opened == []


class TestTarget(BaseSettings):
    """Where the tests' database is, if not started here."""

    __test__ = False
    test_mongo_uri: SecretStr | None = None


if TestTarget().test_mongo_uri is None:
    sys.addaudithook(_refuse_connections_elsewhere)


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a connection string without a database name."""
    external = TestTarget().test_mongo_uri
    if external is not None:
        uri = external.get_secret_value()
        yield uri
        with MongoClient[dict[str, object]](uri) as client:
            for name in NEW_DATABASES:
                client.drop_database(name)
        return
    with start_daemon(tmp_path_factory.mktemp("mongo")) as daemon:
        # The daemon looks through all retryable writes of the last half hour at each of them.
        yield f"{daemon.uri}?retryWrites=false"


@pytest.fixture(scope="session")
def prepared_databases(mongo_uri: str) -> Iterator[PreparedDatabases]:
    is_embedded = TestTarget().test_mongo_uri is None
    databases = PreparedDatabases(mongo_uri, is_embedded=is_embedded)
    yield databases
    databases.close()


@pytest.fixture
def database_uri(mongo_uri: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a connection string that names a database of this test's own.

    It exists, prepared and empty, only for tests that ask for `database` as well.
    """
    base, question, options = mongo_uri.partition("?")
    if "database" not in request.fixturenames:
        yield f"{base.rstrip('/')}/test_{uuid.uuid4().hex}{question}{options}"
        return
    databases: PreparedDatabases = request.getfixturevalue("prepared_databases")
    name = databases.take() or f"test_{uuid.uuid4().hex}"
    yield f"{base.rstrip('/')}/{name}{question}{options}"
    databases.give_back(name)


@pytest.fixture
async def database(
    database_uri: str, prepared_databases: PreparedDatabases
) -> AsyncIterator[Database]:
    """Return an empty database with indexes and validators."""
    database = Database(database_uri, timeout_ms=5000)
    if not prepared_databases.knows(database.db.name):
        await prepare(database, EXTRA_INDEXES)
        prepared_databases.add(database.db.name)
    yield database
    await database.close()


@pytest.fixture(scope="session")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the files of an RSA key pair: private, public."""
    return write_key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def settings(database_uri: str, key_files: tuple[Path, Path], tmp_path: Path) -> Settings:
    """Return settings for a registry that may reach upstreams on loopback."""
    private, public = key_files
    return Settings(
        mongo_uri=SecretStr(database_uri),
        creds_key=SecretStr(CREDS_KEY),
        creds_iv=SecretStr(CREDS_IV),
        jwt_private_key_file=private,
        jwt_public_key_file=public,
        jwt_secret=SecretStr(JWT_SECRET),
        registry_home=tmp_path / "home",
        upstream_allowed_networks=("127.0.0.0/8", "::1/128"),
        public_url="http://127.0.0.1:7860",
        upstream_connect_timeout_seconds=2,
        discovery_timeout_seconds=5,
        # A process of the model for each application would take most of the time.
        search_model="none",
    )


@pytest.fixture
def cipher() -> Cipher:
    """Return a cipher with the tests' keys."""
    return Cipher(CREDS_KEY, CREDS_IV)


@pytest.fixture
def audit_keys(cipher: Cipher) -> AuditKeys:
    """Return the keys of the audit trail."""
    return AuditKeys(cipher.derive_keys(PURPOSE))


@pytest.fixture
def audit_repository(database: Database, audit_keys: AuditKeys) -> AuditRepository:
    """Return the real repository of the audit trail."""
    return AuditRepository(database, audit_keys)


@pytest.fixture
def audit(audit_repository: AuditRepository, clock: SystemClock) -> AuditTrail:
    """Return the real audit trail."""
    return AuditTrail(audit_repository, clock=clock, metrics=Metrics())


@pytest.fixture
def repositories(
    settings: Settings,
    database: Database,
    cipher: Cipher,
    audit: AuditTrail,
    clock: SystemClock,
) -> ServerRepositories:
    """Return the real repositories of the servers domain."""
    return build_repositories(settings, database, cipher, audit, clock)


@pytest.fixture
def view(
    database: Database,
    repositories: ServerRepositories,
    cipher: Cipher,
    settings: Settings,
    clock: SystemClock,
) -> Snapshot:
    """Return what lists are answered from, once it was loaded; nothing follows the database."""

    async def nothing() -> None:
        pass

    return Snapshot(
        ChangeStream(database, WATCHED),
        SnapshotSources(
            inventory=repositories.inventory,
            servers=repositories.servers,
            tools=repositories.tools,
            features=repositories.features,
            acl=repositories.acl,
            plugin_auths=repositories.plugin_auths,
            policies=repositories.policies,
            tokens=FakeAccessTokens(),
        ),
        CredentialVault(cipher),
        clock=clock,
        metrics=Metrics(),
        settings=settings,
        users_changed=lambda: None,
        revocations_changed=nothing,
    )


@pytest.fixture
def clock() -> SystemClock:
    """Return the real clock."""
    return SystemClock()


@pytest.fixture
def alice() -> UserContext:
    """Return a plain user."""
    return ALICE


@pytest.fixture
def bob() -> UserContext:
    """Return another plain user."""
    return BOB


@pytest.fixture
def root() -> UserContext:
    """Return an administrator."""
    return ROOT
