"""Where the files of a version come from: the pinned copies, a folder, or a release."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from packages.models.generator import pins
from packages.models.generator.download import API_URL, RELEASES_URL, DownloadLimits, Release
from packages.models.generator.errors import GenerationError
from packages.models.generator.releases import ALL, Files, labelled, require_version

Report: TypeAlias = Callable[[str], None]

FILE_NAMES = frozenset(published.file for published in ALL)
MANDATORY = frozenset(published.file for published in ALL if published.is_mandatory)


@dataclass(frozen=True, slots=True)
class SchemaSource:
    """A choice made on the command line.

    Attributes:
        place: A folder or a URL; None means the pinned copies, or else the release on GitHub.
        schemas: The folder of the pinned copies.
        is_said: Whether the version was asked for in so many words, which is what files of one's
            own without an `x-generated` block take it from.
        token: For private releases; sent to GitHub only.
    """

    version: str
    place: str | None
    schemas: Path
    is_said: bool = False
    token: str | None = None
    limits: DownloadLimits | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a version, and whether they still have to be pinned."""

    files: Files
    is_new: bool


def files_of(source: SchemaSource, report: Report) -> Found:
    """Return the files of *source*. Writes nothing.

    Raises:
        GenerationError: They cannot be had, are not what was pinned, or are of another version.
    """
    if source.place is None and pins.is_pinned(source.schemas, source.version):
        files = pins.read_pinned(source.schemas, source.version)
        _require_all(files, source.version)
        return Found(files, is_new=False)
    files = _fetched(source, report)
    for name in sorted(files):
        require_version(name, files[name], source.version)
    pinned: Files = {}
    if pins.is_pinned(source.schemas, source.version):
        pinned = pins.read_pinned(source.schemas, source.version)
    if missing := sorted(MANDATORY - files.keys() - pinned.keys()):
        raise GenerationError(f"release {source.version} has no {', '.join(missing)}")
    for name in sorted(FILE_NAMES - files.keys()):
        if name in pinned:
            report(f"{name} is not given; taken from the pinned {source.version}")
            files[name] = pinned[name]
            continue
        version, content = _last_pinned(source.schemas, name)
        report(f"{name} is not part of {source.version}; taken from {version}")
        files[name] = content
    return Found(files, is_new=True)


def _fetched(source: SchemaSource, report: Report) -> dict[str, bytes]:
    """Return the known files of a source, checked against its sums where it has any."""
    place = source.place
    is_folder = place is not None and "://" not in place
    if place is not None and is_folder:
        contents, offered = _from_folder(Path(place), source.version)
    else:
        contents, offered = _from_release(source)
    sums = contents.pop(pins.SUMS, None)
    if sums is not None:
        listed = pins.listed_sums(sums, source.version)
        pins.require_sums(contents, listed, source.version)
        offered |= listed.keys()
    elif not is_folder:
        report(f"{source.version} has no {pins.SUMS}, so its files are checked by https alone")
    new = {name for name in offered if name.endswith(".json")} - FILE_NAMES
    for name in sorted(new):
        report(
            f"{name} of {source.version} is not taken: this program uses no such document; "
            "packages/models/generator/releases.py lists those that it does"
        )
    if is_folder and source.is_said:
        return {
            name: labelled(name, content, source.version) for name, content in contents.items()
        }
    return contents


def _from_release(source: SchemaSource) -> tuple[dict[str, bytes], set[str]]:
    is_github = source.place is None or source.place.rstrip("/") == RELEASES_URL
    release = Release(
        source.version,
        url=source.place or RELEASES_URL,
        # A token for GitHub is no business of a mirror.
        api_url=API_URL if is_github else None,
        token=source.token if is_github else None,
        limits=source.limits,
    )
    files = release.files(FILE_NAMES | {pins.SUMS})
    return files, set(release.offered)


def _from_folder(folder: Path, version: str) -> tuple[dict[str, bytes], set[str]]:
    nested = folder / version
    chosen = nested if nested.is_dir() else folder
    if not chosen.is_dir():
        raise GenerationError(f"{folder} is no folder")
    present = {entry.name for entry in chosen.iterdir() if entry.is_file()}
    wanted = sorted(present & (FILE_NAMES | {pins.SUMS}))
    return {name: (chosen / name).read_bytes() for name in wanted}, present


def _last_pinned(schemas: Path, name: str) -> tuple[str, bytes]:
    for version in pins.pinned_versions(schemas):
        files = pins.read_pinned(schemas, version)
        if name in files:
            return version, files[name]
    raise GenerationError(f"{name} is neither part of the release nor pinned from an earlier one")


def _require_all(files: Files, version: str) -> None:
    if missing := sorted(FILE_NAMES - files.keys()):
        raise GenerationError(f"the pinned {version} has no {', '.join(missing)}")
    for name in sorted(MANDATORY):
        require_version(name, files[name], version)
