"""Sync service: requests, jobs and webhooks, with access checks."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from packages.database.client import Database, Transaction
from packages.database.encryption import Cipher, DecryptionError, FieldRef
from packages.models.states import Trigger
from registry.access.errors import AccessDeniedError
from registry.access.rbac import validate_owner
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.paging import Page, PageRequest
from registry.core.webhook_signatures import secret_text
from registry.servers.errors import ServerForbiddenError, ServerNotFoundError
from registry.servers.reconciliation.store import ServerRepositories
from registry.servers.values import ServerRecord, ServerStatus, SyncMode, collection_of
from registry.sync.errors import (
    JobNotFailedError,
    JobNotFoundError,
    NotSynchronisableError,
    WebhookOffError,
    WebhookRefusedError,
    WebhookUnreadableError,
)
from registry.sync.repository import JobRepository
from registry.sync.values import JobFilter, SyncJobRecord, SyncRequest, SyncRunRecord
from registry.sync.webhooks import (
    REMEMBERED,
    SECRET_BYTES,
    delivery,
    require_genuine,
)
from registry.tools.values import ToolEditor

log = structlog.get_logger()

DUMMY_SECRET = secret_text(bytes(SECRET_BYTES))
"""Verified against if there is no webhook, so that both refusals take equally long."""


class SyncService:
    """Jobs and webhooks, each on behalf of a caller.

    Args:
        wake: Wakes the sync worker of this process.
    """

    def __init__(
        self,
        database: Database,
        repositories: ServerRepositories,
        jobs: JobRepository,
        cipher: Cipher,
        wake: Callable[[], None],
        *,
        clock: Clock,
    ) -> None:
        self._database = database
        self._servers = repositories.servers
        self._visible = repositories.visible
        self._audit = repositories.audit
        self._jobs = jobs
        self._cipher = cipher
        self._wake = wake
        self._clock = clock

    async def sync(
        self, owner_id: str, user: UserContext, trigger: Trigger = Trigger.MANUAL
    ) -> tuple[SyncJobRecord, bool]:
        """Open a job for a server; return it, and whether it was already open.

        Raises:
            ServerNotFoundError: There is none that *user* may see.
            ServerForbiddenError: *user* sees it but may not change it.
            NotSynchronisableError: It is turned off.
        """
        server = await self._require_editable(owner_id, user)
        _require_on(server)
        asked = SyncRequest(trigger, ToolEditor(user.user_id, user.username))
        job, joined = await self._jobs.open(
            server.id, server.server_name, asked, self._clock.now()
        )
        self._wake()
        return job, joined

    async def page(
        self, user: UserContext, job_filter: JobFilter, page: PageRequest
    ) -> Page[SyncJobRecord]:
        """Return one page of the jobs of servers that *user* may see, newest first."""
        if not self._visible.sees_everything(user):
            seen = frozenset(self._visible.rights(user))
            wanted = job_filter.owner_ids
            job_filter = replace(job_filter, owner_ids=seen if wanted is None else wanted & seen)
        return await self._jobs.page(job_filter, page)

    async def get(
        self, job_id: str, user: UserContext
    ) -> tuple[SyncJobRecord, list[SyncRunRecord]]:
        """Return a job and its attempts, newest first.

        Raises:
            JobNotFoundError: There is none of a server that *user* may see.
        """
        job = await self._seen(job_id, user)
        return job, await self._jobs.runs(job_id)

    async def retry(self, job_id: str, user: UserContext) -> SyncJobRecord:
        """Retry a job that is dead or cancelled.

        Raises:
            JobNotFoundError: There is none of a server that *user* may see.
            ServerForbiddenError: *user* may not change its server.
            JobNotFailedError: It succeeded, or is still open.
            NotSynchronisableError: Its server is turned off, or was removed.
        """
        job = await self._seen(job_id, user)
        try:
            server = await self._require_editable(job.owner_id, user)
        except ServerNotFoundError:
            raise NotSynchronisableError("The server of this job was removed.") from None
        _require_on(server)
        asked = SyncRequest(Trigger.MANUAL, ToolEditor(user.user_id, user.username))
        opened = None
        if not job.state.is_open:
            opened = await self._jobs.retry(job, asked, self._clock.now())
        if opened is None:
            latest = await self._jobs.get(job_id)
            raise JobNotFailedError(latest or job)
        self._wake()
        return opened

    async def make_webhook(self, owner_id: str, user: UserContext) -> str:
        """Create the secret of a server's webhook, replacing a former one; return it once.

        Raises:
            ServerNotFoundError: There is none that *user* may see.
            ServerForbiddenError: *user* sees it but may not change it.
        """
        server = await self._require_editable(owner_id, user)
        secret = secret_text(secrets.token_bytes(SECRET_BYTES))
        sealed = self._cipher.seal(secret, _secret_ref(server))
        await self._set_secret(server, sealed, user)
        return secret

    async def remove_webhook(self, owner_id: str, user: UserContext) -> None:
        """Delete the secret, so that calls are refused; does nothing if there is none.

        Raises:
            ServerNotFoundError: There is none that *user* may see.
            ServerForbiddenError: *user* sees it but may not change it.
        """
        server = await self._require_editable(owner_id, user)
        if "webhook_secret" in server.registry:
            await self._set_secret(server, None, user)

    async def receive(
        self, owner_id: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[SyncJobRecord, bool]:
        """Receive a webhook call; return the job, and whether the call is a repetition.

        Raises:
            WebhookRefusedError: The signature is invalid, or there is no such webhook.
            WebhookUnreadableError: The stored secret cannot be decrypted.
            WebhookOffError: The server's `syncMode` is not `webhook`.
            NotSynchronisableError: The server is turned off.
        """
        call = delivery(headers, body)
        now = self._clock.now()
        server = await self._servers.get_unchecked(owner_id)
        sealed = None if server is None else server.registry.get("webhook_secret")
        if server is None or not isinstance(sealed, str):
            require_genuine(call, DUMMY_SECRET, now)
            raise WebhookRefusedError
        try:
            secret = self._cipher.unseal(sealed, _secret_ref(server))
        except DecryptionError:
            raise WebhookUnreadableError from None
        require_genuine(call, secret, now)
        if server.sync_mode is not SyncMode.WEBHOOK:
            raise WebhookOffError(server.sync_mode.value)
        _require_on(server)
        known = await self._jobs.delivered(server.id, call.message_id)
        if known is not None and (job := await self._jobs.get(known)) is not None:
            return job, True
        job, _ = await self._jobs.open(
            server.id, server.server_name, SyncRequest(Trigger.WEBHOOK), now
        )
        # Stored after the job: a call that is lost in between can be sent again.
        is_first = await self._jobs.note_delivery(
            server.id, call.message_id, job.id, now, REMEMBERED
        )
        self._wake()
        log.info("sync_webhook_received", server_id=server.id, job_id=job.id)
        return job, not is_first

    async def _set_secret(
        self, server: ServerRecord, sealed: str | None, user: UserContext
    ) -> None:
        async def write(tx: Transaction) -> None:
            before = await self._servers.set_webhook_secret(server.id, sealed, tx)
            if before is None:
                raise ServerNotFoundError
            event = AuditEvent(
                AuditAction.UPDATE,
                EntityType.SERVER,
                server.id,
                {
                    "before": {"webhook": "webhook_secret" in before.registry},
                    "after": {"webhook": sealed is not None},
                    "secrets": ["webhookSecret"],
                },
            )
            await self._audit.record(user, event, tx)

        await self._database.transaction(write)

    async def _seen(self, job_id: str, user: UserContext) -> SyncJobRecord:
        job = await self._jobs.get(job_id)
        if job is None:
            raise JobNotFoundError
        server = await self._visible.seen(job.owner_id, user, self._clock.now())
        # Whether a removed server was private is unknown.
        if server is None and not (
            self._visible.sees_everything(user) and await self._is_gone(job)
        ):
            raise JobNotFoundError
        return job

    async def _is_gone(self, job: SyncJobRecord) -> bool:
        return await self._servers.record_unchecked(job.owner_id) is None

    async def _require_editable(self, owner_id: str, user: UserContext) -> ServerRecord:
        server = await self._visible.get(owner_id, user, self._clock.now(), whole=False)
        if server is None:
            raise ServerNotFoundError
        try:
            validate_owner(server.bits)
        except AccessDeniedError as exc:
            raise ServerForbiddenError(
                f"You may not synchronise this server: {exc.rule}."
            ) from exc
        return server


def _require_on(server: ServerRecord) -> None:
    if server.effective_status is ServerStatus.INACTIVE:
        raise NotSynchronisableError("The server is turned off; turn it on first.")


def _secret_ref(server: ServerRecord) -> FieldRef:
    return FieldRef(collection_of(server), server.id, "registry.webhook_secret")
