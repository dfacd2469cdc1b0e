"""The package without its generated part, and with the part of another release."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from packages import models

SOURCE = Path(models.__file__).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with this package and without what was generated."""
    target = tmp_path / "packages" / "models"
    ignored = shutil.ignore_patterns("*.py[co]", "__pycache__", "schemas")
    shutil.copytree(SOURCE, target, ignore=ignored)
    (tmp_path / "packages" / "__init__.py").touch()
    for generated in (target / "_generated").glob("*.py"):
        generated.unlink()
    return tmp_path


def last_line(folder: Path, code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=30
    )
    return (done.stdout + done.stderr).strip().splitlines()[-1]


@pytest.mark.requirement("R-314")
@pytest.mark.parametrize(
    "code",
    [
        "from packages.models import MCPServer",
        "from packages.models import narrow",
        "from packages.models import check_schema_version; check_schema_version()",
    ],
)
def test_without_generated_models_the_error_names_the_command(copy: Path, code: str) -> None:
    line = last_line(copy, code)

    assert line == (
        "packages.models.errors.SchemasNotGeneratedError: The models of the shared collections "
        "have not been generated. Run: python scripts/generate_schemas.py (or: make schemas)."
    )


@pytest.mark.requirement("R-314")
def test_without_the_folder_the_error_is_the_same(copy: Path) -> None:
    shutil.rmtree(copy / "packages" / "models" / "_generated")

    line = last_line(copy, "from packages.models import Token")

    assert line.startswith("packages.models.errors.SchemasNotGeneratedError: ")


def test_the_error_is_an_import_error() -> None:
    assert issubclass(models.SchemasNotGeneratedError, ImportError)


def test_without_generated_models_the_rest_can_be_imported(copy: Path) -> None:
    code = "import packages.models.generator.sources; print(packages.models.SCHEMA_VERSION)"

    assert last_line(copy, code) == models.SCHEMA_VERSION


@pytest.mark.requirement("R-313")
def test_models_of_another_release_are_refused_with_the_command(copy: Path) -> None:
    generated = copy / "packages" / "models" / "_generated" / "__init__.py"
    generated.write_text('__version__ = "v0.0.30"\n')

    line = last_line(
        copy, "from packages.models import check_schema_version; check_schema_version()"
    )

    assert line == (
        "packages.models.errors.SchemaVersionError: Schema version mismatch: expected v0.0.31, "
        "found v0.0.30. Run: python scripts/generate_schemas.py --version v0.0.31"
    )


@pytest.mark.requirement("R-313")
def test_models_of_the_expected_release_are_accepted() -> None:
    models.check_schema_version()


def test_the_models_need_no_generator_at_run_time() -> None:
    code = (
        "import sys; from packages.models import MCPServer; "
        "print('datamodel_code_generator' in sys.modules)"
    )

    assert last_line(SOURCE.parent.parent, code) == "False"
