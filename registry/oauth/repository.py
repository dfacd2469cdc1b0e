"""Repositories of `oauth_flows` and `oauth_clients`. The only module that writes them."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import deleted, matched, parsed, read_all, read_one
from packages.database.encryption import Cipher, DecryptionError, FieldRef
from packages.database.errors import DatabaseUnavailable, translates_driver_errors
from packages.database.stored import text_of
from packages.models.oauth import OAuthClientDocument, OAuthFlowDocument
from packages.models.states import FlowStatus
from registry.core.clock import Clock
from registry.oauth.values import OAuthFlow, StoredClient
from registry.upstream.oauth.values import ClientAuthentication, ClientKind, OAuthClientIdentity

FLOWS, CLIENTS = "oauth_flows", "oauth_clients"
OPEN = (FlowStatus.PENDING, FlowStatus.EXCHANGING)
ATTEMPTS = 5
"""How often a client is stored while other processes store and remove it."""


@translates_driver_errors
class OAuthFlowRepository:
    """Stores flows. A status is changed only if the flow still has the former one."""

    def __init__(self, database: Database, cipher: Cipher) -> None:
        self._flows = database.document(OAuthFlowDocument)
        self._cipher = cipher

    async def insert(self, flow: OAuthFlow) -> None:
        """Insert a flow."""
        await self._flows.model_validate(self._stored(flow)).insert()

    async def find(self, flow_id: str) -> OAuthFlow | None:
        """Return a flow, its verifier sealed; None if there is none, or it cannot be read."""
        return await read_one(self._flows.find({"_id": flow_id}, projection_model=OAuthFlow))

    async def begin(self, flow: OAuthFlow) -> bool:
        """Store a flow with which a browser was sent away, in place of a pending one of its id.

        Returns:
            False if that is another user's, or no longer pending; then nothing changed.
        """
        document = self._stored(flow)
        same = {name: document[name] for name in ("_id", "user_id", "server_id")}
        query = self._flows.find_one({**same, "status": FlowStatus.PENDING.value})
        try:
            await query.update({"$set": document}, upsert=True)
        except DuplicateKeyError:
            return False
        return True

    async def claim(self, flow_id: str, nonce: str, now: datetime) -> OAuthFlow | None:
        """Begin the exchange of the code of a flow; return it with its verifier in clear.

        Returns:
            None if the flow is not pending any more, has expired, or was begun again with another
            nonce; then nothing changed.

        Raises:
            DecryptionError: The verifier cannot be read with the current keys.
        """
        row = await self._flows.get_pymongo_collection().find_one_and_update(
            {
                "_id": flow_id,
                "status": FlowStatus.PENDING.value,
                "nonce": nonce,
                "expires_at": {"$gt": now},
            },
            {"$set": {"status": FlowStatus.EXCHANGING.value, "updated_at": now}},
            projection=OAuthFlow.Settings.projection,
            return_document=ReturnDocument.AFTER,
        )
        flow = None if row is None else parsed(OAuthFlow, row, FLOWS)
        if flow is not None:
            sealed = flow.code_verifier or ""
            flow.code_verifier = self._cipher.unseal(sealed, _verifier_of(flow_id))
        return flow

    async def end(
        self,
        flow_id: str,
        status: FlowStatus,
        reason: str | None,
        now: datetime,
        *,
        was: Sequence[FlowStatus] = OPEN,
        tx: Transaction | None = None,
    ) -> bool:
        """End a flow; return False if its status is none of *was*."""
        changes: Doc = {"status": status.value, "updated_at": now}
        if reason is not None:
            changes["reason"] = reason
        flow = self._flows.find_one(
            {"_id": flow_id, "status": {"$in": [one.value for one in was]}}
        )
        update = {"$set": changes, "$unset": {"code_verifier": ""}}
        return await matched(flow.update(update, session=tx)) == 1

    async def cancel_exchanges(self, user_id: str, server_id: str, now: datetime) -> int:
        """Cancel the flows of a user at a server whose codes are being exchanged; return how many.

        What such an exchange obtains can no longer be stored.
        """
        query: Doc = {
            "user_id": ObjectId(user_id),
            "server_id": server_id,
            "status": FlowStatus.EXCHANGING.value,
        }
        changes: Doc = {"status": FlowStatus.CANCELLED.value, "updated_at": now}
        update = {"$set": changes, "$unset": {"code_verifier": ""}}
        return await matched(self._flows.find(query).update(update))

    async def latest_of(
        self, user_id: str, server_ids: Collection[str], now: datetime
    ) -> Mapping[str, OAuthFlow]:
        """Return the latest flow of a user at each of some servers, where there is one."""
        query: Doc = {"user_id": ObjectId(user_id), "expires_at": {"$gt": now}}
        found = await read_all(self._flows.find(query, projection_model=OAuthFlow))
        wanted = frozenset(server_ids)
        ordered = sorted(found, key=lambda flow: flow.created_at)
        return {flow.server_id: flow for flow in ordered if flow.server_id in wanted}

    async def was_left(
        self, user_id: str, server_id: str, client_id: str, since: datetime
    ) -> bool:
        """Whether a browser was sent away with *client_id* before *since* and never came back."""
        query: Doc = {
            "user_id": ObjectId(user_id),
            "server_id": server_id,
            "client_id": client_id,
            "status": FlowStatus.PENDING.value,
            "updated_at": {"$lt": since},
        }
        return await self._flows.find(query).count() > 0

    async def has_of_client(self, client_id: str, now: datetime) -> bool:
        """Whether a browser may still come back with a response for a client."""
        query: Doc = {
            "client_id": client_id,
            "status": {"$in": [one.value for one in OPEN]},
            "expires_at": {"$gt": now},
        }
        return await self._flows.find(query).limit(1).count() > 0

    async def may_exchange(self, client_id: str, since: datetime) -> bool:
        """Whether a code may be being exchanged for a client in a flow that changed since then.

        Also in one that was cancelled meanwhile: what it obtains is still to be revoked.
        """
        states = (FlowStatus.EXCHANGING, FlowStatus.CANCELLED)
        query: Doc = {
            "client_id": client_id,
            "status": {"$in": [one.value for one in states]},
            "updated_at": {"$gt": since},
        }
        return await self._flows.find(query).limit(1).count() > 0

    async def delete_of(self, server_id: str, now: datetime, tx: Transaction) -> None:
        """Remove all flows at a server; those whose codes are being exchanged are cancelled."""
        exchanging = FlowStatus.EXCHANGING.value
        others: Doc = {"server_id": server_id, "status": {"$ne": exchanging}}
        await self._flows.find(others).delete(session=tx)
        await self.cancel_exchanges_of(server_id, now, tx)

    async def cancel_exchanges_of(self, server_id: str, now: datetime, tx: Transaction) -> None:
        """Cancel all flows at a server whose codes are being exchanged.

        What such an exchange obtains can no longer be stored.
        """
        changes: Doc = {"status": FlowStatus.CANCELLED.value, "updated_at": now}
        update = {"$set": changes, "$unset": {"code_verifier": ""}}
        query: Doc = {"server_id": server_id, "status": FlowStatus.EXCHANGING.value}
        await matched(self._flows.find(query).update(update, session=tx))

    def _stored(self, flow: OAuthFlow) -> dict[str, Any]:
        document = flow.model_dump(by_alias=True, exclude_none=True)
        document["user_id"] = ObjectId(flow.user_id)
        document["status"] = flow.status.value
        if flow.code_verifier is not None:
            sealed = self._cipher.seal(flow.code_verifier, _verifier_of(flow.id))
            document["code_verifier"] = sealed
        return document


@translates_driver_errors
class OAuthClientRepository:
    """Stores clients that authorization servers registered, one for all users of a tenant."""

    def __init__(self, database: Database, cipher: Cipher, clock: Clock) -> None:
        self._clients = database.document(OAuthClientDocument)
        self._cipher = cipher
        self._clock = clock

    async def find(
        self, issuer: str, redirect_uri: str, tenant_id: str | None
    ) -> OAuthClientIdentity | None:
        """Return the registered client; None if there is none that can be used."""
        key = _client_key(issuer, redirect_uri, tenant_id)
        row = await self._clients.get_pymongo_collection().find_one({"_id": key}, {"client": 1})
        return None if row is None else self._usable(key, row)

    async def store(
        self, issuer: str, redirect_uri: str, tenant_id: str | None, client: OAuthClientIdentity
    ) -> OAuthClientIdentity:
        """Store a new client; return the one that is stored: another process may have been first.

        Raises:
            DatabaseUnavailable: It cannot be stored.
        """
        key = _client_key(issuer, redirect_uri, tenant_id)
        sealed = self._cipher.seal(json.dumps(asdict(client)), FieldRef(CLIENTS, key, "client"))
        document: Doc = {
            "_id": key,
            "issuer": issuer,
            "redirect_uri": redirect_uri,
            "client": sealed,
            "created_at": self._clock.now(),
        }
        if tenant_id is not None:
            document["tenant_id"] = tenant_id
        if client.expires_at is not None:
            document["expires_at"] = datetime.fromtimestamp(client.expires_at, UTC)
        for _ in range(ATTEMPTS):
            try:
                await self._clients.model_validate(document).insert()
            except DuplicateKeyError:
                row = await self._clients.get_pymongo_collection().find_one(
                    {"_id": key}, {"client": 1}
                )
                stored = None if row is None else self._usable(key, row)
                if stored is not None:
                    return stored
                if row is not None:
                    await self._remove(row)
            else:
                return client
        raise DatabaseUnavailable

    async def remove(
        self, issuer: str, redirect_uri: str, tenant_id: str | None, client_id: str
    ) -> bool:
        """Remove a client, unless it was replaced; return whether nobody else has.

        It is one that its authorization server has lost, or that nothing uses.
        """
        key = _client_key(issuer, redirect_uri, tenant_id)
        row = await self._clients.get_pymongo_collection().find_one({"_id": key}, {"client": 1})
        if row is None:
            return False
        stored = self._usable(key, row)
        is_it = stored is None or stored.client_id == client_id
        return is_it and await self._remove(row)

    async def all(self) -> list[StoredClient]:
        """Return the registered clients that can be used."""
        fields = dict.fromkeys(("issuer", "redirect_uri", "tenant_id", "client"), 1)
        rows = self._clients.get_pymongo_collection().find({}, fields)
        found = [(row, self._usable(str(row["_id"]), row)) async for row in rows]
        return [
            StoredClient(
                str(row.get("issuer")),
                str(row.get("redirect_uri")),
                text_of(row.get("tenant_id")),
                client,
            )
            for row, client in found
            if client is not None
        ]

    async def _remove(self, row: Mapping[str, Any]) -> bool:
        found = self._clients.find_one({"_id": row["_id"], "client": row.get("client")})
        return await deleted(found.delete()) == 1

    def _usable(self, key: str, row: Mapping[str, Any]) -> OAuthClientIdentity | None:
        """Return a stored client; None if it cannot be read, or its registration has ended."""
        reference = FieldRef(CLIENTS, key, "client")
        try:
            client = _identity(self._cipher.unseal(str(row.get("client")), reference))
        except (DecryptionError, ValueError, TypeError):
            return None
        ends_at = client.expires_at
        is_over = ends_at is not None and ends_at <= self._clock.now().timestamp()
        return None if is_over else client


def _verifier_of(flow_id: str) -> FieldRef:
    return FieldRef(FLOWS, flow_id, "code_verifier")


def _client_key(issuer: str, redirect_uri: str, tenant_id: str | None) -> str:
    text = json.dumps([issuer, redirect_uri, tenant_id])
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(text: str) -> OAuthClientIdentity:
    client = OAuthClientIdentity(**json.loads(text))
    return replace(
        client,
        kind=ClientKind(client.kind),
        authentication=ClientAuthentication(client.authentication),
    )
