"""The image: what the Dockerfile does, and that the wheel it builds is complete."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.repository.files import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
FINAL = STAGES[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the wheel as the image does, and return the names of its files."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_application_and_the_generated_models(wheel: set[str]) -> None:
    assert {
        "registry/cli/__init__.py",
        "registry/cli/command.py",
        "packages/models/_generated/__init__.py",
        "packages/models/_generated/mcpserver.py",
        "packages/models/_generated/.schema-version",
        "packages/models/schemas/v0.0.31/SHA256SUMS",
        "packages/models/generator/command.py",
    } <= wheel


def test_the_wheel_holds_no_tests_and_no_documents(wheel: set[str]) -> None:
    tops = {Path(name).parts[0] for name in wheel}

    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "packages",
        "registry",
    }


def test_the_image_runs_as_a_fixed_user_without_rights() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]
    assert "USER 10001:10001" in FINAL


def test_the_image_installs_pinned_packages_only() -> None:
    installs = re.findall(r"pip install (.*?)(?: \\)?$", DOCKERFILE, re.MULTILINE)

    assert installs == [
        "--require-hashes -r constraints.txt",
        "--require-hashes -r /constraints-runtime.txt",
        "--no-deps --no-index /wheel/*.whl",
    ]


def test_the_final_stage_installs_nothing() -> None:
    assert not re.search(r"\b(pip|apt-get|apk|curl|wget)\b", FINAL)


def test_the_image_serves_by_default() -> None:
    assert FINAL.rstrip().endswith('ENTRYPOINT ["registry"]\nCMD ["serve"]')


def test_the_health_check_asks_whether_the_process_lives() -> None:
    check = re.search(r"HEALTHCHECK.*\\\n\s+CMD (\[.*\])", FINAL)
    assert check is not None

    program, option, script = json.loads(check[1])

    compile(script, "HEALTHCHECK", "exec")
    assert (program, option) == ("python", "-c")
    assert "/health/live" in script


def test_keys_and_data_never_enter_the_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]

    assert rules[0] == "*"
    assert [rule for rule in rules if rule.startswith("!.")] == []


def test_everything_that_is_copied_is_let_in() -> None:
    let_in = {
        line[1:].rstrip("/")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for name in line.split()[:-1]
    }

    assert copied - let_in == set()
