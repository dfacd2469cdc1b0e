"""Issues, renews and revokes our own tokens, in token families.

A family holds the tokens that were issued together and those they were exchanged for. A refresh
token is valid for one exchange; a reused one was copied, so the whole family is revoked. Tokens
name the tokens that they were generated with, so that revoking an ancestor revokes them too.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from packages.database.client import Database, Transaction
from packages.models.sessions import IssuedAccessToken, RevocationKind
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType, changes_of
from registry.auth.bearer import Directory
from registry.auth.errors import AdminRequiredError, InsufficientScopeError, UnauthorizedError
from registry.auth.identity import (
    ALL_SCOPES,
    ALL_TENANTS,
    USER_SCOPES,
    Role,
    Scope,
    UserContext,
    claimed_toolset,
    default_scopes,
    grantable_scopes,
    toolset_claim,
)
from registry.auth.jwt import RefreshClaims, TokenIssuer, TokenVerifier
from registry.auth.revocation import Revocation, RevocationList
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.core.paging import Page, PageRequest
from registry.tokens.errors import (
    RoleAboveStoredError,
    TokenNotFoundError,
    TokenNotOnRecordError,
    TooManyGenerationsError,
    UserDisabledError,
    UserUnknownError,
)
from registry.tokens.families import FamilyRepository, RevocationWriter
from registry.tokens.metrics import counted
from registry.tokens.presenter import timestamp
from registry.tokens.schemas import TokenGenerate, TokenIssue, TokenRevoke
from registry.tokens.transactions import in_transaction
from registry.tokens.values import (
    IssuedFamily,
    IssuedPair,
    IssuedToken,
    ListedFamily,
    Revoked,
    TokenOrder,
)

MINIMUM_REFRESH_LIFETIME = timedelta(days=1)
"""Lifetime of a refresh token, unless its access token lives longer."""

MAX_GENERATIONS = 16
"""Maximum length of a chain of generated tokens; each token lists all its ancestors."""

LONGEST_LIFETIME = timedelta(days=366)
"""Longer than the lifetime of any token of ours or of jarvis-api; revocations are kept as long."""

MARGIN = timedelta(hours=1)
"""How much longer a revocation is kept than its tokens live, to allow for clock differences."""

REUSED = "refresh token reused"
USER_GONE = "user is gone"
USER_DISABLED = "user is disabled"


class _ReusedError(Exception):
    """A refresh token that is no longer current was used."""


class ToolsetIds(Protocol):
    """The stored toolsets, which lie above tokens."""

    async def id_of(self, name: str, tenant_id: str | None, authors: Sequence[str]) -> str | None:
        """Return the id of the toolset of a tenant that a name means, if there is one.

        Args:
            name: Its name.
            tenant_id: Whose it is.
            authors: Users whose own come first, in this order; others' count if they are shared.
        """


@dataclass(frozen=True, slots=True)
class SessionStore:
    """Repositories of families and revocations, and of what they refer to."""

    families: FamilyRepository
    revocations: RevocationWriter
    directory: Directory
    toolsets: ToolsetIds


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """Lifetimes of issued tokens.

    Attributes:
        max_hours: Longest lifetime of an access token.
        family: How long a family can be renewed.
    """

    max_hours: int
    family: timedelta


class SessionService:
    """Issues, exchanges, lists and revokes token families."""

    def __init__(
        self,
        database: Database,
        store: SessionStore,
        audit: AuditTrail,
        issuer: TokenIssuer,
        verifier: TokenVerifier,
        revoked: RevocationList,
        *,
        clock: Clock,
        metrics: Metrics,
        lifetimes: Lifetimes,
    ) -> None:
        self._database = database
        self._families = store.families
        self._revocations = store.revocations
        self._directory = store.directory
        self._toolsets = store.toolsets
        self._audit = audit
        self._issuer = issuer
        self._verifier = verifier
        self._revoked = revoked
        self._clock = clock
        self._operations = metrics.token_operations
        self._lifetimes = lifetimes

    async def generate(self, request: TokenGenerate, user: UserContext) -> IssuedPair:
        """Issue a pair with some of the caller's scopes.

        Without a list it gets the scopes of plain users, as far as the caller has them: other
        scopes must be requested by name.

        Raises:
            InsufficientScopeError: The caller lacks some; names them.
            ValidationFailedError: The lifetime is too long, or a scope is unknown.
            TooManyGenerationsError: The caller's token has too many ancestors.
            UnauthorizedError: The family of the caller's token has ended, or its user does not
                exist or is disabled.
            DatabaseUnavailable: Nothing was issued.
        """
        with counted(self._operations, "generate"):
            longest = self._lifetimes.max_hours
            if request.expires_in_hours > longest:
                raise ValidationFailedError("expires_in_hours", f"must not be over {longest}")
            scopes = _granted(request.requested_scopes, user)
            now = self._clock.now()
            ancestors = _ancestors(user)
            entry = await self._directory.get(user.user_id)
            if entry is None and not user.is_service_account:
                raise UnauthorizedError("The bearer token's user does not exist.")
            if entry is not None and entry.is_disabled:
                raise UnauthorizedError("The bearer token's user is disabled.")
            role = user.role if entry is None else user.role.limited_to(Role.parse(entry.role))
            if role is not user.role:
                # The user was demoted after the caller's token was issued.
                scopes = tuple(scope for scope in scopes if scope in default_scopes(role))
            end = await self._end_of(user, now)
            family = IssuedFamily(
                family_id=uuid.uuid4().hex,
                user_id=user.user_id,
                username=user.username,
                role=role,
                is_known_user=entry is not None,
                scopes=scopes,
                hours=request.expires_in_hours,
                description=request.description,
                ancestors=ancestors,
                created_at=now,
                expires_at=end,
                refresh_token_id=uuid.uuid4().hex,
                access_tokens=(_new_access_token(request.expires_in_hours, end, now),),
                tenant_id=user.tenant_id,
                toolset=await self._bound(
                    _toolset(request.toolset, user), user.tenant_id, user.user_id
                ),
                tools=request.tools or user.tools,
            )
            pair = self._sign_pair(family, now)
            await self._insert(family, user)
            return pair

    async def issue(
        self, order: TokenOrder, actor: UserContext, *, is_own: bool = False
    ) -> IssuedToken:
        """Issue an access token that cannot be renewed, for commands and for the API.

        Args:
            order: What is issued, for whom.
            actor: Who has it issued.
            is_own: Whether it is the program's own, whose lifetime `TOKEN_MAX_HOURS` does not
                limit.

        Raises:
            RoleAboveStoredError: The user is stored with a lower role.
            UserDisabledError: The user is disabled.
            ValidationFailedError: The lifetime is too long, a scope is beyond the role, or the
                toolset does not exist.
            DatabaseUnavailable: It cannot be recorded, so it was not issued.
        """
        with counted(self._operations, "issue"):
            if not is_own:
                self._require_within_bounds(order)
            entry = await self._directory.get(order.user_id)
            if entry is not None and entry.is_disabled:
                raise UserDisabledError(order.user_id)
            if entry is not None and order.role.limited_to(Role.parse(entry.role)) != order.role:
                raise RoleAboveStoredError(order.user_id, order.role.value, entry.role)
            tenant_id = None if entry is None else entry.tenant_id
            now = self._clock.now()
            end = now + order.lifetime
            family = IssuedFamily(
                family_id=uuid.uuid4().hex,
                user_id=order.user_id,
                username=order.username or (entry.username if entry else ""),
                role=order.role,
                is_known_user=entry is not None,
                scopes=tuple(sorted(order.scopes)),
                hours=math.ceil(order.lifetime / timedelta(hours=1)),
                description=order.description,
                ancestors=order.ancestors,
                created_at=now,
                expires_at=end,
                access_tokens=(IssuedAccessToken(id=uuid.uuid4().hex, expires_at=end),),
                tenant_id=tenant_id,
                toolset=await self._bound(order.toolset, tenant_id, order.user_id, actor.user_id),
                tools=order.tools,
            )
            await self._insert(family, actor)
            token = self._sign_access_token(family, now)
            return IssuedToken(family.access_token.id, token, family.is_known_user)

    async def issue_for(
        self, user_id: str, request: TokenIssue, actor: UserContext
    ) -> tuple[TokenOrder, IssuedToken]:
        """Issue an access token for another user, on behalf of an administrator.

        It has no scope that the administrator's own token lacks, and ends when that is revoked.

        Raises:
            AdminRequiredError: *actor* is not an administrator.
            UserUnknownError: There is no such user.
            InsufficientScopeError: *actor* lacks some of the scopes, which it names.
            TooManyGenerationsError: The token of *actor* has too many ancestors.
            RegistryError: `issue` refuses it.
            DatabaseUnavailable: It cannot be recorded, so it was not issued.
        """
        if not actor.is_admin:
            raise AdminRequiredError("Issuing a token for another user")
        entry = await self._directory.get(user_id)
        if entry is None or not actor.sees_tenant(entry.tenant_id):
            raise UserUnknownError
        order = TokenOrder(
            user_id=user_id,
            username="",
            role=request.role,
            scopes=frozenset(_granted(request.requested_scopes, actor)),
            lifetime=timedelta(hours=request.expires_in_hours),
            description=request.description,
            ancestors=_ancestors(actor),
            toolset=_toolset(request.toolset, actor),
            tools=request.tools or actor.tools,
        )
        return order, await self.issue(order, actor)

    async def _bound(
        self, toolset: str | None, tenant_id: str | None, *authors: str
    ) -> str | None:
        """Return the claim of a token that is limited to a toolset, given by name or as a claim.

        Raises:
            ValidationFailedError: There is no toolset of that name that is theirs or shared.
        """
        if toolset is None or claimed_toolset(toolset)[1] is not None:
            return toolset
        toolset_id = await self._toolsets.id_of(toolset, tenant_id, authors)
        if toolset_id is None:
            raise ValidationFailedError("toolset", f"unknown toolset {toolset}")
        return toolset_claim(toolset, toolset_id)

    def _require_within_bounds(self, order: TokenOrder) -> None:
        longest = self._lifetimes.max_hours
        if order.lifetime > timedelta(hours=longest):
            raise ValidationFailedError("expires_in_hours", f"must not be over {longest}")
        beyond = sorted((order.scopes & frozenset(Scope)) - grantable_scopes(order.role))
        if beyond:
            problem = f"{', '.join(beyond)}: beyond the role {order.role.value}"
            raise ValidationFailedError("requested_scopes", problem)

    async def list_page(
        self, user: UserContext, user_id: str | None, page: PageRequest
    ) -> Page[ListedFamily]:
        """Return unexpired issued tokens, newest first: the caller's, or those of other users.

        Administrators of a tenant see those of its users.

        Args:
            user: Who asks.
            user_id: Whose; None for all that the caller may see.
            page: Which of them.

        Raises:
            AdminRequiredError: They are another's, and the caller is not an administrator.
        """
        if not user.is_admin:
            if user_id not in {None, user.user_id}:
                raise AdminRequiredError("Listing the tokens of another user")
            user_id = user.user_id
        # Callers see their own tokens, even those issued when they were in another tenant.
        tenants = ALL_TENANTS if user_id == user.user_id else user.tenants
        families, total = await self._families.list_page(user_id, tenants, self._clock.now(), page)
        refused = await self._revocations.revoked_ids(families)
        return Page(
            tuple(
                ListedFamily(family, family.revoked_at is not None or family.family_id in refused)
                for family in families
            ),
            total,
            page,
        )

    async def exchange(self, refresh_token: str) -> IssuedPair:
        """Exchange a refresh token for a new pair.

        Raises:
            UnauthorizedError: It cannot be accepted, for whatever reason. When it was exchanged
                before, or its user is gone, its family is revoked besides.
            DatabaseUnavailable: It may be tried again.
        """
        with counted(self._operations, "exchange"):
            try:
                claims = self._verifier.verify_refresh(refresh_token)
            except UnauthorizedError:
                raise _refused() from None
            now = self._clock.now()
            family = await self._families.get(claims.session_id)
            if family is None or family.user_id != claims.user_id or not family.is_live(now):
                raise _refused()
            if family.refresh_token_id != claims.token_id:
                await self._end(family, claims, REUSED)
                raise _refused()
            limited = await self._limited_to_user(family, claims)
            exchanged = limited.exchanged(
                _new_access_token(family.hours, family.expires_at, now), uuid.uuid4().hex, now
            )
            pair = self._sign_pair(exchanged, now)

            async def work(tx: Transaction) -> None:
                if await self._revocations.is_revoked(family, tx):
                    raise _refused()
                if not await self._families.exchange(family, exchanged, now, tx):
                    raise _ReusedError
                event = AuditEvent(
                    AuditAction.REFRESH,
                    EntityType.SESSION,
                    family.family_id,
                    changes_of(None, _recorded(exchanged)),
                )
                await self._audit.record(_holder(exchanged, claims), event, tx)

            try:
                await self._database.transaction(work)
            except _ReusedError:
                await self._end(limited, claims, REUSED)
                raise _refused() from None
            return pair

    async def revoke(self, request: TokenRevoke, user: UserContext) -> Revoked:
        """Revoke a token with its family and its descendants, or all tokens of a user.

        Raises:
            TokenNotFoundError: It is none of the caller's, nor of users whom they administer.
            TokenNotOnRecordError: No such token is known, and the administrator did not say that
                it is to be refused all the same.
            DatabaseUnavailable: Nothing was revoked.
        """
        with counted(self._operations, "revoke"):
            if request.user_id is not None:
                return await self._revoke_user(request.user_id.lower(), user)
            jti = str(request.jti)
            family_id = user.session_id if jti == user.token_id else None
            family = (
                await self._families.get(family_id)
                if family_id is not None
                else await self._families.find_by_token(jti)
            )
            if family is not None and (
                family.user_id == user.user_id
                or (user.is_admin and user.sees_tenant(family.tenant_id))
            ):
                return Revoked(already=not await self._revoke_family(family, user))
            if jti != user.token_id:
                # The user of a token that is not on record is unknown.
                if not user.sees_all_tenants:
                    raise TokenNotFoundError
                if not request.unrecorded and not await self._is_revoked(jti):
                    raise TokenNotOnRecordError(jti)
            return await self._revoke_token(jti, user)

    async def _is_revoked(self, jti: str) -> bool:
        return await self._revocations.revoked_at(RevocationKind.TOKEN, jti) is not None

    async def _revoke_family(
        self, family: IssuedFamily, actor: UserContext, reason: str | None = None
    ) -> bool:
        """Revoke a family; return False if it already was."""
        now = self._clock.now()
        # Tokens generated with a token that cannot be renewed may outlive it.
        is_renewable = family.refresh_token_id is not None
        until = family.expires_at + MARGIN if is_renewable else now + LONGEST_LIFETIME
        revocation = Revocation(RevocationKind.SESSION, family.family_id, now, until)

        async def work(tx: Transaction) -> bool:
            if not await self._families.revoke(family.family_id, now, tx):
                return False
            await self._revocations.write(revocation, actor.user_id, tx)
            await self._record(actor, family.family_id, {"user_id": family.user_id}, reason, tx)
            return True

        is_news = await in_transaction(self._database, work)
        self._revoked.add(revocation)
        return is_news

    async def _revoke_token(self, jti: str, actor: UserContext) -> Revoked:
        now = self._clock.now()
        revocation = Revocation(RevocationKind.TOKEN, jti, now, now + LONGEST_LIFETIME)

        async def work(tx: Transaction) -> bool:
            was_before = await self._revocations.write(revocation, actor.user_id, tx) is not None
            if not was_before:
                await self._record(actor, jti, {}, None, tx)
            return was_before

        already = await in_transaction(self._database, work)
        self._revoked.add(revocation)
        return Revoked(already)

    async def _revoke_user(self, user_id: str, actor: UserContext) -> Revoked:
        if user_id != actor.user_id and not actor.sees_all_tenants:
            entry = await self._directory.get(user_id)
            if not actor.is_admin or entry is None or not actor.sees_tenant(entry.tenant_id):
                raise TokenNotFoundError
        now = self._clock.now()
        revocation = Revocation(RevocationKind.USER, user_id, now, now + LONGEST_LIFETIME)

        async def work(tx: Transaction) -> bool:
            before = await self._revocations.write(revocation, actor.user_id, tx)
            await self._families.revoke_of_user(user_id, now, tx)
            facts: JsonObject = {"user_id": user_id, "issued_until": timestamp(now)}
            await self._record(actor, user_id, facts, None, tx)
            # New if tokens may have been issued since the earlier revocation.
            return before is not None and int(before.timestamp()) >= int(now.timestamp())

        already = await in_transaction(self._database, work)
        self._revoked.add(revocation)
        return Revoked(already)

    async def _end(self, family: IssuedFamily, claims: RefreshClaims, reason: str) -> None:
        await self._revoke_family(family, _holder(family, claims), reason)

    async def _limited_to_user(self, family: IssuedFamily, claims: RefreshClaims) -> IssuedFamily:
        """Return *family* with the role and scopes that its user still has.

        Raises:
            UnauthorizedError: The user does not exist or is disabled; the family is revoked.
        """
        role = family.role
        entry = await self._directory.get(family.user_id)
        if entry is not None:
            if entry.is_disabled:
                await self._end(family, claims, USER_DISABLED)
                raise _refused()
            role = role.limited_to(Role.parse(entry.role))
        elif family.is_known_user:
            await self._end(family, claims, USER_GONE)
            raise _refused()
        # A service account is not in `users`: the operator set its claims.
        allowed = frozenset(family.scopes) if role is family.role else default_scopes(role)
        scopes = [one for one in family.scopes if one in allowed]
        return family.model_copy(update={"role": role, "scopes": tuple(scopes)})

    async def _insert(self, family: IssuedFamily, actor: UserContext) -> None:
        event = AuditEvent(
            AuditAction.ISSUE,
            EntityType.SESSION,
            family.family_id,
            changes_of(None, _recorded(family)),
        )

        async def work(tx: Transaction) -> None:
            await self._families.insert(family, tx)
            await self._audit.record(actor, event, tx)

        await self._database.transaction(work)

    async def _end_of(self, user: UserContext, now: datetime) -> datetime:
        """Return the expiry of a new family: not after the one that it is generated with."""
        end = now + self._lifetimes.family
        if user.session_id is None:
            return end
        parent = await self._families.get(user.session_id)
        if parent is None or not parent.is_live(now):
            raise UnauthorizedError("The session of the bearer token has ended.")
        # A token from the operator, like a login, does not limit the family.
        return end if parent.refresh_token_id is None else min(end, parent.expires_at)

    def _sign_pair(self, family: IssuedFamily, now: datetime) -> IssuedPair:
        """Sign the latest access token of a family and its refresh token."""
        assert family.refresh_token_id is not None  # noqa: S101 - the family can be renewed
        access_lifetime = family.access_token.expires_at - now
        left = family.expires_at - now
        refresh_lifetime = min(max(access_lifetime, MINIMUM_REFRESH_LIFETIME), left)
        refresh_token = self._issuer.issue_refresh(
            user_id=family.user_id,
            session_id=family.family_id,
            token_id=family.refresh_token_id,
            lifetime=refresh_lifetime,
        )
        return IssuedPair(
            family.access_token.id,
            self._sign_access_token(family, now),
            refresh_token,
            int(access_lifetime.total_seconds()),
            int(refresh_lifetime.total_seconds()),
            family.scopes,
        )

    def _sign_access_token(self, family: IssuedFamily, now: datetime) -> str:
        return self._issuer.issue(
            user_id=family.user_id,
            username=family.username,
            role=family.role,
            scopes=frozenset(family.scopes),
            lifetime=family.access_token.expires_at - now,
            token_id=family.access_token.id,
            session_id=family.family_id,
            ancestors=family.ancestors,
            is_service_account=not family.is_known_user,
            toolset=family.toolset,
            tools=family.tools,
        )

    async def _record(
        self,
        actor: UserContext,
        subject: str,
        facts: JsonObject,
        reason: str | None,
        tx: Transaction,
    ) -> None:
        event = AuditEvent(
            AuditAction.REVOKE,
            EntityType.SESSION,
            subject,
            changes_of(None, facts) if facts else {},
            reason=reason,
        )
        await self._audit.record(actor, event, tx)


def _new_access_token(hours: int, end: datetime, now: datetime) -> IssuedAccessToken:
    """Return a new access token that expires after *hours*, or at *end* if that is earlier."""
    expires_at = min(now + timedelta(hours=hours), end)
    return IssuedAccessToken(id=uuid.uuid4().hex, expires_at=expires_at)


def _granted(requested: Sequence[str] | None, user: UserContext) -> tuple[str, ...]:
    """Return the scopes of a token that *user* generates.

    Raises:
        InsufficientScopeError: The caller lacks some; names them.
        ValidationFailedError: There are no such scopes; names them.
    """
    if requested is None:
        return tuple(sorted(scope for scope in user.scopes if scope in USER_SCOPES))
    scopes = tuple(dict.fromkeys(requested))
    # Custom scopes of the caller are known too: policies grant tools to them.
    known = ALL_SCOPES | user.custom_scopes
    unknown = [scope for scope in scopes if scope not in known]
    if unknown:
        named = ", ".join(unknown)
        raise ValidationFailedError("requested_scopes", f"unknown scopes: {named}")
    missing = [scope for scope in scopes if scope not in user.held_scopes]
    if missing:
        raise InsufficientScopeError(missing)
    return scopes


def _toolset(requested: str | None, actor: UserContext) -> str | None:
    """Return the toolset of a token that *actor* has issued: their own token's, if it has one.

    Raises:
        ValidationFailedError: They request another one.
    """
    if actor.toolset is None:
        return requested
    name, _ = claimed_toolset(actor.toolset)
    if requested not in {None, name}:
        raise ValidationFailedError("toolset", f"your token is limited to the toolset {name}")
    return actor.toolset


def _ancestors(user: UserContext) -> tuple[str, ...]:
    """Return the ancestors of a token that is generated with the caller's.

    Raises:
        TooManyGenerationsError: That would be too many.
    """
    parent = user.session_id or user.token_id
    ancestors = (*user.ancestors, parent) if parent else user.ancestors
    if len(ancestors) > MAX_GENERATIONS:
        raise TooManyGenerationsError(MAX_GENERATIONS)
    return ancestors


def _refused() -> UnauthorizedError:
    # One message for all reasons: the holder of a stolen token must not learn what happened.
    return UnauthorizedError("The refresh token is invalid, expired or revoked.")


def _holder(family: IssuedFamily, claims: RefreshClaims) -> UserContext:
    return UserContext(
        user_id=family.user_id,
        username=family.username,
        role=family.role,
        scopes=frozenset[Scope](),
        token_id=claims.token_id,
        session_id=family.family_id,
        tenant_id=family.tenant_id,
    )


def _recorded(family: IssuedFamily) -> JsonObject:
    recorded: JsonObject = {
        "user_id": family.user_id,
        "role": family.role.value,
        "scope": " ".join(family.scopes),
        "token_id": family.access_token.id,
        "token_expires_at": timestamp(family.access_token.expires_at),
        "expires_at": timestamp(family.expires_at),
    }
    if family.description is not None:
        recorded["description"] = family.description
    if family.ancestors:
        recorded["generated_with"] = family.ancestors[-1]
    return recorded
