"""The Makefile and the installation, as far as they can be tried without installing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST
from tests.repository.files import ROOT

MAKE = shutil.which("make") or "make"
SHELL = "/bin/sh"


def make(*arguments: str, folder: Path = ROOT) -> str:
    """Run make and return what it prints. A make that runs the tests must not show through."""
    run = subprocess.run(
        [MAKE, *arguments],
        cwd=folder,
        env={"PATH": os.defpath},
        capture_output=True,
        check=True,
        text=True,
    )
    return run.stdout


def install(path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the installation with nothing but *path* and the shell's own tools to find."""
    tools = path / "tools"
    tools.mkdir()
    for tool in ("dirname", "sh"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    return subprocess.run(
        [SHELL, "scripts/install.sh"],
        cwd=ROOT,
        env={"PATH": f"{path}{os.pathsep}{tools}", "VENV": str(path / "venv"), **settings},
        capture_output=True,
        check=False,
        text=True,
    )


def program(path: Path, script: str) -> Path:
    """Write an executable shell script."""
    path.write_text(f"#!{SHELL}\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    "target",
    [
        "run",
        "test",
        "test-quick",
        "test-conformance",
        "check",
        "bench",
        "schemas",
        "clean",
        "docs",
    ],
)
def test_help_lists_the_target(target: str) -> None:
    lines = make("help").splitlines()

    assert [line for line in lines if line.split()[0] == target]


@pytest.mark.requirement("R-347")
def test_check_runs_format_lint_types_imports_and_tests_in_this_order() -> None:
    lines = make("--dry-run", "check", "PYTEST_ARGS=-q").splitlines()

    steps = [line.removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/")]
    assert [step for step in steps if step != "generate-schemas"] == [
        "ruff format --check",
        "ruff check",
        "mypy",
        "lint-imports",
        "pytest -q",
    ]


def test_the_modules_that_tests_begin_with_exist() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


def test_run_starts_the_local_registry() -> None:
    assert make("--dry-run", "run").splitlines()[-1] == (
        'REGISTRY_HOME="${REGISTRY_HOME:-.registry}" .venv/bin/registry serve --local'
    )


def test_run_installs_what_running_needs_and_test_the_rest(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "constraints-run.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/install.sh", tmp_path / "scripts")

    assert "PINS=constraints-run.txt" in make("--dry-run", "run", folder=tmp_path)
    first = make("--dry-run", "test", folder=tmp_path).partition("touch .venv/.installed")[0]
    assert "scripts/install.sh" in first
    assert "PINS" not in first


def test_clean_removes_what_was_made_and_keeps_data_and_the_readme(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    made = [".venv/bin/x", "dist/x", ".mypy_cache/x", "registry/__pycache__/x"]
    kept = [".registry/data/x", "packages/models/_generated/README.md", "registry/x.py"]
    generated = [
        "packages/models/_generated/token.py",
        "packages/models/_generated/.schema-version",
    ]
    for name in [*made, *kept, *generated, "scripts/x", "tests/x"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    make("clean", folder=tmp_path)

    assert [name for name in [*made, *generated] if (tmp_path / name).exists()] == []
    assert [name for name in kept if not (tmp_path / name).exists()] == []


def test_a_name_on_the_path_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "python3.13", "echo 'not installed' >&2; exit 127")
    program(
        tmp_path / "python3",
        f'[ "$1" = -m ] && echo "python3 $*" && exit 7\nexec {sys.executable} "$@"',
    )

    run = install(tmp_path)

    assert (run.returncode, run.stdout) == (7, f"python3 -m venv --clear {tmp_path}/venv\n")


def test_an_old_python_alone_is_a_clear_message(tmp_path: Path) -> None:
    program(tmp_path / "python3", "exit 1")

    run = install(tmp_path)

    assert run.returncode == 1
    assert "no Python from 3.11 to 3.13" in run.stderr
    assert "Traceback" not in run.stderr


def test_an_interpreter_that_was_named_must_fit(tmp_path: Path) -> None:
    run = install(tmp_path, PYTHON="/bin/false")

    assert run.returncode == 1
    assert run.stderr == "install: PYTHON=/bin/false is not a Python from 3.11 to 3.13\n"


def test_uv_must_be_there_when_it_is_asked_for(tmp_path: Path) -> None:
    run = install(tmp_path, USE_UV="1")

    assert (run.returncode, run.stderr) == (1, "install: USE_UV=1, but uv is not installed\n")


def test_uv_may_bring_its_own_python(tmp_path: Path) -> None:
    program(tmp_path / "uv", 'echo "uv $*"; exit 7')

    run = install(tmp_path)

    assert run.returncode == 7
    assert run.stdout == f"uv venv --quiet --clear --python >=3.11,<=3.13.999 {tmp_path}/venv\n"


def test_the_automatic_run_is_the_same_check() -> None:
    text = (ROOT / ".ci" / "run").read_text()

    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert text.splitlines()[-1] == "make check </dev/null"
