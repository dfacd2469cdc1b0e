"""What makes two servers the same: the URL of a remote one, the package of a container. Pure.

Keys are compared as texts. Scheme and host are spelled alike, the default port and the fragment
are left out and an empty path is `/`; path and query stay as they are, because they are
case-sensitive (RFC 3986, section 6.2). Packages are compared exactly, within their kind.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from yarl import URL

DEFAULT_PORTS = {"http": 80, "https": 443}
SCHEMES = ("http", "https")
VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
"""A variable in a URL or a header of a `server.json`."""

NAME = re.compile(r"(?:[A-Za-z0-9.-]+/)?[A-Za-z0-9._-]+")
MAX_NAME = 200
HOST = re.compile(r"[^\s/\\?#@<>\"^`{|}%\[\]:]+")
MAX_PORT = 65_535

PACKAGE_KINDS = {"docker": "oci"}
"""Former names of kinds of packages."""


@dataclass(frozen=True, slots=True)
class Package:
    """What a container server is started from.

    Attributes:
        registry_type: `oci`, `npm`, `pypi` and others.
        identifier: Its name there, for `oci` with the tag.
    """

    registry_type: str
    identifier: str
    version: str | None = None

    @property
    def key(self) -> str:
        """Return what equal packages have alike."""
        kind = self.registry_type.lower()
        return f"container:{PACKAGE_KINDS.get(kind, kind)}:{self.identifier}"


def remote_key(url: str) -> str | None:
    """Return what equal URLs have alike; None if it is none of HTTP."""
    normalised = normalised_url(url)
    return None if normalised is None else f"remote:{normalised}"


def normalised_url(url: str) -> str | None:
    """Return *url* with scheme, host and port spelled alike; None if it is none of HTTP."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme not in SCHEMES or not parts.netloc:
        return None
    user, at, place = parts.netloc.rpartition("@")
    place_ = _place(place, scheme)
    if place_ is None:
        return None
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{user}{at}{place_}{parts.path or '/'}{query}"


def _place(place: str, scheme: str) -> str | None:
    """Return host and port spelled alike; None if they are none."""
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*|\{[^{}]*\}))?", place)
    if found is None:
        return None
    host, port = _host(found.group(1)), found.group(2) or ""
    if host is None:
        return None
    if VARIABLE.fullmatch(port):
        return f"{host}:{port}"
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= MAX_PORT):
        return None
    is_default = port == "" or int(port) == DEFAULT_PORTS[scheme]
    return host if is_default else f"{host}:{int(port)}"


def _host(host: str) -> str | None:
    if host.startswith("["):
        try:
            return f"[{ipaddress.ip_address(host[1:-1])}]"
        except ValueError:
            return None
    if not HOST.fullmatch(VARIABLE.sub("x", host)):
        return None
    if VARIABLE.search(host):
        return host.lower()
    try:
        # Names in other scripts are the same as their ASCII form (RFC 5891).
        return (URL.build(scheme="http", host=host.lower()).raw_host or host).lower()
    except ValueError:
        return host.lower()


def is_loopback(url: str) -> bool:
    """Whether a URL names the machine of whoever uses it, so that it says nothing of a server."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def has_variables(text: str) -> bool:
    """Whether a URL or header has variables."""
    return VARIABLE.search(text) is not None


def is_name(name: str) -> bool:
    """Whether a server of the catalog can have this name: `namespace/name`, or a plain name."""
    return (
        len(name) <= MAX_NAME
        and NAME.fullmatch(name) is not None
        # Paths that lead elsewhere.
        and all(part.strip(".") for part in name.split("/"))
    )


def fits(key: str, template: str) -> bool:
    """Whether a key is that of a URL which a key with variables gives for some values."""
    if not template.startswith("remote:") or not has_variables(template):
        return False
    place_ends = template.find("/", len("remote:https://"))
    pattern, at = "", 0
    for found in VARIABLE.finditer(template):
        pattern += re.escape(template[at : found.start()])
        # Values are percent-encoded in a path; in a host they are parts of a name, or a port.
        pattern += r"[A-Za-z0-9.-]+" if found.start() < place_ends else r"[^/?#&]+"
        at = found.end()
    return re.fullmatch(pattern + re.escape(template[at:]), key) is not None


def keys_of(urls: Sequence[str], package: Package | None) -> tuple[str, ...]:
    """Return the keys that a server of the catalog is found by; the first is its identity.

    A server with a URL is remote. Its package counts where the URL says nothing.
    """
    known = [url for url in urls if package is None or not is_loopback(url)]
    keys = [key for url in known if (key := remote_key(url)) is not None]
    if not keys and package is not None:
        return (package.key,)
    return tuple(dict.fromkeys(keys))
