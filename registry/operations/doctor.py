"""`registry doctor`: checks database, indexes, documents and keys, and reports problems.

Changes nothing unless *repair* is set, and then only what needs no decision.
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

from packages.database.client import (
    Database,
    MongoAddressError,
    TopologyError,
    UnsupportedServerError,
    index_keys,
)
from packages.database.encryption import Cipher
from packages.database.errors import (
    DatabaseUnavailable,
    MongoLoginError,
    ReplicaSetNeeded,
    translated,
)
from packages.database.schema import OWN_VALIDATORS, wanted_indexes
from packages.database.slices import slices
from packages.models import SCHEMA_VERSION, check_schema_version
from packages.models.errors import SchemaMembersError, SchemasNotGeneratedError, SchemaVersionError
from registry.access.policies.repository import PolicyRepository
from registry.auth.keys import KeyPairError
from registry.auth.repository import RevocationRepository
from registry.core.clock import SystemClock
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.operations.rotation import survey
from registry.processes.local.errors import LOCAL_DATABASE_STOPPED
from registry.search.embedding.model_client import chosen
from registry.search.embedding.model_process import (
    MODELS,
    ModelUnusableError,
    require_usable,
)
from registry.servers.credentials import CredentialVault
from registry.servers.reconciliation.lost_tools import LostTools
from registry.servers.reconciliation.orphaned_data import OrphanedServerData
from registry.servers.storage.repository import ServerRepository
from registry.servers.transport import environment_places, taken
from registry.tokens.repository import TokenRepository
from registry.tools.repository import ToolRepository
from registry.wiring.commands import NotedRemovals
from registry.wiring.database import build_database
from registry.wiring.keys import build_cipher, build_keys
from registry.wiring.storage import EXTRA_INDEXES, build_storage

LISTED = 20
"""Maximum number of unreadable values or documents that are listed."""

AT_ONCE = 100
"""Servers read by one query."""


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """The outcome of one check."""

    check: str
    good: bool
    message: str


async def examine(settings: Settings, *, repair: bool = False) -> list[DoctorFinding]:
    """Return the findings. Checks that need the database are skipped if it is unavailable.

    Args:
        settings: Of this installation.
        repair: Whether what is left of deleted servers is removed, and lost tools are restored.
    """
    findings = [_schema_version(), _keys(settings), _workers(settings), _model(settings)]
    try:
        database = build_database(settings, Metrics())
    except MongoAddressError as exc:
        return [*findings, DoctorFinding("database", good=False, message=str(exc))]
    try:
        reachable = await _database(settings, database)
        findings += reachable
        if reachable[0].good:
            findings.append(await _indexes(database))
            cipher = build_cipher(settings)
            findings.append(await _documents(database, cipher))
            findings.append(await _ciphertexts(database, cipher))
            clock = SystemClock()
            storage = build_storage(settings, database, cipher, clock=clock, metrics=Metrics())
            removals = NotedRemovals()
            leftovers = OrphanedServerData(
                database, storage.repositories, clock=clock, removals=removals
            )
            findings.append(await _leftovers(leftovers, repair=repair))
            await removals.give_back(settings, storage, clock, Metrics())
            lost = LostTools(database, storage.repositories, clock=clock)
            findings.append(await _lost_tools(lost, repair=repair))
            findings.append(await _environment(database, cipher))
    except MongoLoginError as exc:
        findings.append(DoctorFinding("database", good=False, message=str(exc)))
    finally:
        await database.close()
    return findings


def _schema_version() -> DoctorFinding:
    try:
        check_schema_version()
    except (SchemaMembersError, SchemasNotGeneratedError, SchemaVersionError) as exc:
        return DoctorFinding("schemas", good=False, message=str(exc))
    return DoctorFinding("schemas", good=True, message=f"generated from {SCHEMA_VERSION}")


def _keys(settings: Settings) -> DoctorFinding:
    try:
        keys = build_keys(settings)
    except KeyPairError as exc:
        return DoctorFinding("keys", good=False, message=str(exc))
    return DoctorFinding("keys", good=True, message=f"one RSA key pair, kid {keys.kid}")


def _workers(settings: Settings) -> DoctorFinding:
    workers, processors = settings.registry_workers, os.cpu_count() or 1
    text = f"{workers} for {processors} processors"
    if workers > 2 * processors:
        return DoctorFinding("workers", good=False, message=f"{text}: more only take memory")
    return DoctorFinding("workers", good=True, message=text)


def _model(settings: Settings) -> DoctorFinding:
    """Check the files of the model that finds by meaning, and load nothing."""
    name = chosen(settings.search_model)
    if name is None:
        text = "no model is installed" if settings.search_model == "auto" else "no model is wanted"
        return DoctorFinding("embeddings", good=True, message=f"search by words: {text}")
    try:
        require_usable(name)
    except ModelUnusableError as exc:
        text = f"search by words, as {name} cannot be used: {exc}"
        return DoctorFinding("embeddings", good=False, message=text)
    return DoctorFinding("embeddings", good=True, message=f"search by meaning: {MODELS[name].id}")


async def _database(settings: Settings, database: Database) -> list[DoctorFinding]:
    reached = DoctorFinding("database", good=True, message=f"reached, named {database.db.name}")
    try:
        await database.require_replica_set()
    except (MongoLoginError, MongoAddressError) as exc:
        return [DoctorFinding("database", good=False, message=str(exc))]
    except DatabaseUnavailable:
        text = (
            LOCAL_DATABASE_STOPPED if settings.registry_local else "cannot be reached at MONGO_URI"
        )
        return [DoctorFinding("database", good=False, message=text)]
    except TopologyError as exc:
        return [reached, DoctorFinding("replica set", good=False, message=str(exc))]
    except UnsupportedServerError as exc:
        return [DoctorFinding("database", good=False, message=str(exc))]
    return [reached, DoctorFinding("replica set", good=True, message="transactions are possible")]


async def _indexes(database: Database) -> DoctorFinding:
    async with translated():
        existing_names = await database.db.list_collection_names()
    if OWN_VALIDATORS.keys().isdisjoint(existing_names):
        text = "none yet: no registry was started on this database; `registry serve` makes them"
        return DoctorFinding("indexes", good=True, message=text)
    missing: list[str] = []
    for name, indexes in wanted_indexes(EXTRA_INDEXES).items():
        existing = await _existing_indexes(database, name)
        for index in indexes:
            wanted = _shape(index.document)
            if wanted not in existing:
                missing.append(f"{name}.{index.document['name']}")
    if missing:
        text = f"missing or with other options: {', '.join(missing)}"
        return DoctorFinding("indexes", good=False, message=text)
    return DoctorFinding("indexes", good=True, message="all there")


async def _existing_indexes(database: Database, name: str) -> list[tuple[Any, ...]]:
    async with translated():
        information = await database.collection(name).index_information()
    return [_shape(index) for index in information.values()]


def _shape(index: Any) -> tuple[Any, ...]:
    return (
        # A direction is a number, which some servers store as a float, or a kind such as "text".
        tuple((name, str(d) if isinstance(d, str) else int(d)) for name, d in index_keys(index)),
        bool(index.get("unique")),
        bool(index.get("sparse")),
        index.get("expireAfterSeconds"),
    )


async def _documents(database: Database, cipher: Cipher) -> DoctorFinding:
    """Report documents that cannot be read."""
    problems: list[str] = []
    async for key, reasons in ServerRepository(database).unreadable():
        problems.append(f"mcpservers/{key} ({'; '.join(reasons)})")
    async for key, reasons in ToolRepository(database, versions_kept=1).unreadable():
        problems.append(f"mcp_tools/{key} ({'; '.join(reasons)})")
    problems += [
        f"access_policies/{policy.id} ({policy.problem})"
        for policy in (await PolicyRepository(database).every()).values()
        if policy.problem is not None
    ]
    for name, keys in (
        ("tokens", await TokenRepository(database, cipher).unreadable()),
        ("revoked_tokens", await RevocationRepository(database).unreadable()),
    ):
        problems += [f"{name}/{key}" for key in keys]
    if not problems:
        return DoctorFinding("documents", good=True, message="all readable")
    more = f" and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
    text = f"{len(problems)} that cannot be read as a whole: {', '.join(problems[:LISTED])}{more}"
    return DoctorFinding("documents", good=False, message=text)


async def _leftovers(leftovers: OrphanedServerData, *, repair: bool) -> DoctorFinding:
    """Report orphaned data of deleted servers; remove it with *repair*."""
    found = await leftovers.find(every=True)
    if not found:
        return DoctorFinding("orphaned data", good=True, message="nothing of deleted servers")
    if repair:
        try:
            removed = [one for one in found if await leftovers.remove(one)]
        except ReplicaSetNeeded as exc:
            return DoctorFinding("orphaned data", good=False, message=str(exc))
        return DoctorFinding(
            "orphaned data", good=True, message=f"of {len(removed)} servers removed"
        )
    listed = ", ".join(found[:LISTED])
    text = f"of {len(found)} deleted servers, removed by `registry doctor --repair`: {listed}"
    return DoctorFinding("orphaned data", good=False, message=text)


async def _lost_tools(lost: LostTools, *, repair: bool) -> DoctorFinding:
    """Report servers that were read but have no tool rows; restore them with *repair*."""
    found = await lost.find()
    if not found:
        return DoctorFinding(
            "tools", good=True, message="every server that was read here has its tools"
        )
    if repair:
        try:
            counts = {server_id: await lost.restore(server_id) for server_id in found}
        except ReplicaSetNeeded as exc:
            return DoctorFinding("tools", good=False, message=str(exc))
        unreadable = [server_id for server_id, count in counts.items() if not count]
        if not unreadable:
            text = f"{sum(counts.values())} tools of {len(found)} servers restored"
            return DoctorFinding("tools", good=True, message=text)
        listed = ", ".join(unreadable[:LISTED])
        text = f"of {len(unreadable)} servers cannot be restored; refresh them: {listed}"
        return DoctorFinding("tools", good=False, message=text)
    listed = ", ".join(found[:LISTED])
    text = f"of {len(found)} servers are lost, restored by `registry doctor --repair`: {listed}"
    return DoctorFinding("tools", good=False, message=text)


async def _ciphertexts(database: Database, cipher: Cipher) -> DoctorFinding:
    found = await survey(database, cipher)
    unreadable = [str(value.ref) for value in found.unreadable]
    if unreadable:
        listed = ", ".join(unreadable[:LISTED])
        more = f" and {len(unreadable) - LISTED} more" if len(unreadable) > LISTED else ""
        text = f"{len(unreadable)} of {found.total} cannot be decrypted with CREDS_KEY"
        if len(cipher.key_ids) > 1:
            text += " or CREDS_KEYS_READABLE"
        return DoctorFinding("credentials", good=False, message=f"{text}: {listed}{more}")
    text = f"{found.total} stored, all readable"
    if older := found.older.total() + len(found.ambiguous):
        text += f"; {older} not under CREDS_KEY alone, see `registry creds check`"
    return DoctorFinding("credentials", good=True, message=text)


async def _environment(database: Database, cipher: Cipher) -> DoctorFinding:
    """Report values into which jarvis-api would insert variables of its environment."""
    places: list[str] = []
    vault, servers = CredentialVault(cipher), ServerRepository(database)
    for ids in slices(await servers.ids_unchecked(), AT_ONCE):
        for server in await servers.by_ids_unchecked(ids):
            found = taken(server.config, partial(_text_of, vault, server.id))
            where = f"mcpservers/{server.id}/config."
            places += [where + place for place in environment_places(found)]
    if places:
        listed = ", ".join(places[:LISTED])
        more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
        text = (
            "jarvis-api sends variables of its environment, CREDS_KEY among them, where `${` "
            f"stands: {listed}{more}"
        )
        return DoctorFinding("environment", good=False, message=text)
    return DoctorFinding("environment", good=True, message="no server is sent variables of it")


def _text_of(vault: CredentialVault, server_id: str, stored: str, field: str) -> str:
    return vault.decrypt(stored, server_id, field)
