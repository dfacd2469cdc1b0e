"""Repository of `token_families` and `revoked_tokens`. The only module that writes them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from bson import ObjectId
from pydantic import Field, PlainValidator

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import matched, read_all, read_one
from packages.database.errors import translates_driver_errors
from packages.database.stored import LATEST, DocumentId, Projection, moment_of
from packages.models.sessions import RevocationKind, RevokedToken, TokenFamily
from registry.auth.identity import Tenants
from registry.auth.repository import of_tenants
from registry.auth.revocation import Revocation
from registry.core.paging import PageRequest
from registry.tokens.values import IssuedFamily

LIVE: Doc = {"revoked_at": {"$exists": False}}


class RevocationTime(Projection):
    """When a subject was revoked: without a readable time, all its tokens are refused."""

    key: Annotated[DocumentId, Field(alias="_id")]
    revoked_at: Annotated[datetime, PlainValidator(lambda stored: moment_of(stored) or LATEST)] = (
        LATEST
    )


@translates_driver_errors
class FamilyRepository:
    """Stores families of issued tokens."""

    def __init__(self, database: Database) -> None:
        self._families = database.document(TokenFamily)

    async def get(self, family_id: str) -> IssuedFamily | None:
        """Return a family, revoked or not; None if there is none, or it cannot be read."""
        return await self._one({"_id": family_id})

    async def find_by_token(self, token_id: str) -> IssuedFamily | None:
        """Return the family of a current refresh token, or of a recent access token."""
        # Two queries: with `$or`, compatible servers use no index.
        return await self._one({"refresh_token_id": token_id}) or await self._one(
            {"access_tokens.id": token_id}
        )

    async def list_page(
        self, user_id: str | None, tenants: Tenants, now: datetime, page: PageRequest
    ) -> tuple[list[IssuedFamily], int]:
        """Return a page of one user's or all families, newest first, and the total.

        Families of other tenants are left out, and expired ones, which await the TTL sweep.
        """
        query: Doc = {"expires_at": {"$gt": now}, **of_tenants(tenants, "tenant_id")}
        if user_id is not None:
            query["user_id"] = ObjectId(user_id)
        found = self._families.find(query, projection_model=IssuedFamily)
        total = await found.count()
        rows = found.sort("-created_at", "-_id").skip(page.offset).limit(page.per_page)
        return await read_all(rows), total

    async def insert(self, family: IssuedFamily, tx: Transaction) -> None:
        """Insert a family."""
        document = {
            **family.model_dump(by_alias=True),
            "role": family.role.value,
            "scopes": list(map(str, family.scopes)),
        }
        await self._families.model_validate(document).insert(session=tx)

    async def exchange(
        self, family: IssuedFamily, exchanged: IssuedFamily, now: datetime, tx: Transaction
    ) -> bool:
        """Replace the refresh token that *family* was read with by that of *exchanged*.

        Returns:
            False if that one is no longer current, or the family is revoked.
        """
        current = self._families.find_one(
            {
                **LIVE,
                "_id": family.family_id,
                "refresh_token_id": family.refresh_token_id,
                "expires_at": {"$gt": now},
            }
        )
        written = exchanged.model_dump(
            include={"refresh_token_id", "access_tokens", "exchanged_at"}
        )
        written |= {
            "role": exchanged.role.value,
            "scopes": list(map(str, exchanged.scopes)),
        }
        return await matched(current.update({"$set": written}, session=tx)) == 1

    async def revoke(self, family_id: str, now: datetime, tx: Transaction) -> bool:
        """Mark a family as revoked; return False if it already was."""
        family = self._families.find_one({**LIVE, "_id": family_id})
        return await matched(family.update({"$set": {"revoked_at": now}}, session=tx)) == 1

    async def revoke_of_user(self, user_id: str, now: datetime, tx: Transaction) -> None:
        """Mark all families of a user as revoked."""
        families = self._families.find({**LIVE, "user_id": ObjectId(user_id)})
        await families.update({"$set": {"revoked_at": now}}, session=tx)

    async def _one(self, query: Doc) -> IssuedFamily | None:
        return await read_one(self._families.find(query, projection_model=IssuedFamily))


@translates_driver_errors
class RevocationWriter:
    """Stores revocations. `registry.auth.repository` reads all of them."""

    def __init__(self, database: Database) -> None:
        self._revoked = database.document(RevokedToken)

    async def write(self, revocation: Revocation, by: str, tx: Transaction) -> datetime | None:
        """Write a revocation; return the time of an earlier one of the same subject, or None.

        A user's revocation then covers tokens up to the later of the two times.

        Raises:
            DuplicateKeyError: Another request wrote it at the same time; the transaction is over.
        """
        before = await self._revoked.get_pymongo_collection().find_one_and_update(
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
            projection=RevocationTime.Settings.projection,
            upsert=True,
            session=tx,
        )
        return None if before is None else RevocationTime.model_validate(before).revoked_at

    async def revoked_at(self, kind: RevocationKind, subject: str) -> datetime | None:
        """Return when a subject was revoked, or None."""
        found = await self._revoked.find_one(
            {"_id": _key(kind, subject)}, projection_model=RevocationTime
        )
        return None if found is None else found.revoked_at

    async def is_revoked(self, family: IssuedFamily, tx: Transaction) -> bool:
        """Whether a family, one of its ancestors, or its user is revoked."""
        return bool(await self.revoked_ids([family], tx))

    async def revoked_ids(
        self, families: Sequence[IssuedFamily], tx: Transaction | None = None
    ) -> frozenset[str]:
        """Return the ids of those of *families* that are revoked; see `is_revoked`."""
        subjects = {family.family_id: _subjects(family) for family in families}
        keys = [key for named in subjects.values() for key in named]
        found = self._revoked.find(
            {"_id": {"$in": keys}}, projection_model=RevocationTime, session=tx
        )
        revoked = {one.key: one.revoked_at for one in await found.to_list()}
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
