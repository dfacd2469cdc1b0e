"""Recognise what comes back to the registry that sent it, directly or through other gateways.

Every request that goes to an upstream carries `Via` (RFC 9110, 7.6.3) with the id of this
deployment after the ids of the gateways that it came through; proxies and MCP gateways pass it on.
What a gateway lists to another one carries the same ids in `_meta`, so that no tool is taken from
a server that has it from here. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from registry.core.definitions import LISTED_VIA, Listed, UnreadableDefinition
from registry.core.json import JsonObject, JsonValue, members

NAME = "mcp-gateway-registry"
"""How the ids of all deployments of this program begin."""

LOOP_DETECTED = "Loop detected"
"""How the refusal of such a request begins. Gateways between keep the text of an error, if little
else of it."""

ID_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Instance:
    """This deployment: the same in all its workers and replicas.

    Attributes:
        id: Not secret.
        known: That, and the ids that replicas with an earlier key have.
    """

    id: str
    known: tuple[str, ...]

    @classmethod
    def of(cls, keys: Sequence[bytes]) -> Self:
        """Return the deployment that has *keys*, used for nothing else, the current one first."""
        ids = tuple(f"{NAME}-{key.hex()[:ID_CHARACTERS]}" for key in keys)
        return cls(ids[0], ids)

    @property
    def via(self) -> str:
        """Return the header's value of a request that begins here."""
        return f"1.1 {self.id}"

    def sent(self, via: str) -> bool:
        """Whether a request with this header has been through here before."""
        return any(known in via for known in self.known)

    def listed(self, entry: Listed) -> bool:
        """Whether an object of an upstream's list was listed to it by this deployment."""
        if isinstance(entry, UnreadableDefinition):
            return False
        return any(known in _gateways(members(entry)) for known in self.known)

    def without_own(self, entries: Sequence[Listed]) -> tuple[Listed, ...]:
        """Return *entries* without those that lead back here."""
        return tuple(entry for entry in entries if not self.listed(entry))

    def mark(self, entry: JsonObject) -> None:
        """Note in an object that is listed to another gateway that it was listed here."""
        gateways: list[JsonValue] = [self.id, *_gateways(entry)]
        entry["_meta"] = {**members(entry.get("_meta")), LISTED_VIA: gateways}


def is_gateway(via: str) -> bool:
    """Whether a request with this header was sent by a deployment of this program."""
    return NAME in via


def _gateways(entry: JsonObject) -> list[JsonValue]:
    gateways = members(entry.get("_meta")).get(LISTED_VIA)
    return gateways if isinstance(gateways, list) else []
