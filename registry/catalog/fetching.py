"""Fetching of lists of servers from other registries, through the guard of upstream URLs."""

from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit, urlunsplit

from registry.catalog.errors import ImportUnreadableError, RegistryUnavailableError
from registry.core.errors import ValidationFailedError
from registry.upstream.descriptions import DescriptionFetcher, origin_of
from registry.upstream.errors import (
    UnsafeAddressError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamTooLargeError,
)
from registry.upstream.guard import UrlGuard
from registry.upstream.values import ReadingLimits

SERVERS_PATH = "/v0.1/servers"
MAX_PAGE_BYTES = 32 * 1024 * 1024
"""Of one page or file; the whole of a large registry in one file is about that."""

PAGE_SIZE = 100
FILES = (".json", ".yaml", ".yml")


class RegistryFetcher:
    """Fetches pages of a registry, and files."""

    def __init__(
        self,
        guard: UrlGuard,
        *,
        connect_timeout_seconds: float,
        total_timeout_seconds: float,
    ) -> None:
        self._guard = guard
        self._limits = ReadingLimits(
            connect_timeout_seconds=connect_timeout_seconds,
            total_timeout_seconds=total_timeout_seconds,
            max_bytes=MAX_PAGE_BYTES,
            max_tools=0,
        )

    async def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> bytes:
        """Return a page or file.

        Args:
            url: Where it is.
            headers: Credentials, which are sent to its origin alone.

        Raises:
            ValidationFailedError: The URL, or one that it leads to, may not be contacted.
            ImportUnreadableError: It is too large.
            RegistryUnavailableError: It cannot be fetched.
        """
        origin = origin_of(url) if headers else None
        fetcher = DescriptionFetcher(self._guard, self._limits, headers or {}, origin)
        try:
            fetched = await fetcher.fetch(url)
        except UnsafeAddressError as exc:
            raise ValidationFailedError("url", exc.message) from None
        except UpstreamRefusedError:
            raise RegistryUnavailableError(
                f"{origin_of(url)} wants other credentials, or any: give them to the command "
                "`registry catalog import` with --header"
            ) from None
        except UpstreamTooLargeError:
            raise ImportUnreadableError(
                f"{origin_of(url)} answers with more than {MAX_PAGE_BYTES // 2**20} MiB at once: "
                "fetch the list of servers and import it as a file."
            ) from None
        except UpstreamError as exc:
            reason = exc.message.replace("the description", "a list of servers")
            reason = reason.replace("The description", "The list of servers")
            raise RegistryUnavailableError(f"{origin_of(url)} cannot be read: {reason}") from None
        return fetched.content or b""


def page_url(url: str, cursor: str | None, updated_since: str | None) -> str:
    """Return the URL of a page: of a file, the URL itself; of a registry, that of its list."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if path.endswith(FILES):
        return url
    if not path.endswith("/servers"):
        path += SERVERS_PATH
    asked = {"limit": str(PAGE_SIZE)}
    if updated_since is not None:
        asked["updated_since"] = updated_since
    if cursor is not None:
        asked["cursor"] = cursor
    query = "&".join(part for part in (parts.query, urlencode(asked)) if part)
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))
