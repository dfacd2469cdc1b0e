"""Patterns of text that several routes share, and their meaning in words."""

import re
from datetime import datetime
from typing import Annotated

from pydantic import Field, StringConstraints

OBJECT_ID = r"^[0-9a-fA-F]{24}$"
"""Pattern of an ObjectId."""

ObjectIdText = Annotated[
    str, StringConstraints(pattern=OBJECT_ID, to_lower=True), Field(description="ObjectId.")
]
"""An ObjectId as callers write it, in lower case as it is stored in texts."""

EMAIL = r"^[!#-'*+\-./0-9=?A-Z^_`a-z{|}~]{1,64}@[A-Za-z0-9]([A-Za-z0-9-]*\.)+[A-Za-z]{2,63}$"
"""Pattern of email addresses, narrower than the standard: jarvis-api accepts the same, which
requires a dot after the @."""

USERNAME = r"^[a-z0-9][a-z0-9._@+-]*$"
"""Pattern of usernames."""

ONE_LINE = r"^[^\x00-\x1f\x7f]*$"
"""Pattern of text without line breaks and other control characters."""

Tag = Annotated[
    str,
    StringConstraints(strip_whitespace=True, pattern=ONE_LINE, min_length=1, max_length=64),
]
"""A label that people give to a server or a tool."""

PATTERN_WORDS = {
    OBJECT_ID: "must be an id: 24 hexadecimal characters",
    r"^[0-9a-f]{64}$": "must be a SHA-256 hash: 64 lower-case hexadecimal characters",
    r"^[0-9a-f]{32}$": "must be a trace id: 32 lower-case hexadecimal characters",
    r"^[A-Za-z0-9_-]{1,64}$": "must be the id of a flow: up to 64 letters, digits, '_' and '-'",
    r"^(caller|server|tool|tag|day)(,(caller|server|tool|tag|day))*$": "must be some of caller, "
    "server, tool, tag and day, separated by commas",
    ONE_LINE: "must be one line without control characters",
    r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$": "must be text without control characters",
    r"^[^\x00]*$": "must not contain a null character",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": (
        "must be letters, digits, '.', '_' or '-', and begin with a letter or digit"
    ),
    r"^/mcp/[A-Za-z0-9][A-Za-z0-9._-]{0,127}$": (
        "must be /mcp/ and one name of up to 128 letters, digits, '.', '_' or '-' that begins "
        "with a letter or digit"
    ),
    r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}$": (
        "must be a header name: up to 64 letters, digits and characters of !#$%&'*+-.^_`|~"
    ),
    r"^[\x20-\x7e]*$": "must be printable ASCII on one line, or no header can carry it",
    r"^[A-Za-z_][A-Za-z0-9_]{0,63}$": (
        "must be up to 64 letters, digits and '_', and not begin with a digit"
    ),
    r"^[A-Za-z0-9_-]+$": "must be letters, digits, '_' and '-'",
    EMAIL: "must be an address like ada@example.org",
    USERNAME: "must be letters, digits and characters of ._@+-, and begin with a letter or digit",
    r"^[\x21\x23-\x5B\x5D-\x7E]{1,128}$": (
        "must be a scope name: up to 128 printable ASCII characters without spaces, quotes and "
        "backslashes (RFC 6749, section 3.3)"
    ),
}
"""Explanation of each pattern of the API, for error messages."""


HIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that terminals obey, that nobody sees or that turn the direction of others. Without
the joiners, which belong to words and to emoji."""


def visible(text: str) -> str:
    """Return a text of unknown origin with a replacement character for each that is hidden."""
    return HIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def timestamp(moment: datetime) -> str:
    """Return a time of UTC in ISO 8601, with milliseconds and `Z`."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
