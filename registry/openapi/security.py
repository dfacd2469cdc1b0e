"""Where credentials go, by the security schemes of a description. Pure.

People give a key, or the id and the secret of a client. What they leave out is taken from here,
where the description leaves no doubt.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import urljoin, urlsplit

from registry.openapi.binding import HEADER_NAME, NOT_ARGUMENTS, Location, SecurityScheme
from registry.openapi.description import Operation

COOKIE_VALUE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]+")
"""What the value of a cookie may be (RFC 6265, 4.1.1)."""

KEYS: Final = frozenset({"apiKey", "basic", "bearer"})
TOKENS: Final = frozenset({"oauth2", "openIdConnect"})
"""Schemes whose access tokens are sent as bearer tokens."""

MAX_NAME_CHARACTERS: Final = 64
RESERVED: Final = ("mcp-", "proxy-", "x-forwarded-")
"""How headers begin that the gateway sets itself."""

MAX_PLACES: Final = 5
"""Places that a message names."""


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """How a key is sent, in the words of `apiKey`.

    Attributes:
        name: Of the header, query parameter or cookie; None for `basic` and `bearer`.
    """

    authorization_type: Literal["bearer", "basic", "custom"]
    name: str | None = None
    location: Literal["header", "query", "cookie"] = "header"

    @property
    def text(self) -> str:
        """Return the same for people."""
        match self.authorization_type, self.location:
            case "bearer", _:
                return "bearer token"
            case "basic", _:
                return "HTTP basic"
            case _, "query":
                return f"query parameter {self.name}"
            case _:
                return f"{self.location} {self.name}"


@dataclass(frozen=True, slots=True)
class TokenSource:
    """Where access tokens are obtained.

    Attributes:
        authorization_url: Where users are sent; None for client credentials.
        scope: The scopes that the operations need, or all of the scheme where none says so.
    """

    token_url: str
    authorization_url: str | None
    scope: str


@dataclass(frozen=True, slots=True)
class DescribedCredentials:
    """What a description says of the credentials for some of its operations.

    Attributes:
        key: How a key is sent; None if that is not clear.
        doubt: Why it is not, as the end of a sentence about the schemes.
        tokens: Where a client obtains tokens without a person; None if that is not clear.
        users_tokens: Where it obtains those of users, likewise.
    """

    key: KeyPlace | None = None
    doubt: str | None = None
    tokens: TokenSource | None = None
    users_tokens: TokenSource | None = None


NO_CREDENTIALS: Final = DescribedCredentials()


def is_cookie_value(key: str) -> bool:
    """Whether a key can be the value of a cookie."""
    return COOKIE_VALUE.fullmatch(key) is not None


def described_credentials(
    schemes: Mapping[str, SecurityScheme], operations: Iterable[Operation], base_url: str
) -> DescribedCredentials:
    """Return what the schemes say that *operations* name, or all schemes if they name none.

    Args:
        schemes: By name.
        operations: Those that become tools.
        base_url: What relative addresses of authorization servers are relative to.
    """
    needed = [operation.security for operation in operations if any(operation.security)]
    named = {name for security in needed for one in security for name in one}
    used = {name: one for name, one in schemes.items() if name in named} or dict(schemes)
    key, doubt = _key_place(used, needed)
    return DescribedCredentials(
        key,
        doubt,
        _token_source(used, needed, base_url, is_unattended=True),
        _token_source(used, needed, base_url, is_unattended=False),
    )


def _key_place(
    schemes: Mapping[str, SecurityScheme],
    needed: Iterable[tuple[Mapping[str, tuple[str, ...]], ...]],
) -> tuple[KeyPlace | None, str | None]:
    """Return the one place of keys; or None, and why there is none."""
    kinds = {one.kind for one in schemes.values()}
    of_keys = {name: one for name, one in schemes.items() if one.kind in KEYS}
    if not of_keys:
        return (KeyPlace("bearer") if kinds & TOKENS else None), None
    places: dict[KeyPlace, set[str]] = {}
    for name, scheme in of_keys.items():
        places.setdefault(_place(scheme), set()).add(name)
    if len(places) > 1:
        # Those that are enough for each operation, alone.
        needs = list(needed)
        enough = [
            place
            for place, names in places.items()
            if needs
            and all(
                any(len(one) == 1 and names.issuperset(one) for one in security)
                or any(not one for one in security)
                for security in needs
            )
        ]
        if len(enough) != 1:
            told = sorted(place.text for place in places)
            more = f" and {len(told) - MAX_PLACES} more" if len(told) > MAX_PLACES else ""
            listed = ", ".join(told[:MAX_PLACES])
            return None, f"want keys in several places ({listed}{more})"
        (place,) = enough
    else:
        (place,) = places
    problem = _unusable(place)
    return (place, None) if problem is None else (None, problem)


def _place(scheme: SecurityScheme) -> KeyPlace:
    if scheme.kind == "basic":
        return KeyPlace("basic")
    if scheme.kind == "bearer":
        return KeyPlace("bearer")
    name = scheme.name or ""
    match scheme.location:
        case Location.QUERY:
            return KeyPlace("custom", name, "query")
        case Location.COOKIE:
            return KeyPlace("custom", name, "cookie")
        case Location.HEADER:
            return KeyPlace("custom", name, "header")
        case _:
            return KeyPlace("custom", "", "header")


def _unusable(place: KeyPlace) -> str | None:
    """Return why keys cannot be sent in a place without being told so."""
    name = place.name
    if place.authorization_type != "custom":
        return None
    if not name:
        return "do not say where a key is sent"
    if place.location == "header" and name.lower() == "authorization":
        # Descriptions mean the key with and without a word such as Bearer before it.
        return "want a key as the whole header Authorization, or with a word before it"
    is_reserved = name.lower() in NOT_ARGUMENTS or name.lower().startswith(RESERVED)
    if place.location == "header" and is_reserved:
        return f"want a key as the header {name}, which the gateway sets itself"
    if not HEADER_NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        return f"want a key as {place.text}, which is no name for one"
    return None


def _token_source(
    schemes: Mapping[str, SecurityScheme],
    needed: Iterable[tuple[Mapping[str, tuple[str, ...]], ...]],
    base_url: str,
    *,
    is_unattended: bool,
) -> TokenSource | None:
    """Return where tokens are obtained if one scheme alone says so."""
    found: dict[tuple[str, str | None], set[str]] = {}
    for name, scheme in schemes.items():
        if scheme.kind != "oauth2" or scheme.token_url is None:
            continue
        if not (scheme.is_unattended if is_unattended else scheme.authorization_url):
            continue
        authorization = None if is_unattended else _absolute(base_url, scheme.authorization_url)
        token = _absolute(base_url, scheme.token_url)
        if token is not None and (is_unattended or authorization is not None):
            found.setdefault((token, authorization), set()).add(name)
    if len(found) != 1:
        return None
    (((token, authorization), names),) = found.items()
    wanted = {
        scope
        for security in needed
        for one in security
        for name, scopes in one.items()
        if name in names
        for scope in scopes
    } or {scope for name in names for scope in schemes[name].scopes}
    return TokenSource(token, authorization, " ".join(sorted(wanted)))


def _absolute(base_url: str, url: str | None) -> str | None:
    try:
        absolute = urljoin(base_url, url or "")
        parts = urlsplit(absolute)
    except ValueError:
        return None
    is_usable = parts.scheme in {"http", "https"} and parts.hostname and "@" not in parts.netloc
    return absolute if url and is_usable else None
