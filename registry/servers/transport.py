"""Connection of a server: the part of its `config` that says how it is reached, secrets apart.

Display names and discovered facts are not part of it. Two connections are equal if they mean the
same: a secret that was encrypted again, even with another key, is no change.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, cast

from pydantic import JsonValue

from registry.core.json import JsonObject, members
from registry.core.logs import MASK
from registry.servers.credentials import (
    has_secret,
    is_secret_header,
    is_stored_header,
    masked_oauth,
    masked_url,
)
from registry.servers.errors import CredentialUnreadableError
from registry.servers.values import ENVIRONMENT

CONNECTION_MEMBERS = (
    "type",
    "url",
    "command",
    "args",
    "env",
    "cwd",
    "stderr",
    "proxy",
    "headers",
    "oauth_headers",
    "apiKey",
    "oauth",
    "openapi",
    "requiresOAuth",
    "customUserVars",
    "timeout",
    "initTimeout",
    "sseReadTimeout",
)
"""Members of `config` that belong to it, including those of transports for jarvis-api alone."""

HEADER_MEMBERS = ("headers", "oauth_headers")
ADDRESSES = ("url", "proxy")
"""Members that another program may have written a secret into."""

KEPT_IN_CLEAR = ("args", "env")
"""Members that jarvis-api stores in clear, at places where API keys usually are."""

Path: TypeAlias = tuple[str, ...]
"""Names of members from `config` down. A tuple, because a header's name may contain dots."""

Encrypt: TypeAlias = Callable[[str], str]
Decrypt: TypeAlias = Callable[[str, str], str]
"""From a stored secret and its dotted place to its text; raises `CredentialUnreadableError`."""


class Secret(NamedTuple):
    """One secret.

    Attributes:
        value: Its text, or the other value in its place; None if it could not be decrypted.
        is_encrypted: Whether it was stored encrypted: the other application stores some in clear
            and cannot use encrypted ones.
    """

    value: JsonValue
    is_encrypted: bool


@dataclass(frozen=True, slots=True)
class TransportConfig:
    """How a server is reached.

    Attributes:
        plain: Members of `config`, with `***` in the place of each secret.
        secrets: The secrets by their places.
    """

    plain: JsonObject
    secrets: Mapping[Path, Secret] = field(default_factory=dict, repr=False)

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Return the places of the secrets that could not be decrypted."""
        return tuple(dotted(path) for path, secret in self.secrets.items() if secret.value is None)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 (hexadecimal) of all but the secrets."""
        # `str` for values that JSON does not have: another program may have stored anything.
        text = json.dumps(self.plain, sort_keys=True, separators=(",", ":"), default=str)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()

    def means_the_same(self, other: "TransportConfig") -> bool:
        """Whether both have the same address and the same secrets."""
        return self.plain == other.plain and _values(self) == _values(other)


def connection_members(config: Mapping[str, object]) -> JsonObject:
    """Return the members of a stored `config` that belong to it, unchanged."""
    found = {name: config[name] for name in CONNECTION_MEMBERS if config.get(name) is not None}
    return cast("JsonObject", found)


def taken(config: JsonObject, decrypt: Decrypt) -> TransportConfig:
    """Return the connection of a server with a stored *config*.

    Of a secret that cannot be decrypted, only the existence is known.
    """
    plain = copy.deepcopy(connection_members(config))
    secrets: dict[Path, Secret] = {}
    for path, value, is_encrypted in _stored_secrets(plain):
        text = value
        if is_encrypted:
            try:
                text = decrypt(str(value), f"config.{dotted(path)}")
            except CredentialUnreadableError:
                text = None
        secrets[path] = Secret(text, is_encrypted)
    for path in secrets:
        _put(plain, path, _mask(path, _at(plain, path)))
    return TransportConfig(plain, secrets)


def with_secrets_apart(found: TransportConfig) -> TransportConfig:
    """Return *found* with values masked that earlier releases did not treat as secrets."""
    plain = copy.deepcopy(found.plain)
    secrets = dict(found.secrets)
    for path, value, _ in _stored_secrets(plain):
        masked = _mask(path, value)
        if path not in secrets and value != masked:
            secrets[path] = Secret(value, is_encrypted=False)
            _put(plain, path, masked)
    return TransportConfig(plain, secrets)


def given_back(
    wanted: TransportConfig, config: JsonObject, now: TransportConfig, encrypt: Encrypt
) -> JsonObject:
    """Return the members to store for *wanted*. All of its secrets must be readable.

    Args:
        wanted: The connection to store.
        config: The stored config. Unchanged secrets keep their stored form.
        now: The connection of *config*.
        encrypt: Returns the stored form of a secret.
    """
    stored = copy.deepcopy(wanted.plain)
    for path, secret in wanted.secrets.items():
        if now.secrets.get(path) == secret:
            value = _at(config, path)
        elif secret.is_encrypted:
            value = encrypt(str(secret.value))
        else:
            value = secret.value
        _put(stored, path, value)
    return stored


def environment_places(config: TransportConfig) -> tuple[str, ...]:
    """Return the places where the other application would insert its environment variables."""
    found = dict.fromkeys(
        dotted(path) for path, text in _texts(config.plain) if ENVIRONMENT in text
    )
    for path, secret in config.secrets.items():
        # A program that it starts itself may have them.
        if path[0] not in KEPT_IN_CLEAR and any(
            ENVIRONMENT in text for _, text in _texts(secret.value)
        ):
            found[dotted(path)] = None
    return tuple(found)


def _texts(value: JsonValue, above: Path = ()) -> Iterator[tuple[Path, str]]:
    match value:
        case dict():
            for name, member in value.items():
                yield from _texts(member, (*above, name))
        case list():
            for member in value:
                yield from _texts(member, above)
        case str():
            yield above, value
        case _:
            pass


def dotted(path: Path) -> str:
    """Return a place in the form for messages."""
    return ".".join(path)


def _stored_secrets(config: JsonObject) -> Iterator[tuple[Path, JsonValue, bool]]:
    """Yield place and value of each secret, and whether it is encrypted."""
    for parent, name in (("apiKey", "key"), ("oauth", "client_secret")):
        value = members(config.get(parent)).get(name)
        if value is not None:
            yield (parent, name), value, True
    for parent in HEADER_MEMBERS:
        for name, value in members(config.get(parent)).items():
            if value is not None and is_secret_header(name, value):
                yield (parent, name), value, is_stored_header(str(value))
    yield from _misplaced_secrets(config)
    for name in KEPT_IN_CLEAR:
        if config.get(name) is not None:
            yield (name,), config[name], False


def _misplaced_secrets(config: JsonObject) -> Iterator[tuple[Path, JsonValue, bool]]:
    """Yield the secrets at places where only another program stores any."""
    oauth = members(config.get("oauth"))
    for name, shown in masked_oauth(oauth).items():
        if name != "client_secret" and oauth[name] != shown:
            yield ("oauth", name), oauth[name], False
    for name in ADDRESSES:
        value = config.get(name)
        if isinstance(value, str) and has_secret(value):
            yield (name,), value, False


def _mask(path: Path, value: JsonValue) -> JsonValue:
    """Return the mask of a secret."""
    if path[0] in ADDRESSES and isinstance(value, str):
        return masked_url(value)
    return masked_oauth({path[1]: value})[path[1]] if path[0] == "oauth" else MASK


def _values(config: TransportConfig) -> dict[Path, JsonValue]:
    return {path: secret.value for path, secret in config.secrets.items()}


def _at(config: JsonObject, path: Path) -> JsonValue:
    node: JsonValue = config
    for name in path:
        node = members(node).get(name)
    return node


def _put(config: JsonObject, path: Path, value: JsonValue) -> None:
    node = config
    for name in path[:-1]:
        node = members(node.get(name))
    node[path[-1]] = value
