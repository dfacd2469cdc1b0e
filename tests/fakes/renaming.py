"""Gives the tools and prompts of one server on the combined path their own names back.

Clients whose names are fixed (`test_simple_text`) meet a path that has them under a prefix
(`everything__test_simple_text`).
"""

from collections.abc import MutableMapping
from typing import Any

import orjson

NAMED = frozenset({"tools/call", "prompts/get"})
LISTS = {"tools/list": "tools", "prompts/list": "prompts"}
NAME_HEADER = "mcp-name"
DATA = b"data:"


class Renaming:
    """Adds the prefix of one server to requests and takes it from lists.

    Args:
        slug: The server's.
    """

    def __init__(self, slug: str) -> None:
        self._prefix = f"{slug}__"

    def request(self, body: bytes, headers: MutableMapping[str, str]) -> tuple[bytes, bool]:
        """Return the body for the combined path, and whether it asks for a list.

        The header that repeats the name is changed in place.
        """
        message = _loaded(body)
        method, params = message.get("method"), message.get("params")
        if method in LISTS:
            return body, True
        if not isinstance(params, dict):
            return body, False
        if method in NAMED:
            self._add(params)
            if NAME_HEADER in headers:
                sent = headers[NAME_HEADER]
                name = sent.strip()
                # Whatever stands around the name is there to be tested.
                headers[NAME_HEADER] = sent.replace(name, self._prefix + name) if name else sent
        elif method == "completion/complete" and isinstance(params.get("ref"), dict):
            self._add(params["ref"])
        else:
            return body, False
        return orjson.dumps(message), False

    def listed(self, body: bytes) -> bytes:
        """Return a list, as JSON or in an event stream, under the server's own names."""
        if not body.lstrip().startswith(b"{"):
            return b"\n".join(
                DATA + b" " + self._stripped(line[len(DATA) :]) if line.startswith(DATA) else line
                for line in body.split(b"\n")
            )
        return self._stripped(body)

    def _add(self, named: dict[str, Any]) -> None:
        if isinstance(named.get("name"), str):
            named["name"] = self._prefix + named["name"]

    def _stripped(self, text: bytes) -> bytes:
        message = _loaded(text)
        result = message.get("result")
        if not isinstance(result, dict):
            return text
        for member in result.keys() & set(LISTS.values()):
            # What others offer on this path is no business of this client.
            result[member] = [
                item | {"name": item["name"].removeprefix(self._prefix)}
                for item in result[member]
                if item["name"].startswith(self._prefix)
            ]
        return orjson.dumps(message)


def _loaded(text: bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return message if isinstance(message, dict) else {}
