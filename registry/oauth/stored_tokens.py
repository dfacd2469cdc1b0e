"""Users' tokens for servers in the form that jarvis-api reads and writes: what the rows mean.

A user has up to three rows for a server: an access token, a refresh token, and the client that
they were obtained with. What only this program knows of a row is in `registry.oauth`, bound to the
ciphertext that it was written with: a row that another program rewrote is read as that program's.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import structlog

from packages.database.client import Database, Transaction
from packages.database.encryption import Cipher, DecryptionError, FieldRef
from packages.database.stored import json_members, text_of
from packages.models.states import FlowStatus
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.json import JsonObject, members
from registry.oauth.errors import FlowEndedError
from registry.oauth.repository import OAuthFlowRepository
from registry.oauth.values import OAuthServer, RemovedTokens
from registry.tokens.naming import (
    MCP_ACCESS,
    MCP_CLIENT,
    MCP_REFRESH,
    access_identifier,
    client_identifier,
    refresh_identifier,
)
from registry.tokens.repository import TokenRepository, digest_of
from registry.tokens.transactions import in_transaction
from registry.tokens.values import StoredKey, TokenRow, TokenRowValues
from registry.upstream.oauth.metadata import server_of
from registry.upstream.oauth.values import (
    AuthorizationServer,
    ClientAuthentication,
    ClientKind,
    OAuthClientIdentity,
    TokenRequest,
    Tokens,
)

log = structlog.get_logger()

YEAR = timedelta(days=365)
"""Expiry of rows where none is known, as jarvis-api writes it."""

ASSUMED_LIFETIME = timedelta(hours=1)
"""After this time, an access token without a known expiry is renewed."""


MARGIN, MAX_MARGIN = 0.1, timedelta(seconds=10)
"""Part of its lifetime, and longest time, that an access token is renewed before it expires."""


@dataclass(frozen=True, slots=True)
class AuthorizationToken:
    """A stored access or refresh token.

    Attributes:
        row: As it was read.
        facts: What only this program knows of it; empty if another program wrote it.
        lifetime: From its storing to its expiry; assumed where none is known.
        has_known_expiry: Whether the authorization server said when it expires.
    """

    row: TokenRow
    value: str = field(repr=False)
    facts: JsonObject
    created_at: datetime
    expires_at: datetime
    lifetime: timedelta
    has_known_expiry: bool = True

    @property
    def token_id(self) -> str:
        """Return the id of its document."""
        return str(self.row.key)

    @property
    def identity(self) -> str:
        """Return what identifies it as it is stored, without showing it."""
        return digest_of(self.row.ciphertext)

    @property
    def renewed_at(self) -> datetime:
        """Return when it is no longer used if another one can be obtained."""
        return self.expires_at - min(MAX_MARGIN, self.lifetime * MARGIN)

    @property
    def needs_reauth(self) -> bool:
        """Whether it was refused, so that only its user can help."""
        return self.facts.get("needs_reauth") is not None

    @property
    def scopes(self) -> frozenset[str] | None:
        """Return the granted scopes, if they are known."""
        stored = self.facts.get("scopes")
        if not isinstance(stored, list):
            return None
        return frozenset(one for one in stored if isinstance(one, str))

    @property
    def lease_holder(self) -> str | None:
        """Return who is renewing it."""
        return text_of(members(self.row.registry.get("lease")).get("holder"))


@dataclass(frozen=True, slots=True)
class StoredAuthorization:
    """What is stored of a user's authorization at a server.

    Attributes:
        access: The access token, expired or not.
        client: The client that they were obtained with.
        authorization_server: Where.
        row_ids: Ids of all rows that were read.
    """

    access: AuthorizationToken | None = None
    refresh: AuthorizationToken | None = None
    client: OAuthClientIdentity | None = None
    authorization_server: AuthorizationServer | None = None
    row_ids: frozenset[str] = frozenset()

    @property
    def renewable(self) -> AuthorizationToken | None:
        """Return the refresh token, if it can be used."""
        return None if self.refresh is None or self.refresh.needs_reauth else self.refresh

    def usable(self, now: datetime, other_than: str | None = None) -> AuthorizationToken | None:
        """Return the access token if it can be used, and is another one than *other_than*."""
        access = self.access
        if access is None or access.needs_reauth or access.value == other_than:
            return None
        ends_at = access.expires_at if self.renewable is None else access.renewed_at
        return access if ends_at > now else None


class OAuthTokenRepository:
    """Reads and stores users' tokens for servers."""

    def __init__(
        self,
        database: Database,
        tokens: TokenRepository,
        flows: OAuthFlowRepository,
        cipher: Cipher,
        clock: Clock,
    ) -> None:
        self._database = database
        self._tokens = tokens
        self._flows = flows
        self._cipher = cipher
        self._clock = clock

    async def read(
        self, user_id: str, server: OAuthServer, tx: Transaction | None = None
    ) -> StoredAuthorization:
        """Return what is stored of a user's authorization at a server. One query."""
        rows = await self._tokens.rows(user_id, _identifiers(server.name), tx)
        return self._authorization(server, rows)

    async def read_all(
        self, user_id: str, servers: Collection[OAuthServer]
    ) -> Mapping[str, StoredAuthorization]:
        """Return what is stored of a user's authorizations by server id. One query."""
        identifiers = [one for server in servers for one in _identifiers(server.name)]
        rows: dict[str, list[TokenRow]] = {}
        for row in await self._tokens.rows(user_id, identifiers):
            rows.setdefault(row.identifier, []).append(row)
        return {
            server.id: self._authorization(
                server,
                [row for one in _identifiers(server.name) for row in rows.get(one, ())],
            )
            for server in servers
        }

    async def store(
        self,
        user: UserContext,
        server: OAuthServer,
        request: TokenRequest,
        tokens: Tokens,
        flow_id: str,
    ) -> list[TokenRow]:
        """Store what a flow obtained, in place of what there is, and complete the flow.

        A stored refresh token is kept if there is no new one: some authorization servers issue it
        with the first authorization only.

        Returns:
            What was replaced although it did not fit: the server has moved since it was obtained.

        Raises:
            FlowEndedError: The flow was ended meanwhile; nothing was stored.
            DatabaseUnavailable: Nothing was stored.
        """
        now = self._clock.now()

        async def write(tx: Transaction) -> list[TokenRow]:
            completed = await self._flows.end(
                flow_id, FlowStatus.COMPLETED, None, now, was=[FlowStatus.EXCHANGING], tx=tx
            )
            if not completed:
                raise FlowEndedError
            rows = await self._tokens.rows(user.user_id, _identifiers(server.name), tx)
            before = self._authorization(server, rows)
            facts = _facts(server, request)
            keys = _keys(server.name)
            access = _access_values(user, facts, request.scopes, tokens, now)
            await self._tokens.put_row(user.user_id, keys[MCP_ACCESS], access, tx)
            if tokens.refresh_token is not None:
                refresh = _refresh_values(user, facts, tokens.refresh_token, tokens, now)
                await self._tokens.put_row(user.user_id, keys[MCP_REFRESH], refresh, tx)
            elif before.renewable is None or not _is_of(before, request):
                kept = [refresh_identifier(server.name)]
                await self._tokens.delete_rows(user.user_id, kept, [MCP_REFRESH], tx)
            client = TokenRowValues(
                json.dumps(_client_information(request.client)),
                now,
                now + YEAR,
                facts,
                metadata=request.server.document,
                tenant_id=user.tenant_id,
            )
            await self._tokens.put_row(user.user_id, keys[MCP_CLIENT], client, tx)
            clients = [row for row in rows if row.stored_type == MCP_CLIENT]
            moved = [
                row
                for row in rows
                if row.stored_type != MCP_CLIENT and not is_current(server, _written_facts(row))
            ]
            return [*moved, *clients] if moved else []

        return await in_transaction(self._database, write)

    async def renew(
        self,
        user: UserContext,
        server: OAuthServer,
        used: AuthorizationToken,
        former_scopes: frozenset[str] | None,
        request: TokenRequest,
        tokens: Tokens,
        *,
        claimed: Callable[[], None],
    ) -> bool:
        """Store what a refresh token was exchanged for; releases its lease.

        Args:
            user: Whose tokens they are.
            server: For which server.
            used: The refresh token that was exchanged; it is kept if there is no new one.
            former_scopes: Those of the access token before.
            request: With what it was exchanged.
            tokens: For what.
            claimed: Called once that refresh token is still as it was read, and nobody else can
                change it until the tokens are stored.

        Returns:
            False if that refresh token is no longer stored as it was read: nothing was changed.

        Raises:
            DatabaseUnavailable: Nothing was changed.
        """
        now = self._clock.now()
        facts = _facts(server, request)
        scopes = None if former_scopes is None else tuple(sorted(former_scopes))
        access = _access_values(user, facts, scopes, tokens, now)

        async def write(tx: Transaction) -> bool:
            if tokens.refresh_token is None or tokens.refresh_token == used.value:
                is_stored = await self._tokens.note_facts(used.row, facts, tx)
            else:
                refresh = _refresh_values(user, facts, tokens.refresh_token, tokens, now)
                is_stored = await self._tokens.replace_row(used.row, refresh, tx)
            if not is_stored:
                return False
            claimed()
            key = _keys(server.name)[MCP_ACCESS]
            await self._tokens.put_row(user.user_id, key, access, tx)
            return True

        return await in_transaction(self._database, write)

    async def take_lease(self, token: AuthorizationToken, holder: str, former: str | None) -> bool:
        """Take the lease of a refresh token; False if the row or the lease has changed.

        Args:
            token: As it was read.
            holder: Who takes it.
            former: Who held it until now.
        """
        return await self._tokens.take_lease(token.row, holder, former)

    async def release_lease(self, token: AuthorizationToken, holder: str) -> None:
        """Release the lease of a refresh token, if *holder* still has it."""
        await self._tokens.release_lease(token.row, holder)

    async def mark(self, token: AuthorizationToken, reason: str) -> bool:
        """Note that a token was refused; False if it was replaced meanwhile.

        Args:
            token: As it was read.
            reason: The error code of the authorization server, or of the server.
        """
        return await self._tokens.note_facts(token.row, {**token.facts, "needs_reauth": reason})

    async def remove(self, user_id: str, server: OAuthServer) -> StoredAuthorization:
        """Remove a user's access and refresh tokens for a server; return what was stored."""
        named = [access_identifier(server.name), refresh_identifier(server.name)]

        async def write(tx: Transaction) -> StoredAuthorization:
            before = await self.read(user_id, server, tx)
            await self._tokens.delete_rows(user_id, named, [MCP_ACCESS, MCP_REFRESH], tx)
            return before

        return await in_transaction(self._database, write)

    def revocable(self, rows: Iterable[TokenRow]) -> list[RemovedTokens]:
        """Return what removed rows of one server held, by user, where it can be revoked.

        Args:
            rows: Those of a user have one client, with whose authorization server it is revoked.
        """
        by_user: dict[str, dict[str, TokenRow]] = {}
        for row in rows:
            by_user.setdefault(row.user_id, {})[row.stored_type] = row
        found = [self._removed(user_id, of_user) for user_id, of_user in by_user.items()]
        return [one for one in found if one is not None]

    def _removed(self, user_id: str, rows: Mapping[str, TokenRow]) -> RemovedTokens | None:
        stored = rows.get(MCP_CLIENT)
        information = None if stored is None else self._value(stored)
        if stored is None or information is None:
            return None
        client = _client(information, stored.metadata)
        authorization_server = _authorization_server(stored.metadata)
        if client is None or authorization_server is None:
            return None
        access, refresh = (
            None if row is None or not _is_with(row, stored) else self._value(row)
            for row in (rows.get(MCP_ACCESS), rows.get(MCP_REFRESH))
        )
        if access is None and refresh is None:
            return None
        request = TokenRequest(authorization_server, client, None, None)
        return RemovedTokens(request, access, refresh, user_id)

    def _authorization(self, server: OAuthServer, rows: Iterable[TokenRow]) -> StoredAuthorization:
        keys = {(key.stored_type, key.identifier) for key in _keys(server.name).values()}
        found: dict[str, AuthorizationToken] = {}
        row_ids = set()
        for row in rows:
            if (row.stored_type, row.identifier) not in keys:
                continue
            row_ids.add(str(row.key))
            token = self._token(server, row)
            known = found.get(row.stored_type)
            if token is not None and (known is None or known.created_at <= token.created_at):
                found[row.stored_type] = token
        client = found.get(MCP_CLIENT)
        return StoredAuthorization(
            found.get(MCP_ACCESS),
            found.get(MCP_REFRESH),
            None if client is None else _client(client.value, client.row.metadata),
            None if client is None else _authorization_server(client.row.metadata),
            frozenset(row_ids),
        )

    def _token(self, server: OAuthServer, row: TokenRow) -> AuthorizationToken | None:
        """Return what a row holds; None if it is unusable, or not about this server."""
        expires_at, created_at = row.expires_at, row.created_at
        if expires_at is None:
            return None
        if created_at is None:
            created_at = min(expires_at, self._clock.now())
        facts = _written_facts(row)
        if not facts and server.created_at is not None and created_at < server.created_at:
            # Of a former server of that name.
            return None
        if not is_current(server, facts):
            return None
        value = self._value(row)
        if value is None:
            return None
        has_known_expiry = facts.get("expiry_known") is not False
        lifetime = expires_at - created_at if has_known_expiry else ASSUMED_LIFETIME
        return AuthorizationToken(
            row, value, facts, created_at, expires_at, lifetime, has_known_expiry
        )

    def _value(self, row: TokenRow) -> str | None:
        """Return what a row holds, in clear; None if it cannot be decrypted."""
        reference = FieldRef("tokens", str(row.key).replace("/", "%2F"), "token")
        try:
            return self._cipher.decrypt(row.ciphertext, reference)
        except DecryptionError as exc:
            log.warning("stored_token_unreadable", field=str(reference), reason=exc.reason.value)
            return None


def _is_with(row: TokenRow, client: TokenRow) -> bool:
    """Whether a token may be sent to the authorization server of a client in another row."""
    obtained = _written_facts(row).get("token_endpoint")
    return obtained in {None, client.metadata.get("token_endpoint")}


def _written_facts(row: TokenRow) -> JsonObject:
    """Return what only this program knows of a row; empty if another program wrote it."""
    facts = json_members(row.registry.get("oauth"))
    return facts if facts.get("of") == digest_of(row.ciphertext) else {}


def is_current(server: OAuthServer, facts: JsonObject) -> bool:
    """Whether a token with *facts* may be sent to *server* as it is configured now.

    Tokens of other programs have none: they are dropped when their server moves.
    """
    if facts.get("server_id", server.id) != server.id:
        return False
    url = text_of(facts.get("url"))
    if url is not None and _origin(url) != _origin(server.url):
        return False
    oauth, metadata = (members(server.config.get(name)) for name in ("oauth", "oauthMetadata"))
    token_endpoint, configured = text_of(facts.get("token_endpoint")), oauth.get("token_url")
    if isinstance(configured, str) and configured:
        return token_endpoint is None or token_endpoint == configured
    issuer, issuers = text_of(facts.get("issuer")), metadata.get("authorization_servers")
    known = {str(one).rstrip("/") for one in issuers} if isinstance(issuers, list) else set()
    if issuer is not None and known and issuer.rstrip("/") not in known:
        return False
    resource, published = text_of(facts.get("resource")), text_of(metadata.get("resource"))
    return resource is None or published is None or resource == published


def _origin(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", url
    return parts.scheme, parts.netloc.lower()


def _keys(server_name: str) -> Mapping[str, StoredKey]:
    identifiers = {
        MCP_ACCESS: access_identifier(server_name),
        MCP_REFRESH: refresh_identifier(server_name),
        MCP_CLIENT: client_identifier(server_name),
    }
    return {kind: StoredKey(kind, identifier) for kind, identifier in identifiers.items()}


def _identifiers(server_name: str) -> list[str]:
    return [key.identifier for key in _keys(server_name).values()]


def _facts(server: OAuthServer, request: TokenRequest) -> JsonObject:
    facts: JsonObject = {
        "server_id": server.id,
        "url": server.url,
        "token_endpoint": request.server.token_endpoint,
        "client_id": request.client.client_id,
    }
    if request.server.issuer is not None:
        facts["issuer"] = request.server.issuer
    if request.resource is not None:
        facts["resource"] = request.resource
    return facts


def _is_of(before: StoredAuthorization, request: TokenRequest) -> bool:
    """Whether a stored refresh token is of the client and authorization server of *request*."""
    client, server = before.client, before.authorization_server
    return (
        client is not None
        and client.client_id == request.client.client_id
        and server is not None
        and server.token_endpoint == request.server.token_endpoint
    )


def _access_values(
    user: UserContext,
    facts: JsonObject,
    scopes: tuple[str, ...] | None,
    tokens: Tokens,
    now: datetime,
) -> TokenRowValues:
    granted = tokens.scopes if tokens.scopes is not None else scopes
    known: JsonObject = {} if granted is None else {"scopes": [*granted]}
    lifetime = _lifetime(tokens.expires_in)
    if lifetime is None:
        known["expiry_known"] = False
    return TokenRowValues(
        tokens.access_token,
        now,
        now + (lifetime or YEAR),
        {**facts, **known},
        tenant_id=user.tenant_id,
    )


def _refresh_values(
    user: UserContext, facts: JsonObject, value: str, tokens: Tokens, now: datetime
) -> TokenRowValues:
    expires_at = now + (_lifetime(tokens.refresh_expires_in) or YEAR)
    return TokenRowValues(value, now, expires_at, facts, tenant_id=user.tenant_id)


def _lifetime(seconds: int | None) -> timedelta | None:
    return None if seconds is None or seconds <= 0 else timedelta(seconds=seconds)


def _client_information(client: OAuthClientIdentity) -> JsonObject:
    """Return what jarvis-api stores of a client (RFC 7591, 3.2.1)."""
    information: JsonObject = {**client.document, "client_id": client.client_id}
    information["token_endpoint_auth_method"] = client.authentication.value
    if client.client_secret is not None:
        information["client_secret"] = client.client_secret
    if client.expires_at is not None:
        information["client_secret_expires_at"] = client.expires_at
    return information


def _client(stored: str, metadata: JsonObject) -> OAuthClientIdentity | None:
    """Return a stored client; None if it is malformed.

    Args:
        stored: What jarvis-api stores of it.
        metadata: Of its authorization server.
    """
    try:
        information = members(json.loads(stored))
    except (ValueError, RecursionError):
        return None
    client_id = text_of(information.get("client_id"))
    if not client_id:
        return None
    secret = text_of(information.get("client_secret")) or None
    return OAuthClientIdentity(
        client_id,
        ClientKind.REGISTERED,
        _authentication(information, secret, metadata),
        secret,
        document=information,
    )


def _authentication(
    information: JsonObject, secret: str | None, metadata: JsonObject
) -> ClientAuthentication:
    stated = information.get("token_endpoint_auth_method")
    if stated in {one.value for one in ClientAuthentication}:
        return ClientAuthentication(stated)
    if secret is None:
        return ClientAuthentication.NONE
    offered = metadata.get("token_endpoint_auth_methods_supported")
    basic, post = ClientAuthentication.CLIENT_SECRET_BASIC, ClientAuthentication.CLIENT_SECRET_POST
    is_post = isinstance(offered, list) and post.value in offered and basic.value not in offered
    return post if is_post else basic


def _authorization_server(metadata: JsonObject) -> AuthorizationServer | None:
    if not text_of(metadata.get("token_endpoint")):
        return None
    return server_of(metadata)
