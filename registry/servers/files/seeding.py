"""Import server files: idempotently, each file on its own.

`file_forms` says which forms are read; here are the body of `POST /api/v1/servers`, and the older
file store's form (`server_name`, `proxy_pass_url`, `supported_transports`, …).
"""

import json
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from registry.auth.identity import UserContext
from registry.core.errors import RegistryError, problems_of
from registry.servers.errors import ServerExistsError
from registry.servers.files.forms import (
    Answer,
    Described,
    FormError,
    Question,
    SkippedError,
    body_of,
    described,
)
from registry.servers.schemas import ServerCreate
from registry.servers.service import ServerService

MAX_FILE_BYTES = 4 * 1024 * 1024
IGNORED_FILES = frozenset({"server_state.json", "service_index_metadata.json"})
"""Bookkeeping files of the older file store, which lie beside its server files."""


class ImportOutcome(StrEnum):
    """Outcome of the import of one file."""

    IMPORTED = "imported"
    WOULD_IMPORT = "would_import"
    EXISTS = "exists"
    SKIPPED = "skipped"
    FAILED = "failed"

    @property
    def is_failure(self) -> bool:
        """Whether the file needs attention."""
        return self is ImportOutcome.FAILED


@dataclass(frozen=True, slots=True)
class ImportReport:
    """Outcome of the import of one file, and the reason."""

    source: str
    outcome: ImportOutcome
    message: str


@dataclass(frozen=True, slots=True)
class UnreadableFile:
    """A file without a JSON object."""

    problem: str


def read_files(paths: Iterable[Path]) -> list[tuple[str, Any]]:
    """Return the contents of the files, and of `*.json` in the folders, by name."""
    items: list[tuple[str, Any]] = []
    for path in paths:
        files: Sequence[Path] = sorted(path.glob("*.json")) if path.is_dir() else [path]
        items += [(str(file), _read(file)) for file in files if file.name not in IGNORED_FILES]
    return items


def _read(file: Path) -> object:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return UnreadableFile(f"is larger than {MAX_FILE_BYTES} bytes")
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        return UnreadableFile(f"cannot be read ({exc.strerror})")
    except (ValueError, RecursionError):
        return UnreadableFile("is not JSON")


def _no_answer(_question: Question) -> str | None:
    return None


async def import_servers(
    service: ServerService,
    items: Iterable[tuple[str, Any]],
    user: UserContext,
    *,
    dry_run: bool,
    answer: Answer = _no_answer,
    scope: str | None = None,
) -> AsyncIterator[ImportReport]:
    """Register each entry of each item on behalf of *user*.

    A failed entry does not stop the import; an existing server is left unchanged.

    Args:
        service: Registers them.
        items: Contents of files, each with its source.
        user: The owner of the new servers.
        dry_run: Only report what would be done.
        answer: Supplies the values that files leave open.
        scope: The scope of entries without one.
    """
    entries = [
        (f"{source}: {entry.label}" if entry.label else source, entry)
        for source, content in items
        for entry in described(content)
    ]
    seen: set[str] = set()
    for source, entry in entries:
        try:
            body = parse(entry, answer, scope)
            name = body.server_name
            known = name in seen or await service.find_by_name(name, user) is not None
            seen.add(name)
            if known:
                yield ImportReport(
                    source, ImportOutcome.EXISTS, f"a server named {name} already exists"
                )
            elif dry_run:
                yield ImportReport(source, ImportOutcome.WOULD_IMPORT, f"{name} from {body.url}")
            else:
                server = await service.register(body, user, strict=False)
                why = f" ({server.error_message})" if server.error_message else ""
                message = f"{name} is {server.effective_status}{why}"
                yield ImportReport(source, ImportOutcome.IMPORTED, message)
        except ServerExistsError as exc:
            yield ImportReport(source, ImportOutcome.EXISTS, exc.message)
        except RegistryError as exc:
            yield ImportReport(source, ImportOutcome.FAILED, exc.message)
        except ValidationError as exc:
            yield ImportReport(source, ImportOutcome.FAILED, "; ".join(problems_of(exc)))
        except SkippedError as exc:
            yield ImportReport(source, ImportOutcome.SKIPPED, str(exc))
        except FormError as exc:
            yield ImportReport(source, ImportOutcome.FAILED, str(exc))


def parse(entry: Described, answer: Answer = _no_answer, scope: str | None = None) -> ServerCreate:
    """Return the server that an entry describes.

    Files of clients and of registries become private; those of our two forms are for all users,
    unless they or *scope* say otherwise.

    Raises:
        FormError: It has no known form, or lacks something.
        SkippedError: It is not meant for this registry.
        ValidationError: A field cannot have its value.
    """
    content = entry.content
    if isinstance(content, UnreadableFile):
        raise FormError(content.problem)
    if not isinstance(content, dict):
        raise FormError("is not a JSON object")
    if entry.form:
        found = body_of(entry, answer)
        if scope is not None:
            found["scope"] = scope
        return ServerCreate.model_validate({k: v for k, v in found.items() if v is not None})
    default = {"scope": scope or "shared_app"}
    if "proxy_pass_url" in content:
        return ServerCreate.model_validate({**_from_file_store(content), **default})
    return ServerCreate.model_validate({**default, **content})


def _from_file_store(content: dict[str, Any]) -> dict[str, Any]:
    title = str(content.get("server_name") or "")
    transports = content.get("supported_transports")
    only_sse = isinstance(transports, list) and transports == ["sse"]
    slug = _slug(str(content.get("path") or "")) or _slug(title)
    body: dict[str, Any] = {
        "serverName": slug,
        "title": title or None,
        "description": content.get("description"),
        "type": "sse" if only_sse else "streamable-http",
        "url": _endpoint(content, "sse" if only_sse else "mcp"),
        "tags": content.get("tags") or [],
        "scope": "shared_app",
    }
    headers = content.get("headers")
    if isinstance(headers, list):
        body["headers"] = {
            k: v for item in headers if isinstance(item, dict) for k, v in item.items()
        }
    elif isinstance(headers, dict):
        body["headers"] = headers
    return {name: value for name, value in body.items() if value is not None}


def _endpoint(content: dict[str, Any], kind: str) -> object:
    explicit = content.get(f"{kind}_endpoint")
    if explicit:
        return explicit
    base = content["proxy_pass_url"]
    if not isinstance(base, str) or "/mcp" in base or "/sse" in base:
        return base
    return f"{base.rstrip('/')}/{kind}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.strip("/ ")).strip("-._").lower()[:64]
