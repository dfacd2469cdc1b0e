"""Read file formats that describe servers into bodies of `POST /api/v1/servers`. Pure.

Supported, alone, in arrays and in nested lists: that body itself, the older file store's form, the
configurations of MCP clients (`mcpServers` of Claude and Cursor, `servers` of VS Code), and
`server.json` of the official registry with its lists. Values that such files leave open,
`${input:key}`, `${env:KEY}`, `${KEY}`, and `{key}` in `server.json`, are asked for.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.servers.values import STDIO_UNSUPPORTED

MAX_DEPTH = 4
"""Maximum nesting of lists. Real files have three levels: a response, its list, a server."""

CLIENT_LISTS = ("mcpServers", "servers")
PLACEHOLDER = re.compile(r"\$\{(?:(env|input):)?([^{}:]+)(?::-([^{}]*))?\}")
BRACES = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
NAME_CHARACTERS = 64

BRIDGE = f"runs a program on the client's machine (stdio): {STDIO_UNSUPPORTED}"
DISABLED = "is disabled in the file"


class FormError(Exception):
    """An entry with no known form, or one that lacks something. The message says what is wrong."""


class SkippedError(Exception):
    """An entry that is not meant for this registry. The message says why it is skipped."""


@dataclass(frozen=True, slots=True)
class Question:
    """A value that a file leaves open.

    Attributes:
        kind: `env` or `input`: its source according to the file.
        is_secret: Whether it must not be shown while it is typed.
    """

    name: str
    kind: str
    description: str = ""
    is_secret: bool = True
    default: str | None = None


Answer = Callable[[Question], str | None]


@dataclass(frozen=True, slots=True)
class Described:
    """One entry of a file.

    Attributes:
        label: Its name in the file; empty for a file of one server.
        content: Its content, unchanged.
        form: `client`, `server.json` or empty for our two forms.
        inputs: VS Code's `inputs` for its variables, by id.
    """

    label: str
    content: object
    form: str
    inputs: Mapping[str, Mapping[str, Any]]


def described(content: object) -> Iterator[Described]:
    """Yield the entries of a file, in order."""
    yield from _entries("", content, 0)


def _entries(label: str, content: Any, depth: int) -> Iterator[Described]:
    if isinstance(content, list) and content and depth < MAX_DEPTH:
        for number, item in enumerate(content):
            yield from _entries(_label(label, item, number), item, depth + 1)
        return
    if isinstance(content, dict):
        if isinstance(content.get("mcp"), dict) and "servers" in content["mcp"]:
            content = content["mcp"]
        for name in CLIENT_LISTS:
            if isinstance(content.get(name), dict):
                inputs = _inputs(content.get("inputs"))
                for key, entry in content[name].items():
                    yield Described(str(key), entry, "client", inputs)
                return
        for name in ("data", "servers", "server"):
            inner = content.get(name)
            if (
                isinstance(inner, list | dict)
                and depth < MAX_DEPTH
                and "serverName" not in content
            ):
                yield from _entries(label, inner, depth + 1)
                return
        is_published = "name" in content and ("remotes" in content or "packages" in content)
        yield Described(label, content, "server.json" if is_published else "", {})
        return
    yield Described(label, content, "", {})


def _label(label: str, item: object, number: int) -> str:
    inner = item.get("server", item) if isinstance(item, dict) else None
    for name in ("serverName", "server_name", "name"):
        if isinstance(inner, dict) and isinstance(inner.get(name), str):
            return str(inner[name])
    return f"{label}[{number}]"


def _inputs(stored: object) -> dict[str, Mapping[str, Any]]:
    found = stored if isinstance(stored, list) else []
    return {str(one["id"]): one for one in found if isinstance(one, dict) and "id" in one}


def body_of(entry: Described, answer: Answer) -> dict[str, Any]:
    """Return the body that registers an entry of a client's file or a `server.json`.

    Raises:
        FormError: It cannot be registered; the message says why.
        SkippedError: It is not meant for this registry.
    """
    content = entry.content
    if not isinstance(content, dict):
        raise FormError("is not a JSON object")
    if entry.form == "client":
        return _from_client(entry, content, answer)
    return _from_published(content, answer)


def _from_client(entry: Described, content: dict[str, Any], answer: Answer) -> dict[str, Any]:
    if content.get("disabled") is True:
        raise SkippedError(DISABLED)
    url = next((content[n] for n in ("url", "serverUrl", "httpUrl") if n in content), None)
    if url is None:
        if "command" in content or content.get("type") == "stdio":
            raise SkippedError(BRIDGE)
        raise FormError("has neither a url nor a command")

    def ask(match: re.Match[str]) -> str:
        kind, name, default = match[1] or "env", match[2].strip(), match[3]
        described = entry.inputs.get(name, {}) if kind == "input" else {}
        is_secret = described.get("password") is not False
        about = str(described.get("description") or "")
        given = described.get("default") if default is None else default
        return _answered(Question(name, kind, about, is_secret, _text(given)), answer)

    kind = str(content.get("type") or content.get("transport") or "")
    address = PLACEHOLDER.sub(ask, str(url))
    headers = content.get("headers")
    return {
        **_named(entry.label),
        "url": address,
        "type": _transport(kind, address),
        "description": _text(content.get("description")),
        "headers": {str(name): PLACEHOLDER.sub(ask, str(value)) for name, value in headers.items()}
        if isinstance(headers, dict)
        else None,
    }


def _from_published(content: dict[str, Any], answer: Answer) -> dict[str, Any]:
    remotes = [one for one in content.get("remotes") or [] if isinstance(one, dict)]
    remotes = [one for one in remotes if isinstance(one.get("url"), str)]
    # Streamable HTTP before the older transport.
    remotes.sort(key=lambda one: "sse" in str(one.get("type") or one.get("transport_type")))
    if not remotes:
        raise SkippedError(BRIDGE)
    remote = remotes[0]
    url = _filled(str(remote["url"]), remote.get("variables"), answer)
    headers: dict[str, str] = {}
    for header in remote.get("headers") or []:
        if not isinstance(header, dict) or not isinstance(header.get("name"), str):
            continue
        value = _header(header, answer)
        if value is not None:
            headers[header["name"]] = value
    kind = str(remote.get("type") or remote.get("transport_type") or "")
    named = _named(str(content["name"]))
    return {
        **named,
        "title": _text(content.get("title")) or named.get("title"),
        "description": _text(content.get("description")),
        "url": url,
        "type": _transport(kind, url),
        "headers": headers or None,
    }


def _header(header: Mapping[str, Any], answer: Answer) -> str | None:
    """Return the value of a header of a `server.json`; None for an optional one without value."""
    given = header.get("value")
    if isinstance(given, str) and given:
        return _filled(given, header.get("variables"), answer)
    question = _question(str(header["name"]), header)
    if header.get("isRequired") or header.get("is_required"):
        return _answered(question, answer)
    return answer(question) or question.default


def _filled(text: str, variables: object, answer: Answer) -> str:
    said = variables if isinstance(variables, dict) else {}

    def ask(match: re.Match[str]) -> str:
        described = said.get(match[1])
        if not isinstance(described, dict):
            described = {}
        return _answered(_question(match[1], described), answer)

    return BRACES.sub(ask, text)


def _question(name: str, described: Mapping[str, Any]) -> Question:
    default = described.get("value") or described.get("default")
    is_secret = described.get("isSecret", described.get("is_secret")) is not False
    return Question(
        name, "input", str(described.get("description") or ""), is_secret, _text(default)
    )


def _answered(question: Question, answer: Answer) -> str:
    value = answer(question)
    if value is None:
        value = question.default
    if value is None:
        raise FormError(f"needs {question.name}: give it with --set {question.name}=...")
    return value


def _transport(kind: str, url: str) -> str:
    if "sse" in kind.lower():
        return "sse"
    if not kind and re.search(r"/sse/?$", url.partition("?")[0]):
        return "sse"
    if kind.lower().replace("_", "-") in {"", "http", "streamable-http", "streamablehttp"}:
        return "streamable-http"
    raise FormError(f"has the transport {kind[:40]!r}; supported are streamable-http and sse")


def _named(label: str) -> dict[str, Any]:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-._")[:NAME_CHARACTERS].lower()
    if not name:
        raise FormError("has a name without an ASCII letter or digit")
    return {"serverName": name, "title": None if name == label else label[:256]}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
