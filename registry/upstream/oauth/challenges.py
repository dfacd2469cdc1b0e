"""Challenges of the `WWW-Authenticate` header (RFC 9110, 11.6.1). Pure."""

import re

from registry.upstream.oauth.values import Challenge

MAX_HEADER_CHARACTERS = 8192
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"  # noqa: S105 - a grammar
PART = re.compile(
    rf"""[\s,]*+(?:
        (?P<name>{TOKEN})\s*+=\s*+(?:"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<plain>{TOKEN}[^\s,]*+))
        |(?P<scheme>{TOKEN})(?=[\s,]|$)(?:\s++[A-Za-z0-9._~+/-]++=*+(?=\s*+(?:,|$)))?
        |{TOKEN}|.|$
    )""",
    re.VERBOSE | re.DOTALL,
)
"""A parameter, a scheme with its token if it has one, or what is neither.

Never goes back over what it has read: another program writes these headers.
"""


def challenge_of(header: str | None) -> Challenge | None:
    """Return the `Bearer` challenge of a header that may contain several; None if there is none.

    Of several, the first that names metadata counts.
    """
    found: list[dict[str, str]] = []
    current: dict[str, str] | None = None
    for part in PART.finditer((header or "")[:MAX_HEADER_CHARACTERS]):
        if part["scheme"] is not None:
            current = None
            if part["scheme"].lower() == "bearer":
                current = {}
                found.append(current)
        elif current is not None and part["name"] is not None:
            quoted = part["quoted"]
            value = part["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            current.setdefault(part["name"].lower(), value)
    if not found:
        return None
    chosen = next((one for one in found if "resource_metadata" in one), found[0])
    scope = chosen.get("scope")
    return Challenge(
        error=chosen.get("error"),
        scopes=None if scope is None else tuple(dict.fromkeys(scope.split())),
        resource_metadata=chosen.get("resource_metadata"),
        parameters=chosen,
    )
