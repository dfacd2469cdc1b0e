"""The folder of generated code: what belongs in it, writing it, and comparing it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from packages.models.generator.errors import GenerationError
from packages.models.generator.models import Module
from packages.models.generator.render import GENERATED_MARK, render

VERSION_FILE = ".schema-version"

README = """\
# Generated models

The modules in this folder are written by `scripts/generate_schemas.py` and are not kept in git.
Only this file is.
Do not edit them: change the schemas or the generator, then generate again.

    python scripts/generate_schemas.py                    # the version in .schema-version
    python scripts/generate_schemas.py --version v0.0.31  # a named release
    python scripts/generate_schemas.py --check            # is the folder up to date?

The schemas are pinned under `packages/models/schemas/<version>/`, each with its SHA-256.
Import the classes from `packages.models`, not from here.
"""

INIT = '''"""Generated from the schemas of {version}.

Do not edit: run `python scripts/generate_schemas.py`.
"""

from beanie import Document

{imports}

__version__ = "{version}"

DOCUMENTS: tuple[type[Document], ...] = (
{documents}
)
"""All documents of the shared collections."""

__all__ = [
{exports}
]
'''


def contents(version: str, modules: Sequence[Module]) -> dict[str, str]:
    """Return every file of the folder by name."""
    files = {f"{module.published.module}.py": render(module) for module in modules}
    return {
        **files,
        "__init__.py": _init(version, modules),
        "README.md": README,
        VERSION_FILE: f"{version}\n",
    }


def found_version(folder: Path) -> str | None:
    """Return what `.schema-version` in *folder* says, or None if there is none."""
    try:
        return (folder / VERSION_FILE).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Bring *folder* to *files*. Each file is replaced at once; the version file comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: (name == VERSION_FILE, name)):
        content = files[name].encode()
        target = folder / name
        if target.is_file() and target.read_bytes() == content:
            continue
        scratch = folder / f".{name}.{os.getpid()}.tmp"
        try:
            scratch.write_bytes(content)
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
    for stale in _stale(folder, files):
        stale.unlink()


def require_same(folder: Path, files: Mapping[str, str]) -> None:
    """Check that *folder* holds exactly *files*.

    Raises:
        GenerationError: Something is absent or differs.
    """
    if not (folder / "__init__.py").is_file():
        raise GenerationError(f"{folder} holds no generated models; run generate-schemas")
    for name, text in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            raise GenerationError(f"{path} is missing; run generate-schemas")
        if path.read_bytes() != text.encode():
            raise GenerationError(f"{path} differs from what is generated; run generate-schemas")
    for stale in _stale(folder, files):
        raise GenerationError(f"{stale} is no longer generated; run generate-schemas")


def _stale(folder: Path, files: Mapping[str, str]) -> list[Path]:
    others = sorted(path for path in folder.glob("*.py") if path.name not in files)
    return [
        path
        for path in others
        if path.read_text(encoding="utf-8", errors="replace").startswith(GENERATED_MARK)
    ]


def _init(version: str, modules: Sequence[Module]) -> str:
    exported = {
        module.published.module: sorted({module.published.model, *_public_classes(module)})
        for module in modules
    }
    documents = [module.published.model for module in modules if module.collection is not None]
    imports: list[str] = []
    for module in sorted(exported):
        imports.append(f"from .{module} import (")
        imports += [f"    {name}," for name in exported[module]]
        imports.append(")")
    names = sorted({name for group in exported.values() for name in group} | {"DOCUMENTS"})
    return INIT.format(
        version=version,
        imports="\n".join(imports),
        documents="\n".join(f"    {name}," for name in documents),
        exports="\n".join(f'    "{name}",' for name in [*names, "__version__"]),
    )


def _public_classes(module: Module) -> list[str]:
    # Nested classes of documents stay in their modules: two of them may have the same name.
    return list(module.classes) if module.collection is None else []
