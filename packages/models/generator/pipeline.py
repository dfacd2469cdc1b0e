"""From the files of a release to the files of the generated package."""

from pathlib import Path

from packages.models.generator import folder, pins
from packages.models.generator.errors import GenerationError
from packages.models.generator.models import Module, config_module, document_module
from packages.models.generator.releases import (
    CONFIG,
    DOCUMENTS,
    Files,
    Published,
    Schema,
    parsed,
)

PINNED_SCHEMAS = Path(__file__).parent.parent / "schemas"

BASELINE = PINNED_SCHEMAS / "baseline"
"""Annotated files that complete raw ones, which know neither collections nor stored fields."""


def generated(version: str, files: Files) -> dict[str, str]:
    """Return the generated package for the *files* of *version*, by file name.

    Raises:
        GenerationError: A file is missing or cannot be understood.
    """
    return folder.contents(version, modules_of(files))


def modules_of(files: Files) -> list[Module]:
    """Return the modules that *files* lead to, not rendered yet.

    Raises:
        GenerationError: A file is missing or cannot be understood.
    """
    baseline = pins.read_verified(BASELINE)
    modules: list[Module] = [
        config_module(CONFIG, _schema(CONFIG, files), _baseline(CONFIG, baseline))
    ]
    for published in DOCUMENTS:
        schema = _schema(published, files)
        modules.append(document_module(published, schema, _baseline(published, baseline)))
    return modules


def _schema(published: Published, files: Files) -> Schema:
    if published.file not in files:
        raise GenerationError(f"{published.file} is missing")
    return parsed(published.file, files[published.file])


def _baseline(published: Published, files: Files) -> Schema | None:
    content = files.get(published.file)
    return None if content is None else parsed(published.file, content)
