"""Changes of what was read a moment ago (RFC 9110, 13.1.1)."""

from typing import Annotated

from fastapi import Header

IfMatch = Annotated[
    str | None, Header(description="The ETag that was read; 409 when it changed since.")
]


def etag_in(header: str | None) -> str | None:
    """Return the tag that a header names; None when it takes any."""
    if header is None or header.strip() == "*":
        return None
    return header.strip().removeprefix("W/").strip('"')
