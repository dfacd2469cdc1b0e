"""The files of a release over HTTPS, bounded in size and time."""

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

import httpx

from packages.models.generator.errors import GenerationError

REPOSITORY = "ascending-llc/jarvis-api"
RELEASES_URL = f"https://github.com/{REPOSITORY}/releases/download"
API_URL = f"https://api.github.com/repos/{REPOSITORY}/releases/tags"

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """How much a release may cost.

    Attributes:
        file_bytes: Raw files of the published types measure 1.7 MB.
    """

    file_bytes: int = 8 * 1024 * 1024
    read_seconds: float = 15.0
    total_seconds: float = 120.0


class Release:
    """One release, read with plain GET requests.

    The token goes to the origin of *url* (or of *api_url*) and to no other, also not when that
    origin redirects elsewhere.

    Args:
        url: Folder of the release, or the folder above it.
        api_url: Where GitHub's API describes releases; used with a token, since the download
            pages of a private repository take none.

    Raises:
        GenerationError: A URL is neither https nor http on loopback.
    """

    def __init__(
        self,
        version: str,
        *,
        url: str = RELEASES_URL,
        api_url: str | None = None,
        token: str | None = None,
        limits: DownloadLimits | None = None,
    ) -> None:
        self.version = version
        self.limits = limits or DownloadLimits()
        self.url = _checked(url)
        self.api_url = _checked(api_url) if api_url is not None and token else None
        self.token = token
        self.token_origin = _origin(self.api_url or self.url)
        self.deadline = time.monotonic() + self.limits.total_seconds
        self.offered: frozenset[str] = frozenset()
        """Names of all files of the release, where it lists them: GitHub's API does."""

    def files(self, names: Collection[str]) -> dict[str, bytes]:
        """Return those of *names* that the release has.

        Raises:
            GenerationError: The release cannot be read, or costs more than its limits.
        """
        # A proxy is of no use towards one's own machine.
        trust_env = not _is_loopback(self.url)
        timeout = httpx.Timeout(self.limits.read_seconds)
        with httpx.Client(timeout=timeout, trust_env=trust_env, follow_redirects=False) as client:
            if self.api_url is not None:
                return self._from_api(client, self.api_url, names)
            return self._from_folder(client, names)

    def _from_folder(self, client: httpx.Client, names: Collection[str]) -> dict[str, bytes]:
        base = str(self.url).rstrip("/")
        folders = [base] if base.endswith(f"/{self.version}") else [f"{base}/{self.version}", base]
        for folder in folders:
            found: dict[str, bytes] = {}
            for name in sorted(names):
                content = self._get(client, httpx.URL(f"{folder}/{name}"), name)
                if content is not None:
                    found[name] = content
            if found:
                return found
        raise GenerationError(f"{self.url.host} has no schemas of release {self.version}")

    def _from_api(
        self, client: httpx.Client, api_url: httpx.URL, names: Collection[str]
    ) -> dict[str, bytes]:
        address = httpx.URL(f"{str(api_url).rstrip('/')}/{self.version}")
        content = self._get(client, address, self.version, accept="application/vnd.github+json")
        if content is None:
            raise GenerationError(f"{api_url.host} knows no release {self.version}")
        found: dict[str, bytes] = {}
        assets = _assets(content)
        self.offered = frozenset(assets)
        for name, asset in sorted(assets.items()):
            if name in names:
                data = self._get(client, _checked(asset), name)
                if data is not None:
                    found[name] = data
        return found

    def _get(
        self,
        client: httpx.Client,
        url: httpx.URL,
        name: str,
        *,
        accept: str = "application/octet-stream",
    ) -> bytes | None:
        try:
            for _ in range(MAX_REDIRECTS + 1):
                self._require_time()
                headers = {"accept": accept, "accept-encoding": "identity"}
                if self.token and _origin(url) == self.token_origin:
                    headers["authorization"] = f"Bearer {self.token}"
                with client.stream("GET", url, headers=headers) as response:
                    if response.status_code in REDIRECTS:
                        url = _redirected(url, response.headers.get("location", ""))
                        continue
                    if response.status_code == httpx.codes.NOT_FOUND:
                        return None
                    if response.status_code != httpx.codes.OK:
                        raise GenerationError(
                            f"{url.host} answered {response.status_code} for {name}"
                        )
                    return self._body(response, name)
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise GenerationError(
                f"{name} cannot be read from {url.host}: {type(exc).__name__}"
            ) from exc
        raise GenerationError(f"{url.host} redirects too often for {name}")

    def _body(self, response: httpx.Response, name: str) -> bytes:
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > self.limits.file_bytes:
                raise GenerationError(f"{name} is larger than {self.limits.file_bytes} bytes")
            self._require_time()
        return bytes(content)

    def _require_time(self) -> None:
        if time.monotonic() > self.deadline:
            seconds = self.limits.total_seconds
            raise GenerationError(f"the download took longer than {seconds:g} seconds")


def _assets(content: bytes) -> Mapping[str, str]:
    try:
        assets = json.loads(content)["assets"]
        return {str(asset["name"]): str(asset["url"]) for asset in assets}
    except (ValueError, KeyError, TypeError) as exc:
        raise GenerationError("the description of the release is malformed") from exc


def _checked(url: str | httpx.URL) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise GenerationError("the source is no valid URL") from exc
    if parsed.userinfo:
        raise GenerationError("a URL must not carry a user name or password; use GITHUB_TOKEN")
    is_secure = parsed.scheme == "https" and parsed.host
    if not is_secure and not (parsed.scheme == "http" and _is_loopback(parsed)):
        raise GenerationError(f"{parsed.host or url!s} must be read over https")
    return parsed


def _redirected(url: httpx.URL, location: str) -> httpx.URL:
    target = _checked(url.join(location))
    if url.scheme == "https" and target.scheme != "https":
        raise GenerationError(f"{url.host} redirects to an address without https")
    return target


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return (url.scheme, url.host, url.port)


def _is_loopback(url: httpx.URL) -> bool:
    if url.host == "localhost":
        return True
    try:
        return ip_address(url.host).is_loopback
    except ValueError:
        return False
