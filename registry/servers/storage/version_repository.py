"""Reads and writes `server_versions`. The only module that writes it.

Secrets of a version are sealed together, bound to its document: a version that somebody copied to
another server, or changed, opens no more.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from beanie import PydanticObjectId
from bson import ObjectId
from pydantic import Field, PlainValidator
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import read_all
from packages.database.encryption import Cipher, DecryptionError, FieldRef
from packages.database.errors import translates_driver_errors
from packages.database.stored import (
    DocumentId,
    Projection,
    RequiredWhole,
    StoredText,
    StoredTime,
    StoredWhole,
    TextOrEmpty,
    id_of,
    json_members,
    text_of,
    texts_of,
)
from packages.models.server_versions import ServerVersion
from packages.models.states import ServerVersionOrigin, ServerVersionState
from registry.core.json import JsonObject, members
from registry.core.paging import Page, PageRequest
from registry.servers.credentials import CredentialVault
from registry.servers.transport import Path, Secret, TransportConfig, taken, with_secrets_apart
from registry.tools.values import ToolEditor

SEALED = "sealed"
IS_ACTIVE: Doc = {"state": ServerVersionState.ACTIVE.value}


@dataclass(frozen=True, slots=True)
class VersionCause:
    """When, by whom and by what a version is made."""

    now: datetime
    person: ToolEditor | None
    origin: ServerVersionOrigin
    restored_from: int | None = None


def _transport(stored: object) -> TransportConfig:
    return stored if isinstance(stored, TransportConfig) else TransportConfig(json_members(stored))


def _paths(stored: object) -> tuple[Path, ...]:
    return tuple(texts_of(path) for path in stored) if isinstance(stored, list) else ()


def _author(stored: object) -> dict[str, str] | None:
    found = {name: text_of(value) for name, value in members(stored).items()}
    return {name: text for name, text in found.items() if text is not None} or None


class ServerVersionRecord(Projection):
    """A stored version.

    Attributes:
        id: ObjectId of its document; empty for one that is not stored.
        state: As stored, like *origin*: other releases may know others.
        transport: How the server is reached; the repository adds the secrets.
        created_at: When it was recorded; None when nobody knows.
    """

    id: Annotated[DocumentId, Field(alias="_id")] = ""
    version: RequiredWhole
    state: TextOrEmpty = ""
    origin: TextOrEmpty = ""
    transport: Annotated[
        TransportConfig, PlainValidator(_transport), Field(alias="transport_config")
    ] = TransportConfig({})
    secret_paths: Annotated[tuple[Path, ...], PlainValidator(_paths)] = ()
    sealed: StoredText = None
    created_at: StoredTime = None
    created_by: Annotated[dict[str, str] | None, PlainValidator(_author)] = None
    restored_from: StoredWhole = None


class VersionTakenError(Exception):
    """Another write made a version of that number first."""


@translates_driver_errors
class ServerVersionRepository:
    """Versions of how servers are reached.

    Args:
        kept: How many of each server are kept.
    """

    def __init__(self, database: Database, cipher: Cipher, *, kept: int) -> None:
        self._versions = database.document(ServerVersion)
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
        found = self._versions.find(of_server(server_id), projection_model=ServerVersionRecord)
        total = await found.count()
        rows = await read_all(found.sort("-version").skip(page.offset).limit(page.per_page))
        return Page(tuple(map(self._opened, rows)), total, page)

    async def get(self, server_id: str, version: int) -> ServerVersionRecord | None:
        """Return one version."""
        return await self._one({**of_server(server_id), "version": version})

    async def active(
        self, server_id: str, tx: Transaction | None = None
    ) -> ServerVersionRecord | None:
        """Return the version that is in use, as far as changes were made here."""
        return await self._one({**of_server(server_id), **IS_ACTIVE}, tx)

    async def server_ids(self) -> set[str]:
        """Return the ids of all servers that have versions."""
        rows = self._versions.get_pymongo_collection().find(IS_ACTIVE, {"_id": 0, "server_id": 1})
        return {one async for row in rows if (one := id_of(row.get("server_id"))) is not None}

    async def delete_of(self, server_id: str, tx: Transaction) -> int:
        """Remove all versions of one server; return how many there were."""
        result = await self._versions.find(of_server(server_id)).delete(session=tx)
        return 0 if result is None else result.deleted_count

    async def _one(self, query: Doc, tx: Transaction | None = None) -> ServerVersionRecord | None:
        """Return the newest of the versions that a query finds."""
        found = self._versions.find(query, projection_model=ServerVersionRecord, session=tx)
        rows = await read_all(found.sort("-version").limit(1))
        return self._opened(rows[0]) if rows else None

    async def _latest(
        self, server_id: str, tx: Transaction
    ) -> tuple[ServerVersionRecord | None, int]:
        """Return the active version and the number of the newest; 0 when there is none."""
        newest = await self._one({**of_server(server_id), "version": {"$gte": 1}}, tx)
        if newest is None:
            return None, 0
        is_active = newest.state == ServerVersionState.ACTIVE
        return newest if is_active else await self.active(server_id, tx), newest.version

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
            await self._versions.find({"server_id": server, **IS_ACTIVE}).update(
                {"$set": {"state": ServerVersionState.FORMER.value}}, session=tx
            )
        try:
            for number, (transport, occasion) in enumerate(made, newest + 1):
                version = self._version(
                    server, number, transport, occasion, is_active=number == last
                )
                await version.insert(session=tx)
        except DuplicateKeyError as exc:
            raise VersionTakenError from exc
        if last > self._kept:
            outdated = {
                "server_id": server,
                "version": {"$lte": last - self._kept},
                "state": ServerVersionState.FORMER.value,
            }
            await self._versions.find(outdated).delete(session=tx)

    def _version(
        self,
        server: ObjectId,
        number: int,
        transport: TransportConfig,
        occasion: VersionCause,
        *,
        is_active: bool,
    ) -> ServerVersion:
        key = PydanticObjectId()
        return self._versions(
            id=key,
            server_id=PydanticObjectId(server),
            version=number,
            api_version=str(number),
            api_type="mcp",
            state=ServerVersionState.ACTIVE if is_active else ServerVersionState.FORMER,
            origin=occasion.origin,
            transport_config=transport.plain,
            fingerprint=transport.fingerprint,
            secret_paths=[list(path) for path in transport.secrets],
            sealed=self._sealed(key, transport),
            restored_from=occasion.restored_from,
            created_at=occasion.now,
            created_by=None if occasion.person is None else occasion.person._asdict(),
        )

    def _sealed(self, key: ObjectId, transport: TransportConfig) -> str | None:
        if not transport.secrets:
            return None
        # In the order of `secret_paths`.
        text = json.dumps(list(transport.secrets.values()), default=str)
        return self._cipher.seal(text, _ref(key))

    def _opened(self, version: ServerVersionRecord) -> ServerVersionRecord:
        """Return a stored version with its secrets."""
        try:
            found = json.loads(self._cipher.unseal(str(version.sealed), _ref(version.id)))
            secrets = [Secret(value, is_encrypted is True) for value, is_encrypted in found]
            opened = dict(zip(version.secret_paths, secrets, strict=True))
        except (DecryptionError, ValueError, TypeError):
            # The rest of the version can be shown all the same.
            opened = {path: Secret(None, is_encrypted=True) for path in version.secret_paths}
        transport = with_secrets_apart(TransportConfig(version.transport.plain, opened))
        return version.model_copy(update={"transport": transport})


def of_server(server_id: str) -> Doc:
    """Return the query for the versions of a server."""
    return {"server_id": ObjectId(server_id)}


def _ref(key: object) -> FieldRef:
    return FieldRef(ServerVersion.Settings.name, str(key), SEALED)
