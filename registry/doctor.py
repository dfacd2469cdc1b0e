"""Look at a registry's surroundings and say what is wrong, check by check. Changes nothing."""

from dataclasses import dataclass
from typing import Any

from packages.database.client import (
    Database,
    MongoAddressError,
    MongoLoginError,
    TopologyError,
)
from packages.database.encryption import Cipher, DecryptionError, FieldRef, stored_form
from packages.database.errors import DatabaseUnavailable, translated
from packages.database.schema import wanted_indexes
from packages.models import SCHEMA_VERSION, check_schema_version
from packages.models.errors import SchemasNotGeneratedError, SchemaVersionError
from registry.auth.keys import KeyPairError
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.indexes import EXTRA_INDEXES
from registry.servers.credentials import is_secret_header
from registry.tokens.values import STORED_TYPES
from registry.wiring import build_cipher, build_database, build_keys

LISTED = 20
"""Most unreadable values named one by one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    good: bool
    message: str


async def examine(settings: Settings) -> list[Finding]:
    """Return the findings. A check that needs the database is left out when it is away."""
    findings = [_schema_version(), _keys(settings)]
    try:
        database = build_database(settings, Metrics())
    except MongoAddressError as exc:
        return [*findings, Finding("database", good=False, message=str(exc))]
    try:
        reachable = await _database(database)
        findings += reachable
        if reachable[0].good:
            findings.append(await _indexes(database))
            findings.append(await _ciphertexts(database, build_cipher(settings)))
    finally:
        await database.close()
    return findings


def _schema_version() -> Finding:
    try:
        check_schema_version()
    except (SchemasNotGeneratedError, SchemaVersionError) as exc:
        return Finding("schemas", good=False, message=str(exc))
    return Finding("schemas", good=True, message=f"generated from {SCHEMA_VERSION}")


def _keys(settings: Settings) -> Finding:
    try:
        keys = build_keys(settings)
    except KeyPairError as exc:
        return Finding("keys", good=False, message=str(exc))
    return Finding("keys", good=True, message=f"one RSA key pair, kid {keys.kid}")


async def _database(database: Database) -> list[Finding]:
    reached = Finding("database", good=True, message=f"reached, named {database.db.name}")
    try:
        await database.require_replica_set()
    except DatabaseUnavailable:
        return [Finding("database", good=False, message="cannot be reached at MONGO_URI")]
    except (MongoLoginError, MongoAddressError) as exc:
        return [Finding("database", good=False, message=str(exc))]
    except TopologyError as exc:
        return [reached, Finding("replica set", good=False, message=str(exc))]
    return [reached, Finding("replica set", good=True, message="transactions are possible")]


async def _indexes(database: Database) -> Finding:
    missing: list[str] = []
    for name, indexes in wanted_indexes(EXTRA_INDEXES).items():
        existing = await _existing_indexes(database, name)
        for index in indexes:
            wanted = _shape(index.document)
            if wanted not in existing:
                missing.append(f"{name}.{index.document['name']}")
    if missing:
        text = f"missing or with other options: {', '.join(missing)}"
        return Finding("indexes", good=False, message=text)
    return Finding("indexes", good=True, message="all there")


async def _existing_indexes(database: Database, name: str) -> list[tuple[Any, ...]]:
    async with translated():
        information = await database.collection(name).index_information()
    return [_shape(index) for index in information.values()]


def _shape(index: Any) -> tuple[Any, ...]:
    keys = index["key"]
    pairs = keys.items() if hasattr(keys, "items") else keys
    return (
        # A direction is a number, which some servers store as a float, or a kind such as "text".
        tuple((name, str(d) if isinstance(d, str) else int(d)) for name, d in pairs),
        bool(index.get("unique")),
        bool(index.get("sparse")),
        index.get("expireAfterSeconds"),
    )


async def _ciphertexts(database: Database, cipher: Cipher) -> Finding:
    unreadable: list[str] = []
    total = 0
    async with translated():
        async for reference, stored in _stored_secrets(database):
            total += 1
            try:
                cipher.decrypt(stored, reference)
            except DecryptionError:
                unreadable.append(str(reference))
    if unreadable:
        listed = ", ".join(unreadable[:LISTED])
        more = f" and {len(unreadable) - LISTED} more" if len(unreadable) > LISTED else ""
        text = f"{len(unreadable)} of {total} cannot be decrypted with CREDS_KEY: {listed}{more}"
        return Finding("credentials", good=False, message=text)
    return Finding("credentials", good=True, message=f"{total} stored, all readable")


async def _stored_secrets(database: Database) -> Any:
    fields = {"config.apiKey.key": 1, "config.oauth.client_secret": 1, "config.headers": 1}
    async for document in database.collection("mcpservers").find({}, fields):
        config = _members(document.get("config"))
        key = str(document["_id"])
        for parent, name in (("apiKey", "key"), ("oauth", "client_secret")):
            value = _members(config.get(parent)).get(name)
            if isinstance(value, str):
                yield FieldRef("mcpservers", key, f"config.{parent}.{name}"), value
        for name, value in _members(config.get("headers")).items():
            if is_secret_header(name, value) and stored_form(str(value)) is not None:
                yield FieldRef("mcpservers", key, f"config.headers.{name}"), value
    known = [*STORED_TYPES, "mcp_oauth_client"]
    tokens = database.collection("tokens")
    async for document in tokens.find({"type": {"$in": known}}, {"token": 1}):
        yield FieldRef("tokens", str(document["_id"]), "token"), str(document.get("token"))
    auths = database.collection("pluginauths")
    async for document in auths.find({"pluginKey": {"$regex": "^mcp_"}}, {"value": 1}):
        yield FieldRef("pluginauths", str(document["_id"]), "value"), str(document.get("value"))


def _members(value: object) -> dict[str, Any]:
    # Other applications write these documents too, so any of it can be missing or odd.
    return value if isinstance(value, dict) else {}
