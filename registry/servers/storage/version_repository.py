"""Reads and writes `server_versions`. The only module that writes it.

Secrets of a version are sealed together, bound to its document: a version that somebody copied to
another server, or changed, opens no more.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import structlog
from bson import ObjectId
from pymongo import DESCENDING
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc, Transaction
from packages.database.encryption import Cipher, DecryptionError, FieldRef
from packages.database.errors import translates_driver_errors
from packages.database.stored import (
    id_of,
    json_members,
    moment_of,
    text_of,
    texts_of,
    whole_of,
)
from packages.models.server_versions import ServerVersion
from registry.core.json import JsonObject, members
from registry.core.paging import Page, PageRequest
from registry.servers.credentials import CredentialVault
from registry.servers.transport import Secret, TransportConfig, taken, with_secrets_apart
from registry.tools.values import ToolEditor

SEALED = "sealed"
log = structlog.get_logger()

NEWEST_FIRST = [("version", DESCENDING)]


class ServerVersionState(StrEnum):
    """Whether a server is reached so now."""

    ACTIVE = "active"
    FORMER = "former"


class ServerVersionOrigin(StrEnum):
    """What made a version.

    `found` was there when versions began to be kept, or was written by the other application.
    """

    REGISTRATION = "registration"
    UPDATE = "update"
    ROLLBACK = "rollback"
    FOUND = "found"


@dataclass(frozen=True, slots=True)
class VersionCause:
    """When, by whom and by what a version is made."""

    now: datetime
    person: ToolEditor | None
    origin: ServerVersionOrigin
    restored_from: int | None = None


@dataclass(frozen=True, slots=True)
class ServerVersionRecord:
    """A stored version.

    Attributes:
        id: ObjectId of its document; empty for one that is not stored.
        state: As stored, like *origin*: other releases may know others.
        created_at: When it was recorded; None when nobody knows.
    """

    id: str
    server_id: str
    version: int
    state: str
    origin: str
    transport: TransportConfig
    created_at: datetime | None
    created_by: Mapping[str, str] | None = None
    restored_from: int | None = None


class VersionTakenError(Exception):
    """Another write made a version of that number first."""


@translates_driver_errors
class ServerVersionRepository:
    """Versions of how servers are reached.

    Args:
        kept: How many of each server are kept.
    """

    def __init__(self, database: Database, cipher: Cipher, *, kept: int) -> None:
        self._versions = database.collection(ServerVersion.Settings.name)
        self._cipher = cipher
        self._vault = CredentialVault(cipher)
        self._kept = kept

    def taken(self, server_id: str, config: JsonObject) -> TransportConfig:
        """Return how a server with a stored *config* is reached."""
        return taken(config, lambda stored, field: self._vault.decrypt(stored, server_id, field))

    async def record(
        self,
        server_id: str,
        before: JsonObject | None,
        after: JsonObject,
        occasion: VersionCause,
        tx: Transaction,
    ) -> int | None:
        """Make a version of *after*, and one of *before* if there is none of it yet.

        What means the same as *before* makes none.

        Args:
            server_id: Which server.
            before: The stored `config` that is replaced; None for a new server.
            after: The one that replaces it.
            occasion: When, by whom and why.
            tx: The transaction of the change.

        Returns:
            The number of the new version, if there is one.

        Raises:
            VersionTakenError: Somebody else made it first; the change is outdated.
        """
        active, newest = await self._latest(server_id, tx)
        made: list[tuple[TransportConfig, VersionCause]] = []
        earlier = None if before is None else self.taken(server_id, before)
        if earlier is not None and not (active and active.transport.means_the_same(earlier)):
            found = VersionCause(occasion.now, None, ServerVersionOrigin.FOUND)
            made.append((earlier, found))
        later = self.taken(server_id, after)
        if earlier is None or not earlier.means_the_same(later):
            made.append((later, occasion))
        await self._insert(server_id, newest, made, tx)
        is_new = bool(made) and made[-1][1] is occasion
        return newest + len(made) if is_new else None

    async def page(self, server_id: str, page: PageRequest) -> Page[ServerVersionRecord]:
        """Return one page of a server's versions, newest first."""
        query: Doc = {"server_id": ObjectId(server_id)}
        total = await self._versions.count_documents(query)
        rows = self._versions.find(
            query, sort=NEWEST_FIRST, skip=page.offset, limit=-page.per_page
        )
        found = [self._record(row) async for row in rows]
        return Page(tuple(one for one in found if one is not None), total, page)

    async def get(self, server_id: str, version: int) -> ServerVersionRecord | None:
        """Return one version."""
        query: Doc = {"server_id": ObjectId(server_id), "version": version}
        row = await self._versions.find_one(query)
        return None if row is None else self._record(row)

    async def active(self, server_id: str) -> ServerVersionRecord | None:
        """Return the version that is in use, as far as changes were made here."""
        query: Doc = {
            "server_id": ObjectId(server_id),
            "state": ServerVersionState.ACTIVE.value,
        }
        row = await self._versions.find_one(query)
        return None if row is None else self._record(row)

    async def server_ids(self) -> set[str]:
        """Return the ids of all servers that have versions."""
        rows = self._versions.find(
            {"state": ServerVersionState.ACTIVE.value}, {"_id": 0, "server_id": 1}
        )
        return {one async for row in rows if (one := id_of(row.get("server_id"))) is not None}

    async def delete_of(self, server_id: str, tx: Transaction) -> int:
        """Remove all versions of one server; return how many there were."""
        query = {"server_id": ObjectId(server_id)}
        return (await self._versions.delete_many(query, session=tx)).deleted_count

    async def _latest(
        self, server_id: str, tx: Transaction
    ) -> tuple[ServerVersionRecord | None, int]:
        """Return the active version and the number of the newest; 0 when there is none."""
        query: Doc = {"server_id": ObjectId(server_id)}
        numbered = {**query, "version": {"$gte": 1}}
        newest = await self._versions.find_one(numbered, sort=NEWEST_FIRST, session=tx)
        if newest is None:
            return None, 0
        active: Doc | None = newest
        if newest.get("state") != ServerVersionState.ACTIVE.value:
            query["state"] = ServerVersionState.ACTIVE.value
            active = await self._versions.find_one(query, session=tx)
        return None if active is None else self._record(active), whole_of(newest["version"]) or 0

    async def _insert(
        self,
        server_id: str,
        newest: int,
        made: list[tuple[TransportConfig, VersionCause]],
        tx: Transaction,
    ) -> None:
        if not made:
            return
        server = ObjectId(server_id)
        last = newest + len(made)
        if newest:
            await self._versions.update_many(
                {"server_id": server, "state": ServerVersionState.ACTIVE.value},
                {"$set": {"state": ServerVersionState.FORMER.value}},
                session=tx,
            )
        rows = [
            self._row(server, number, transport, occasion, is_active=number == last)
            for number, (transport, occasion) in enumerate(made, newest + 1)
        ]
        try:
            for row in rows:
                await self._versions.insert_one(row, session=tx)
        except DuplicateKeyError as exc:
            raise VersionTakenError from exc
        if last > self._kept:
            await self._versions.delete_many(
                {
                    "server_id": server,
                    "version": {"$lte": last - self._kept},
                    "state": ServerVersionState.FORMER.value,
                },
                session=tx,
            )

    def _row(
        self,
        server: ObjectId,
        number: int,
        transport: TransportConfig,
        occasion: VersionCause,
        *,
        is_active: bool,
    ) -> Doc:
        key = ObjectId()
        state = ServerVersionState.ACTIVE if is_active else ServerVersionState.FORMER
        fields: Doc = {
            "_id": key,
            "server_id": server,
            "version": number,
            "api_version": str(number),
            "api_type": "mcp",
            "state": state.value,
            "origin": occasion.origin.value,
            "transport_config": transport.plain,
            "fingerprint": transport.fingerprint,
            "secret_paths": [list(path) for path in transport.secrets],
            SEALED: self._sealed(key, transport),
            "restored_from": occasion.restored_from,
            "created_at": occasion.now,
            "created_by": None if occasion.person is None else occasion.person._asdict(),
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _sealed(self, key: ObjectId, transport: TransportConfig) -> str | None:
        if not transport.secrets:
            return None
        # In the order of `secret_paths`.
        text = json.dumps(list(transport.secrets.values()), default=str)
        return self._cipher.seal(text, _ref(key))

    def _record(self, row: dict[str, Any]) -> ServerVersionRecord | None:
        """Return a stored version; None for one that has no number to name it by."""
        version, server_id = whole_of(row.get("version")), id_of(row.get("server_id"))
        if version is None or server_id is None:
            log.warning("server_version_unreadable", document_id=str(row["_id"]))
            return None
        by = members(row.get("created_by"))
        return ServerVersionRecord(
            id=str(row["_id"]),
            server_id=server_id,
            version=version,
            state=text_of(row.get("state")) or "",
            origin=text_of(row.get("origin")) or "",
            transport=self._opened(row),
            created_at=moment_of(row.get("created_at")),
            created_by={name: said for name, value in by.items() if (said := text_of(value))}
            or None,
            restored_from=whole_of(row.get("restored_from")),
        )

    def _opened(self, row: dict[str, Any]) -> TransportConfig:
        plain = json_members(row.get("transport_config"))
        named = row.get("secret_paths")
        paths = [texts_of(path) for path in (named if isinstance(named, list) else ())]
        try:
            found = json.loads(self._cipher.unseal(str(row.get(SEALED)), _ref(row["_id"])))
            secrets = [Secret(value, is_encrypted is True) for value, is_encrypted in found]
            opened = dict(zip(paths, secrets, strict=True))
        except (DecryptionError, ValueError, TypeError):
            # What it says besides is of use all the same.
            opened = {path: Secret(None, is_encrypted=True) for path in paths}
        return with_secrets_apart(TransportConfig(plain, opened))


def _ref(key: ObjectId) -> FieldRef:
    return FieldRef(ServerVersion.Settings.name, str(key), SEALED)
