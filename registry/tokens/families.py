"""Repository of `token_families` and `revoked_tokens`. The only module that writes them."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import structlog
from bson import ObjectId

from packages.database.client import Database, Doc, Transaction
from packages.database.errors import translates_driver_errors
from packages.database.stored import LATEST, id_of, moment_of, text_of, texts_of, whole_of
from packages.models.sessions import RevokedToken, TokenFamily
from registry.auth.identity import Role, Tenants, tenant_of
from registry.auth.repository import of_tenants
from registry.auth.revocation import Revocation, RevocationKind
from registry.core.paging import PageRequest
from registry.tokens.values import IssuedFamily, IssuedIds

log = structlog.get_logger()

REMEMBERED_ACCESS_TOKENS = 50
"""Access tokens of a family by whose id it can be found; older ones are dropped."""

LIVE: Doc = {"revoked_at": {"$exists": False}}


@translates_driver_errors
class FamilyRepository:
    """Stores families of issued tokens."""

    def __init__(self, database: Database) -> None:
        self._families = database.collection(TokenFamily.Settings.name)

    async def get(self, family_id: str) -> IssuedFamily | None:
        """Return a family, revoked or not."""
        document = await self._families.find_one({"_id": family_id})
        return None if document is None else next(_readable([document]), None)

    async def find_by_token(self, token_id: str) -> IssuedFamily | None:
        """Return the family of a current refresh token, or of a recent access token."""
        # Two queries: with `$or`, compatible servers use no index.
        for name in ("refresh_token_id", "access_tokens.id"):
            document = await self._families.find_one({name: token_id})
            if document is not None:
                return next(_readable([document]), None)
        return None

    async def list_page(
        self, user_id: str | None, tenants: Tenants, now: datetime, page: PageRequest
    ) -> tuple[list[IssuedFamily], int]:
        """Return a page of one user's or all families, newest first, and the total.

        Families of other tenants are left out, and expired ones, which await the TTL sweep.
        """
        query: Doc = {"expires_at": {"$gt": now}, **of_tenants(tenants, "tenant_id")}
        if user_id is not None:
            query["user_id"] = ObjectId(user_id)
        total = await self._families.count_documents(query)
        cursor = self._families.find(query).sort([("created_at", -1), ("_id", -1)])
        rows = await cursor.skip(page.offset).limit(page.per_page).to_list()
        return list(_readable(rows)), total

    async def insert(self, family: IssuedFamily, ids: IssuedIds, tx: Transaction) -> None:
        """Insert a family."""
        document: Doc = {
            "_id": family.family_id,
            "user_id": ObjectId(family.user_id),
            "username": family.username,
            "role": family.role.value,
            "is_known_user": family.is_known_user,
            "scopes": list(map(str, family.scopes)),
            "hours": family.hours,
            "access_tokens": [{"id": ids.access_id, "expires_at": ids.access_expires_at}],
            "ancestors": list(family.ancestors),
            "created_at": family.created_at,
            "expires_at": family.expires_at,
        }
        if ids.refresh_id is not None:
            document["refresh_token_id"] = ids.refresh_id
        if family.description is not None:
            document["description"] = family.description
        if family.tenant_id is not None:
            document["tenant_id"] = family.tenant_id
        await self._families.insert_one(document, session=tx)

    async def exchange(
        self, family: IssuedFamily, ids: IssuedIds, now: datetime, tx: Transaction
    ) -> bool:
        """Replace the refresh token that *family* was read with by the next one.

        Returns:
            False if that one is no longer current, or the family is revoked.
        """
        alive = [entry for entry in family.access_tokens if entry[1] > now]
        kept = [*alive, (ids.access_id, ids.access_expires_at)][-REMEMBERED_ACCESS_TOKENS:]
        result = await self._families.update_one(
            {
                **LIVE,
                "_id": family.family_id,
                "refresh_token_id": family.refresh_token_id,
                "expires_at": {"$gt": now},
            },
            {
                "$set": {
                    "role": family.role.value,
                    "scopes": list(map(str, family.scopes)),
                    "refresh_token_id": ids.refresh_id,
                    "access_tokens": [
                        {"id": token_id, "expires_at": until} for token_id, until in kept
                    ],
                    "exchanged_at": now,
                }
            },
            session=tx,
        )
        return result.matched_count == 1

    async def revoke(self, family_id: str, now: datetime, tx: Transaction) -> bool:
        """Mark a family as revoked; return False if it already was."""
        result = await self._families.update_one(
            {**LIVE, "_id": family_id}, {"$set": {"revoked_at": now}}, session=tx
        )
        return result.matched_count == 1

    async def revoke_of_user(self, user_id: str, now: datetime, tx: Transaction) -> None:
        """Mark all families of a user as revoked."""
        await self._families.update_many(
            {**LIVE, "user_id": ObjectId(user_id)}, {"$set": {"revoked_at": now}}, session=tx
        )


@translates_driver_errors
class RevocationWriter:
    """Stores revocations. `registry.auth.repository` reads all of them."""

    def __init__(self, database: Database) -> None:
        self._revoked = database.collection(RevokedToken.Settings.name)

    async def write(self, revocation: Revocation, by: str, tx: Transaction) -> datetime | None:
        """Write a revocation; return the time of an earlier one of the same subject, or None.

        A user's revocation then covers tokens up to the later of the two times.

        Raises:
            DuplicateKeyError: Somebody else wrote it meanwhile; the transaction is over.
        """
        before = await self._revoked.find_one_and_update(
            {"_id": _key(revocation.kind, revocation.subject)},
            {
                "$max": {
                    "revoked_at": revocation.revoked_at,
                    "expires_at": revocation.expires_at,
                },
                "$setOnInsert": {
                    "kind": revocation.kind.value,
                    "subject": revocation.subject,
                    "revoked_by": ObjectId(by),
                },
            },
            upsert=True,
            session=tx,
        )
        return None if before is None else before["revoked_at"]

    async def revoked_at(self, kind: RevocationKind, subject: str) -> datetime | None:
        """Return when a subject was revoked, or None."""
        found = await self._revoked.find_one({"_id": _key(kind, subject)}, {"revoked_at": 1})
        return None if found is None else found["revoked_at"]

    async def is_revoked(self, family: IssuedFamily, tx: Transaction) -> bool:
        """Whether a family, one of its ancestors, or its user is revoked."""
        return bool(await self.revoked_ids([family], tx))

    async def revoked_ids(
        self, families: Sequence[IssuedFamily], tx: Transaction | None = None
    ) -> frozenset[str]:
        """Return the ids of those of *families* that are revoked; see `is_revoked`."""
        subjects = {family.family_id: _subjects(family) for family in families}
        keys = [key for named in subjects.values() for key in named]
        found = self._revoked.find({"_id": {"$in": keys}}, {"revoked_at": 1}, session=tx)
        revoked = {
            one["_id"]: moment_of(one.get("revoked_at")) or LATEST for one in await found.to_list()
        }
        return frozenset(
            family.family_id
            for family in families
            for key in subjects[family.family_id]
            if key in revoked
            # A user's revocation covers only tokens issued until then.
            if key != _key(RevocationKind.USER, family.user_id)
            or revoked[key] >= family.created_at
        )


def _key(kind: RevocationKind, subject: str) -> str:
    return f"{kind.value}:{subject}"


def _subjects(family: IssuedFamily) -> list[str]:
    """Return the keys of all revocations that would cover *family*."""
    either = (RevocationKind.TOKEN, RevocationKind.SESSION)
    return [
        _key(RevocationKind.USER, family.user_id),
        _key(RevocationKind.SESSION, family.family_id),
        *(_key(kind, ancestor) for ancestor in family.ancestors for kind in either),
    ]


def _readable(documents: Iterable[Doc]) -> Iterator[IssuedFamily]:
    """Yield families; malformed documents are left out."""
    for document in documents:
        family = _family(document)
        if family is None:
            log.warning("token_family_unreadable", document_id=str(document["_id"]))
        else:
            yield family


def _family(document: dict[str, Any]) -> IssuedFamily | None:
    family_id, user_id = text_of(document["_id"]), id_of(document.get("user_id"))
    created_at = moment_of(document.get("created_at"))
    expires_at = moment_of(document.get("expires_at"))
    ancestors, issued = document.get("ancestors"), document.get("access_tokens")
    tokens = tuple(
        (token_id, until)
        for item in (issued if isinstance(issued, list) else ())
        if isinstance(item, dict)
        and (token_id := text_of(item.get("id"))) is not None
        and (until := moment_of(item.get("expires_at"))) is not None
    )
    if family_id is None or user_id is None or created_at is None or expires_at is None:
        return None
    # Without the complete list of ancestors it is unknown whether it is revoked.
    if not tokens or not isinstance(ancestors, list) or len(texts_of(ancestors)) < len(ancestors):
        return None
    revoked_at = document.get("revoked_at")
    return IssuedFamily(
        family_id=family_id,
        user_id=user_id,
        username=text_of(document.get("username")) or "",
        role=Role.parse(text_of(document.get("role"))),
        is_known_user=document.get("is_known_user") is not False,
        scopes=texts_of(document.get("scopes")),
        hours=max(1, whole_of(document.get("hours")) or 1),
        description=text_of(document.get("description")),
        ancestors=texts_of(ancestors),
        created_at=created_at,
        expires_at=expires_at,
        refresh_token_id=text_of(document.get("refresh_token_id")),
        access_tokens=tokens,
        exchanged_at=moment_of(document.get("exchanged_at")),
        # Any other stored value must not make a revoked family valid.
        revoked_at=None if revoked_at is None else moment_of(revoked_at) or LATEST,
        tenant_id=tenant_of(document.get("tenant_id")),
    )
