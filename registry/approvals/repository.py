"""Repository of `approvals`. The only module that writes them.

Each step is one guarded update: it names the state that the request must still have, so that of
any number of people, processes and replicas one takes it. What hangs on the time is compared with
the database's clock.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from beanie import SortDirection
from bson import ObjectId
from pymongo import ASCENDING, ReturnDocument
from pymongo.errors import DuplicateKeyError

from packages.database.client import Database, Doc, Transaction
from packages.database.documents import as_stored, parsed, read_all, read_one
from packages.database.encryption import Cipher, FieldRef
from packages.database.errors import translates_driver_errors
from packages.database.server_time import ServerTime
from packages.models.approvals import ApprovalDocument
from packages.models.states import ApprovalState, Verdict
from registry.approvals.values import (
    LIVE,
    Approval,
    ApprovalFilter,
    Decision,
    Notice,
    RequestedCall,
    Requester,
)
from registry.core.clock import Clock

COLLECTION = "approvals"
ATTEMPTS = 5
"""How often a request is opened while others of the same call end."""

MAX_SWEPT = 200

WAITING = (ApprovalState.PENDING, ApprovalState.APPROVED)
"""States in which a request expires."""

PROJECTION: Doc = dict(Approval.Settings.projection)


@translates_driver_errors
class ApprovalRepository:
    """Stores requests for approval.

    Args:
        lifetime: How long a request may wait for people, and for its execution.
        retention: How long a request is kept after that.
        announces: Whether each change of state leaves a notice for the webhook; those of requests
            that were opened so leave one in any case.
    """

    def __init__(
        self,
        database: Database,
        cipher: Cipher,
        clock: Clock,
        *,
        lifetime: timedelta,
        retention: timedelta,
        announces: bool = False,
    ) -> None:
        self._documents = database.document(ApprovalDocument)
        # Beanie has no update that returns a projection.
        self._rows = self._documents.get_pymongo_collection()
        self._cipher = cipher
        self._time = ServerTime(database, now=clock.now, monotonic=clock.monotonic)
        self._lifetime = lifetime
        self._retention = retention
        self._announces = announces

    async def now(self) -> datetime:
        """Return the database's time, which requests expire by."""
        return await self._time.now()

    async def open(self, call: RequestedCall, requester: Requester) -> tuple[Approval, bool]:
        """Return the live request for a call, and whether it is a new one."""
        binding = call.binding(requester.user_id)
        for _ in range(ATTEMPTS):
            found = await self.find_live(binding)
            if found is not None:
                return found, False
            document = await self._new(call, requester, binding)
            try:
                await document.insert()
            except DuplicateKeyError:
                await self._end_expired(binding)
                continue
            stored = parsed(Approval, as_stored(document), COLLECTION)
            assert stored is not None  # noqa: S101 - it was just made
            return stored, True
        raise DuplicateKeyError("The request for approval is being changed by others.")

    async def find_live(self, binding: str) -> Approval | None:
        """Return the request with that binding that goes on, or whose end is to be reported."""
        now = await self._time.now()
        found = await read_one(
            self._documents.find({"live_binding": binding}, projection_model=Approval)
        )
        if found is None or found.state_at(now) is ApprovalState.EXPIRED:
            return None
        return found

    async def get(self, approval_id: str) -> Approval | None:
        """Return a request; None if there is none, or it cannot be read."""
        if not ObjectId.is_valid(approval_id):
            return None
        return await read_one(
            self._documents.find({"_id": ObjectId(approval_id)}, projection_model=Approval)
        )

    async def page(
        self, wanted: ApprovalFilter, before: tuple[datetime, str] | None, limit: int
    ) -> list[Approval]:
        """Return up to *limit* requests, newest first, older than the position *before*."""
        query: Doc = {}
        alternatives: list[list[Doc]] = []
        if wanted.state is not None:
            # What expired may not be written so yet.
            now = await self._time.now()
            query["state"] = wanted.state.value
            if wanted.state in WAITING:
                query["expires_at"] = {"$gt": now}
            elif wanted.state is ApprovalState.EXPIRED:
                waiting: Doc = {"$in": [one.value for one in WAITING]}
                overdue: Doc = {"state": waiting, "expires_at": {"$lte": now}}
                alternatives.append([{"state": query.pop("state")}, overdue])
        if wanted.requester_id is not None:
            query["requester.user_id"] = wanted.requester_id
        if wanted.server_ids is not None:
            query["server_id"] = {"$in": [ObjectId(one) for one in wanted.server_ids]}
        if wanted.tool is not None:
            query["tool"] = wanted.tool
        if wanted.tenant_id is not None:
            query["tenant_id"] = wanted.tenant_id
        if before is not None:
            created_at, last = before
            same: Doc = {"created_at": created_at, "_id": {"$lt": ObjectId(last)}}
            alternatives.append([{"created_at": {"$lt": created_at}}, same])
        if alternatives:
            query["$and"] = [{"$or": either} for either in alternatives]
        found = self._documents.find(
            query,
            projection_model=Approval,
            sort=[("created_at", SortDirection.DESCENDING), ("_id", SortDirection.DESCENDING)],
            limit=limit,
        )
        return await read_all(found)

    async def some(self, ids: Sequence[str]) -> list[Approval]:
        """Return the existing requests among these ids."""
        query = {"_id": {"$in": [ObjectId(one) for one in ids]}}
        return await read_all(self._documents.find(query, projection_model=Approval))

    async def in_state(self, state: ApprovalState, limit: int = MAX_SWEPT) -> list[Approval]:
        """Return requests in a state, the oldest first."""
        query = self._documents.find(
            {"state": state.value},
            projection_model=Approval,
            sort=[("created_at", SortDirection.ASCENDING)],
        )
        return await read_all(query.limit(limit))

    async def decide(self, approval: Approval, decision: Decision) -> Approval | None:
        """Add a decision to a pending request; enough approvals approve it, one denial denies it.

        Returns:
            None if it changed since it was read, or has expired; then nothing changed.
        """
        changes: Doc = {"revision": approval.revision + 1}
        gone: Doc = {}
        if decision.verdict is Verdict.DENY:
            changes["state"] = ApprovalState.DENIED.value
            if decision.comment:
                changes["reason"] = decision.comment
        elif approval.approvals + 1 >= approval.needed:
            changes["state"] = ApprovalState.APPROVED.value
        return await self._update(
            approval.id,
            ApprovalState.PENDING,
            changes,
            gone,
            where={
                "revision": approval.revision,
                "decisions.user_id": {"$ne": decision.user_id},
                "expires_at": {"$gt": await self._time.now()},
            },
            pushed={"decisions": _stored_decision(decision)},
        )

    async def withdraw(self, approval: Approval, kept: Sequence[Decision]) -> Approval | None:
        """Keep only some decisions of a request that was not executed; it is pending again."""
        changes: Doc = {
            "state": ApprovalState.PENDING.value,
            "decisions": [_stored_decision(one) for one in kept],
            "revision": approval.revision + 1,
        }
        return await self._update(
            approval.id, approval.state, changes, where={"revision": approval.revision}
        )

    async def end(
        self,
        approval: Approval,
        state: ApprovalState,
        reason: str | None = None,
        *,
        tx: Transaction | None = None,
    ) -> Approval | None:
        """End a request that is not being executed: cancelled, void or expired.

        Returns:
            None if it is in another state by now; then nothing changed.
        """
        changes: Doc = {"state": state.value}
        if reason is not None:
            changes["reason"] = reason
        return await self._update(
            approval.id, approval.state, changes, {"live_binding": ""}, tx=tx
        )

    async def claim(self, approval_id: str, worker: str) -> Approval | None:
        """Begin the execution of an approved request.

        Returns:
            None if it is not approved any more, or has expired: nothing may be sent then.
        """
        now = await self._time.now()
        changes: Doc = {
            "state": ApprovalState.EXECUTING.value,
            "worker": worker,
            "started_at": now,
            "alive_at": now,
        }
        return await self._update(
            approval_id,
            ApprovalState.APPROVED,
            changes,
            {"ended_at": "", "reason": ""},
            where={"expires_at": {"$gt": now}},
            leaves_notice=False,
        )

    async def release(
        self, approval_id: str, worker: str, reason: str | None = None
    ) -> Approval | None:
        """Take a claim back of which nothing was sent: the request is approved again.

        Args:
            approval_id: The request.
            worker: Whose claim it is.
            reason: Why nothing could be sent. The execution is put off until `try_again`; without
                one, any process may claim it at once.
        """
        changes: Doc = {"state": ApprovalState.APPROVED.value}
        gone: Doc = {"started_at": "", "alive_at": ""}
        if reason is None:
            gone["worker"] = ""
        else:
            changes |= {"reason": reason, "ended_at": await self._time.now()}
        return await self._update(
            approval_id,
            ApprovalState.EXECUTING,
            changes,
            gone,
            where={"worker": worker},
            leaves_notice=False,
        )

    async def try_again(self, approval_id: str) -> Approval | None:
        """Let an approved request be executed whose execution was put off."""
        return await self._update(
            approval_id,
            ApprovalState.APPROVED,
            {},
            {"ended_at": "", "reason": "", "worker": ""},
            where={"ended_at": {"$exists": True}},
        )

    async def due(self, ids: Iterable[str] | None) -> list[Approval]:
        """Return requests that are to be executed, the oldest first.

        Args:
            ids: Only those among these; None for all.
        """
        query: Doc = {
            "state": ApprovalState.APPROVED.value,
            "ended_at": {"$exists": False},
            "expires_at": {"$gt": await self._time.now()},
        }
        if ids is not None:
            query["_id"] = {"$in": [ObjectId(one) for one in ids if ObjectId.is_valid(one)]}
        return await self._oldest(query)

    async def expired(self) -> list[Approval]:
        """Return requests that were not executed in time and are not ended, the oldest first."""
        query = {
            "state": {"$in": [one.value for one in WAITING]},
            "expires_at": {"$lte": await self._time.now()},
        }
        return await self._oldest(query)

    async def abandoned(self, silence: timedelta) -> list[Approval]:
        """Return executions whose process was not known to run for that long, the oldest first."""
        query = {
            "state": ApprovalState.EXECUTING.value,
            "alive_at": {"$lt": await self._time.now() - silence},
        }
        return await self._oldest(query)

    async def keep_alive(self, worker: str, ids: Iterable[str]) -> None:
        """Note that a process is still at work on what it has claimed of these requests."""
        await self._rows.update_many(
            {
                "_id": {"$in": [ObjectId(one) for one in ids]},
                "state": ApprovalState.EXECUTING.value,
                "worker": worker,
            },
            {"$set": {"alive_at": await self._time.now()}},
        )

    async def store_result(
        self, approval_id: str, worker: str, result: str, *, is_error: bool
    ) -> Approval | None:
        """Store the answer to an executed call, sealed.

        Also one that comes after the request was declared `unknown`, until that was reported.

        Returns:
            None if the claim is gone, or the end was reported.
        """
        changes: Doc = {
            "state": ApprovalState.EXECUTED.value,
            "result": self._cipher.seal(result, _result_of(approval_id)),
            "is_error": is_error,
            "ended_at": await self._time.now(),
        }
        return await self._update(
            approval_id,
            (ApprovalState.EXECUTING, ApprovalState.UNKNOWN),
            changes,
            {"reason": "", "alive_at": ""},
            where={"worker": worker, "fetched_at": {"$exists": False}},
        )

    async def mark_unknown(self, approval_id: str, worker: str, reason: str) -> Approval | None:
        """Declare that nobody knows whether a claimed call was made. It is never sent again."""
        changes: Doc = {
            "state": ApprovalState.UNKNOWN.value,
            "reason": reason,
            "ended_at": await self._time.now(),
        }
        return await self._update(
            approval_id,
            ApprovalState.EXECUTING,
            changes,
            {"alive_at": ""},
            where={"worker": worker},
        )

    async def tell(self, approval_id: str, user_id: str) -> Approval | None:
        """Note that the requester was told the end of a request that has no result.

        The same call is another request from then on.
        """
        ends = (state for state in ApprovalState if state not in {*LIVE, ApprovalState.EXECUTED})
        return await self._update(
            approval_id,
            tuple(ends),
            {"fetched_at": await self._time.now()},
            {"live_binding": ""},
            where={"requester.user_id": user_id, "fetched_at": {"$exists": False}},
        )

    async def take_result(self, approval_id: str, user_id: str) -> str | None:
        """Hand the answer of an executed call over to its requester, once.

        Raises:
            DecryptionError: It cannot be read with the current keys.
        """
        row = await self._rows.find_one_and_update(
            {
                "_id": ObjectId(approval_id),
                "requester.user_id": user_id,
                "state": ApprovalState.EXECUTED.value,
                "fetched_at": {"$exists": False},
            },
            {
                "$set": {"fetched_at": await self._time.now()},
                "$unset": {"result": "", "live_binding": ""},
                "$inc": {"revision": 1},
            },
            projection={"result": 1},
        )
        sealed = None if row is None else row.get("result")
        if not isinstance(sealed, str):
            return None
        return self._cipher.unseal(sealed, _result_of(approval_id))

    async def due_notices(self) -> list[Notice]:
        """Return the first outstanding notice of each request that has one which is due."""
        query = {"notice_at": {"$lte": await self._time.now()}}
        rows = self._rows.find(query, {**PROJECTION, "notices": 1, "notice_at": 1})
        found: list[Notice] = []
        for row in await rows.sort("notice_at", ASCENDING).to_list(MAX_SWEPT):
            unreadable = {"_id": row["_id"], "notice_at": row["notice_at"]}
            notice = _parsed_notice(row)
            if notice is not None:
                found.append(notice)
            else:
                # Nothing is outstanding, or another program wrote it.
                await self._rows.update_one(unreadable, {"$unset": {"notice_at": ""}})
        return found

    async def claim_notice(self, notice: Notice, again_after: timedelta) -> bool:
        """Put a notice off before it is sent; False if another process has done so."""
        now = await self._time.now()
        changed = await self._rows.update_one(
            {
                "_id": ObjectId(notice.approval.id),
                "notice_at": notice.due_at,
                "notices.0.id": ObjectId(notice.id),
            },
            {"$set": {"notice_at": now + again_after}, "$inc": {"notices.0.attempts": 1}},
        )
        return changed.modified_count == 1

    async def end_notice(self, notice: Notice) -> None:
        """Remove a notice that was delivered or given up; the next one is due."""
        key = ObjectId(notice.approval.id)
        await self._rows.update_one(
            {"_id": key, "notices.0.id": ObjectId(notice.id)},
            {"$pop": {"notices": -1}, "$set": {"notice_at": await self._time.now()}},
        )
        # The empty list stays: it says that the changes of the request are told.
        none_left = {"_id": key, "notices": {"$size": 0}}
        await self._rows.update_one(none_left, {"$unset": {"notice_at": ""}})

    def arguments_of(self, approval: Approval) -> str:
        """Return the JSON text of the arguments.

        Raises:
            DecryptionError: It cannot be read with the current keys.
        """
        return self._cipher.unseal(approval.arguments, _arguments_of(approval.id))

    async def _oldest(self, query: Doc) -> list[Approval]:
        oldest = [("created_at", SortDirection.ASCENDING)]
        found = self._documents.find(query, projection_model=Approval, sort=oldest)
        return await read_all(found.limit(MAX_SWEPT))

    async def _new(
        self, call: RequestedCall, requester: Requester, binding: str
    ) -> ApprovalDocument:
        now = await self._time.now()
        # As exact as it is stored, so that what is returned is what will be read.
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        approval_id = ObjectId()
        expires_at = now + self._lifetime
        document: ApprovalDocument = self._documents.model_validate(
            {
                "_id": approval_id,
                "state": ApprovalState.PENDING,
                "binding": binding,
                "live_binding": binding,
                "tenant_id": call.tenant_id,
                "requester": _stored_requester(requester),
                "server_id": ObjectId(call.server_id),
                "server_name": call.server_name,
                "tool": call.tool,
                "called_as": call.called_as,
                "path": call.path,
                "toolset": call.toolset,
                "client_name": call.client_name,
                "definition_hash": call.definition_hash,
                "arguments": self._cipher.seal(
                    call.arguments_text, _arguments_of(str(approval_id))
                ),
                "arguments_digest": call.arguments_digest,
                "policy_version": call.policy_version,
                "needed": call.needed,
                "decisions": [],
                "revision": 0,
                "created_at": now,
                "updated_at": now,
                "expires_at": expires_at,
                "delete_at": expires_at + self._retention,
                **self._first_notice(now),
            }
        )
        return document

    def _first_notice(self, now: datetime) -> Doc:
        if not self._announces:
            return {}
        return {"notices": [_notice(ApprovalState.PENDING, now)], "notice_at": now}

    async def _end_expired(self, binding: str) -> None:
        now = await self._time.now()
        changes: Doc = {"state": ApprovalState.EXPIRED.value}
        update: Doc = {"$set": changes, "$unset": {"live_binding": ""}}
        if self._announces:
            changes["notice_at"] = now
            update["$push"] = {"notices": _notice(ApprovalState.EXPIRED, now)}
        await self._rows.update_one(
            {
                "live_binding": binding,
                "state": {"$in": [one.value for one in WAITING]},
                "expires_at": {"$lte": now},
            },
            update,
        )

    async def _update(
        self,
        approval_id: str,
        state: ApprovalState | tuple[ApprovalState, ...],
        changes: Doc,
        gone: Doc | None = None,
        *,
        where: Doc | None = None,
        pushed: Doc | None = None,
        leaves_notice: bool = True,
        tx: Transaction | None = None,
    ) -> Approval | None:
        """Change a request that is in *state*, and return it."""
        now = await self._time.now()
        update: Doc = {"$set": {**changes, "updated_at": now}}
        if gone:
            update["$unset"] = gone
        if pushed:
            update["$push"] = pushed
        if "revision" not in changes:
            update["$inc"] = {"revision": 1}
        states = state if isinstance(state, tuple) else (state,)
        query: Doc = {
            "_id": ObjectId(approval_id),
            "state": {"$in": [one.value for one in states]},
            **(where or {}),
        }
        if not leaves_notice or "state" not in changes:
            return await self._updated(query, update, tx)
        telling: Doc = {
            **update,
            "$set": {**update["$set"], "notice_at": now},
            "$push": {**(pushed or {}), "notices": _notice(changes["state"], now)},
        }
        if self._announces:
            return await self._updated(query, telling, tx)
        # A process without the webhook's settings, such as a command, changes what others tell of.
        found = await self._updated({**query, "notices": {"$exists": False}}, update, tx)
        if found is None:
            found = await self._updated({**query, "notices": {"$exists": True}}, telling, tx)
        return found

    async def _updated(self, query: Doc, update: Doc, tx: Transaction | None) -> Approval | None:
        row: Any = await self._rows.find_one_and_update(
            query,
            update,
            projection=PROJECTION,
            return_document=ReturnDocument.AFTER,
            session=tx,
        )
        return None if row is None else parsed(Approval, row, COLLECTION)


def _arguments_of(approval_id: str) -> FieldRef:
    return FieldRef(COLLECTION, approval_id, "arguments")


def _result_of(approval_id: str) -> FieldRef:
    return FieldRef(COLLECTION, approval_id, "result")


def _notice(state: str, at: datetime) -> Doc:
    return {"id": ObjectId(), "state": str(state), "at": at, "attempts": 0}


def _parsed_notice(row: Doc) -> Notice | None:
    notices, due_at = row.pop("notices", None), row.pop("notice_at")
    approval = parsed(Approval, row, COLLECTION)
    if approval is None:
        return None
    try:
        first = notices[0]
        return Notice(
            approval=approval,
            id=first["id"],
            state=first["state"],
            at=first["at"],
            attempts=first["attempts"],
            due_at=due_at,
        )
    except (ValueError, TypeError, LookupError):
        return None


def _stored_requester(requester: Requester) -> Doc:
    stored: Doc = {
        "user_id": requester.user_id,
        "username": requester.username,
        "role": requester.role.value,
        "scopes": list(requester.scopes),
    }
    for name in ("token_id", "session_id", "toolset"):
        if (value := getattr(requester, name)) is not None:
            stored[name] = value
    if requester.ancestors:
        stored["ancestors"] = list(requester.ancestors)
    if requester.is_service_account:
        stored["is_service_account"] = True
    return stored


def _stored_decision(decision: Decision) -> Doc:
    stored: Doc = {
        "user_id": decision.user_id,
        "username": decision.username,
        "verdict": decision.verdict.value,
        "at": decision.at,
    }
    if decision.comment:
        stored["comment"] = decision.comment
    if decision.is_service_account:
        stored["is_service_account"] = True
    return stored
