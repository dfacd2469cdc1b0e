"""The copies of published schemas that live in the repository, each with its SHA-256."""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from packages.models.generator.errors import GenerationError
from packages.models.generator.releases import ALL, Files, version_key

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9_][A-Za-z0-9_.-]*)")

KNOWN_FILES = frozenset(published.file for published in ALL)


def pinned_versions(schemas: Path) -> list[str]:
    """Return the pinned versions, newest first."""
    if not schemas.is_dir():
        return []
    names = (entry.name for entry in schemas.iterdir() if (entry / SUMS).is_file())
    return sorted((name for name in names if name.startswith("v")), key=version_key, reverse=True)


def is_pinned(schemas: Path, version: str) -> bool:
    """Whether there is a folder for *version*."""
    return (schemas / version).is_dir()


def read_pinned(schemas: Path, version: str) -> dict[str, bytes]:
    """Return the pinned files of *version*, checked against their sums.

    Raises:
        GenerationError: A file is missing, altered or not listed.
    """
    return read_verified(schemas / version)


def read_verified(folder: Path) -> dict[str, bytes]:
    """Return the files of *folder*, which lists them all in SHA256SUMS.

    Raises:
        GenerationError: A file is missing, altered or not listed.
    """
    listed = listed_sums(_read(folder / SUMS), folder.name)
    for name in sorted(listed):
        if name not in KNOWN_FILES:
            raise GenerationError(f"{folder.name}/{SUMS} lists {name}, which is no known schema")
    for entry in sorted(folder.iterdir()):
        if entry.name != SUMS and entry.name not in listed:
            raise GenerationError(f"{_shown(entry)} is not listed in {SUMS}")
    files = {name: _read(folder / name) for name in sorted(listed)}
    require_sums(files, listed, folder.name)
    return files


def listed_sums(content: bytes, where: str) -> dict[str, str]:
    """Return the sums that a SHA256SUMS file lists, by file name.

    Raises:
        GenerationError: A line is malformed, or a file is listed twice.
    """
    listed: dict[str, str] = {}
    for line in content.decode("utf-8", errors="replace").splitlines():
        found = LINE.fullmatch(line.rstrip())
        if found is None or found[2] in listed:
            raise GenerationError(f"{where}/{SUMS} has a malformed line: {line[:80]!r}")
        listed[found[2]] = found[1]
    return listed


def require_sums(files: Files, listed: Mapping[str, str], where: str) -> None:
    """Check *files* against the sums of their release.

    Raises:
        GenerationError: A schema is missing, altered or not listed.
    """
    for name in sorted(KNOWN_FILES & listed.keys() - files.keys()):
        raise GenerationError(f"{where}/{name} is listed in {SUMS} and missing")
    for name in sorted(files):
        if name not in listed:
            raise GenerationError(f"{where}/{name} is not listed in {SUMS}")
        if hashlib.sha256(files[name]).hexdigest() != listed[name]:
            raise GenerationError(f"{where}/{name} does not match its sum in {SUMS}")


def changed_pins(schemas: Path, version: str, files: Files) -> list[str]:
    """Return which pinned files of *version* pinning *files* would change."""
    folder = schemas / version
    return sorted(
        name
        for name, content in files.items()
        if (folder / name).is_file() and (folder / name).read_bytes() != content
    )


def write_pinned(schemas: Path, version: str, files: Files) -> None:
    """Replace the folder of *version* by *files* and their sums, all at once."""
    schemas.mkdir(parents=True, exist_ok=True)
    target = schemas / version
    with tempfile.TemporaryDirectory(dir=schemas, prefix=".pinning-") as scratch:
        fresh = Path(scratch) / "fresh"
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        (fresh / SUMS).write_text(_sums(files), encoding="utf-8")
        replaced = Path(scratch) / "replaced"
        if target.exists():
            target.replace(replaced)
        try:
            fresh.replace(target)
        except OSError:
            if replaced.exists():
                replaced.replace(target)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def _sums(files: Files) -> str:
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return "".join(lines)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise GenerationError(f"{_shown(path)} cannot be read") from exc


def _shown(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"
