"""Discovery of a server: with its address and credentials, returning the result as a value."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from registry.auth.identity import UserContext
from registry.core.clock import Clock
from registry.core.errors import ValidationFailedError
from registry.core.json import JsonObject
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
from registry.servers.ports import Discovery, Progressing
from registry.servers.reconciliation.discovery_changes import OAUTH_MISSING, DiscoveryResult
from registry.servers.values import ConnectionSpec, Discovered, Era, Transport
from registry.tokens.plugin_auths import PluginAuthRepository

URL_WITH_PLACES = "holds {{...}}, which only jarvis-api fills in; use a header"


class ServerReader:
    """Reads the upstream behind a stored or a new configuration. Writes nothing."""

    def __init__(
        self,
        vault: CredentialVault,
        discovery: Discovery,
        plugin_auths: PluginAuthRepository,
        clock: Clock,
    ) -> None:
        self._vault = vault
        self._discovery = discovery
        self._plugin_auths = plugin_auths
        self._clock = clock

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

    async def read(
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
    ) -> DiscoveryResult:
        """Run a discovery of a server on behalf of *user*; a failure is part of the result.

        Besides *user_key* the values that *user* stored for the server are used, unless
        *use_stored_key* is false because they were stored for another address. Known eras are not
        probed again.

        Raises:
            UnsafeUrlError: The URL may not be contacted.
            CredentialUnreadableError: A stored secret cannot be decrypted.
        """
        began_at = self._clock.now()
        values = caller_values(user) if names_caller(config) else {}
        if use_stored_key and needs_user_key(config):
            values |= await self._plugin_auths.values(user.user_id, server_name, created_at)
        if user_key is not None:
            values[USER_VARIABLE] = user_key
        reading = await self._read(server_id, config, values, progress, known_eras)
        return replace(reading, began_at=began_at)

    async def _read(
        self,
        server_id: str,
        config: JsonObject,
        values: Mapping[str, str],
        progress: Progressing | None,
        known_eras: frozenset[Era],
    ) -> DiscoveryResult:
        bare = replace(_address(config), headers={})
        if config.get("requiresOAuth") is True:
            # Tools of such a server can be read after a user has authorised the registry.
            return await self._oauth_metadata(bare)
        try:
            connection = self.connection(server_id, config, values)
            connection = replace(connection, known_eras=known_eras)
            return DiscoveryResult(found=await self._discovery.discover(connection, progress))
        except CredentialUnusableError as exc:
            return DiscoveryResult(failure=exc.message)
        except UserKeyMissingError as exc:
            return await self._nothing(bare, exc)
        except DiscoveryFailedError as exc:
            is_own = bool(values) and isinstance(exc, CredentialsRefusedError)
            wants_oauth = isinstance(exc, OAuthRequiredError)
            return DiscoveryResult(
                failure=exc.message, is_callers_own=is_own, wants_oauth=wants_oauth
            )

    async def _nothing(
        self, connection: ConnectionSpec, why: UserKeyMissingError
    ) -> DiscoveryResult:
        try:
            await self._discovery.check_url(connection.url)
        except DiscoveryFailedError as exc:
            return DiscoveryResult(failure=exc.message)
        return DiscoveryResult(unread=why.reason)

    async def _oauth_metadata(self, connection: ConnectionSpec) -> DiscoveryResult:
        try:
            metadata = await self._discovery.oauth_metadata(connection)
        except DiscoveryFailedError as exc:
            return DiscoveryResult(failure=exc.message)
        return DiscoveryResult(oauth_metadata=metadata, unread=OAUTH_MISSING, needs_oauth=True)

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


def _address(config: JsonObject) -> ConnectionSpec:
    transport = config.get("type")
    url = config.get("url")
    if transport == "http":
        transport = Transport.STREAMABLE_HTTP.value
    if transport is None and isinstance(url, str):
        transport = Transport.SSE.value
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
    )
