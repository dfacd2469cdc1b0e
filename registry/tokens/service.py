"""Token service: stores, reads, refreshes and deletes a user's own tokens, with audit records.

No caller, including administrators, can reach another user's tokens: every query names the user.
"""

from datetime import UTC, datetime, timedelta

from packages.database.client import Database, Transaction
from packages.database.encryption import DecryptionError
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType, changes_of
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.core.paging import Page, PageRequest
from registry.tokens.errors import (
    TokenGoneError,
    TokenNotFoundError,
    TokenReadsDisabledError,
    TokenUnreadableError,
)
from registry.tokens.metrics import counted
from registry.tokens.naming import (
    MCP_REFRESH,
    access_key_of,
    refresh_identifier,
    refresh_key_of,
    server_of,
    stored_key,
)
from registry.tokens.presenter import recorded
from registry.tokens.repository import NewToken, TokenRepository
from registry.tokens.schemas import TOKEN_ID, TokenCreate, TokenRefresh
from registry.tokens.transactions import in_transaction
from registry.tokens.values import (
    LINKS,
    StoredKey,
    StoredToken,
    TokenFilter,
    TokenRecord,
    TokenType,
)

DEFAULT_LIFETIME = timedelta(days=365)
"""Lifetime of a token stored without an expiry; jarvis-api's default."""

LATEST_YEAR = 9999
"""Expiries must be before this year: other programs add to these times, and the calendar ends."""

COPIED_METADATA = ("server_id", "server_name")
"""Metadata that a refresh token created here copies from its access token."""


class TokenService:
    """Tokens of the caller.

    Args:
        reads_enabled: Whether values are given out.
    """

    def __init__(
        self,
        database: Database,
        repository: TokenRepository,
        audit: AuditTrail,
        *,
        clock: Clock,
        metrics: Metrics,
        reads_enabled: bool,
    ) -> None:
        self._database = database
        self._repository = repository
        self._audit = audit
        self._clock = clock
        self._operations = metrics.token_operations
        self._reads_enabled = reads_enabled

    async def store(self, request: TokenCreate, user: UserContext) -> TokenRecord:
        """Store a token, replacing the caller's own of the same type and identifier.

        Raises:
            ValidationFailedError: The expiry has passed.
            DatabaseUnavailable: Nothing was stored.
        """
        with counted(self._operations, "store"):
            now = self._clock.now()
            expires_at = self._expiry("expires_at", request.expires_at, now)
            metadata = request.metadata or {}
            key = stored_key(request.type, request.identifier, metadata)
            written = NewToken(request.token, now, expires_at, metadata)

            async def work(tx: Transaction) -> TokenRecord:
                before = await self._repository.find_key(user.user_id, key, tx)
                token = await self._repository.store(user.user_id, key, written, tx)
                await self._relink(token, now, tx)
                action = AuditAction.CREATE if before is None else AuditAction.UPDATE
                await self._record(user, action, before, token, tx)
                return token

            return await in_transaction(self._database, work)

    async def read(self, token_id: str, user: UserContext) -> StoredToken:
        """Return one token with its value, after recording the read.

        Raises:
            TokenReadsDisabledError: The operator does not allow it.
            TokenGoneError: Absent, expired or another's.
            TokenUnreadableError: It was encrypted with another key.
            DatabaseUnavailable: It could not be read, or not be recorded.
        """
        with counted(self._operations, "read"):
            if not self._reads_enabled:
                raise TokenReadsDisabledError
            try:
                token = await self._repository.get(token_id, user.user_id, self._clock.now())
            except DecryptionError:
                raise TokenUnreadableError from None
            if token is None:
                raise TokenGoneError
            event = AuditEvent(AuditAction.READ, EntityType.TOKEN, token_id)
            await self._audit.require(user, event)
            return token

    async def list_page(
        self, user: UserContext, token_filter: TokenFilter, page: PageRequest
    ) -> Page[TokenRecord]:
        """Return one page of the caller's live tokens, newest first."""
        with counted(self._operations, "list"):
            return await self._repository.list_page(
                user.user_id, token_filter, self._clock.now(), page
            )

    async def refresh(
        self, token_id: str, request: TokenRefresh, user: UserContext
    ) -> TokenRecord:
        """Replace the values of an access token, and of its refresh token if a new one is given.

        An access token that has expired or was swept is restored under its id, as long as the
        refresh token linked to it has not expired.

        Raises:
            ValidationFailedError: An expiry has passed, or it is no access token.
            TokenGoneError: Neither it nor a refresh token linked to it is there.
            DatabaseUnavailable: Nothing was changed.
        """
        with counted(self._operations, "refresh"):
            now = self._clock.now()
            expires_at = self._expiry("new_expires_at", request.new_expires_at, now)
            refresh_expires_at = self._expiry(
                "new_refresh_expires_at", request.new_refresh_expires_at, now
            )

            async def work(tx: Transaction) -> TokenRecord:
                before = await self._repository.find(token_id, user.user_id, tx)
                refresh = await self._refresh_token_of(token_id, before, user, now, tx)
                metadata = self._metadata_of(before, refresh)
                written = NewToken(request.new_access_token, now, expires_at, metadata)
                token = await self._renew(token_id, before, refresh, written, user, tx)
                if request.new_refresh_token is not None:
                    renewed = NewToken(
                        request.new_refresh_token,
                        now,
                        refresh_expires_at,
                        refresh.metadata if refresh else _copied(token),
                    )
                    refresh = await self._store_refresh(token, refresh, renewed, tx)
                    token = await self._repository.link(token, refresh, tx)
                secrets = ("token", *(("refresh_token",) if request.new_refresh_token else ()))
                await self._record(user, AuditAction.REFRESH, before, token, tx, secrets)
                return token

            return await in_transaction(self._database, work)

    async def delete(self, token_id: str, user: UserContext) -> None:
        """Delete a token, and the link to it in its linked token.

        Raises:
            TokenNotFoundError: Absent, expired or another's.
            DatabaseUnavailable: Nothing was removed.
        """
        with counted(self._operations, "delete"):
            now = self._clock.now()

            async def work(tx: Transaction) -> None:
                token = await self._repository.find(token_id, user.user_id, tx)
                if token is None or not token.is_live(now):
                    raise TokenNotFoundError
                await self._repository.delete(token_id, user.user_id, tx)
                await self._repository.unlink(token_id, user.user_id, tx)
                await self._record(user, AuditAction.DELETE, token, None, tx)

            await self._database.transaction(work)

    async def _relink(self, token: TokenRecord, now: datetime, tx: Transaction) -> None:
        """Link the token that *token*'s metadata names back to it, and remove its other links.

        Only the caller's own live tokens of the right type are linked.
        """
        name = LINKS.get(token.key.kind)
        if name is None:
            return
        other_id = token.metadata.get(name)
        if other_id is None:
            await self._repository.unlink(token.token_id, token.user_id, tx)
            return
        other = None
        if TOKEN_ID.fullmatch(str(other_id)):
            other = await self._repository.find(str(other_id), token.user_id, tx)
        wanted = (
            TokenType.OAUTH_REFRESH
            if token.key.kind is TokenType.OAUTH_ACCESS
            else TokenType.OAUTH_ACCESS
        )
        if other is None or not other.is_live(now) or other.key.kind is not wanted:
            # Kept as given, like all metadata: it may be an id of another system. Whether
            # another user has such a token is not revealed.
            await self._repository.unlink(token.token_id, token.user_id, tx)
            return
        if wanted is TokenType.OAUTH_REFRESH:
            await self._repository.link(token, other, tx)
        else:
            await self._repository.link(other, token, tx)

    async def _refresh_token_of(
        self,
        token_id: str,
        access: TokenRecord | None,
        user: UserContext,
        now: datetime,
        tx: Transaction,
    ) -> TokenRecord | None:
        """Return the unexpired refresh token of an access token, which may have been swept.

        Raises:
            ValidationFailedError: The token is there and no access token.
            TokenGoneError: There is nothing to refresh and nothing to refresh it with.
        """
        if access is None:
            refresh = await self._repository.find_refresh_of(token_id, user.user_id, now, tx)
            if refresh is None or refresh.access_token is None:
                # Metadata alone proves nothing; the link was created when both existed.
                raise TokenGoneError
            return refresh
        is_access = access.key.kind is TokenType.OAUTH_ACCESS
        if not is_access and access.is_live(now):
            raise ValidationFailedError("token_id", "names no oauth_access token")
        refresh = await self._linked(access, now, tx) if is_access else None
        if refresh is None and not access.is_live(now):
            raise TokenGoneError
        return refresh

    async def _linked(
        self, access: TokenRecord, now: datetime, tx: Transaction
    ) -> TokenRecord | None:
        named = access.metadata.get(LINKS[TokenType.OAUTH_ACCESS])
        refresh = None
        if isinstance(named, str) and TOKEN_ID.fullmatch(named):
            refresh = await self._repository.find(named, access.user_id, tx)
        if refresh is None or refresh.key.kind is not TokenType.OAUTH_REFRESH:
            refresh = await self._repository.find_refresh_of(
                access.token_id, access.user_id, now, tx
            )
        server = server_of(access.key)
        if refresh is None and server is not None:
            # jarvis-api links its pairs only by their identifiers.
            key = StoredKey(MCP_REFRESH, refresh_identifier(server))
            refresh = await self._repository.find_key(access.user_id, key, tx)
        return refresh if refresh is not None and refresh.is_live(now) else None

    def _metadata_of(self, access: TokenRecord | None, refresh: TokenRecord | None) -> JsonObject:
        if access is not None:
            return access.metadata
        if refresh is None:
            return {}
        own = refresh.access_token[1] if refresh.access_token else _without_links(refresh)
        return {**own, LINKS[TokenType.OAUTH_ACCESS]: refresh.token_id}

    async def _renew(
        self,
        token_id: str,
        access: TokenRecord | None,
        refresh: TokenRecord | None,
        written: NewToken,
        user: UserContext,
        tx: Transaction,
    ) -> TokenRecord:
        """Write the access token, or restore it if it was swept."""
        if access is not None:
            await self._repository.renew(token_id, user.user_id, written, tx)
            return _renewed(access, written)
        assert refresh is not None  # noqa: S101 - one of the two is there
        key = access_key_of(refresh)
        if await self._repository.find_key(user.user_id, key, tx) is not None:
            # It was stored again since, under another id.
            raise TokenGoneError
        return await self._repository.restore(token_id, user.user_id, key, written, tx)

    async def _store_refresh(
        self,
        access: TokenRecord,
        refresh: TokenRecord | None,
        written: NewToken,
        tx: Transaction,
    ) -> TokenRecord:
        if refresh is not None:
            await self._repository.renew(refresh.token_id, access.user_id, written, tx)
            return _renewed(refresh, written)
        key = refresh_key_of(access.key)
        return await self._repository.store(access.user_id, key, written, tx)

    async def _record(
        self,
        user: UserContext,
        action: AuditAction,
        before: TokenRecord | None,
        after: TokenRecord | None,
        tx: Transaction,
        secrets: tuple[str, ...] = ("token",),
    ) -> None:
        subject = after or before
        assert subject is not None  # noqa: S101 - one of the two is there
        changes = changes_of(
            None if before is None else recorded(before),
            None if after is None else recorded(after),
            secrets if after is not None else (),
        )
        event = AuditEvent(action, EntityType.TOKEN, subject.token_id, changes)
        await self._audit.record(user, event, tx)

    def _expiry(self, field: str, requested: datetime | None, now: datetime) -> datetime:
        if requested is None:
            return now + DEFAULT_LIFETIME
        if requested.year >= LATEST_YEAR:
            raise ValidationFailedError(field, f"must lie before the year {LATEST_YEAR}")
        if requested <= now:
            raise ValidationFailedError(field, "must lie in the future")
        moment = requested.astimezone(UTC)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _renewed(token: TokenRecord, written: NewToken) -> TokenRecord:
    return token.model_copy(
        update={
            "created_at": written.created_at,
            "expires_at": written.expires_at,
            "metadata": written.metadata,
        }
    )


def _without_links(token: TokenRecord) -> JsonObject:
    return {name: value for name, value in token.metadata.items() if name not in LINKS.values()}


def _copied(access: TokenRecord) -> JsonObject:
    return {name: access.metadata[name] for name in COPIED_METADATA if name in access.metadata}
