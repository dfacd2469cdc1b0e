"""Discovery: reads tools, prompts, resources and templates of one upstream. Writes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from registry.core.clock import Clock
from registry.core.json import JsonObject
from registry.core.metrics import Metrics
from registry.core.settings import Settings
from registry.prompts_and_resources.intake import take as take_features
from registry.servers.errors import (
    CredentialsRefusedError,
    DiscoveryFailedError,
    OAuthRequiredError,
    UnsafeUrlError,
)
from registry.servers.ports import Progressing
from registry.servers.values import ConnectionSpec, Discovered, Era, Transport
from registry.tools.intake import take
from registry.upstream.errors import (
    UnsafeAddressError,
    UpstreamError,
    UpstreamLoopError,
    UpstreamOAuthError,
    UpstreamRefusedError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.headers import upstream_headers
from registry.upstream.loops import Instance
from registry.upstream.masking import without_sent
from registry.upstream.values import ReadingLimits, UpstreamReading, UpstreamTarget

if TYPE_CHECKING:
    from registry.sync.api_discovery import Conversions

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Eras:
    """The protocol eras that an upstream speaks, and the version it negotiated first."""

    eras: frozenset[Era]
    protocol_version: str


API_ERAS = Eras(frozenset(Era), "2025-11-25")
"""The gateway itself speaks for an API."""


class DiscoveryService:
    """Implements `servers.ports.Discovery`.

    Args:
        freed: Called with the number of bytes that an upstream sent, whose memory is soon freed.
    """

    def __init__(
        self,
        guard: UrlGuard,
        instance: Instance,
        *,
        settings: Settings,
        clock: Clock,
        metrics: Metrics,
        freed: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._guard = guard
        self._instance = instance
        self._settings = settings
        self._clock = clock
        self._duration = metrics.discovery_duration
        self._conversions: Conversions | None = None
        self._freed = freed

    async def discover(
        self, connection: ConnectionSpec, progress: Progressing | None = None
    ) -> Discovered:
        """Connect, read capabilities and all tools, disconnect.

        *progress* is called after each page with the number of tools read so far.

        Raises:
            UnsafeUrlError: The URL, or an address behind it, may not be contacted.
            DiscoveryFailedError: The upstream cannot be reached or answered badly.
        """
        began_at = self._clock.monotonic()
        outcome = "error"
        try:
            found = await self._discover(connection, progress)
            outcome = "success"
        except UnsafeAddressError as exc:
            raise UnsafeUrlError(exc.message) from exc
        except UpstreamError as exc:
            failure = _failure(exc, connection)
            log.info("discovery_failed", error=failure.message)
            raise failure from None
        finally:
            self._duration.labels(outcome).observe(self._clock.monotonic() - began_at)
        return found

    async def _discover(
        self, connection: ConnectionSpec, progress: Progressing | None
    ) -> Discovered:
        most = self._settings.server_max_definition_bytes
        if connection.api is not None:
            # As below.
            from registry.sync.api_discovery import Conversions, read_api  # noqa: PLC0415

            if self._conversions is None:
                self._conversions = Conversions()
            limits = self._limits(connection)
            found = await read_api(
                connection, connection.api, self._guard, limits, most, self._conversions
            )
            if progress is not None:
                progress(len(found.snapshot.tools))
            return found
        # The SDK's types take long to load: imported only when discovery needs them.
        from registry.upstream.reading import read_upstream  # noqa: PLC0415

        reading = await read_upstream(
            self._target(connection),
            self._guard,
            self._limits(connection),
            self._clock,
            progress,
            self._freed,
        )
        return _discovered(self._without_loops(reading), most)

    def _without_loops(self, reading: UpstreamReading) -> UpstreamReading:
        """Leave out tools that another gateway proxies from this registry.

        Raises:
            UpstreamLoopError: The upstream offers nothing else.
        """
        own = self._instance
        tools = own.without_own(reading.tools)
        lists = {member: own.without_own(listed) for member, listed in reading.lists.items()}
        left_out = len(reading.tools) - len(tools)
        if left_out:
            if not tools:
                raise UpstreamLoopError
            log.warning("discovery_skipped_own_tools", tools=left_out)
        return replace(reading, tools=tools, lists=lists)

    async def eras(self, connection: ConnectionSpec) -> Eras:
        """Connect in both protocol eras, without reading anything.

        Raises:
            UnsafeUrlError: The URL, or an address behind it, may not be contacted.
            CredentialsRefusedError: The upstream refuses the credentials.
            DiscoveryFailedError: The upstream cannot be reached, or speaks neither.
        """
        if connection.api is not None:
            await self._reach(connection)
            return API_ERAS
        from registry.upstream.reading import read_eras  # noqa: PLC0415 - as above

        try:
            spoken = await read_eras(
                self._target(connection), self._guard, self._limits(connection), self._clock
            )
        except UnsafeAddressError as exc:
            raise UnsafeUrlError(exc.message) from exc
        except UpstreamError as exc:
            raise _failure(exc, connection) from None
        eras = _eras(legacy=spoken.speaks_legacy, modern=spoken.speaks_modern)
        return Eras(eras, spoken.protocol_version)

    async def _reach(self, connection: ConnectionSpec) -> None:
        from registry.sync.api_discovery import reach_api  # noqa: PLC0415 - as above

        try:
            await reach_api(connection, self._guard, self._limits(connection))
        except UnsafeAddressError as exc:
            raise UnsafeUrlError(exc.message) from exc
        except UpstreamError as exc:
            raise _failure(exc, connection) from None

    async def oauth_metadata(self, connection: ConnectionSpec) -> JsonObject | None:
        """Return the upstream's RFC 9728 document, or None when it publishes none.

        Raises:
            UnsafeUrlError: The URL, or an address behind it, may not be contacted.
            DiscoveryFailedError: The upstream cannot be reached.
        """
        from registry.upstream.oauth.http import oauth_http  # noqa: PLC0415 - as above
        from registry.upstream.oauth.metadata import OAuthDiscovery  # noqa: PLC0415 - as above

        limits = self._limits(connection)
        try:
            async with oauth_http(
                self._guard,
                connect_timeout_seconds=limits.connect_timeout_seconds,
                total_timeout_seconds=limits.total_timeout_seconds,
            ) as http:
                found = await OAuthDiscovery(http, self._guard).resource(connection.url)
        except UnsafeAddressError as exc:
            raise UnsafeUrlError(exc.message) from exc
        except UpstreamError as exc:
            raise DiscoveryFailedError(_without_sent(exc.message, connection)) from None
        return None if found is None else found.document

    async def check_url(self, url: str) -> None:
        """Refuse a URL that may not be contacted, without contacting it.

        Raises:
            UnsafeUrlError: Scheme, userinfo or an address behind the name is not allowed.
        """
        try:
            await self._guard.check(url)
        except UnsafeAddressError as exc:
            raise UnsafeUrlError(exc.message) from exc
        except UpstreamError as exc:
            raise DiscoveryFailedError(exc.message) from exc

    def _target(self, connection: ConnectionSpec) -> UpstreamTarget:
        known = connection.known_eras
        return UpstreamTarget(
            url=connection.url,
            is_sse=connection.transport is Transport.SSE,
            headers=upstream_headers(connection.headers, self._instance.via),
            # Only an upstream that speaks the newest version needs no probe.
            speaks_legacy=Era.LEGACY in known if Era.MODERN in known else None,
        )

    def _limits(self, connection: ConnectionSpec) -> ReadingLimits:
        total = self._settings.discovery_timeout_seconds
        own = connection.init_timeout_seconds
        return ReadingLimits(
            connect_timeout_seconds=self._settings.upstream_connect_timeout_seconds,
            total_timeout_seconds=total if own is None else min(own, total),
            max_bytes=self._settings.discovery_max_bytes,
            max_tools=self._settings.discovery_max_tools,
        )


def _eras(*, legacy: bool, modern: bool) -> frozenset[Era]:
    spoken = {Era.LEGACY: legacy, Era.MODERN: modern}
    return frozenset(era for era, is_spoken in spoken.items() if is_spoken)


def _failure(error: UpstreamError, connection: ConnectionSpec) -> DiscoveryFailedError:
    message = _without_sent(error.message, connection)
    if isinstance(error, UpstreamOAuthError):
        return OAuthRequiredError(message)
    if isinstance(error, UpstreamRefusedError):
        return CredentialsRefusedError(message, is_forbidden=error.is_forbidden)
    return DiscoveryFailedError(message)


def _without_sent(text: str, connection: ConnectionSpec) -> str:
    return without_sent(text, connection.headers.items(), connection.url)


def _discovered(reading: UpstreamReading, max_bytes: int) -> Discovered:
    from registry.upstream.reading import problem_of  # noqa: PLC0415 - as above

    return Discovered(
        snapshot=take(reading.tools, problem_of, max_bytes),
        capabilities=reading.capabilities,
        protocol_version=reading.protocol_version,
        eras=_eras(legacy=reading.speaks_legacy, modern=reading.speaks_modern),
        instructions=reading.instructions,
        init_duration_ms=reading.init_duration_ms,
        title=reading.title,
        features=take_features(reading.lists, reading.unread, problem_of, max_bytes),
    )
