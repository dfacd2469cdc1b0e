"""Servers of the catalog as answers. Pure."""

from datetime import datetime
from typing import cast

from pydantic import JsonValue

from registry.catalog.identity import Package
from registry.catalog.jobs import CatalogJobRecord
from registry.catalog.values import (
    CatalogRow,
    CatalogSeen,
    CatalogToolRow,
    CatalogVersionRow,
    MatchReport,
    SourceRow,
    json_text,
)
from registry.core import text
from registry.core.json import JsonObject

OUTCOMES = ("linked", "relinked", "unlinked", "unchanged", "failed")


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else text.timestamp(moment)


def present_entry(row: CatalogRow) -> JsonObject:
    """Return a server of the catalog as an entry of lists."""
    return {
        "id": row.id,
        "name": row.name,
        "title": row.title,
        "description": row.description,
        "kind": row.kind.value,
        "url": row.url,
        "package": present_package(row.package),
        "version": row.version,
        "status": row.status.value,
        "tags": list(row.tags),
        "numTools": row.num_tools,
        "source": row.source,
        "publishedAt": _time(row.published_at),
        "createdAt": _time(row.created_at),
        "updatedAt": _time(row.updated_at),
    }


def present_package(package: Package | None) -> JsonObject | None:
    """Return a package as answers spell it."""
    if package is None:
        return None
    shown: JsonObject = {
        "registryType": package.registry_type,
        "identifier": package.identifier,
    }
    return shown if package.version is None else {**shown, "version": package.version}


def listed_package(package: Package) -> JsonObject:
    """Return a package as `server.json` lists it."""
    return {**(present_package(package) or {}), "transport": {"type": "stdio"}}


def present_seen(seen: CatalogSeen) -> JsonObject:
    """Return everything about a server of the catalog."""
    return {
        **present_entry(seen.entry),
        "tools": cast("JsonValue", [present_tool(tool) for tool in seen.tools]),
        "server": seen.entry.server_json,
        "linkedServers": seen.linked or 0,
    }


def present_tool(tool: CatalogToolRow) -> JsonObject:
    """Return a tool of a server of the catalog."""
    return {
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": json_text(tool.definition).get("inputSchema"),
    }


def present_version(version: CatalogVersionRow) -> JsonObject:
    """Return a version of a server of the catalog."""
    return {
        "version": version.version,
        "status": version.status.value,
        "isLatest": version.is_latest,
        "publishedAt": _time(version.published_at),
        "updatedAt": _time(version.updated_at),
        "server": json_text(version.document),
    }


def present_source(source: SourceRow) -> JsonObject:
    """Return where servers of the catalog were imported from."""
    return {
        "id": source.id,
        "name": source.name,
        "url": source.url,
        "lastImportAt": _time(source.last_import_at),
        "importedUntil": _time(source.imported_until),
        "counts": dict(source.counts),
    }


def present_match(report: MatchReport) -> JsonObject:
    """Return what became of links."""
    return {
        **{name: report.counts.get(name, 0) for name in OUTCOMES},
        "problems": [
            {"serverName": name, "message": message} for name, message in report.problems
        ],
    }


def recorded(row: CatalogRow) -> JsonObject:
    """Return what the audit trail has of a server of the catalog."""
    shown = present_entry(row)
    return {
        name: shown[name]
        for name in ("name", "kind", "url", "package", "version", "status", "title", "tags")
    }


def present_import(job: CatalogJobRecord) -> JsonObject:
    """Return an import."""
    url = job.request.get("url")
    return {
        "id": job.id,
        "source": job.owner_name,
        "state": job.state.value,
        "url": url if isinstance(url, str) else None,
        "dryRun": job.request.get("dry_run") is True,
        "counts": dict(job.counts),
        "problems": cast("JsonValue", list(job.problems)),
        "error": job.error,
        "attempts": job.attempts,
        "createdAt": _time(job.created_at),
        "finishedAt": _time(job.finished_at),
    }
