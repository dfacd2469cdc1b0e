"""Servers in the form of the official registry's API: `server.json`, with its facts in `_meta`.

Pure. Above it is the service; it knows neither HTTP nor who asks. Source: the registry's
`openapi.yaml` of 2025-12-01, `docs/decisions/0072-the-api-of-the-official-registry.md`.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from pydantic import JsonValue

from packages.models.states import CatalogStatus
from registry.catalog.formats import OFFICIAL
from registry.catalog.subregistry.conformance import conforming
from registry.core.json import JsonObject, members
from registry.core.text import timestamp

OWN_VERSION = "1.0.0"
"""Of servers that are registered here and have no entry in the catalog: a version is required."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a registry says about a version of a server."""

    status: CatalogStatus
    is_latest: bool
    published_at: datetime | None
    updated_at: datetime | None


def present_server(
    document: JsonObject, facts: Facts, gateway: Sequence[str]
) -> tuple[JsonObject | None, Sequence[str]]:
    """Return one version of a server, and what of it cannot be served; None if nothing can.

    Args:
        document: Its `server.json`.
        facts: What the registry says of it.
        gateway: URLs of its instances at this gateway; they take the place of its own remotes and
            packages.
    """
    if gateway:
        published = {name: one for name, one in document.items() if name != "packages"}
        document = {**published, "remotes": [_remote(url) for url in gateway]}
    shown, problems = conforming(document)
    if shown is None:
        return None, problems
    updated = facts.updated_at or facts.published_at
    registry: JsonObject = {"status": facts.status.value, "isLatest": facts.is_latest}
    for name, moment in (
        ("publishedAt", facts.published_at or updated),
        ("updatedAt", updated),
        ("statusChangedAt", updated),
    ):
        if moment is not None:
            registry[name] = timestamp(moment)
    meta = {**members(shown.pop("_meta", None)), OFFICIAL: registry}
    own = {name: value for name, value in meta.items() if name != OFFICIAL}
    if own:
        shown["_meta"] = own
    return {"server": shown, "_meta": {OFFICIAL: registry}}, problems


def _remote(url: str) -> JsonValue:
    token: JsonObject = {"description": "A token of this registry.", "isRequired": True}
    return {
        "type": "streamable-http",
        "url": url,
        "headers": [
            {
                "name": "Authorization",
                "description": "Bearer token of this registry.",
                "isRequired": True,
                "isSecret": True,
                "value": "Bearer {token}",
                "variables": {"token": {**token, "isSecret": True}},
            }
        ],
    }


def own_document(name: str, title: str | None, description: str | None) -> JsonObject:
    """Return the `server.json` of a server that is registered here without an entry."""
    document: JsonObject = {"name": name, "version": OWN_VERSION}
    if title is not None:
        document["title"] = title
    document["description"] = description or title or f"{name} at this gateway"
    return document


def served_name(name: str, namespace: str) -> str:
    """Return a name of the form that clients read: a plain one is below *namespace*."""
    if "/" in name:
        return name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return f"{namespace}/{plain}"


def namespace_of(base_url: str) -> str:
    """Return the namespace of the servers that are registered here: the host, reversed."""
    host = (urlsplit(base_url).hostname or "localhost").strip(".")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        host = ".".join(reversed(host.split(".")))
    return re.sub(r"[^A-Za-z0-9.-]", "-", host)
