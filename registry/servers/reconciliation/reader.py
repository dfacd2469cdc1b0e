"""Discovery of a server: with its address and credentials, returning the result as a value."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from packages.models.states import SourceType
from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject, members
from registry.oauth.errors import AuthorizationRequiredError, AuthorizationUnavailableError
from registry.oauth.policy import grant_of, is_unattended
from registry.oauth.ports import AccessTokens
from registry.oauth.values import AccessToken, Grant, OAuthServer
from registry.servers.changes import NOT_CONNECTED
from registry.servers.credentials import (
    CredentialVault,
    caller_values,
    names_caller,
    needs_user_key,
)
from registry.servers.errors import (
    USER_VARIABLE,
    CredentialsRefusedError,
    CredentialUnusableError,
    DiscoveryFailedError,
    OAuthRequiredError,
    UserKeyMissingError,
)
from registry.servers.ports import Descriptions, Discovery, Progressing
from registry.servers.reconciliation.discovery_changes import OAUTH_MISSING, DiscoveryResult
from registry.servers.values import (
    PLACES_KEY,
    ApiSource,
    ConnectionSpec,
    Discovered,
    Era,
    ServerRecord,
    Transport,
    oauth_server,
    source_type_of,
)
from registry.tokens.plugin_auths import PluginAuthRepository

URL_WITH_PLACES = "holds {{...}}, which only jarvis-api fills in; use a header"


NOT_AUTHORISED = (
    "it requires OAuth, and the user for whom it would be read has not authorised the registry "
    "at it"
)

NEW_REFUSED = "The server refuses a new access token of the user."

T = TypeVar("T")


NOT_STARTED_HERE = "it is a package without a URL, which is not started here"


class ServerReader:
    """Reads the upstream behind a stored or a new configuration. Writes nothing.

    Args:
        descriptions: Has the descriptions that were given with APIs.
        tokens: Users' access tokens; without them no server with OAuth is read.
    """

    def __init__(
        self,
        vault: CredentialVault,
        discovery: Discovery,
        plugin_auths: PluginAuthRepository,
        descriptions: Descriptions,
        clock: Clock,
        tokens: AccessTokens | None = None,
    ) -> None:
        self._descriptions = descriptions
        self._vault = vault
        self._discovery = discovery
        self._plugin_auths = plugin_auths
        self._clock = clock
        self._tokens = tokens

    def with_tokens(self, tokens: AccessTokens) -> "ServerReader":
        """Return a reader that uses users' access tokens."""
        return ServerReader(
            self._vault,
            self._discovery,
            self._plugin_auths,
            self._descriptions,
            self._clock,
            tokens,
        )

    async def discover(
        self, server_id: str, config: JsonObject, user_values: Mapping[str, str]
    ) -> Discovered:
        """Run a discovery.

        Raises:
            UnsafeUrlError: The URL may not be contacted.
            DiscoveryFailedError: The discovery failed.
            UserKeyMissingError: Its users bring values of their own and not all are given.
        """
        return await self._discovery.discover(self.connection(server_id, config, user_values))

    async def read(  # noqa: PLR0913 - a server is stored, changed or new
        self,
        server_name: str,
        server_id: str,
        config: JsonObject,
        user: UserContext,
        user_key: str | None = None,
        *,
        created_at: datetime | None = None,
        use_stored_key: bool = True,
        progress: Progressing | None = None,
        known_eras: frozenset[Era] = frozenset(),
        oauth: OAuthServer | None = None,
        facts: JsonObject | None = None,
    ) -> DiscoveryResult:
        """Run a discovery of a server on behalf of *user*; a failure is part of the result.

        Besides *user_key* the values that *user* stored for the server are used, unless
        *use_stored_key* is false because they were stored for another address. Known eras are not
        probed again. A server with OAuth is read with the access token of *user* for *oauth*;
        without one its metadata alone is read. *facts* are those of the description that was
        fetched last: it is not sent again if it has not changed.

        Raises:
            UnsafeUrlError: The URL may not be contacted.
            CredentialUnreadableError: A stored secret cannot be decrypted.
        """
        began_at = self._clock.now()
        if is_not_connected(config):
            return DiscoveryResult(unread=NOT_STARTED_HERE, began_at=began_at)
        values = await self._values(
            server_name, config, user, created_at, use_stored_key=use_stored_key
        )
        if user_key is not None:
            values[USER_VARIABLE] = user_key
        bare = replace(_address(config), headers={})
        stored = await self._stored_description(server_id, bare.api, facts or {})
        if grant_of(config) is not None and (oauth is None or self._tokens is None):
            reading = await self._unauthorized(bare, config)
        else:

            async def discover(connection: ConnectionSpec) -> Discovered:
                connection = replace(connection, known_eras=known_eras)
                if stored is not None:
                    connection = replace(connection, api=stored)
                return await self._discovery.discover(connection, progress)

            reading = await self._read(server_id, config, values, user, oauth, discover)
        return replace(reading, began_at=began_at)

    async def _stored_description(
        self, server_id: str, api: ApiSource | None, facts: JsonObject
    ) -> ApiSource | None:
        """Return an API's description that was given with it, or that can be asked for news.

        None if it is fetched whole.
        """
        if api is None or api.document is not None:
            return None
        if api.url is None:
            return replace(api, document=await self._descriptions.description(server_id))
        etag, modified = _text(facts.get("etag")), _text(facts.get("last_modified"))
        if facts.get("fetched_from") != api.url or (etag is None and modified is None):
            return None
        document = await self._descriptions.description(server_id)
        # Stored by another process meanwhile, it is not what these facts are about.
        if document is None or hashlib.sha256(document).hexdigest() != facts.get("hash"):
            return None
        return replace(api, document=document, etag=etag, last_modified=modified)

    async def asked(
        self,
        server: ServerRecord,
        user: UserContext,
        ask: Callable[[ConnectionSpec], Awaitable[T]],
    ) -> T:
        """Return what *ask* returns for a server, with the credentials of *user*.

        An access token that the server does not take is renewed, once.

        Raises:
            AuthorizationRequiredError: *user* has not authorised the registry at the server.
            AuthorizationUnavailableError: Their access token cannot be renewed now.
            UserKeyMissingError: Users bring values of their own, and *user* has not stored all.
            CredentialUnreadableError: A stored secret cannot be decrypted.
            ValidationFailedError: It is of a kind that cannot be connected to.
            DatabaseUnavailable: The credentials cannot be read.
        """
        config = server.config
        values = await self._values(server.server_name, config, user, server.created_at)
        connection = self.connection(server.id, config, values)
        return await self._asked(connection, user, oauth_server(server), ask)

    async def _values(
        self,
        server_name: str,
        config: JsonObject,
        user: UserContext,
        created_at: datetime | None,
        *,
        use_stored_key: bool = True,
    ) -> dict[str, str]:
        values = dict(caller_values(user)) if names_caller(config) else {}
        if use_stored_key and needs_user_key(config):
            values |= await self._plugin_auths.values(user.user_id, server_name, created_at)
        return values

    async def _read(
        self,
        server_id: str,
        config: JsonObject,
        values: Mapping[str, str],
        user: UserContext,
        oauth: OAuthServer | None,
        discover: Callable[[ConnectionSpec], Awaitable[Discovered]],
    ) -> DiscoveryResult:
        bare = replace(_address(config), headers={})
        grant = grant_of(config)
        try:
            connection = self.connection(server_id, config, values)
            return DiscoveryResult(found=await self._asked(connection, user, oauth, discover))
        except CredentialUnusableError as exc:
            return DiscoveryResult(failure=exc.message)
        except UserKeyMissingError as exc:
            return await self._nothing(bare, exc)
        except AuthorizationRequiredError:
            return await self._unauthorized(bare, config)
        except AuthorizationUnavailableError as exc:
            is_failure = grant is Grant.CLIENT_CREDENTIALS
            problem, unread = (exc.message, None) if is_failure else (None, exc.message)
            # Perhaps for this user alone.
            notice = unread if grant is Grant.TOKEN_EXCHANGE else None
            return DiscoveryResult(failure=problem, unread=unread, notice=notice)
        except DiscoveryFailedError as exc:
            is_own = bool(values) or grant not in {None, Grant.CLIENT_CREDENTIALS}
            return DiscoveryResult(
                failure=exc.message,
                is_callers_own=is_own and isinstance(exc, CredentialsRefusedError),
                wants_oauth=grant is None and isinstance(exc, OAuthRequiredError),
            )

    async def _asked(
        self,
        connection: ConnectionSpec,
        user: UserContext,
        oauth: OAuthServer | None,
        ask: Callable[[ConnectionSpec], Awaitable[T]],
    ) -> T:
        tokens = self._tokens
        if oauth is None or tokens is None or grant_of(oauth.config) is None:
            return await ask(connection)
        token = await tokens.get(user, oauth)
        try:
            return await ask(_with_token(connection, token))
        except CredentialsRefusedError as exc:
            if exc.is_forbidden:
                raise
            token = await tokens.renewed(user, oauth, token)
        try:
            return await ask(_with_token(connection, token))
        except CredentialsRefusedError as exc:
            raise CredentialsRefusedError(NEW_REFUSED, is_forbidden=exc.is_forbidden) from None

    async def _nothing(
        self, connection: ConnectionSpec, why: UserKeyMissingError
    ) -> DiscoveryResult:
        try:
            await self._discovery.check_url(connection.url)
        except DiscoveryFailedError as exc:
            return DiscoveryResult(failure=exc.message)
        return DiscoveryResult(unread=why.reason)

    async def _unauthorized(
        self, connection: ConnectionSpec, config: JsonObject
    ) -> DiscoveryResult:
        # What is published now: that of before may be the reason why a token does not count.
        try:
            metadata = await self._discovery.oauth_metadata(connection)
        except DiscoveryFailedError as exc:
            return DiscoveryResult(failure=exc.message)
        return DiscoveryResult(
            oauth_metadata=metadata,
            unread=NOT_AUTHORISED,
            needs_oauth=True,
            notice=None if is_unattended(config) else OAUTH_MISSING,
        )

    def connection(
        self, server_id: str, config: JsonObject, user_values: Mapping[str, str]
    ) -> ConnectionSpec:
        """Return address and headers of an upstream.

        Raises:
            UserKeyMissingError: Its users bring values of their own and not all are given.
            CredentialUnreadableError: A stored secret cannot be decrypted.
            ValidationFailedError: It is of a kind that cannot be connected to.
        """
        headers = self._vault.request_headers(server_id, config, user_values)
        return replace(_address(config), headers=headers)


def is_not_connected(config: JsonObject) -> bool:
    """Whether a server is a package that runs elsewhere, without a URL."""
    return config.get("type") == NOT_CONNECTED and "command" not in config


def _with_token(connection: ConnectionSpec, token: AccessToken) -> ConnectionSpec:
    headers = {
        name: value
        for name, value in connection.headers.items()
        if name.lower() != "authorization"
    }
    return replace(connection, headers={**headers, "Authorization": f"Bearer {token.value}"})


def _address(config: JsonObject) -> ConnectionSpec:
    transport = config.get("type")
    url = config.get("url")
    if transport == "http":
        transport = Transport.STREAMABLE_HTTP.value
    if transport is None and isinstance(url, str):
        transport = Transport.SSE.value
    api = _api_source(config)
    if api is not None and url is None:
        url = ""
    if transport not in {item.value for item in Transport} or not isinstance(url, str):
        raise ValidationFailedError("type", f"{transport} servers are not supported")
    if "{{" in url:
        raise ValidationFailedError("url", URL_WITH_PLACES)
    init_timeout = config.get("initTimeout")
    return ConnectionSpec(
        url=url,
        transport=Transport(transport),
        init_timeout_seconds=(
            init_timeout / 1000
            if isinstance(init_timeout, int | float) and init_timeout > 0
            else None
        ),
        api=api,
    )


def _api_source(config: JsonObject) -> ApiSource | None:
    if source_type_of(config) is SourceType.MCP:
        return None
    stored = members(config.get("openapi"))
    document = stored.get("document")
    url = stored.get("description_url")
    return ApiSource(
        url=url if isinstance(url, str) else None,
        document=document.encode() if isinstance(document, str) else None,
        include=_rules(stored.get("include")),
        exclude=_rules(stored.get("exclude")),
        places_key=stored.get(PLACES_KEY) is True,
    )


def _text(stored: object) -> str | None:
    """Return text that can be the value of a header."""
    return stored if isinstance(stored, str) and stored.isprintable() else None


def _rules(stored: object) -> tuple[JsonObject, ...]:
    return (
        tuple(one for one in stored if isinstance(one, dict)) if isinstance(stored, list) else ()
    )
