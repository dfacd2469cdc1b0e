"""Admission: who calls, what the token allows, which servers exist, and how to reach them."""

import asyncio
from contextlib import suppress

from yarl import URL

from packages.models.states import AuditOutcome, QuarantineKind
from registry.access.policies.decisions import NO_RULE, deciding, version_of
from registry.access.policies.explaining import blocking
from registry.access.policies.values import NarrowedPath
from registry.access.policy import AccessDecision, AccessRule, decide_use
from registry.access.quarantine.table import PREFIX, QuarantineTable
from registry.audit.values import AuditAction, AuditEvent, EntityType
from registry.auth.errors import InsufficientScopeError, UnauthorizedError
from registry.auth.identity import Scope, UserContext
from registry.auth.jwt import VerifiedToken
from registry.core.json import JsonObject
from registry.core.origin import UrlOrigin
from registry.gateway.edge.error_responses import challenged
from registry.gateway.edge.requests import GatewayRequest
from registry.gateway.errors import (
    AuthorizationRequired,
    CredentialsRejected,
    NotServing,
    Quarantined,
    Refusal,
    ServerUnknown,
    ToolDenied,
    ToolsetUnknown,
    ToolUnknown,
    UpstreamFailed,
)
from registry.gateway.ports import Authenticate, Refusals, RouteTable
from registry.gateway.protocol.headers import TOOLSET_HEADER
from registry.gateway.values import Credentials, Route, is_unread
from registry.gateway.view.catalogue import BlockedTool, CatalogueView
from registry.gateway.view.toolsets import BY_DEFAULT, ToolsetOffering, Toolsets
from registry.oauth.errors import AuthorizationRequiredError, AuthorizationUnavailableError
from registry.oauth.policy import grant_of
from registry.oauth.ports import AuthorizationLinks
from registry.oauth.values import Grant
from registry.servers.values import Transport
from registry.tools.naming import SEPARATOR
from registry.upstream.oauth.challenges import challenge_of

RECORDED_CHARACTERS = 256
RECORDED_POLICIES = 10
"""Maximum length in records of a tool's name, and of the ids of the policies that refuse it."""

INSUFFICIENT_SCOPE = "insufficient_scope"
UNAUTHORIZED = 401

FIRST_READING_SECONDS = 10.0
"""How long the first call of a server waits for its tools to be read."""

GATEWAY_SCOPES = (Scope.READ_TOOLS, Scope.INVOKE_TOOLS)


class Admission:
    """Admits a request, or refuses it with a reason.

    Args:
        routes: The servers that can be called now.
        authenticate: Identifies the caller.
        refusals: Records what known callers were refused.
        links: Makes links under which callers authorise the registry at servers.
        base_url: The public URL; refusals point below it.
        quarantines: What is refused whatever else holds.
        admin_uses_private: Whether administrators may use others' private servers.
        toolsets: All toolsets.
    """

    def __init__(
        self,
        routes: RouteTable,
        authenticate: Authenticate,
        *,
        refusals: Refusals,
        links: AuthorizationLinks,
        quarantines: QuarantineTable,
        base_url: str,
        admin_uses_private: bool,
        toolsets: Toolsets,
    ) -> None:
        self._routes = routes
        self._authenticate = authenticate
        self._refusals = refusals
        self._links = links
        self._quarantines = quarantines
        self._base_url = base_url
        self._admin_uses_private = admin_uses_private
        self._toolsets = toolsets

    async def identify(self, exchange: GatewayRequest) -> UserContext:
        """Return the caller, on the headers alone.

        Runs before the body is read: nothing of a stranger is parsed.

        Raises:
            Unauthorized: No acceptable token.
        """
        authorization = exchange.headers.get("authorization")
        user = self._authenticate.cached(authorization) if authorization else None
        if user is None:
            user = await self._verified(authorization)
        exchange.user = user
        if not self._quarantines.is_empty:
            self.require_free(user)
        return user

    def require_client(self, name: object) -> None:
        """Check that a caller application is not in quarantine.

        Args:
            name: As it says in `clientInfo`.

        Raises:
            Quarantined: It is.
        """
        if self._quarantines.of_client(name) is not None:
            raise Quarantined("This application")

    def require_free(self, user: UserContext) -> None:
        """Check that neither a caller nor their token is in quarantine.

        Raises:
            Quarantined: They are.
        """
        found = self._quarantines.of_caller(user)
        if found is not None:
            is_user = found.kind is QuarantineKind.USER
            raise Quarantined("Your account" if is_user else "Your token")

    def admit(
        self,
        exchange: GatewayRequest,
        user: UserContext,
        needed: Scope,
        *,
        is_for_stream: bool = False,
    ) -> Route:
        """Return the route that the caller may use, and note it in *exchange*.

        Args:
            exchange: The request.
            user: Who calls.
            needed: The required scope of the token.
            is_for_stream: Whether it is a message for an open stream of the HTTP+SSE transport,
                which becomes another request unless the server speaks that transport too.

        Raises:
            InsufficientScope: The token does not allow *needed*.
            NotServing: The view of the servers is outdated.
            ServerUnknown: The server does not exist, or not for this caller.
        """
        self.admit_caller(exchange, user, needed)
        route = self._admit_to(exchange, user, self._routes.route(exchange.slug, user.tenant_id))
        if not is_for_stream or route.transport is Transport.SSE:
            self.note_use(exchange, user, route)
        exchange.served_by(route)
        return route

    def admit_caller(self, exchange: GatewayRequest, user: UserContext, needed: Scope) -> None:
        """Check that *user* has the scope *needed*, on any server they may see.

        Raises:
            InsufficientScope: The token does not allow *needed*.
            NotServing: The view of the servers is outdated.
        """
        if user.lacks(needed):
            # All scopes of the gateway at once, or clients would have to ask again for the others.
            error = InsufficientScopeError(GATEWAY_SCOPES)
            self._note(exchange, user, None, error.message)
            raise challenged(error)
        if not self._routes.is_fresh():
            raise NotServing("The gateway has lost its database connection; try again.")

    def route_of(self, user: UserContext, slug: str, server_id: str) -> Route:
        """Return a route that *user* used before, if they may still use it.

        Raises:
            ServerUnknown: They may not, or it is another server now.
        """
        route = self._routes.route(slug, user.tenant_id)
        if route is None or route.server_id != server_id:
            raise ServerUnknown
        seen = self.seen(user, route)
        if seen is None:
            raise ServerUnknown
        return seen

    def served_to(self, user: UserContext, server_id: str) -> Route | None:
        """Return a server as *user* may use it; None if it does not exist for them, or is off.

        Raises:
            NotServing: The view of the servers is outdated.
        """
        if not self._routes.is_fresh():
            raise NotServing("The gateway has lost its database connection; try again.")
        member = self._routes.catalogue.by_server.get(server_id)
        if member is None or member.route.facts.tenant_id != user.tenant_id:
            return None
        return self.seen(user, member.route)

    def policy_version(self, server_id: str, tool: str) -> str:
        """Return a digest of the policies for a tool; another after each change of them."""
        member = self._routes.catalogue.by_server.get(server_id)
        policies = None if member is None else member.route.policies
        return version_of(NO_RULE if policies is None else policies.rules.get(tool, NO_RULE))

    async def current(self, token: VerifiedToken) -> UserContext:
        """Return the caller of a token that was verified before, as they are now.

        Raises:
            UnauthorizedError: They do not exist any more, are disabled, or the token is revoked.
            Quarantined: They are in quarantine, or the token is.
            DatabaseUnavailable: That cannot be known now.
        """
        user = await self._authenticate.current(token)
        self.require_free(user)
        return user

    def seen(self, user: UserContext, route: Route) -> Route | None:
        """Return the server as *user* may use it; None if it does not exist for them."""
        if not self._decide(user, route).allowed:
            return None
        return route if route.policies is None else route.policies.seen_by(user)

    def remembered(self, authorization: str) -> UserContext | None:
        """Return the caller of a request with this header, if known without any I/O."""
        return self._authenticate.cached(authorization)

    def holds(self, authorization: str) -> bool:
        """Whether an admitted token has neither expired nor left the cache."""
        return self._authenticate.holds(authorization)

    async def credentials(self, route: Route, user: UserContext) -> Credentials:
        """Return the stored headers with which *user* reaches a server.

        Raises:
            UpstreamFailed: The server's credentials cannot be used.
            AuthorizationRequired: The caller has not authorised the registry at the server.
            RegistryError: The caller has stored no key for this server, or it is unreadable.
        """
        if route.credential_problem is not None:
            raise UpstreamFailed(route.credential_problem)
        if not route.per_user:
            return route.shared
        try:
            return await self._routes.user_headers(user, route)
        except AuthorizationRequiredError as exc:
            raise AuthorizationRequired(route.server_name, route.server_id, exc.link) from None

    async def other_credentials(
        self,
        route: Route,
        user: UserContext,
        sent: Credentials,
        rejected: CredentialsRejected,
        *,
        is_renewed: bool = False,
    ) -> Credentials:
        """Return other headers than *sent*, which a server rejected before it did anything.

        One that rejects a renewed token, too, would reject the next: only the caller can help.

        Raises:
            CredentialsRejected: There are no others.
            AuthorizationRequired: Only the caller can help.
            RegistryError: They cannot be obtained now.
        """
        if sent.token is None or route.oauth is None or not self._is_for_token(rejected):
            raise rejected
        challenge = challenge_of(rejected.challenge)
        if challenge is not None and challenge.error == INSUFFICIENT_SCOPE:
            scopes = challenge.scopes or ()
            link = self._links.link(user, route.oauth, scopes)
            granted = sent.token.scopes or frozenset()
            # A server may name all that it needs, or only what is missing.
            missing = [one for one in scopes if one not in granted] or scopes
            raise AuthorizationRequired(route.server_name, route.server_id, link, missing)
        if rejected.answered != UNAUTHORIZED:
            raise rejected
        if is_renewed:
            if grant_of(route.oauth.config) is not Grant.AUTHORIZATION_CODE:
                raise rejected
            link = self._links.link(user, route.oauth)
            raise AuthorizationRequired(route.server_name, route.server_id, link)
        try:
            return await self._routes.renewed_headers(user, route, sent.token)
        except AuthorizationRequiredError as exc:
            raise AuthorizationRequired(route.server_name, route.server_id, exc.link) from None

    def _is_for_token(self, rejected: CredentialsRejected) -> bool:
        """Whether a server asks for an access token of its own users.

        It may ask for something else instead: for a password, or for a token of this registry.
        """
        if not rejected.challenge:
            return True
        challenge = challenge_of(rejected.challenge)
        if challenge is None:
            return False
        metadata = challenge.resource_metadata
        return metadata is None or not _is_of_same_origin(metadata, self._base_url)

    def unread(self, user: UserContext, slug: str, name: object) -> Route | None:
        """Return the server of a tool if nobody's authorization has let it be read yet.

        Args:
            user: Who calls.
            slug: Of the path; empty for all servers.
            name: The client's name for the tool.
        """
        if slug:
            route = self._routes.route(slug, user.tenant_id)
        else:
            prefix = name.partition(SEPARATOR)[0] if isinstance(name, str) else ""
            member = self._routes.catalogue.member(prefix, user.tenant_id)
            route = None if member is None else member.route
        if route is None or not is_unread(route) or not self._decide(user, route).allowed:
            return None
        return route

    async def first_access(self, route: Route, user: UserContext) -> None:
        """Return when the tools of an unread server are known, or could not be read in time.

        Raises:
            AuthorizationRequired: The caller has not authorised the registry there.
            RegistryError: That cannot be known now.
        """
        await self.credentials(route, user)
        seen = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_READING_SECONDS):
                while True:
                    now = self._routes.route(route.slug, user.tenant_id)
                    if now is None or not is_unread(now):
                        return
                    seen = await self._routes.changed(seen)

    async def is_authorized(self, route: Route, user: UserContext) -> bool:
        """Whether *user* can call a server now, as far as access tokens are concerned."""
        if route.oauth is None:
            return True
        try:
            await self.credentials(route, user)
        except (AuthorizationRequired, AuthorizationUnavailableError):
            return False
        return True

    def view(self, user: UserContext) -> CatalogueView:
        """Return *user*'s view of the catalogue."""
        return self._routes.catalogue.view(user, admin_uses_private=self._admin_uses_private)

    def narrows(self, exchange: GatewayRequest, user: UserContext) -> bool:
        """Whether a toolset may narrow what *user* finds at the path."""
        return (
            exchange.toolset is not None
            or user.toolset is not None
            or TOOLSET_HEADER in exchange.headers
            or (not exchange.slug and self._toolsets.has_defaults)
        )

    def asks_client_name(self, exchange: GatewayRequest, user: UserContext) -> bool:
        """Whether what *user* finds at the path may depend on the name of their client."""
        return (
            self._toolsets.has_client_defaults
            and not exchange.slug
            and exchange.toolset is None
            and user.toolset is None
            and TOOLSET_HEADER not in exchange.headers
        )

    def narrowed(
        self,
        exchange: GatewayRequest,
        user: UserContext,
        route: Route | None,
        client: str | None = None,
    ) -> ToolsetOffering | None:
        """Return what toolsets leave of the path; None if none narrows it.

        The toolset of the path, or else of the caller's default, gives the names; the header and
        the token narrow it further.

        Args:
            exchange: The request.
            user: Who asks.
            route: The one server of the path, as *user* may use it; None for all.
            client: The name of the client, if that may matter.

        Raises:
            ToolsetUnknown: One does not exist, or *user* may not use it.
        """
        path = NarrowedPath(
            exchange.toolset,
            exchange.headers.get(TOOLSET_HEADER),
            client,
            None if route is None else route.server_id,
        )
        try:
            applied = self._toolsets.applied(
                user, path, admin_uses_private=self._admin_uses_private
            )
        except ToolsetUnknown as unknown:
            if unknown.rule is not None:
                self._note(exchange, user, None, f"toolset {unknown.name}: {unknown.rule}")
            raise
        if not applied:
            return None
        return self._toolsets.offering(
            self.view(user),
            # By their ids: to hash a whole toolset for each call takes longer than to apply it.
            list({toolset.id: toolset for toolset, _ in applied}.values()),
            server_id=path.server_id,
            is_default=[named_by for _, named_by in applied] == [BY_DEFAULT],
        )

    def _admit_to(self, exchange: GatewayRequest, user: UserContext, route: Route | None) -> Route:
        if route is None:
            raise ServerUnknown
        decision = self._decide(user, route)
        if not decision.allowed:
            self._note(exchange, user, route.server_id, decision.rule)
            raise ServerUnknown
        if self._quarantines.of_server(route.server_id) is not None:
            raise Quarantined(f"The {route.named}")
        return route if route.policies is None else route.policies.seen_by(user)

    def note_use(self, exchange: GatewayRequest, user: UserContext, route: Route) -> None:
        """Record once a request that an administrator uses another user's private server."""
        if not user.is_admin or route.facts.is_shared:
            return
        if self._decide(user, route).rule is not AccessRule.ADMINISTRATOR:
            return
        before = exchange.route
        if before is not None and before.server_id == route.server_id:
            return
        used: JsonObject = {"method": exchange.method}
        name = exchange.params.get("name")
        if isinstance(name, str):
            used["name"] = name[:RECORDED_CHARACTERS]
        self._note(
            exchange, user, route.server_id, AccessRule.ADMINISTRATOR, AuditOutcome.SUCCESS, used
        )

    def _decide(self, user: UserContext, route: Route) -> AccessDecision:
        return decide_use(user, route.facts, admin_uses_private=self._admin_uses_private)

    def note_hidden(self, exchange: GatewayRequest, user: UserContext, name: str) -> None:
        """Record that a caller used a name of a hidden server on the aggregate server.

        Args:
            exchange: The request.
            user: Who asked.
            name: The name of the tool or prompt.
        """
        member = self._routes.catalogue.member(name.partition(SEPARATOR)[0], user.tenant_id)
        if member is not None:
            decision = self._decide(user, member.route)
            if not decision.allowed:
                self._note(exchange, user, member.route.server_id, decision.rule)

    def unknown_tool(
        self, exchange: GatewayRequest, name: str, blocked: BlockedTool | None
    ) -> Refusal:
        """Return the refusal of a tool that does not exist for the caller.

        It is the same whether there is none or policies refuse it; the latter is recorded. A tool
        in quarantine is said to be.

        Args:
            exchange: The request.
            name: The client's name for the tool.
            blocked: The tool, if policies refuse it.
        """
        user = exchange.user
        if blocked is None or user is None:
            return ToolUnknown(name)
        exchange.served_by(blocked.route)
        exchange.tool = blocked.name
        tool = blocked.name[:RECORDED_CHARACTERS]
        why = blocking(user, blocked.rule)
        ids = [policy.id for policy in deciding(user, blocked.rule)[:RECORDED_POLICIES]]
        self._note(
            exchange,
            user,
            blocked.route.server_id,
            f"tool {tool}: {why}",
            changes={"tool": tool, "policies": [*ids]},
        )
        if any(policy_id.startswith(PREFIX) for policy_id in ids):
            if self._quarantines.of_server(blocked.route.server_id) is not None:
                return Quarantined(f"The {blocked.route.named}")
            return Quarantined(f"The tool {name}")
        return ToolDenied(name)

    def note_answer(
        self,
        exchange: GatewayRequest,
        user: UserContext,
        route: Route,
        tool: str,
        answer: str,
        *,
        is_yes: bool,
    ) -> None:
        """Record how the confirmation of a call ended.

        Args:
            exchange: The call.
            user: Who calls.
            route: The server.
            tool: The tool, as the server calls it.
            answer: The user's answer, or why there is none.
            is_yes: Whether it lets the call pass.
        """
        tool = tool[:RECORDED_CHARACTERS]
        self._note(
            exchange,
            user,
            route.server_id,
            f"tool {tool}: confirmation {answer}",
            AuditOutcome.SUCCESS if is_yes else AuditOutcome.DENIED,
            {"tool": tool, "confirmation": answer},
        )

    def _note(
        self,
        exchange: GatewayRequest,
        user: UserContext,
        server_id: str | None,
        reason: str,
        outcome: AuditOutcome = AuditOutcome.DENIED,
        changes: JsonObject | None = None,
    ) -> None:
        client = exchange.scope.get("client")
        event = AuditEvent(
            AuditAction.CALL,
            EntityType.SERVER,
            server_id,
            changes or {},
            outcome=outcome,
            reason=reason,
        )
        origin = UrlOrigin(None, str(client[0]) if client else None)
        self._refusals.note_later(user, event, origin)

    async def _verified(self, authorization: str | None) -> UserContext:
        try:
            return await self._authenticate.authenticate(authorization)
        except UnauthorizedError as exc:
            raise challenged(exc) from None


def _is_of_same_origin(url: str, base_url: str) -> bool:
    try:
        return URL(url).origin() == URL(base_url).origin()
    except ValueError:
        return False
