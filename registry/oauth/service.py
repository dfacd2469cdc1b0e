"""Flows by which users authorise the registry at servers.

A flow begins with a link, which is opened in a browser, and ends with the response of the
authorization server, which may arrive at any replica. The link says whose flow it is, the `state`
of the response which one, and a cookie that it is the same browser.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol
from urllib.parse import urlsplit

import orjson
import structlog

from packages.database.encryption import DecryptionError
from packages.models.states import AuditOutcome, FlowStatus
from registry.audit.trail import AuditTrail
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.identity import Role, UserContext, default_scopes
from registry.auth.values import DirectoryEntry
from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.core.seal import Seal
from registry.oauth.authorization_servers import (
    AuthorizationServers,
    asked_scopes,
    configuration_digest,
    oauth_of,
)
from registry.oauth.errors import (
    AuthorizationFailedError,
    FlowEndedError,
    FlowNotFoundError,
    LinkInvalidError,
    NoClientMetadataError,
    NoOAuthError,
    NotAuthorizedError,
    OtherBrowserError,
)
from registry.oauth.links import CALLBACK_PATH, LinkSeal, Ticket
from registry.oauth.policy import grant_of, skips_challenge_check
from registry.oauth.ports import AuthorizationListener, OAuthServers, RemovalListener, TokenStore
from registry.oauth.repository import OAuthFlowRepository
from registry.oauth.unregistration import revoke_both
from registry.oauth.values import (
    AuthorizationLink,
    Grant,
    OAuthFlow,
    OAuthServer,
    RemovedTokens,
)
from registry.upstream.errors import UpstreamError
from registry.upstream.oauth.authorization import (
    authorization_url,
    new_verifier,
)
from registry.upstream.oauth.errors import (
    InvalidClientError,
    OAuthError,
)
from registry.upstream.oauth.metadata import Discovered, server_of
from registry.upstream.oauth.token_endpoint import CODE, TokenEndpoint, is_sendable
from registry.upstream.oauth.values import ClientKind, OAuthClientIdentity, TokenRequest

log = structlog.get_logger()

FLOW_LIFETIME = timedelta(minutes=10)
"""How long a person may take at the authorization server."""

LEFT_AFTER = timedelta(minutes=1)
"""After this long without a response, the client that was used may be unknown there."""

BEGIN_SECONDS = 10
"""How long metadata and a registration may take; someone has pressed the button and waits."""

NO_ANSWER = f"The authorization server did not answer within {BEGIN_SECONDS} s. Try again."
SERVER_REMOVED = "The server was removed during the authorization."

COOKIE_BYTES = 32
NONCE_BYTES = 24
MAX_CODE_CHARACTERS = 4096
DESCRIPTION_CHARACTERS = 200


class Directory(Protocol):
    """Reads users."""

    async def get(self, user_id: str) -> DirectoryEntry | None:
        """Return a user, or None."""


@dataclass(frozen=True, slots=True)
class LinkPage:
    """What a person is shown before a flow begins.

    Attributes:
        host: Of the server that tools are called on.
        scopes: Those that a call has lacked.
    """

    username: str
    server_title: str
    host: str
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BegunFlow:
    """A flow that continues at the authorization server.

    Attributes:
        url: Of the authorization server.
        cookie: Value of the cookie by which the browser is recognised.
    """

    flow_id: str
    url: str = field(repr=False)
    cookie: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class AuthorizationResponse:
    """The parameters of an authorization response (RFC 6749 4.1.2, RFC 9207)."""

    state: str | None = field(default=None, repr=False)
    code: str | None = field(default=None, repr=False)
    issuer: str | None = None
    error: str | None = None
    error_description: str | None = None


@dataclass(frozen=True, slots=True)
class _Asking:
    """What an authorization server is asked.

    Attributes:
        request: What requests at its token endpoint will contain.
        url: Of the page where the user is asked.
    """

    found: Discovered
    request: TokenRequest
    url: str = field(repr=False)


class AuthorizationService:
    """Runs flows.

    Attributes:
        cookie_path: Path of the browser's cookie.
        is_https: Whether browsers reach the registry by TLS.
        origin: Where browsers reach the registry, as they send it in `Origin`.

    Args:
        directory: Reads users: a link says who someone was, not whether they still are.
        endpoint: Exchanges codes, and revokes tokens.
        state_seal: Seals the `state` of flows.
        listener: Notified of each completed flow.
        removals: Has tokens revoked that a flow replaced because their server has moved.
        base_url: The public URL of the registry.
        metadata: Our client metadata documents by path; none if the registry has no public URL.
        begin_seconds: How long the button may take.
    """

    def __init__(  # noqa: PLR0913 - collaborators
        self,
        flows: OAuthFlowRepository,
        servers: OAuthServers,
        directory: Directory,
        authorization_servers: AuthorizationServers,
        endpoint: TokenEndpoint,
        tokens: TokenStore,
        *,
        links: LinkSeal,
        state_seal: Seal,
        listener: AuthorizationListener,
        removals: RemovalListener,
        audit: AuditTrail,
        base_url: str,
        metadata: Mapping[str, JsonObject],
        clock: Clock,
        metrics: Metrics,
        begin_seconds: float = BEGIN_SECONDS,
    ) -> None:
        parts = urlsplit(base_url)
        self.cookie_path = parts.path.rstrip("/") + CALLBACK_PATH
        self.is_https = parts.scheme == "https"
        default_port = ":443" if self.is_https else ":80"
        self.origin = f"{parts.scheme}://{parts.netloc.lower().removesuffix(default_port)}"
        self._metadata = metadata
        self._flows = flows
        self._servers = servers
        self._directory = directory
        self._authorization_servers = authorization_servers
        self._endpoint = endpoint
        self._tokens = tokens
        self._links = links
        self._state_seal = state_seal
        self._listener = listener
        self._removals = removals
        self._audit = audit
        self._clock = clock
        self._counted = metrics.oauth_flows
        self._begin_seconds = begin_seconds

    def now(self) -> datetime:
        """Return the current time, for comparing with expiries."""
        return self._clock.now()

    def client_metadata(self, path: str) -> JsonObject:
        """Return our client metadata document with a path.

        Raises:
            NoClientMetadataError: The registry has no public URL.
        """
        document = self._metadata.get(path)
        if document is None:
            raise NoClientMetadataError
        return document

    async def initiate(self, server_id: str, user: UserContext) -> AuthorizationLink:
        """Store a pending flow of *user*, and return the link that begins it.

        Raises:
            ServerNotFoundError: There is none that *user* may use.
            NoOAuthError: Users do not authorise the registry there.
            DatabaseUnavailable: Nothing was stored.
        """
        server = await self._usable(server_id, user)
        self._links.forget(user.user_id, server.id)
        link = self._links.link(user, server)
        await self._flows.insert(self._pending(link.flow_id, server, user))
        return link

    async def begin_for(self, server_id: str, user: UserContext) -> BegunFlow:
        """Begin a flow of *user* at once, without a link; see `begin`."""
        server = await self._usable(server_id, user)
        self._links.forget(user.user_id, server.id)
        return await self._begin(self._links.link(user, server).flow_id, server, user, ())

    async def page(self, sealed: str) -> LinkPage:
        """Return what to show a person who opened a link. Changes nothing.

        Raises:
            LinkInvalidError: It was not made here, or has expired.
            FlowEndedError: It was used before.
            ServerNotFoundError: The server is gone, or the user may no longer use it.
        """
        ticket, user = await self._opened(sealed)
        server = await self._usable(ticket.server_id, user)
        await self._require_open(ticket.flow_id)
        granted = await self._tokens.granted(user, server) if ticket.scopes else ()
        missing = tuple(one for one in ticket.scopes if one not in granted) or ticket.scopes
        return LinkPage(user.username, server.title, _host(server.url), missing)

    async def begin(self, sealed: str) -> BegunFlow:
        """Begin the flow of a link.

        Raises:
            LinkInvalidError: It was not made here, or has expired.
            FlowEndedError: It was used before.
            ServerNotFoundError: The server is gone, or the user may no longer use it.
            AuthorizationFailedError: There is no authorization server that can be used.
            DatabaseUnavailable: Nothing was stored.
        """
        ticket, user = await self._opened(sealed)
        server = await self._usable(ticket.server_id, user)
        return await self._begin(ticket.flow_id, server, user, ticket.scopes)

    async def finish(
        self, response: AuthorizationResponse, cookies: Mapping[str, str]
    ) -> OAuthServer:
        """Take the response of an authorization server; return what the user authorised.

        Args:
            response: Its parameters.
            cookies: Of the browser, by name.

        Raises:
            FlowNotFoundError: There is no such flow.
            FlowEndedError: It was completed, failed, or has expired.
            OtherBrowserError: The flow was begun in another browser.
            AuthorizationFailedError: The flow failed.
            DatabaseUnavailable: The flow goes on.
        """
        flow = await self._flow_of(response.state)
        cookie = cookies.get(cookie_name(flow.id), "")
        if not hmac.compare_digest(_digest(cookie), flow.browser or ""):
            self._counted.labels("refused").inc()
            raise OtherBrowserError
        user, server = await self._still_allowed(flow)
        authorization_server = server_of(flow.authorization_server)
        try:
            await self._authorization_servers.check_response(authorization_server, response.issuer)
        except OAuthError as exc:
            # A response that another server made must not end the flow.
            self._counted.labels("refused").inc()
            raise AuthorizationFailedError(_sentence(exc.message)) from None
        if response.error is not None or response.code is None:
            reason = _refusal_text(response)
            await self._failed(flow, user, reason)
            raise AuthorizationFailedError(reason)
        found = await self._unchanged(flow, server, user)
        try:
            claimed = await self._flows.claim(flow.id, flow.nonce or "", self._clock.now())
        except DecryptionError:
            reason = "The registry's encryption key was changed. Start again."
            await self._failed(flow, user, reason)
            raise AuthorizationFailedError(reason) from None
        if claimed is None:
            raise FlowEndedError
        await self._exchange(claimed, response.code, user, server, found)
        return server

    async def status(self, flow_id: str, user: UserContext) -> OAuthFlow:
        """Return a flow of *user*.

        Raises:
            FlowNotFoundError: There is none, or it is another's.
            DatabaseUnavailable: It cannot be read.
        """
        flow = await self._flows.find(flow_id)
        if flow is None or flow.user_id != user.user_id:
            raise FlowNotFoundError
        return flow

    async def cancel(self, flow_id: str, user: UserContext) -> OAuthFlow:
        """Cancel a flow of *user*; one that has ended stays as it is.

        Raises:
            FlowNotFoundError: There is none, or it is another's.
            DatabaseUnavailable: Nothing was changed.
        """
        flow = await self.status(flow_id, user)
        # An exchange in progress finds its flow ended, and revokes what it obtained.
        if await self._flows.end(flow.id, FlowStatus.CANCELLED, None, self._clock.now()):
            self._links.forget(user.user_id, flow.server_id)
            self._counted.labels("cancelled").inc()
            await self._note(user, flow.server_id, "cancelled")
        return await self.status(flow_id, user)

    async def revoke(self, server_id: str, user: UserContext) -> bool:
        """Remove the tokens of *user* for a server, and revoke them at the authorization server.

        An exchange in progress is cancelled: it stores nothing, and revokes what it obtains.

        Returns:
            Whether the authorization server confirmed it; they are removed here in any case.

        Raises:
            ServerNotFoundError: There is none that *user* may see.
            NotAuthorizedError: There are no tokens, and no exchange in progress.
            DatabaseUnavailable: Tokens may be left.
        """
        server = await self._servers.usable(server_id, user)
        # Before the removal: an exchange that stores first is removed, a later one is refused.
        cancelled = await self._flows.cancel_exchanges(user.user_id, server.id, self._clock.now())
        for _ in range(cancelled):
            self._counted.labels("cancelled").inc()
            await self._note(user, server.id, "cancelled")
        removed = await self._tokens.remove(user, server)
        if removed is None and not cancelled:
            raise NotAuthorizedError
        self._links.forget(user.user_id, server.id)
        is_confirmed = False
        if removed is not None and removed.request is not None:
            is_confirmed = await revoke_both(self._endpoint, removed.request, removed)
        event = AuditEvent(
            AuditAction.REVOKE,
            EntityType.AUTHORIZATION,
            server.id,
            {"revoked_at_authorization_server": is_confirmed},
        )
        await self._audit.note(user, event)
        return is_confirmed

    async def _opened(self, sealed: str) -> tuple[Ticket, UserContext]:
        ticket = self._links.open(sealed)
        if ticket is None:
            raise LinkInvalidError
        user = await self._user(ticket)
        if user is None:
            raise LinkInvalidError
        return ticket, user

    async def _user(self, ticket: Ticket) -> UserContext | None:
        """Return the user of a link with today's rights, which may be fewer than then."""
        entry = await self._directory.get(ticket.user_id)
        role = ticket.role
        if entry is None:
            if not ticket.is_service_account:
                return None
            return UserContext(
                ticket.user_id,
                ticket.username,
                role,
                default_scopes(role),
                is_service_account=True,
            )
        if entry.is_disabled or entry.tenant_id != ticket.tenant_id:
            return None
        stored = Role.parse(entry.role)
        role = role.limited_to(stored)
        return UserContext(
            ticket.user_id,
            entry.username or ticket.username,
            role,
            default_scopes(role),
            groups=entry.groups,
            role_name=entry.role if role is stored else None,
            tenant_id=entry.tenant_id,
        )

    async def _usable(self, server_id: str, user: UserContext) -> OAuthServer:
        server = await self._servers.usable(server_id, user)
        grant = grant_of(server.config)
        if grant is not Grant.AUTHORIZATION_CODE:
            raise NoOAuthError(grant)
        return server

    async def _require_open(self, flow_id: str) -> None:
        flow = await self._flows.find(flow_id)
        if flow is not None and flow.status is not FlowStatus.PENDING:
            raise FlowEndedError

    def _pending(self, flow_id: str, server: OAuthServer, user: UserContext) -> OAuthFlow:
        now = self._clock.now()
        return OAuthFlow(
            id=flow_id,
            user_id=user.user_id,
            username=user.username,
            role=user.role.value,
            is_service_account=user.is_service_account,
            tenant_id=user.tenant_id,
            server_id=server.id,
            server_name=server.name,
            server_url=server.url,
            configuration=configuration_digest(server),
            status=FlowStatus.PENDING,
            created_at=now,
            updated_at=now,
            expires_at=now + FLOW_LIFETIME,
        )

    async def _begin(
        self, flow_id: str, server: OAuthServer, user: UserContext, more: tuple[str, ...]
    ) -> BegunFlow:
        await self._require_open(flow_id)
        flow = self._pending(flow_id, server, user)
        nonce, verifier = secrets.token_urlsafe(NONCE_BYTES), new_verifier()
        state = orjson.dumps({"f": flow_id, "n": nonce})
        sealed = self._state_seal.seal(state, flow.expires_at)
        try:
            async with asyncio.timeout(self._begin_seconds):
                # The new token takes the place of the stored one: it must be good for as much.
                granted = await self._tokens.granted(user, server)
                asking = await self._asking(user, server, (*granted, *more), sealed, verifier)
        except (UpstreamError, TimeoutError) as exc:
            # The flow stays as it is: the same button can be pressed again.
            reason = NO_ANSWER if isinstance(exc, TimeoutError) else _sentence(exc.message)
            await self._note(user, server.id, "not_started", reason)
            self._counted.labels("not_started").inc()
            raise AuthorizationFailedError(reason) from exc
        cookie = secrets.token_urlsafe(COOKIE_BYTES)
        flow.browser, flow.nonce, flow.code_verifier = _digest(cookie), nonce, verifier
        found, request = asking.found, asking.request
        flow.issuer = found.server.issuer
        flow.authorization_server = found.server.document
        flow.resource_issuers = [*found.resource.authorization_servers]
        flow.client_id = request.client.client_id
        flow.redirect_uri = self._authorization_servers.redirect_uri
        flow.scopes = None if request.scopes is None else [*request.scopes]
        flow.resource = request.resource
        if not await self._flows.begin(flow):
            raise FlowEndedError
        self._counted.labels("started").inc()
        await self._note(user, server.id, "started")
        return BegunFlow(flow_id, asking.url, cookie, flow.expires_at)

    async def _asking(
        self,
        user: UserContext,
        server: OAuthServer,
        more: tuple[str, ...],
        state: str,
        verifier: str,
    ) -> _Asking:
        """Return what to ask of the first authorization server with which a flow can begin.

        Raises:
            UpstreamError: There is none; says why the first is none.
        """
        useless: list[str] = []
        failed: UpstreamError | None = None
        while True:
            try:
                found = await self._authorization_servers.discover(server, without=useless)
            except UpstreamError as exc:
                raise failed or exc from None
            try:
                return await self._asking_at(found, user, server, more, state, verifier)
            except OAuthError as exc:
                failed = failed or exc
            issuer = found.server.issuer
            if issuer is None or issuer in useless or not found.resource.authorization_servers:
                raise failed
            useless.append(issuer)

    async def _asking_at(
        self,
        found: Discovered,
        user: UserContext,
        server: OAuthServer,
        more: tuple[str, ...],
        state: str,
        verifier: str,
    ) -> _Asking:
        oauth = oauth_of(server.config)
        scopes = asked_scopes(found, oauth, more)
        client = await self._client(user, server, found, scopes)
        url = authorization_url(
            found.server,
            client,
            redirect_uri=self._authorization_servers.redirect_uri,
            state=state,
            verifier=verifier,
            scopes=scopes,
            resource=found.resource.resource,
            skips_challenge_check=skips_challenge_check(oauth),
        )
        request = TokenRequest(found.server, client, found.resource.resource, scopes)
        return _Asking(found, request, url)

    async def _client(
        self,
        user: UserContext,
        server: OAuthServer,
        found: Discovered,
        scopes: tuple[str, ...] | None,
    ) -> OAuthClientIdentity:
        """Return the client to use; a new one if the user did not come back with a registered one.

        An authorization server that has lost a registration says so on a page of its own, and
        sends nobody back.
        """
        client = await self._authorization_servers.client(server, found, scopes)
        left_before = self._clock.now() - LEFT_AFTER
        if client.kind is not ClientKind.REGISTERED or not await self._flows.was_left(
            user.user_id, server.id, client.client_id, left_before
        ):
            return client
        await self._authorization_servers.forget(server, found.server, client.client_id)
        return await self._authorization_servers.client(server, found, scopes)

    async def _flow_of(self, sealed: str | None) -> OAuthFlow:
        content = self._state_seal.open(sealed or "", self._clock.now())
        if content is None:
            raise FlowNotFoundError
        state = orjson.loads(content)
        flow = await self._flows.find(state["f"])
        if flow is None:
            raise FlowNotFoundError
        if flow.status is not FlowStatus.PENDING:
            raise FlowEndedError
        if flow.nonce != state["n"]:
            # The button was pressed again, and this is the answer to the time before.
            raise FlowNotFoundError
        return flow

    async def _still_allowed(self, flow: OAuthFlow) -> tuple[UserContext, OAuthServer]:
        ticket = Ticket(
            flow.id,
            flow.user_id,
            flow.username,
            Role(flow.role),
            flow.is_service_account,
            flow.tenant_id,
            flow.server_id,
            (),
            flow.expires_at,
        )
        user = await self._user(ticket)
        if user is None:
            reason = "The user no longer exists, or is disabled."
            former = UserContext(
                flow.user_id,
                flow.username,
                Role(flow.role),
                frozenset(),
                is_service_account=flow.is_service_account,
                tenant_id=flow.tenant_id,
            )
            await self._failed(flow, former, reason)
            raise AuthorizationFailedError(reason)
        return user, await self._usable(flow.server_id, user)

    async def _unchanged(
        self, flow: OAuthFlow, server: OAuthServer, user: UserContext
    ) -> Discovered:
        """Return the authorization server, which must be the one that the flow began with."""
        found = None
        if flow.configuration == configuration_digest(server):
            try:
                found = await self._authorization_servers.discover(server, flow.issuer)
            except UpstreamError as exc:
                reason = _sentence(exc.message)
                await self._failed(flow, user, reason)
                raise AuthorizationFailedError(reason) from None
        began_with = server_of(flow.authorization_server)
        if (
            found is None
            or found.server.issuer != began_with.issuer
            or found.server.token_endpoint != began_with.token_endpoint
            or found.resource.resource != flow.resource
        ):
            reason = (
                "The server or its authorization server was changed during the authorization. "
                "Start again."
            )
            await self._failed(flow, user, reason)
            raise AuthorizationFailedError(reason)
        return found

    async def _exchange(
        self,
        flow: OAuthFlow,
        code: str,
        user: UserContext,
        server: OAuthServer,
        found: Discovered,
    ) -> None:
        try:
            if not is_sendable(code) or len(code) > MAX_CODE_CHARACTERS:
                raise OAuthError("The authorization code is malformed.")
            scopes = None if flow.scopes is None else tuple(flow.scopes)
            client = await self._authorization_servers.client(server, found, scopes)
            if client.client_id != flow.client_id:
                raise OAuthError("The registration of the client was replaced. Start again.")
            request = TokenRequest(found.server, client, flow.resource, scopes)
            tokens = await self._endpoint.exchange_code(
                request,
                code=code,
                verifier=flow.code_verifier or "",
                redirect_uri=flow.redirect_uri or "",
            )
        except UpstreamError as exc:
            if isinstance(exc, InvalidClientError):
                await self._authorization_servers.forget(
                    server, found.server, flow.client_id or ""
                )
            reason = _sentence(exc.message)
            await self._failed(flow, user, reason)
            raise AuthorizationFailedError(reason) from exc
        try:
            replaced = await self._tokens.store(user, server, request, tokens, flow.id)
        except FlowEndedError:
            obtained = RemovedTokens(request, tokens.access_token, tokens.refresh_token)
            await revoke_both(self._endpoint, request, obtained)
            if await self._servers.unchecked(server.id) is None:
                raise AuthorizationFailedError(SERVER_REMOVED) from None
            raise
        if replaced:
            self._removals.removed(server.id, replaced)
        self._links.forget(user.user_id, server.id)
        self._counted.labels("completed").inc()
        await self._note(user, server.id, "completed")
        self._listener.authorized(user, server)

    async def _failed(self, flow: OAuthFlow, user: UserContext, reason: str) -> None:
        if await self._flows.end(flow.id, FlowStatus.FAILED, reason, self._clock.now()):
            self._links.forget(user.user_id, flow.server_id)
            self._counted.labels("failed").inc()
            await self._note(user, flow.server_id, "failed", reason)

    async def _note(
        self, user: UserContext, server_id: str, step: str, reason: str | None = None
    ) -> None:
        changes: JsonObject = {"step": step}
        outcome = AuditOutcome.SUCCESS if reason is None else AuditOutcome.FAILED
        event = AuditEvent(
            AuditAction.AUTHORIZE,
            EntityType.AUTHORIZATION,
            server_id,
            changes,
            outcome=outcome,
            reason=reason,
        )
        await self._audit.note(user, event)


def cookie_name(flow_id: str) -> str:
    """Return the name of the cookie of a flow's browser."""
    return f"registry_oauth_{flow_id}"


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).hexdigest()


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _sentence(message: str) -> str:
    """Return a reason as a page shows it."""
    return message if message.endswith((".", "!", "?")) else f"{message}."


def _refusal_text(response: AuthorizationResponse) -> str:
    code = response.error or ""
    if code == "access_denied":
        return "The authorization was denied."
    said = "The authorization server "
    if response.error is None:
        said += "answered neither a code nor an error"
    elif CODE.fullmatch(code):
        said += f"answered {code}"
    else:
        said += "refused the authorization"
    text = response.error_description or ""
    described = "".join(one if one.isprintable() else " " for one in text)
    described = described[:DESCRIPTION_CHARACTERS]
    return f"{said}: {described}" if described else f"{said}."
