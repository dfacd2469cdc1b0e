"""Cut what was sent out of what an upstream says: services quote keys that they refuse. Pure."""

import base64
import binascii
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

from registry.core.logs import MASK
from registry.servers.values import ConnectionSpec

LEAST_CHARACTERS = 4
"""Shorter values are words that texts hold anyhow."""

LEAST_OF_A_CUT = 6
"""From here on the beginning of a value at the end of a text, where it was cut, is masked too."""


def without_sent(text: str, connection: ConnectionSpec) -> str:
    """Return *text* without the values of headers, and of the address, that went upstream."""
    sent = {value for value in _sent(connection) if len(value) >= LEAST_CHARACTERS}
    for value in sorted(sent, key=len, reverse=True):
        text = text.replace(value, MASK)
        for length in range(len(value) - 1, LEAST_OF_A_CUT - 1, -1):
            bare = text.rstrip(".… ")
            if bare.endswith(value[:length]):
                text = bare[:-length] + MASK
                break
    return text


def _sent(connection: ConnectionSpec) -> Iterator[str]:
    for value in connection.headers.values():
        yield value
        scheme, _, credentials = value.partition(" ")
        if credentials:
            yield credentials.strip()
            if scheme.lower() == "basic":
                yield from _of_basic(credentials)
    try:
        parts = urlsplit(connection.url)
    except ValueError:
        return
    yield from (value for _, value in parse_qsl(parts.query))


def _of_basic(credentials: str) -> Iterator[str]:
    try:
        text = base64.b64decode(credentials, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return
    yield text
    yield text.partition(":")[2]
