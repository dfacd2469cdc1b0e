"""Differences between two versions of a server's connection. Pure; secrets are masked."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue

from registry.core.json import JsonObject
from registry.servers.transport import Path, TransportConfig, dotted

DEPTH = 2
"""Members of `headers`, `oauth` and the like are compared one by one; deeper ones as a whole."""

_ABSENT = object()


class ChangeKind(StrEnum):
    """How a member differs."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    UNKNOWN = "unknown"
    """A secret that cannot be decrypted in one of the two versions: it may differ."""


@dataclass(frozen=True, slots=True)
class MemberDifference:
    """One member that differs.

    Attributes:
        field: Its dotted place.
        before: Its value, `***` for a secret; None if there is none.
        after: Its new value, in the same form.
    """

    field: str
    kind: ChangeKind
    before: JsonValue
    after: JsonValue


def differences(before: TransportConfig, after: TransportConfig) -> list[MemberDifference]:
    """Return what differs, in the order of the members."""
    earlier, later = dict(_flat(before.plain)), dict(_flat(after.plain))
    secret = before.secrets.keys() | after.secrets.keys()
    found: list[MemberDifference] = []
    for path in {**earlier, **later}:
        first, second = earlier.get(path, _ABSENT), later.get(path, _ABSENT)
        kind = _kind(first, second)
        if kind is None and path in secret:
            kind = _secret_kind(before, after, path)
        if kind is not None:
            found.append(MemberDifference(dotted(path), kind, _shown(first), _shown(second)))
    return found


def _flat(config: JsonObject, above: Path = ()) -> Iterator[tuple[Path, JsonValue]]:
    for name, value in config.items():
        path = (*above, name)
        if isinstance(value, dict) and value and len(path) < DEPTH:
            yield from _flat(value, path)
        else:
            yield path, value


def _kind(before: object, after: object) -> ChangeKind | None:
    if before is _ABSENT:
        return ChangeKind.ADDED
    if after is _ABSENT:
        return ChangeKind.REMOVED
    return ChangeKind.CHANGED if before != after else None


def _secret_kind(before: TransportConfig, after: TransportConfig, path: Path) -> ChangeKind | None:
    """Compare the values behind two masks."""
    first, second = before.secrets.get(path), after.secrets.get(path)
    if first is None or second is None:
        # One of the two is no secret, although its text equals the mask.
        return ChangeKind.CHANGED
    if first.value is None or second.value is None:
        return ChangeKind.UNKNOWN
    return ChangeKind.CHANGED if first.value != second.value else None


def _shown(value: object) -> JsonValue:
    return None if value is _ABSENT else value  # type: ignore[return-value]  # else it is JSON
