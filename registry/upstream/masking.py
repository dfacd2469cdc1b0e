"""Cut what was sent out of what an upstream says: services quote keys that they refuse. Pure."""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, quote, urlsplit

from registry.core.logs import MASK

LEAST_OF_AN_ANSWER = 8
LEAST_OF_A_WORD = 16
"""Shorter values are left in answers: the first of any kind, the second of letters alone, which
may be the protocol's own words."""

LEAST_CHARACTERS = 4
"""Shorter values are words that texts hold anyhow."""

LEAST_OF_A_CUT = 6
"""From here on the beginning of a value at the end of a text, where it was cut, is masked too."""


def without_sent(text: str, headers: Iterable[tuple[str, str]], url: str) -> str:
    """Return *text* without the values of headers, and of the address, that went upstream."""
    sent = {value for value in _sent(headers, url) if len(value) >= LEAST_CHARACTERS}
    for value in sorted(sent, key=len, reverse=True):
        text = text.replace(value, MASK)
        for length in range(len(value) - 1, LEAST_OF_A_CUT - 1, -1):
            bare = text.rstrip(".… ")
            if bare.endswith(value[:length]):
                text = bare[:-length] + MASK
                break
    return text


def masked(answer: bytes, headers: Iterable[tuple[str, str]], url: str) -> bytes:
    """Return an answer with a mask in place of the secrets that were sent upstream.

    Found are values as they were sent, and in base64, in a URL and in JSON.
    """
    for value in _sent(headers, url):
        if not _is_a_secret(value):
            continue
        for form in _forms(value):
            if form in answer:
                answer = answer.replace(form, MASK.encode())
    return answer


def has_secrets(headers: Iterable[tuple[str, str]], url: str) -> bool:
    """Whether `masked` would cut out anything that went upstream."""
    return any(map(_is_a_secret, _sent(headers, url)))


def _is_a_secret(value: str) -> bool:
    least = LEAST_OF_A_WORD if value.isalpha() else LEAST_OF_AN_ANSWER
    # A number may stand in JSON without quotes, where stars may not.
    return len(value) >= least and not value.isdigit()


def _forms(value: str) -> set[bytes]:
    in_json = json.dumps(value)[1:-1]
    as_it_is = value.encode(errors="surrogateescape")
    encoded = base64.b64encode(as_it_is).decode().rstrip("=")
    return {
        as_it_is,
        *(
            text.encode()
            for text in (
                in_json,
                in_json.replace("/", "\\/"),
                json.dumps(value, ensure_ascii=False)[1:-1].encode(errors="replace").decode(),
                quote(as_it_is, safe=""),
                encoded,
                encoded.replace("+", "-").replace("/", "_"),
            )
        ),
    }


def _sent(headers: Iterable[tuple[str, str]], url: str) -> Iterator[str]:
    for _, value in headers:
        yield value
        scheme, _, credentials = value.partition(" ")
        if credentials:
            yield credentials.strip()
            if scheme.lower() == "basic":
                yield from _of_basic(credentials)
    try:
        parts = urlsplit(url)
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
